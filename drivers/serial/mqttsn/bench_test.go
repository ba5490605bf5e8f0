package mqttsn_test

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
)

// custody is the gateway above a link, and twins.
type custody struct {
	mu   sync.Mutex
	got  []*gateway.Message
	fate func(*gateway.Message) error // nil: taken
	hold []func()                     // what waits for release, where held is set
	held bool

	document string
	reports  []string
	refuse   error
}

func (c *custody) Handle(_ context.Context, m *gateway.Message, done gateway.Done) {
	c.mu.Lock()
	var err error
	if c.fate != nil {
		err = c.fate(m)
	}
	if err == nil {
		c.got = append(c.got, m)
	}
	if c.held {
		c.hold = append(c.hold, func() { done(err) })
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	done(err)
}

func (c *custody) set(f func(*custody)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

func (c *custody) release() {
	c.mu.Lock()
	hold := c.hold
	c.hold, c.held = nil, false
	c.mu.Unlock()
	for _, f := range hold {
		f()
	}
}

// texts are the bodies taken so far.
func (c *custody) texts() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		list = append(list, string(m.Body))
	}
	return list
}

func (c *custody) Twin(context.Context, string) ([]byte, time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.document == "" {
		return nil, 0, gateway.ErrNoTwin
	}
	return []byte(c.document), 0, nil
}

func (c *custody) Report(_ string, patch []byte, done func(int64, error)) {
	c.mu.Lock()
	if c.refuse == nil {
		c.reports = append(c.reports, string(patch))
	}
	err := c.refuse
	c.mu.Unlock()
	done(0, err)
}

// notes are notes in memory.
type notes struct {
	mu sync.Mutex
	m  map[string][]byte
	n  int // writes
	// gate is closed when flash takes notes again; nil: it does.
	gate chan struct{}
}

func (n *notes) Note(kind, name string) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.m[kind+" "+name], nil
}

func (n *notes) SetNotes(kind string, values map[string][]byte) error {
	n.mu.Lock()
	if gate := n.gate; gate != nil {
		n.mu.Unlock()
		<-gate
		n.mu.Lock()
	}
	defer n.mu.Unlock()
	for name, v := range values {
		n.n++
		if v == nil {
			delete(n.m, kind+" "+name)
		} else {
			n.m[kind+" "+name] = slices.Clone(v)
		}
	}
	return nil
}

// count says how many notes there are, and how many were written.
func (n *notes) count() (notes, writes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.m), n.n
}

func (n *notes) EachNote(kind string, f func(string, []byte) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(n.m)) {
		if name, ok := strings.CutPrefix(key, kind+" "); ok {
			if err := f(name, slices.Clone(n.m[key])); err != nil {
				return err
			}
		}
	}
	return nil
}

// everybody is admitted, but those named.
type everybody []string

func (e *everybody) Known(leaf string) bool { return !slices.Contains(*e, leaf) }

// bench is a link with the gateway's own way down above it, and a line whose far
// end is the leaf's.
type bench struct {
	t *testing.T
	*mqttsn.Link
	custody
	notes *notes
	down  *gateway.Down
	line  *line
	stop  func()
	out   everybody // who is not admitted
}

// line is the far end of an opening.
type line struct {
	t    *testing.T
	end  net.Conn
	ends sync.WaitGroup

	mu     sync.Mutex
	got    []string     // messages in hexadecimal, guarded by mu
	tapped func([]byte) // where messages go instead, guarded by mu
}

// tap has what comes passed to f.
func (x *line) tap(f func(message []byte)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.tapped = f
}

func testConfig() mqttsn.Config {
	cfg := mqttsn.DefaultConfig()
	cfg.Advertise = 0
	cfg.Predefined = map[string]string{"1": "telemetry", "2": "command/open"}
	cfg.Short = map[string]string{"al": "alarm/door"}
	return cfg
}

func clock() gateway.Instant {
	return gateway.Instant{Wall: time.Now(), Quality: gateway.Synced, Boot: 1}
}

// newBench must be called within a bubble of package synctest.
func newBench(t *testing.T, n *notes, leaves ...string) *bench {
	if n == nil {
		n = &notes{m: make(map[string][]byte)}
	}
	b := &bench{t: t, notes: n}
	log := slog.New(slog.DiscardHandler)
	var err error
	if b.down, err = gateway.NewDown(nil, &notes{m: make(map[string][]byte)}, clock, log); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	b.Link = mqttsn.New(cfg, leaves, clock, log)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	ready := make(chan struct{})
	running.Go(func() {
		b.Run(ctx, gateway.Ways{Up: &b.custody, Attendance: b.down, Twins: &b.custody, Notes: n, Leaves: &b.out},
			func(ctx context.Context) { close(ready); <-ctx.Done() })
	})
	<-ready
	b.plug()
	b.stop = sync.OnceFunc(func() {
		b.line.unplug()
		cancel()
		running.Wait()
		b.down.LinkDown()
	})
	t.Cleanup(b.stop)
	synctest.Wait()
	b.line.take() // ADVERTISE
	return b
}

// plug opens the line.
func (b *bench) plug() {
	ours, theirs := net.Pipe()
	b.line = &line{t: b.t, end: theirs}
	b.line.ends.Go(func() { b.Serve(ours) })
	b.line.ends.Go(b.line.read)
}

func (x *line) unplug() {
	x.end.Close()
	x.ends.Wait()
}

func (x *line) read() {
	var frames hdlc.Reader
	buf := make([]byte, 256)
	for {
		n, err := x.end.Read(buf)
		frames.Feed(buf[:n], func(content []byte) {
			x.mu.Lock()
			f := x.tapped
			if f == nil {
				x.got = append(x.got, strings.ToUpper(hex.EncodeToString(content)))
			}
			x.mu.Unlock()
			if f != nil {
				f(content)
			}
		})
		if frames.Discards.Long > 0 {
			x.t.Errorf("a message of more than %d octets", hdlc.MaxContent)
			return
		}
		if err != nil {
			return
		}
	}
}

// send sends a message, in hexadecimal; spaces count for nothing, text stands in
// quotes.
func (x *line) send(message string) {
	x.t.Helper()
	if _, err := x.end.Write(hdlc.Append(nil, bytesOf(x.t, message), true)); err != nil {
		x.t.Fatal(err)
	}
	synctest.Wait()
}

// bytesOf reads "0C 0C 'text'". A length in front may be __: it is computed.
func bytesOf(t testing.TB, text string) (b []byte) {
	for i, part := range strings.Split(text, "'") {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		b = append(b, unhex(t, strings.ReplaceAll(strings.ReplaceAll(part, " ", ""), "__", "00"))...)
	}
	if strings.HasPrefix(text, "__") {
		b[0] = byte(len(b))
	}
	return b
}

// take returns what has come since it was last called.
func (x *line) take() []string {
	synctest.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	got := x.got
	x.got = nil
	return got
}

// want checks what has come.
func (x *line) want(messages ...string) {
	x.t.Helper()
	var want []string
	for _, m := range messages {
		want = append(want, strings.ToUpper(hex.EncodeToString(bytesOf(x.t, m))))
	}
	if got := x.take(); !slices.Equal(got, want) {
		x.t.Errorf("got  %q\nwant %q", got, want)
	}
}

// ask sends a message and checks the answer.
func (x *line) ask(message string, answers ...string) {
	x.t.Helper()
	x.send(message)
	x.want(answers...)
}

func (b *bench) wantTaken(texts ...string) {
	b.t.Helper()
	synctest.Wait()
	if got := b.texts(); !slices.Equal(got, texts) {
		b.t.Errorf("in custody %q, want %q", got, texts)
	}
}

// command offers a command as the hub does. The verdict comes on the channel.
func (b *bench) command(leaf, name string, number uint64, body string) <-chan gateway.Verdict {
	heard := make(chan gateway.Verdict, 4)
	c := &gateway.Command{Leaf: leaf, Number: number, Enqueued: time.Unix(1, 0), LockedTo: time.Now().Add(time.Minute), Body: []byte(body)}
	if name != "" {
		c.Properties = []gateway.Property{{Name: "command", Value: name}}
	}
	b.down.Command(c, func(v gateway.Verdict) { heard <- v })
	synctest.Wait()
	return heard
}

func (b *bench) wantVerdict(heard <-chan gateway.Verdict, want gateway.Verdict) {
	b.t.Helper()
	synctest.Wait()
	select {
	case got := <-heard:
		if got != want {
			b.t.Errorf("command %v, want %v", got, want)
		}
	default:
		b.t.Errorf("no word on the command, want %v", want)
	}
}

func wantNone(t *testing.T, heard <-chan gateway.Verdict) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-heard:
		t.Errorf("command %v, want no word", got)
	default:
	}
}

func (b *bench) state() (s gateway.DriverState) {
	b.Fill(&s)
	return s
}

// connect logs the leaf in.
func (b *bench) connect(flags, leaf string) {
	b.t.Helper()
	b.line.ask("__ 04 "+flags+" 01 003C '"+leaf+"'", "030500")
}

var errTest = errors.New("test")
