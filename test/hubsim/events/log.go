// Package events keeps what devices have sent, the way the hub's event endpoint
// does: in partitions, each with its own order, from which any number of
// readers read at their own pace and nothing is ever consumed.
package events

import (
	"hash/fnv"
	"iter"
	"sync"
	"time"
)

// Event is one message as the hub took it, or wrote it itself. It does not
// change.
type Event struct {
	Number     uint64 // position among all events of the hub, from 1
	Partition  int
	Sequence   int64 // position in its partition, from 0
	Offset     int64 // bytes before it in its partition
	Device     string
	Module     string    // "" for the device itself
	Generation string    // of the device's identity
	Auth       string    // how the device proved itself, as the hub writes it
	Enqueued   time.Time // whole milliseconds, UTC
	Connection uint64    // number of the connection it came on, from 1
	Kind       string    // iothub-message-source of an event that the hub wrote itself (section 5.10); "" for telemetry
	Message    []byte    // the encoded message, exactly as the device sent it
}

// Bounds of what is kept.
type Bounds struct {
	Events int   // at most; 0 is DefaultEvents
	Bytes  int64 // of messages, at most; 0 is DefaultBytes
}

// The default bounds. What comes after pushes the oldest out.
const (
	DefaultEvents = 2_000_000
	DefaultBytes  = 2 << 30
)

// segmentSize is how many events are allocated, and let go, together.
const segmentSize = 1024

// Log is the event endpoint's memory. It is safe for concurrent use.
type Log struct {
	bounds Bounds
	groups groups

	mu         sync.Mutex // guards everything below
	partitions []partition
	total      uint64 // events ever
	kept       int
	bytes      int64
	dropped    uint64
	news       chan struct{} // closed at the next append; nil when nobody waits
}

type partition struct {
	segments [][]Event // all full except the last
	first    int64     // sequence number of the oldest event kept
	next     int64     // sequence number of the next event
	offset   int64     // of the next event
	newest   time.Time
}

// New returns an empty log with n partitions.
func New(n int, bounds Bounds) *Log {
	if bounds.Events == 0 {
		bounds.Events = DefaultEvents
	}
	if bounds.Bytes == 0 {
		bounds.Bytes = DefaultBytes
	}
	return &Log{bounds: bounds, partitions: make([]partition, n)}
}

// Partitions is how many there are.
func (l *Log) Partitions() int { return len(l.partitions) }

// PartitionOf says where the events of a device go. It never changes, so the
// order of one device holds.
func (l *Log) PartitionOf(device string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(device))
	return int(h.Sum32() % uint32(len(l.partitions)))
}

// Append stores e and fills in its number, place and time. It keeps e.Message.
func (l *Log) Append(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appendLocked(e)
	l.tell()
}

// AppendAll stores several events of one moment, all or none seen by readers.
func (l *Log) AppendAll(list []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range list {
		l.appendLocked(e)
	}
	l.tell()
}

func (l *Log) appendLocked(e Event) {
	e.Partition = l.PartitionOf(e.Device)
	p := &l.partitions[e.Partition]
	l.total++
	e.Number = l.total
	e.Sequence = p.next
	e.Offset = p.offset
	e.Enqueued = time.Now().UTC().Truncate(time.Millisecond)
	if e.Enqueued.Before(p.newest) {
		e.Enqueued = p.newest // time in a partition never runs back
	}
	p.push(e)
	l.kept++
	l.bytes += int64(len(e.Message))
	for l.kept > l.bounds.Events || l.bytes > l.bounds.Bytes {
		if !l.trim() {
			return
		}
	}
}

func (l *Log) tell() {
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

func (p *partition) push(e Event) {
	n := len(p.segments)
	if n == 0 || len(p.segments[n-1]) == segmentSize {
		p.segments = append(p.segments, make([]Event, 0, segmentSize))
		n++
	}
	p.segments[n-1] = append(p.segments[n-1], e)
	p.next++
	p.offset += int64(len(e.Message))
	p.newest = e.Enqueued
}

// trim lets go of the oldest full segment; false when there is none, as what is
// written last always stays.
func (l *Log) trim() bool {
	var oldest *partition
	for i := range l.partitions {
		p := &l.partitions[i]
		if len(p.segments) > 1 && (oldest == nil || p.segments[0][0].Number < oldest.segments[0][0].Number) {
			oldest = p
		}
	}
	if oldest == nil {
		return false
	}
	for _, e := range oldest.segments[0] {
		l.bytes -= int64(len(e.Message))
	}
	l.kept -= segmentSize
	l.dropped += segmentSize
	oldest.first += segmentSize
	oldest.segments[0] = nil
	oldest.segments = oldest.segments[1:]
	return true
}

// Read returns up to limit events of partition n from sequence number from on;
// events that are no longer kept are skipped. With nothing there it returns a
// channel that is closed when something may be.
func (l *Log) Read(n int, from int64, limit int) ([]Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.partitions[n].from(from, limit)
	if len(list) > 0 {
		return list, nil
	}
	if l.news == nil {
		l.news = make(chan struct{})
	}
	return nil, l.news
}

// from returns events that lie together in one segment.
func (p *partition) from(seq int64, limit int) []Event {
	seq = max(seq, p.first)
	if seq >= p.next {
		return nil
	}
	i := seq - p.first
	segment := p.segments[i/segmentSize]
	at := int(i % segmentSize)
	return segment[at:min(at+limit, len(segment))]
}

// Stats counts events.
type Stats struct {
	Total   uint64 // ever taken
	Kept    int
	Bytes   int64 // of messages kept
	Dropped uint64
}

// Stats returns the counts.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Total: l.total, Kept: l.kept, Bytes: l.bytes, Dropped: l.dropped}
}

// Partition is what the management node says about a partition.
type Partition struct {
	First, Last int64 // sequence numbers; Last is First-1 when it is empty
	LastOffset  int64 // of the newest event; -1 when there never was one
	LastTime    time.Time
}

// Partition describes partition n.
func (l *Log) Partition(n int) Partition {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.partitions[n].describe()
}

func (p *partition) describe() Partition {
	d := Partition{First: p.first, Last: p.next - 1, LastOffset: -1, LastTime: p.newest}
	if n := len(p.segments); n > 0 {
		last := p.segments[n-1]
		d.LastOffset = last[len(last)-1].Offset
	}
	return d
}

// All walks through the events kept now, partition by partition merged in order
// of arrival. Events that arrive meanwhile are not included.
func (l *Log) All() iter.Seq[Event] { return l.Since(0) }

// Since is All for the events with a number above after.
func (l *Log) Since(after uint64) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for e := range merge(l.snapshot(after)) {
			if !yield(e) {
				return
			}
		}
	}
}

// snapshot returns, per partition, the pieces that hold events after a number.
func (l *Log) snapshot(after uint64) [][][]Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	pieces := make([][][]Event, len(l.partitions))
	for i := range l.partitions {
		for _, segment := range l.partitions[i].segments {
			if segment[len(segment)-1].Number > after {
				pieces[i] = append(pieces[i], segment[cut(segment, after):])
			}
		}
	}
	return pieces
}

// Wait returns a channel that is closed at once when events after number exist,
// else at the next append.
func (l *Log) Wait(after uint64) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total > after {
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	if l.news == nil {
		l.news = make(chan struct{})
	}
	return l.news
}
