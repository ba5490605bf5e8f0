package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Load is what a crew of leaves publishes, at QoS 1 over MQTT 3.1.1.
type Load struct {
	Name   string
	Leaves int
	Window int // messages of a leaf that are not acknowledged, at most
	Size   int // of a body, in bytes
	Count  int // of all leaves together
	Rate   int // messages a second of all leaves together; 0 is as fast as they may
}

// Phase tells the messages of one load from those of another.
type Phase byte

// markSize is how much of each body says when it was published, and which one it is.
const markSize = 8 + 4 + 4 + 1

// mark identifies a message and says when it was published.
type mark struct {
	published time.Time
	leaf      uint32
	number    uint32
	phase     Phase
}

func (m mark) put(body []byte) {
	binary.BigEndian.PutUint64(body, uint64(m.published.UnixNano()))
	binary.BigEndian.PutUint32(body[8:], m.leaf)
	binary.BigEndian.PutUint32(body[12:], m.number)
	body[16] = byte(m.phase)
}

func readMark(body []byte) (mark, bool) {
	if len(body) < markSize {
		return mark{}, false
	}
	return mark{
		published: time.Unix(0, int64(binary.BigEndian.Uint64(body))),
		leaf:      binary.BigEndian.Uint32(body[8:]),
		number:    binary.BigEndian.Uint32(body[12:]),
		phase:     Phase(body[16]),
	}, true
}

// Latencies are times in any order.
type Latencies []time.Duration

// Percentile returns the time that p percent of all do not exceed; 0 without any.
func (l Latencies) Percentile(p float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	slices.Sort(l)
	return l[min(len(l)-1, int(float64(len(l))*p/100))]
}

// accepted is what the leaves saw of a load.
type accepted struct {
	begun, ended time.Time // first publish and last acknowledgement
	count        int
	latency      Latencies // from publish to acknowledgement
}

// crew is a number of connected leaves.
type crew struct {
	leaves []*leaf
}

// dialers is how many leaves connect at once.
const dialers = 16

// dial connects leaves and logs them in.
func dial(ctx context.Context, door Door, ids []string) (*crew, error) {
	c := &crew{leaves: make([]*leaf, len(ids))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(dialers)
	for i, id := range ids {
		group.Go(func() (err error) {
			c.leaves[i], err = dialLeaf(ctx, door, id, uint32(i))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *crew) close() {
	for _, l := range c.leaves {
		if l != nil {
			l.conn.Close()
		}
	}
}

// publish sends the load and waits until all of it is acknowledged.
func (c *crew) publish(ctx context.Context, load Load, phase Phase) (accepted, error) {
	var group errgroup.Group // gives out the first error, and that is the reason
	defer context.AfterFunc(ctx, c.close)()
	do := func(f func() error) {
		group.Go(func() error {
			err := f()
			if err != nil {
				c.close()
			}
			return err
		})
	}
	begun := time.Now()
	interval := time.Duration(0)
	if load.Rate > 0 {
		interval = time.Second * time.Duration(len(c.leaves)) / time.Duration(load.Rate)
	}
	for i, l := range c.leaves {
		count := load.Count / len(c.leaves)
		if i < load.Count%len(c.leaves) {
			count++
		}
		run := &flight{
			leaf: l, size: max(load.Size, markSize), window: uint32(load.Window), count: uint32(count), phase: phase,
			interval: interval, first: begun.Add(interval * time.Duration(i) / time.Duration(len(c.leaves))),
			sentAt: make([]atomic.Int64, load.Window), room: make(chan struct{}, 1),
		}
		l.flight = run
		do(run.send)
		do(run.hear)
	}
	if err := group.Wait(); err != nil {
		return accepted{}, err
	}
	a := accepted{begun: begun, ended: time.Now(), count: load.Count}
	for _, l := range c.leaves {
		a.latency = append(a.latency, l.flight.latency...)
	}
	return a, nil
}

// leaf is one connection.
type leaf struct {
	id     string
	number uint32
	conn   net.Conn
	in     *bufio.Reader
	lastID uint16 // packet id
	topic  string
	flight *flight
}

// Door is where leaves connect.
type Door struct {
	Address string
	TLS     *tls.Config
	Login   func(leaf string) (user, password string) // nil: anybody may come in
}

func dialLeaf(ctx context.Context, door Door, id string, number uint32) (*leaf, error) {
	d := tls.Dialer{Config: door.TLS}
	conn, err := d.DialContext(ctx, "tcp", door.Address)
	if err != nil {
		return nil, err
	}
	l := &leaf{
		id: id, number: number, conn: conn, in: bufio.NewReaderSize(conn, 4<<10),
		topic: "devices/" + id + "/messages/events/",
	}
	var user, password string
	if door.Login != nil {
		user, password = door.Login(id)
	}
	if err := (hello{version: 4, flags: cleanSession, id: id, user: user, password: password}).say(conn, l.in); err != nil {
		conn.Close()
		return nil, fmt.Errorf("leaf %s: %w", id, err)
	}
	return l, nil
}

// Flags of CONNECT (MQTT 3.1.1, section 3.1.2.3).
const (
	cleanSession = 0x02
	withWill     = 0x04
	withLogin    = 0xc0
)

// hello is a CONNECT without keep-alive.
type hello struct {
	version            byte // 4 or 5
	flags              byte // but withLogin
	id, user, password string
	will               []byte // its fields
}

// say logs in (MQTT 3.1.1 and 5, sections 3.1 and 3.2).
func (h hello) say(conn net.Conn, in *bufio.Reader) error {
	payload := append(appendText(nil, h.id), h.will...)
	if h.user != "" {
		h.flags |= withLogin
		payload = appendText(appendText(payload, h.user), h.password)
	}
	body := append(appendText(nil, "MQTT"), h.version, h.flags, 0, 0)
	if h.version == 5 {
		body = append(body, 0) // no properties
	}
	if _, err := conn.Write(appendPacket(nil, 0x10, append(body, payload...))); err != nil {
		return err
	}
	var answer [4]byte
	if _, err := io.ReadFull(in, answer[:]); err != nil {
		return err
	}
	if answer[0] != 0x20 || answer[3] != 0 {
		return fmt.Errorf("login refused: % x", answer)
	}
	_, err := in.Discard(int(answer[1]) - 2)
	return err
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// appendPacket appends a packet; MQTT writes lengths as Go does varints.
func appendPacket(b []byte, first byte, body []byte) []byte {
	return append(binary.AppendUvarint(append(b, first), uint64(len(body))), body...)
}

// flight is one load of one leaf: one goroutine writes, another one reads.
type flight struct {
	*leaf
	size     int
	window   uint32
	count    uint32
	phase    Phase
	interval time.Duration // between two messages; 0 for none
	first    time.Time     // when the first is due

	sentAt  []atomic.Int64 // of messages in flight, a ring
	acked   atomic.Uint32
	room    chan struct{} // capacity 1: acked has grown
	latency Latencies     // the reader's
}

// send writes what the window has room for, each message in a write of its own, as
// leaves and their libraries do: with TLS, in a record of its own.
func (f *flight) send() error {
	var out []byte
	body := make([]byte, f.size)
	for sent := uint32(0); sent < f.count; sent++ {
		for sent-f.acked.Load() >= f.window {
			if _, open := <-f.room; !open {
				return nil // the reader has failed, and says why
			}
		}
		if f.interval > 0 {
			time.Sleep(time.Until(f.first.Add(f.interval * time.Duration(sent))))
		}
		now := time.Now()
		f.sentAt[sent%f.window].Store(now.UnixNano())
		mark{now, f.number, sent, f.phase}.put(body)
		out = f.appendPublish(out[:0], body)
		if _, err := f.conn.Write(out); err != nil {
			return fmt.Errorf("leaf %s: %w", f.id, err)
		}
	}
	return nil
}

func (f *flight) appendPublish(b, body []byte) []byte {
	if f.lastID++; f.lastID == 0 {
		f.lastID = 1
	}
	b = binary.AppendUvarint(append(b, 0x32), uint64(2+len(f.topic)+2+len(body)))
	b = binary.BigEndian.AppendUint16(appendText(b, f.topic), f.lastID)
	return append(b, body...)
}

var errOrder = errors.New("something else than the next acknowledgement came")

// hear reads acknowledgements until all have come. They come in the order of the
// messages (MQTT 3.1.1, section 4.6).
func (f *flight) hear() error {
	defer close(f.room)
	f.latency = make(Latencies, 0, f.count)
	var ack [4]byte
	last := uint16(0)
	for n := uint32(0); n < f.count; n++ {
		if _, err := io.ReadFull(f.in, ack[:]); err != nil {
			return fmt.Errorf("leaf %s: %w", f.id, err)
		}
		id := binary.BigEndian.Uint16(ack[2:])
		if next := max(last+1, 1); ack[0] != 0x40 || n > 0 && id != next {
			return fmt.Errorf("leaf %s: %w: % x behind %x", f.id, errOrder, ack, last)
		}
		last = id
		f.latency = append(f.latency, time.Duration(time.Now().UnixNano()-f.sentAt[n%f.window].Load()))
		f.acked.Store(n + 1)
		select {
		case f.room <- struct{}{}:
		default:
		}
	}
	return nil
}
