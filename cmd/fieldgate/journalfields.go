package main

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"

	"github.com/fieldgate/fieldgate/gateway/control"
)

const (
	// journalBurst lines about one leaf and one event may come at once, and one each
	// journalEvery after that: a leaf that babbles must not flush the journal.
	journalBurst = 20
	journalEvery = 10 * time.Second
	// maxJournalRates bounds of how many leaves and events that is remembered.
	maxJournalRates = 4096
)

// journalFields is a slog.Handler that writes to systemd's journal: the message with its
// facts, as on a terminal, and as fields what one searches by. Kinds of events, which a
// record names in "event", have a MESSAGE_ID, by which "journalctl -x" explains them.
type journalFields struct {
	least slog.Leveler
	next  slog.Handler // for what the journal does not take
	send  func(message string, p systemd.Priority, fields map[string]string) error
	rates *journalRates

	known     control.Event // what all records have in common
	event     string
	transport string
	prefix    string // of names: the groups that are open
}

func newJournalFields(least slog.Leveler, next slog.Handler) *journalFields {
	return &journalFields{least: least, next: next, send: (&journalDoor{path: journalSocket}).send, rates: &journalRates{now: time.Now}}
}

const (
	// journalSocket is where journald listens (systemd-journald.service(8)).
	journalSocket = "/run/systemd/journal/socket"
	// journalWait is how long a line waits for the journal, and journalPause how long none
	// is tried after one has waited in vain: one that hangs must not hold up who has
	// something to say.
	journalWait  = 100 * time.Millisecond
	journalPause = time.Second
)

// journalDoor writes to the journal by its own protocol. What it does not take in time is
// lost, and counted in the next line. The library's writes have no deadline. Safe for
// concurrent use.
type journalDoor struct {
	path string

	mu    sync.Mutex
	conn  *net.UnixConn // nil: to be made
	again time.Time     // nothing is tried before
	lost  int           // lines since one was written
}

func (d *journalDoor) send(message string, p systemd.Priority, fields map[string]string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Now().Before(d.again) {
		d.lost++
		return nil
	}
	if d.lost > 0 {
		fields["FIELDGATE_LOST"] = strconv.Itoa(d.lost)
		message += "; " + count(d.lost, "line before was", "lines before were") + " lost, for the journal hung"
	}
	fields["MESSAGE"], fields["PRIORITY"] = message, strconv.Itoa(int(p))
	entry := journalEntry(fields)
	err := d.writeLocked(entry)
	if err != nil && !os.IsTimeout(err) { // journald has a new socket after a restart
		err = d.writeLocked(entry)
	}
	switch {
	case err == nil:
		d.lost = 0
	case os.IsTimeout(err):
		d.lost++
		d.again = time.Now().Add(journalPause)
		return nil
	}
	return err
}

func (d *journalDoor) writeLocked(entry []byte) (err error) {
	if d.conn == nil {
		if d.conn, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: d.path, Net: "unixgram"}); err != nil {
			return err
		}
	}
	_ = d.conn.SetWriteDeadline(time.Now().Add(journalWait))
	if _, err = d.conn.Write(entry); err != nil && !os.IsTimeout(err) {
		_ = d.conn.Close()
		d.conn = nil
	}
	return err
}

// journalEntry is what journald reads: a field with its length in eight bytes, least
// first, so that it may hold anything (systemd.io, Native Journal Protocol).
func journalEntry(fields map[string]string) (entry []byte) {
	for name, value := range fields {
		entry = append(append(entry, name...), '\n')
		entry = binary.LittleEndian.AppendUint64(entry, uint64(len(value)))
		entry = append(append(entry, value...), '\n')
	}
	return entry
}

// Enabled implements slog.Handler.
func (j *journalFields) Enabled(_ context.Context, level slog.Level) bool {
	return level >= j.least.Level()
}

// Handle implements slog.Handler.
func (j *journalFields) Handle(ctx context.Context, r slog.Record) error {
	x := *j
	r.Attrs(func(a slog.Attr) bool {
		x.note(a)
		return true
	})
	e := x.known
	kind := x.event
	if kind == "" {
		kind = r.Message
	}
	allowed, held := true, 0
	if e.Leaf != "" || x.event != "" {
		if allowed, held = j.rates.allow(e.Leaf, kind); !allowed {
			return nil
		}
	}
	fields := map[string]string{"SYSLOG_IDENTIFIER": "fieldgate"}
	for name, value := range map[string]string{
		"FIELDGATE_LEAF": e.Leaf, "FIELDGATE_DEVICE": e.Leaf, "FIELDGATE_TRANSPORT": x.transport, "FIELDGATE_EVENT": x.event,
		"FIELDGATE_PART": e.Part, "FIELDGATE_FACTS": e.Facts, "MESSAGE_ID": messageID(x.event),
	} {
		if value != "" {
			fields[name] = value
		}
	}
	if held > 0 {
		fields["FIELDGATE_HELD_BACK"] = strconv.Itoa(held)
	}
	text := r.Message
	if e.Leaf != "" {
		text = e.Leaf + ": " + text
	}
	if e.Facts != "" {
		text += ", " + e.Facts
	}
	if held > 0 {
		text += "; " + count(held, "line like this was", "lines like this were") + " held back"
	}
	if j.send(text, priority(r.Level), fields) == nil {
		return nil
	}
	return j.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (j *journalFields) WithAttrs(attrs []slog.Attr) slog.Handler {
	x := *j
	x.next = j.next.WithAttrs(attrs)
	for _, a := range attrs {
		x.note(a)
	}
	return &x
}

// WithGroup implements slog.Handler.
func (j *journalFields) WithGroup(name string) slog.Handler {
	x := *j
	x.next = j.next.WithGroup(name)
	if name != "" {
		x.prefix += name + "."
	}
	return &x
}

// note takes a fact in. What has a field of its own is no fact besides.
func (j *journalFields) note(a slog.Attr) {
	switch {
	case j.prefix == "" && a.Key == "event":
		j.event = a.Value.String()
	case j.prefix == "" && a.Key == "transport":
		j.transport = cut(quoted(a.Value.Resolve().String()), maxFacts)
	default:
		note(&j.known, j.prefix, a)
	}
}

// priority spells a level as syslog does.
func priority(l slog.Level) systemd.Priority {
	switch {
	case l >= slog.LevelError:
		return systemd.PriErr
	case l >= slog.LevelWarn:
		return systemd.PriWarning
	case l >= slog.LevelInfo:
		return systemd.PriInfo
	}
	return systemd.PriDebug
}

// journalRates say what may still be written. Safe for concurrent use.
type journalRates struct {
	now func() time.Time // by the monotonic clock

	mu    sync.Mutex
	known map[string]*journalRate // by leaf and event; guarded by mu
}

// journalRate is what one leaf has left of one event.
type journalRate struct {
	left float64
	at   time.Time // when that was so
	held int       // lines since one was written
}

// allow says whether a line may be written, and if so how many were not since the last
// one.
func (r *journalRates) allow(leaf, event string) (ok bool, held int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, key := r.now(), strings.Join([]string{leaf, event}, "\x00")
	one := r.known[key]
	if one == nil {
		if len(r.known) >= maxJournalRates {
			r.forget(now)
		}
		if len(r.known) >= maxJournalRates {
			key = "" // all that are too many share one
			one = r.known[key]
		}
		if one == nil {
			if r.known == nil {
				r.known = make(map[string]*journalRate)
			}
			one = &journalRate{left: journalBurst, at: now}
			r.known[key] = one
		}
	}
	one.left = min(journalBurst, one.left+now.Sub(one.at).Seconds()/journalEvery.Seconds())
	one.at = now
	if one.left < 1 {
		one.held++
		return false, 0
	}
	one.left--
	held, one.held = one.held, 0
	return true, held
}

// forget drops those that have said nothing for so long that they may say all again, and
// with them how many lines were held back.
func (r *journalRates) forget(now time.Time) {
	for key, one := range r.known {
		if now.Sub(one.at) >= journalBurst*journalEvery {
			delete(r.known, key)
		}
	}
}
