package drivers

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Kind is a kind of driver, with a leaf for it.
type Kind struct {
	// Polled: the driver asks, and the leaf cannot be sure that each of its readings
	// is seen. What arrives are the newest, in their order.
	Polled bool
	// Aired: what the leaf sends cannot be held back. At the bound it is dropped, and
	// counted as "full".
	Aired bool
	// Repeats: the leaf sends again what it was not told to be safe.
	Repeats bool
	// There says how it is with the port: whether it is there, how often it has come, and
	// why it is not there. nil: as the state of the driver says.
	There func(gateway.DriverState) (up bool, ups int64, why error)
	// Baud is how fast the line is, in bits per second, ten to a byte.
	Baud int
	// Inflight is how many messages the driver of Driver may have with the gateway
	// without being in custody.
	Inflight int
	// Driver makes a driver for the port. It has not run.
	Driver func(t testing.TB, port string) gateway.Driver
	// Wire makes the leaf's end of the port. It is not plugged in.
	Wire func(t testing.TB, port string) Wire
}

// Wire is a leaf and the line to it. Its methods are for one goroutine.
type Wire interface {
	// Plug puts the port there, under the path and whatever name behind it; Unplug
	// takes it away. Both can be done again and again.
	Plug(t testing.TB)
	Unplug()
	// Say has the leaf send its nth reading, n being 1, 2, 3 …, or have it ready to be
	// asked for.
	Say(t testing.TB, n int)
	// Half puts the beginning of a reading, or of an answer, on the line and no more.
	Half(t testing.TB)
	// Noise puts bytes on the line that mean nothing.
	Noise(t testing.TB, noise []byte)
	// Number reads which reading a message is.
	Number(m *gateway.Message) int
	// Acked is up to which reading the leaf has been told that it is safe, -1 for a
	// kind of leaf that is told nothing.
	Acked() int
}

// lossy says that readings may be left out.
func (k *Kind) lossy() bool { return k.Polled || k.Aired }

// Run runs the suite.
func (k *Kind) Run(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(*bench)
	}{
		{"custody", (*bench).custody},
		{"order", (*bench).order},
		{"backpressure", (*bench).backpressure},
		{"restart", (*bench).restart},
		{"removal", (*bench).removal},
		{"noise", (*bench).noise},
		{"absence", (*bench).absence},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := filepath.Join(t.TempDir(), "port")
			b := &bench{T: t, kind: k, port: port, wire: k.Wire(t, port)}
			defer b.wire.Unplug()
			before := runtime.NumGoroutine()
			test.run(b)
			b.stop()
			b.wire.Unplug()
			b.until("everything to have ended", func() bool { return runtime.NumGoroutine() <= before })
		})
	}
}

// bench is a driver under way, its leaf, and a gateway.
type bench struct {
	*testing.T
	kind   *Kind
	port   string
	wire   Wire
	driver gateway.Driver
	stop   func()
	notes  Notes

	mu      sync.Mutex
	taken   []int // readings in custody, in order
	waiting int   // messages handed over whose fate is open
	most    int   // the largest of that
	hold    chan struct{}
	refuse  func(n int) error
	wants   map[string]gateway.Interest
}

// start runs a new driver.
func (b *bench) start() {
	b.Helper()
	b.driver = b.kind.Driver(b, b.port)
	b.wants = make(map[string]gateway.Interest)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.driver.Run(ctx, gateway.Ways{Up: b, Attendance: b, Notes: &b.notes}) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Errorf("Run returned %v", err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		for leaf, wants := range b.wants {
			if wants != 0 {
				b.Errorf("after the end %s is said to want %v", leaf, wants)
			}
		}
	})
	b.Cleanup(func() { b.stop() })
}

// Handle is the gateway: it settles what it takes, each on its own, unless it
// holds.
func (b *bench) Handle(_ context.Context, m *gateway.Message, done gateway.Done) {
	n := b.wire.Number(m)
	b.mu.Lock()
	b.waiting++
	b.most = max(b.most, b.waiting)
	hold, refuse := b.hold, b.refuse
	b.mu.Unlock()
	settle := func() {
		var err error
		if refuse != nil {
			err = refuse(n)
		}
		b.mu.Lock()
		b.waiting--
		if err == nil {
			b.taken = append(b.taken, n)
		}
		b.mu.Unlock()
		done(err)
	}
	if hold == nil {
		settle()
		return
	}
	go func() { <-hold; settle() }()
}

// Attend notes who can be reached.
func (b *bench) Attend(leaf string, _ gateway.Reach, wants gateway.Interest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wants[leaf] = wants
}

// Notes are notes in memory. They outlive drivers. Safe for concurrent use.
type Notes struct{ all sync.Map }

type noteKey struct{ kind, name string }

// Note is described at gateway.Notes.
func (n *Notes) Note(kind, name string) ([]byte, error) {
	v, _ := n.all.Load(noteKey{kind, name})
	text, _ := v.([]byte)
	return text, nil
}

// SetNotes is described at gateway.Notes.
func (n *Notes) SetNotes(kind string, values map[string][]byte) error {
	for name, v := range values {
		n.all.Store(noteKey{kind, name}, v)
	}
	return nil
}

// EachNote is described at gateway.Notes.
func (n *Notes) EachNote(kind string, f func(string, []byte) error) (err error) {
	n.all.Range(func(k, v any) bool {
		if key, text := k.(noteKey), v.([]byte); key.kind == kind && text != nil {
			err = f(key.name, text)
		}
		return err == nil
	})
	return err
}

func (b *bench) until(what string, met func() bool) {
	b.Helper()
	for end := time.Now().Add(30 * time.Second); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("waited in vain for %s", what)
		}
	}
}

func (b *bench) last() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.taken) == 0 {
		return 0
	}
	return b.taken[len(b.taken)-1]
}

// there says how it is with the port.
func (b *bench) there() (up bool, ups int64, why error) {
	s := b.driver.State()
	if b.kind.There != nil {
		return b.kind.There(s)
	}
	return s.Up, s.Ups, s.Err
}

// up waits until the port is open.
func (b *bench) up() {
	b.Helper()
	b.until("the port to be open", func() bool { up, _, _ := b.there(); return up })
}

// arrive waits until reading n is in custody.
func (b *bench) arrive(n int) {
	b.Helper()
	b.until("a reading to be in custody", func() bool { return b.last() >= n })
}

// told waits until reading n is in custody, and a leaf that would send it again knows.
func (b *bench) told(n int) {
	b.Helper()
	b.arrive(n)
	if b.kind.Repeats {
		b.until("the leaf to be told", func() bool { return b.wire.Acked() >= n })
	}
}

// ordered judges what is in custody: every reading once and in order, of a polled
// leaf those that were seen, and again by a driver that is new.
func (b *bench) ordered() {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, n := range b.taken {
		before := 0
		if i > 0 {
			before = b.taken[i-1]
		}
		if n < before || !b.kind.lossy() && n != before+1 {
			b.Errorf("reading %d came after %d: %v", n, before, b.taken)
			return
		}
	}
}

// custody: a leaf is told only of what is in custody, and a message that the store
// cannot take is not lost.
func (b *bench) custody() {
	hold := make(chan struct{})
	b.hold = hold
	b.wire.Plug(b)
	b.start()
	b.up()
	b.wire.Say(b, 1)
	b.until("the message", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.waiting > 0 })
	if n := b.wire.Acked(); n > 0 {
		b.Errorf("the leaf was told that reading %d is safe while it was not", n)
	}
	tries := 0
	b.mu.Lock()
	b.refuse = func(int) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if tries++; tries < 4 {
			return gateway.ErrStoreFailed
		}
		return nil
	}
	b.hold = nil
	b.mu.Unlock()
	close(hold)
	b.arrive(1)
	if b.wire.Acked() >= 0 {
		b.until("the leaf to be told", func() bool { return b.wire.Acked() == 1 })
	}
	b.ordered()
}

// order: also when the store refuses every third.
func (b *bench) order() {
	rnd := rand.New(rand.NewPCG(3, 4))
	var mu sync.Mutex
	b.refuse = func(int) error {
		mu.Lock()
		defer mu.Unlock()
		if rnd.IntN(3) == 0 {
			return gateway.ErrStoreFull
		}
		return nil
	}
	b.wire.Plug(b)
	b.start()
	b.up()
	for n := 1; n <= 12; n++ {
		b.wire.Say(b, n)
		if b.kind.lossy() {
			b.arrive(n)
		}
	}
	b.arrive(12)
	b.ordered()
}

// backpressure: a gateway that settles nothing has no more with it than the driver
// may have, the driver can be stopped then, and afterwards it goes on.
func (b *bench) backpressure() {
	hold := make(chan struct{})
	b.hold = hold
	b.wire.Plug(b)
	b.start()
	b.up()
	most := 2 * b.kind.Inflight
	for n := 1; n <= most; n++ {
		b.wire.Say(b, n)
		if b.kind.lossy() && n <= b.kind.Inflight {
			b.until("the reading to be with the gateway", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.waiting >= n })
		}
	}
	b.until("the bound to be reached", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.waiting == b.kind.Inflight })
	if b.kind.Aired {
		b.until("the rest to be dropped", func() bool { return b.driver.State().Discarded["full"] == int64(most-b.kind.Inflight) })
	}
	b.mu.Lock()
	b.hold = nil
	b.mu.Unlock()
	close(hold)
	if b.kind.Aired {
		b.until("what was kept to be in custody", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.taken) == b.kind.Inflight })
		most++
		b.wire.Say(b, most)
	}
	b.arrive(most)
	if b.most > b.kind.Inflight {
		b.Errorf("%d messages were with the gateway, the bound is %d", b.most, b.kind.Inflight)
	}
}

// restart: a new driver goes on where the old one was stopped.
func (b *bench) restart() {
	b.wire.Plug(b)
	for n := 1; n <= 3; n++ {
		b.start()
		b.up()
		b.wire.Say(b, n)
		b.told(n)
		b.stop()
	}
	b.ordered()
}

// removal: the port is pulled out in the middle of a frame, and comes back under
// another name.
func (b *bench) removal() {
	b.start()
	for n := 1; n <= 3; n++ {
		b.wire.Plug(b)
		b.up()
		b.wire.Say(b, n)
		b.told(n)
		b.wire.Half(b)
		b.wire.Unplug()
		b.until("the loss to be noticed", func() bool { up, _, why := b.there(); return !up && why != nil })
	}
	if _, ups, _ := b.there(); ups != 3 {
		b.Errorf("the port came up %d times, want 3", ups)
	}
	b.ordered()
}

// noise: at full rate it costs less than a tenth of a core, and what is sent
// afterwards arrives.
func (b *bench) noise() {
	const seconds = 5
	baud := b.kind.Baud
	b.wire.Plug(b)
	b.start()
	b.up()
	b.wire.Say(b, 1)
	b.arrive(1)
	rnd := rand.New(rand.NewPCG(5, 6))
	block := make([]byte, 512)
	begin := cpu()
	for sent := 0; sent < seconds*baud/10; sent += len(block) {
		for i := range block {
			block[i] = byte(rnd.Uint32())
		}
		b.wire.Noise(b, block)
	}
	b.wire.Say(b, 2)
	b.arrive(2) // the noise before it has been read by now
	b.ordered()
	// What the noise costs is time of the processor, which a busy machine does not
	// change much; the limit is far from what is measured.
	used := cpu() - begin
	b.Logf("%d s of noise at %d baud cost %v of the processor", seconds, baud, used)
	if used > seconds*time.Second/10 && !slowed {
		b.Errorf("%d s of noise cost %v of the processor", seconds, used)
	}
	total := int64(0)
	for _, n := range b.driver.State().Discarded {
		total += n
	}
	if total == 0 {
		b.Error("the noise is not counted")
	}
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// absence: a port that is not there is a state, with its reason, and no error.
func (b *bench) absence() {
	b.start()
	b.until("the reason", func() bool { _, _, why := b.there(); return why != nil })
	s := b.driver.State()
	if up, _, why := b.there(); up || s.Name != b.driver.Name() || s.Kind == "" || b.kind.There == nil && s.Since.IsZero() || errors.Is(why, context.Canceled) {
		b.Errorf("state %+v", s)
	}
	b.wire.Plug(b)
	b.up()
	b.wire.Say(b, 1)
	b.arrive(1)
}
