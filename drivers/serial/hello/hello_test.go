package hello

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

const (
	keyText   = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	otherText = "ff0102030405060708090a0b0c0d0e0f"
)

func mustKey(t testing.TB, text string) Key {
	t.Helper()
	k, err := ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// device is the far end of a port, with firmware of its own.
type device struct {
	*os.File
	name string
	from *bufio.Reader
}

func newDevice(t *testing.T) *device {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	t.Cleanup(func() { master.Close() })
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil {
		t.Fatal(err)
	}
	return &device{master, slave.Name(), bufio.NewReader(master)}
}

// open opens the port.
func (d *device) open(t *testing.T) *port.Port {
	t.Helper()
	c := port.Default()
	c.Port = d.name
	p, err := port.Open(&c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// asked returns the nonce of the next question.
func (d *device) asked(t *testing.T) string {
	for {
		line, err := d.from.ReadString('\n')
		if err != nil {
			t.Errorf("the gateway asks no more: %v", err)
			return ""
		}
		if nonce, ok := strings.CutPrefix(strings.TrimSpace(line), "HELLO "); ok {
			return nonce
		}
	}
}

// answer is what firmware with that key and name says, made without the package's help.
func answer(key, leaf, nonce string) string {
	var secret []byte
	fmt.Sscanf(key, "%x", &secret)
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "fieldgate hello 1 %s %s", nonce, leaf)
	return fmt.Sprintf("HELLO %s %X\r\n", leaf, mac.Sum(nil))
}

func (d *device) say(t *testing.T, text string) {
	if _, err := d.WriteString(text); err != nil {
		t.Error(err)
	}
}

// The proof is what others make of the same key and text:
//
//	printf 'fieldgate hello 1 00112233445566778899aabbccddeeff meter-1' |
//	openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1e1f
func TestProofIsThatOfOpenSSL(t *testing.T) {
	a := parse([]byte("HELLO meter-1 26e3a7bedc125c9f20ddb8bb8c127ab8e46fa6d2a4ac3c775d33d01081cb844a\r"))
	if a == nil {
		t.Fatal("it is no answer")
	}
	a.nonce = "00112233445566778899aabbccddeeff"
	if err := a.Check("meter-1", mustKey(t, keyText)); err != nil {
		t.Error(err)
	}
	for _, wrong := range []struct {
		leaf, nonce string
		key         Key
	}{
		{"meter-2", a.nonce, mustKey(t, keyText)},
		{"meter-1", a.nonce, mustKey(t, otherText)},
		{"meter-1", a.nonce, Key{}},
		{"meter-1", "10112233445566778899aabbccddeeff", mustKey(t, keyText)}, // a replay
	} {
		a.nonce = wrong.nonce
		if err := a.Check(wrong.leaf, wrong.key); !errors.Is(err, ErrWrong) {
			t.Errorf("as %s with another key or nonce: %v", wrong.leaf, err)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, text := range []string{"", "00", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("00", 65), strings.Repeat("zz", 16)} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%q is a key", text)
		}
	}
	k := mustKey(t, " "+keyText+"\n")
	if got := fmt.Sprintf("%v %+v %#v %s", k, k, k, slog.AnyValue(k).Resolve()); strings.Contains(got, "0001") || k.Text() != keyText {
		t.Errorf("it prints as %s", got)
	}
}

// What comes before an answer is thrown away and counted, noise and lines without an end
// as well; an echo is none; what comes behind it is for whoever reads next.
func TestAnswerAmongOtherThings(t *testing.T) {
	d := newDevice(t)
	p := d.open(t)
	go func() {
		nonce := d.asked(t)
		d.say(t, "HELLO "+nonce+"\r\n{\"w\":1}\n\xff\x00HELLO "+strings.Repeat("x", 5000)+"\nHELLO a b\n"+answer(keyText, "meter-1", nonce)+"{\"w\":2}\n")
	}()
	lost := 0
	if err := Prove(t.Context(), p, "meter-1", mustKey(t, keyText), time.Minute, func(n int) { lost += n }); err != nil {
		t.Fatal(err)
	}
	if want := 40 + 8 + 2 + 6 + 5001 + 10; lost != want {
		t.Errorf("lost %d bytes, want %d", lost, want)
	}
	buf := make([]byte, 100)
	if n, err := p.Read(buf); err != nil || string(buf[:n]) != "{\"w\":2}\n" {
		t.Errorf("behind it came %q, %v", buf[:n], err)
	}
}

// Frames of a format without line ends stand before the answer.
func TestAnswerBehindFrames(t *testing.T) {
	for _, frames := range []string{"~\x01\x02~", strings.Repeat("~\x07frame~", 1000), "~HELLO ~"} {
		d := newDevice(t)
		p := d.open(t)
		go func() { d.say(t, frames+answer(keyText, "meter-1", d.asked(t))) }()
		if err := Prove(t.Context(), p, "meter-1", mustKey(t, keyText), time.Minute, nil); err != nil {
			t.Errorf("%.20q: %v", frames, err)
		}
	}
}

// An answer that noise has damaged is asked for again, with another nonce; a question
// that was lost is asked again with the same.
func TestNoise(t *testing.T) {
	d := newDevice(t)
	p := d.open(t)
	go func() {
		first := d.asked(t)
		if again := d.asked(t); again != first {
			t.Errorf("asked again with %s, first with %s", again, first)
		}
		d.say(t, answer(otherText, "meter-1", first))
		second := d.asked(t)
		if second == first {
			t.Error("the nonce of an answer that was wrong is used again")
		}
		d.say(t, answer(keyText, "meter-1", second))
	}()
	if err := Prove(t.Context(), p, "meter-1", mustKey(t, keyText), time.Minute, nil); err != nil {
		t.Error(err)
	}
}

func TestSilence(t *testing.T) {
	p := newDevice(t).open(t)
	if _, err := Ask(t.Context(), p, time.Millisecond, nil); !errors.Is(err, ErrSilent) {
		t.Errorf("of a silent device: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Ask(ctx, p, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("when nobody wants to know: %v", err)
	}
}

// events are those that a log names.
type events struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func (e *events) Enabled(context.Context, slog.Level) bool { return true }
func (e *events) WithAttrs([]slog.Attr) slog.Handler       { return e }
func (e *events) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" {
			e.mu.Lock()
			e.all = append(e.all, a.Value.String())
			e.mu.Unlock()
		}
		return true
	})
	return nil
}

// Another device waits outside, with one alarm, until the leaf is there; an answer of the
// leaf that somebody has overheard does not help it.
func TestGuard(t *testing.T) {
	d := newDevice(t)
	log := new(events)
	g := NewGuard("meter-1", &Config{KeyFile: "meter-1.key", Key: mustKey(t, keyText)}, slog.New(log))
	g.pause = time.Millisecond
	state := func() gateway.DriverState {
		s := gateway.DriverState{Up: true, Leaves: 1, Peers: []gateway.PeerState{{Leaf: "meter-1", Up: true}}}
		g.Fill(&s)
		return s
	}
	p := d.open(t)
	proven := make(chan error, 1)
	go func() { proven <- g.Wait(t.Context(), p) }()
	overheard := answer(keyText, "meter-1", "00112233445566778899aabbccddeeff")
	for range 7 {
		d.asked(t)
		d.say(t, overheard)
	}
	for limit := time.Now().Add(time.Minute); state().Counts["hello_wrong"] < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("wrong answers are not counted")
		}
	}
	s := state()
	if one := s.Peers[0]; s.Leaves != 0 || one.Up || !strings.Contains(one.Err, "it has another key") || !strings.HasPrefix(s.Note, "unproven: ") {
		t.Errorf("while another device is there: %+v", s)
	}
	select {
	case err := <-proven:
		t.Fatalf("another device is let in: %v", err)
	default:
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for line, err := "", error(nil); err == nil; line, err = d.from.ReadString('\n') {
			if nonce, ok := strings.CutPrefix(strings.TrimSpace(line), "HELLO "); ok {
				d.say(t, answer(keyText, "meter-1", nonce))
			}
		}
	}()
	if err := <-proven; err != nil {
		t.Fatal(err)
	}
	p.Close() // which ends the device
	<-ended
	if s := state(); s.Leaves != 1 || !s.Peers[0].Up || s.Note != "" || s.Counts["hello_right"] != 1 {
		t.Errorf("when the leaf is there: %+v", s)
	}
	if len(log.all) != 1 || log.all[0] != "leaf-unproven" {
		t.Errorf("events are %q", log.all)
	}
}

func TestNoKeyNoGuard(t *testing.T) {
	g := NewGuard("meter-1", new(Config), slog.New(slog.DiscardHandler))
	s := gateway.DriverState{Leaves: 1}
	g.Fill(&s)
	if err := g.Wait(t.Context(), nil); err != nil || s.Leaves != 1 {
		t.Errorf("%v, %+v", err, s)
	}
	if err := (&Config{KeyFile: "k"}).Validate(""); err == nil {
		t.Error("a key of no leaf is taken")
	}
}

// Whatever comes in whatever pieces, the same is found in it, and nothing gets lost
// without being counted.
func FuzzAnswer(f *testing.F) {
	good := answer(keyText, "meter-1", "00112233445566778899aabbccddeeff")
	f.Add([]byte("x\n"+good+"{}\n"), 3)
	f.Add([]byte(good), 1)
	f.Add([]byte("HELLO a b\nHELLO  \n\n"), 2)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		step = 1 + (step&0xff)%max(len(b), 1)
		lost := 0
		whole := ear{lost: func(n int) { lost += n }}
		a, rest := whole.feed(b)
		whole.drop()
		if a != nil && (len(a.proof) != sha256.Size || !port.ValidLeaf(a.Leaf)) {
			t.Fatalf("%q gives %+v", b, a)
		}
		said := len(b) - lost - len(rest)
		if a == nil && said != 0 || a != nil && (said > maxAnswer+2 || parse([]byte(strings.TrimSuffix(string(b[lost:lost+said]), "\n"))) == nil) {
			t.Fatalf("of %q %d bytes are lost and %d left", b, lost, len(rest))
		}
		pieces := ear{}
		for i := 0; i < len(b); i += step {
			end := min(i+step, len(b))
			got, rest := pieces.feed(b[i:end])
			if cap(pieces.line) > 4*maxAnswer {
				t.Fatalf("%d bytes are kept", cap(pieces.line))
			}
			if got != nil {
				if a == nil || got.Leaf != a.Leaf || end-len(rest) != lost+said {
					t.Fatalf("in pieces of %d: %+v at %d, whole: %+v at %d", step, got, end-len(rest), a, lost+said)
				}
				return
			}
		}
		if a != nil {
			t.Fatalf("in pieces of %d nothing is found in %q", step, b)
		}
	})
}
