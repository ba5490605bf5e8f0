package serial

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/drivers/handover"
	"github.com/fieldgate/fieldgate/drivers/serial/hello"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

// leafEnd is the leaf's side of a pseudo-terminal.
type leafEnd struct {
	*os.File
	device string
}

func newLeafEnd(t *testing.T) *leafEnd {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	t.Cleanup(func() { master.Close() })
	// The library leaves the master in blocking mode, in which neither Close nor
	// a deadline ends a write that has no room.
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil {
		t.Fatal(err)
	}
	return &leafEnd{master, slave.Name()}
}

func (l *leafEnd) send(t *testing.T, text string) {
	t.Helper()
	if _, err := l.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// link makes path lead to the leaf's device, as udev does after plugging.
func (l *leafEnd) link(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(l.device, path); err != nil {
		t.Fatal(err)
	}
}

// running is a driver under test and what came up from it.
type running struct {
	*Driver
	stop func() // ends the driver and waits for it

	mu     sync.Mutex
	got    []*gateway.Message
	answer func(*gateway.Message) error // fate of a message; nil takes all
}

func (r *running) Handle(_ context.Context, m *gateway.Message, done gateway.Done) {
	r.mu.Lock()
	var err error
	if r.answer != nil {
		err = r.answer(m)
	}
	if err == nil {
		r.got = append(r.got, m)
	}
	r.mu.Unlock()
	done(err)
}

func (r *running) bodies() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	texts := make([]string, len(r.got))
	for i, m := range r.got {
		texts[i] = string(m.Body)
	}
	return texts
}

func start(t *testing.T, port string, set func(*Config), up func(*running)) *running {
	t.Helper()
	cfg := validConfig()
	cfg.Port = port
	if set != nil {
		set(&cfg)
	}
	d, err := New(cfg, testClock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Driver: d}
	if up != nil {
		up(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, gateway.Ways{Up: r}) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (r *running) untilOpen(t *testing.T, times int64) {
	t.Helper()
	until(t, "port open", func() bool { s := r.State(); return s.Up && s.Ups >= times })
}

func (r *running) untilGot(t *testing.T, want ...string) {
	t.Helper()
	until(t, fmt.Sprintf("%d lines", len(want)), func() bool { return len(r.bodies()) >= len(want) })
	if got := r.bodies(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestJSONLinesBecomeMessages(t *testing.T) {
	leaf := newLeafEnd(t)
	d := start(t, leaf.device, func(c *Config) { c.Channel, c.Lane = "power", "alarm" }, nil)
	d.untilOpen(t, 1)
	leaf.send(t, "{\"w\":1}\n{\"w\":")
	leaf.send(t, "2}\r\n\r\n{\"w\":3}\n")
	d.untilGot(t, `{"w":1}`, `{"w":2}`, `{"w":3}`)
	m := d.got[0]
	if m.Leaf != "meter-1" || m.Channel != "power" || m.Lane != gateway.LaneAlarm || m.Kind != gateway.Telemetry ||
		m.System.ContentType != "application/json" || m.System.ContentEncoding != "utf-8" || m.Captured.Wall.IsZero() {
		t.Errorf("message %+v", m)
	}
	until(t, "all counted", func() bool { return d.tally.snapshot().Taken == Count{3, 8 + 9 + 8} })
	if s := d.tally.snapshot(); len(s.Discarded) != 0 || s.LastLine.Boot != 1 || d.State().Device != leaf.device || d.State().Err != nil {
		t.Errorf("state %+v", s)
	}
}

func TestSeveralLeavesOnOnePort(t *testing.T) {
	leaf := newLeafEnd(t)
	d := start(t, leaf.device, func(c *Config) { c.Leaf, c.LeafField = "", "id" }, func(r *running) {
		r.answer = func(m *gateway.Message) error {
			if m.Leaf == "stranger" {
				return gateway.ErrUnknownLeaf
			}
			return nil
		}
	})
	d.untilOpen(t, 1)
	leaf.send(t, `{"id":"a"}`+"\n"+`{"id":"stranger"}`+"\n"+`{"no":1}`+"\n"+`{"id":"b"}`+"\n")
	d.untilGot(t, `{"id":"a"}`, `{"id":"b"}`)
	if d.got[0].Leaf != "a" || d.got[1].Leaf != "b" {
		t.Errorf("leaves %s and %s, want a and b", d.got[0].Leaf, d.got[1].Leaf)
	}
	until(t, "discarded lines counted", func() bool {
		s := d.tally.snapshot()
		return s.Discarded[handover.UnknownLeaf].Lines == 1 && s.Discarded[DiscardNoLeaf].Lines == 1
	})
}

// A pack for two leaves is acknowledged when both have it in custody, and refused
// when one never will.
func TestPacksOfSeveralLeaves(t *testing.T) {
	leaf := newLeafEnd(t)
	d := start(t, leaf.device, func(c *Config) { c.Format, c.Leaf, c.Ack = FormatSenML, "", AckLine }, func(r *running) {
		r.answer = func(m *gateway.Message) error {
			if m.Leaf == "stranger" {
				return gateway.ErrUnknownLeaf
			}
			return nil
		}
	})
	d.untilOpen(t, 1)
	for i, c := range []struct{ in, want string }{
		{`[{"bn":"a:","n":"t","v":1},{"bn":"b:","n":"t","v":2}]`, "ACK 1\n"},
		{`[{"bn":"stranger:","n":"t","v":1},{"bn":"b:","n":"t","v":3}]`, "NAK 2\n"},
	} {
		leaf.send(t, c.in+"\n")
		got := make([]byte, len(c.want))
		if _, err := io.ReadFull(leaf, got); err != nil || string(got) != c.want {
			t.Errorf("line %d is answered by %q, %v, want %q", i, got, err, c.want)
		}
	}
	if n := len(d.bodies()); n != 3 {
		t.Errorf("%d messages, want 3", n)
	}
}

func TestTextLines(t *testing.T) {
	leaf := newLeafEnd(t)
	d := start(t, leaf.device, func(c *Config) { c.Format = FormatText }, nil)
	d.untilOpen(t, 1)
	leaf.send(t, "perhaps a tail\nT=21.5\r\n\x00\xff\nT=22\n")
	d.untilGot(t, "T=21.5", "T=22")
	if got := d.got[0].System.ContentType; got != "text/plain" {
		t.Errorf("content type %q", got)
	}
	if s := d.tally.snapshot(); s.Discarded[DiscardTorn].Lines != 1 || s.Discarded[DiscardNoise].Lines != 1 {
		t.Errorf("discarded %v", s.Discarded)
	}
}

// All valid lines arrive once and in order, however the bytes are cut and
// whatever is between them.
func TestNoiseOnTheLine(t *testing.T) {
	leaf := newLeafEnd(t)
	d := start(t, leaf.device, func(c *Config) { c.MaxLine = 256 }, nil)
	d.untilOpen(t, 1)
	rnd := rand.New(rand.NewPCG(7, 7))
	noises := [][]byte{
		bytes.Repeat([]byte{0}, 700), bytes.Repeat([]byte{0xff}, 700), bytes.Repeat([]byte("x"), 300),
		[]byte("boot: ok"), []byte(`{"n":`), []byte("\x80\x12\xfe"),
	}
	var stream []byte
	var want []string
	noisy := 0
	for i := range 2000 {
		if rnd.IntN(3) == 0 {
			stream = append(append(stream, noises[rnd.IntN(len(noises))]...), '\n')
			noisy++
		}
		want = append(want, fmt.Sprintf(`{"n":%d}`, i))
		stream = fmt.Appendf(stream, "%s\n", want[i])
	}
	for _, piece := range cut(rnd, stream) {
		leaf.send(t, string(piece))
	}
	d.untilGot(t, want...)
	lines := 0
	for _, n := range d.tally.snapshot().Discarded {
		lines += int(n.Lines)
	}
	if lines != noisy {
		t.Errorf("%d lines discarded, %d were noise", lines, noisy)
	}
}

func TestStoreFullStopsReadingAndLosesNothing(t *testing.T) {
	leaf := newLeafEnd(t)
	full := true
	d := start(t, leaf.device, func(c *Config) { c.MaxInflight, c.Ack = 4, AckLine }, func(r *running) {
		r.answer = func(*gateway.Message) error {
			if full {
				return gateway.ErrStoreFull
			}
			return nil
		}
	})
	d.untilOpen(t, 1)
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprintf(`{"n":%d}`, i))
		leaf.send(t, want[i]+"\n")
	}
	until(t, "reading stopped at the bound", func() bool { s := d.tally.snapshot(); return s.Holding && s.Waiting == 4 })
	d.mu.Lock()
	full = false
	d.mu.Unlock()
	d.untilGot(t, want...)
	until(t, "holding ended", func() bool { s := d.tally.snapshot(); return !s.Holding && s.Taken.Lines == 50 })
}

func TestAnswersFollowCustody(t *testing.T) {
	leaf := newLeafEnd(t)
	d := start(t, leaf.device, func(c *Config) { c.Ack = AckLine }, func(r *running) {
		r.answer = func(m *gateway.Message) error {
			if bytes.Contains(m.Body, []byte("big")) {
				return gateway.ErrTooLarge
			}
			return nil
		}
	})
	d.untilOpen(t, 1)
	leaf.send(t, `{"seq":10}`+"\n"+`{"seq":11,"big":1}`+"\n"+`noise`+"\n"+`{"a":1}`+"\n"+`{"big":1}`+"\n"+`{"seq":12}`+"\n")
	want := "{\"ack\":10}\n{\"nak\":11}\nACK 3\nNAK 4\n{\"ack\":12}\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(leaf, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("answers %q, want %q", got, want)
	}
	until(t, "answers counted", func() bool { return d.tally.snapshot().Answers == 5 })
}

func TestUnplugAndPlugElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usb-adapter")
	before := descriptors(t)
	d := start(t, path, nil, nil)
	until(t, "missing port noted", func() bool { return errors.Is(d.State().Err, os.ErrNotExist) })
	var want []string
	for i := range 5 {
		leaf := newLeafEnd(t)
		leaf.link(t, path)
		d.untilOpen(t, int64(i+1))
		want = append(want, fmt.Sprintf(`{"n":%d}`, i))
		leaf.send(t, want[i]+"\n"+`{"cut`)
		d.untilGot(t, want...)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		leaf.Close()
		until(t, "loss noted", func() bool { return !d.State().Up })
	}
	if s := d.State(); s.Ups != 5 || s.Err == nil {
		t.Errorf("state %+v, want five openings and why it is closed", s)
	}
	d.stop()
	until(t, "all descriptors closed", func() bool { return descriptors(t) <= before })
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestOnePortHasOneDriver(t *testing.T) {
	leaf := newLeafEnd(t)
	first := start(t, leaf.device, nil, nil)
	first.untilOpen(t, 1)
	second := start(t, leaf.device, nil, nil)
	until(t, "busy port noted", func() bool { return errors.Is(second.State().Err, port.ErrBusy) })
	if second.State().Ups != 0 {
		t.Error("a port was opened twice")
	}
	leaf.send(t, `{"n":1}`+"\n")
	first.untilGot(t, `{"n":1}`)
	first.stop()
	second.untilOpen(t, 1)
	leaf.send(t, `{"n":2}`+"\n")
	second.untilGot(t, `{"n":2}`)
}

func TestNotASerialPort(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(`{"n":1}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{file, "/dev/null", t.TempDir()} {
		d := start(t, port, nil, nil)
		until(t, port+" refused", func() bool {
			err := d.State().Err
			return err != nil && strings.Contains(err.Error(), "not a serial port")
		})
	}
}

// A leaf that does not read its answers costs neither the driver's end nor a
// goroutine.
func TestLeafThatDoesNotReadItsAnswers(t *testing.T) {
	leaf := newLeafEnd(t)
	before := runtime.NumGoroutine()
	d := start(t, leaf.device, func(c *Config) { c.MaxInflight, c.Ack = 4, AckLine }, nil)
	d.untilOpen(t, 1)
	if err := leaf.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for n := 0; ; n++ {
			if _, err := fmt.Fprintf(leaf, "{\"seq\":%d}\n", n); err != nil {
				return // closed below
			}
		}
	}()
	until(t, "answers pile up", func() bool { s := d.tally.snapshot(); return s.Waiting == 4 && s.Answers > 100 })
	d.stop()
	leaf.Close()
	<-wrote
	until(t, "all goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
}

func TestAnswersThatNobodyReadsAreDropped(t *testing.T) {
	leaf := newLeafEnd(t)
	cfg := validConfig()
	cfg.Port = leaf.device
	p, err := port.Open(&cfg.Config)
	if err != nil {
		t.Fatal(err)
	}
	counts := newTally(gateway.LaneTelemetry, slog.New(slog.DiscardHandler))
	a := newAnswers(p, 4, func() {}, counts)
	a.limit = 20 * time.Millisecond
	var wg sync.WaitGroup
	wg.Go(a.run)
	until(t, "answers lost", func() bool {
		a.offer("ACK 12345678901234567890\n")
		return counts.snapshot().AnswersLost > 10
	})
	before := counts.snapshot().Answers
	go func() { _, _ = io.Copy(io.Discard, leaf) }() // ends when the leaf's end is closed
	until(t, "answers written again", func() bool {
		a.offer("ACK 1\n")
		return counts.snapshot().Answers > before+10
	})
	a.end()
	p.Close()
	wg.Wait()
	if lost := counts.snapshot().AnswersLost; !a.offer("late\n") || counts.snapshot().AnswersLost != lost+1 {
		t.Error("an answer after the end of its opening is not counted as lost")
	}
}

func TestModesArriveAtTheDevice(t *testing.T) {
	leaf := newLeafEnd(t)
	d := start(t, leaf.device, func(c *Config) { c.Baud, c.StopBits = 9600, 2 }, nil)
	d.untilOpen(t, 1)
	slave, err := os.OpenFile(leaf.device, os.O_RDWR|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.EBUSY) {
		t.Skip("only root may look at a port that is in use")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	mode, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if mode.Cflag&unix.CBAUD != unix.B9600 || mode.Cflag&unix.CSTOPB == 0 || mode.Lflag&(unix.ECHO|unix.ICANON) != 0 {
		t.Errorf("mode %+v, want 9600 baud, 2 stop bits, raw", mode)
	}
}

// socat joins two pseudo-terminals, which is another driver's idea of a port
// than ours.
func TestSocatPair(t *testing.T) {
	program, err := exec.LookPath("socat")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("socat is missing: install the package socat")
		}
		t.Skip("socat is missing: install the package socat")
	}
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "gateway"), filepath.Join(dir, "leaf")
	d := start(t, ours, func(c *Config) { c.Ack = AckLine }, nil)
	for i := range 2 {
		socat := exec.Command(program, "pty,raw,echo=0,link="+ours, "pty,raw,echo=0,link="+theirs)
		if err := socat.Start(); err != nil {
			t.Fatal(err)
		}
		plugOff := sync.OnceFunc(func() { _ = socat.Process.Kill(); _ = socat.Wait() })
		t.Cleanup(plugOff)
		d.untilOpen(t, int64(i+1))
		var leaf *os.File
		until(t, "leaf's end", func() bool { leaf, err = os.OpenFile(theirs, os.O_RDWR|unix.O_NOCTTY, 0); return err == nil })
		if _, err := fmt.Fprintf(leaf, "{\"seq\":%d}\n", i); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("{\"ack\":%d}\n", i)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(leaf, got); err != nil || string(got) != want {
			t.Errorf("answer %q, %v, want %q", got, err, want)
		}
		leaf.Close()
		plugOff()
		until(t, "loss noted", func() bool { return !d.State().Up })
		_ = os.Remove(ours) // a killed socat leaves its links behind
		_ = os.Remove(theirs)
	}
}

// A leaf is there when it has said something since its port is open; when the port is
// gone, that is why it is not.
func TestLeavesThatAreThere(t *testing.T) {
	leaf := newLeafEnd(t)
	d := start(t, leaf.device, nil, nil)
	d.untilOpen(t, 1)
	peer := func() gateway.PeerState {
		t.Helper()
		all := d.State().Peers
		if len(all) != 1 {
			t.Fatalf("%d leaves, want 1: %+v", len(all), all)
		}
		return all[0]
	}
	if p := peer(); p.Up || p.Err != "" || p.Leaf != d.cfg.Leaf {
		t.Errorf("before it speaks: %+v", p)
	}
	leaf.send(t, "{\"n\":1}\n")
	until(t, "it to be there", func() bool { return peer().Up })
	leaf.Close() // as when it is unplugged
	until(t, "it to be gone", func() bool { p := peer(); return !p.Up && p.Err != "" })
}

// answerHello has the leaf answer HELLO with a key until it is closed, and say a line
// after each answer and, unasked, before. wait is for after that.
func (l *leafEnd) answerHello(t *testing.T, key []byte, says string) (wait func()) {
	t.Helper()
	far, err := os.OpenFile(l.device, os.O_RDWR|unix.O_NOCTTY, 0) // it listens before the gateway does
	if err != nil {
		t.Fatal(err)
	}
	l.send(t, says)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		from := bufio.NewReader(l)
		for {
			line, err := from.ReadString('\n')
			if err != nil {
				return
			}
			nonce, ok := strings.CutPrefix(strings.TrimSpace(line), "HELLO ")
			if !ok {
				continue
			}
			mac := hmac.New(sha256.New, key)
			fmt.Fprintf(mac, "fieldgate hello 1 %s meter-1", nonce)
			answer := fmt.Sprintf("HELLO meter-1 %x\n", mac.Sum(nil))
			if _, err := l.WriteString(answer + says + answer); err != nil { // as to a second question
				return
			}
		}
	}()
	return func() {
		<-ended
		far.Close()
	}
}

// Where the leaf has a key nobody else speaks in its place, also when the port is another
// device's after a while.
func TestAnotherDeviceAtThePort(t *testing.T) {
	key, err := hello.ParseKey("00112233445566778899aabbccddeeff")
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := hex.DecodeString(key.Text())
	path := filepath.Join(t.TempDir(), "meter")
	leaf := newLeafEnd(t)
	leaf.link(t, path)
	wait := leaf.answerHello(t, secret, "first\n")
	d := start(t, path, func(c *Config) {
		c.Format, c.Hello = FormatText, hello.Config{KeyFile: "meter-1.key", Key: key}
	}, nil)
	// A line is taken only behind one that is whole: that is the second answer's.
	until(t, "leaf proven", func() bool { return d.State().Counts["hello_right"] == 1 })
	leaf.send(t, "second\n")
	until(t, "a line taken", func() bool { return slices.Contains(d.bodies(), "second") })
	if s := d.State(); s.Note != "" || !s.Peers[0].Up {
		t.Errorf("of a leaf that has proven itself it says %+v", s)
	}

	other := newLeafEnd(t)
	other.link(t, path)
	leaf.Close()
	wait()
	d.untilOpen(t, 2)
	lost := func() int64 { return d.State().Counts["unproven_bytes"] }
	before := lost()
	other.send(t, "third\nthird\n")
	until(t, "what another device says to be thrown away", func() bool { return lost() == before+12 })
	if s := d.State(); s.Leaves != 0 || s.Peers[0].Up || !strings.Contains(s.Peers[0].Err, "does not answer HELLO") || !strings.Contains(s.Note, "unproven") {
		t.Errorf("of another device it says %+v", s)
	}

	third := newLeafEnd(t)
	third.link(t, path)
	other.Close()
	wait = third.answerHello(t, secret, "fourth\n")
	until(t, "leaf proven again", func() bool { return d.State().Counts["hello_right"] == 2 })
	third.send(t, "fifth\n")
	until(t, "its line taken", func() bool { return slices.Contains(d.bodies(), "fifth") })
	for _, body := range d.bodies() {
		if body == "third" || strings.HasPrefix(body, "HELLO") {
			t.Errorf("taken was %q", body)
		}
	}
	d.stop()
	third.Close()
	wait()
}
