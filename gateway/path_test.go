package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
)

type allLeaves struct{}

func (allLeaves) Known(id string) bool { return id != "stranger" }

func wallClock() gateway.Instant {
	now := time.Now()
	return gateway.Instant{Wall: now, Quality: gateway.Synced, Boot: 1, Uptime: time.Duration(now.UnixNano())}
}

// bench is a path with a leaf side and an uplink that a test drives by hand.
// It lives in a synctest bubble.
type bench struct {
	t       *testing.T
	cfg     gateway.Config
	disk    *disk
	store   *fakeStore
	path    *gateway.Path
	stop    func()
	life    int // grows with each crash
	numbers map[string]int
	refused map[string]bool // done(err) was called for it
	acked   map[string]bool
	calls   map[string]int
	mine    []string // leaves taken from NextLeaf
	flight  map[string][]*gateway.Delivery
	arrived []string        // in the order on the wire, duplicates included
	old     map[string]bool // by name: came from the backlog when it arrived first
	ids     map[string]string
	// onPublish, if not nil, is told of each message before it is handed over.
	onPublish func(name string, m *gateway.Message)
}

func newBench(t *testing.T, custody string) *bench {
	return newBenchWith(t, custody, func(*gateway.Config) {})
}

func newBenchWith(t *testing.T, custody string, adjust func(*gateway.Config)) *bench {
	b := &bench{
		t: t, cfg: gateway.DefaultConfig(), disk: newDisk(),
		numbers: map[string]int{}, refused: map[string]bool{}, acked: map[string]bool{}, calls: map[string]int{},
		flight: map[string][]*gateway.Delivery{}, ids: map[string]string{}, old: map[string]bool{},
	}
	for l := range b.cfg.Lanes {
		b.cfg.Lanes[l].Custody = custody
	}
	adjust(&b.cfg)
	b.begin()
	return b
}

func (b *bench) begin() {
	b.store = b.disk.open()
	b.run(gateway.NewPath(b.cfg, b.store, allLeaves{}, nil, wallClock, slog.New(slog.DiscardHandler)))
}

// run starts a path in place of one that has been stopped.
func (b *bench) run(path *gateway.Path) {
	b.path = path
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = b.path.Run(ctx)
	}()
	b.stop = func() { cancel(); <-ended }
}

// end stops the path, then the store.
func (b *bench) end() {
	b.disk.set(func() { b.disk.stall = false })
	b.stop()
	b.store.close()
}

// publish hands over the next message of a leaf, named leaf/lane/number.
func (b *bench) publish(leaf string, l gateway.Lane) string { return b.publishPadded(leaf, l, 0) }

// publishPadded publishes a message that takes that many more bytes.
func (b *bench) publishPadded(leaf string, l gateway.Lane, padding int) string {
	key := leaf + "/" + l.String()
	b.numbers[key]++
	name := key + "/" + strconv.Itoa(b.numbers[key])
	m := &gateway.Message{Leaf: leaf, Lane: l, Body: []byte(name)}
	if padding > 0 {
		m.Properties = []gateway.Property{{Name: "padding", Value: strings.Repeat("x", padding)}}
	}
	if b.onPublish != nil {
		b.onPublish(name, m)
	}
	life := b.life
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b.path.Handle(ctx, m, func(err error) {
		b.disk.mu.Lock() // any lock would do: done comes from any goroutine
		defer b.disk.mu.Unlock()
		if life != b.life {
			return // the leaf of a gateway that crashed hears nothing
		}
		b.calls[name]++
		if err == nil {
			b.acked[name] = true
		} else {
			b.refused[name] = true
		}
	})
	return name
}

func (b *bench) isAcked(name string) bool {
	b.disk.mu.Lock()
	defer b.disk.mu.Unlock()
	return b.acked[name]
}

// pump takes up to n messages of the next leaf and puts them on the wire.
func (b *bench) pump(n int) bool {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if leaf, err := b.path.NextLeaf(done); err == nil {
		b.mine = append(b.mine, leaf)
	}
	if len(b.mine) == 0 {
		return false
	}
	leaf := b.mine[0]
	b.mine = b.mine[1:]
	ds := b.path.Take(leaf, n)
	if len(ds) > 0 {
		b.mine = append(b.mine, leaf)
	}
	for _, d := range ds {
		name := string(d.Body)
		b.arrived = append(b.arrived, name)
		if id, ok := b.ids[name]; ok && id != d.System.MessageID {
			b.t.Errorf("%s arrived as %s and as %s", name, id, d.System.MessageID)
		}
		b.ids[name] = d.System.MessageID
		if _, again := b.old[name]; !again {
			b.old[name] = d.Backlog
		}
	}
	b.flight[leaf] = append(b.flight[leaf], ds...)
	return len(ds) > 0
}

// pumpAny is pump until a leaf has something: one with nothing left comes out as
// false, and waiting instead would have the stall watch move the others.
func (b *bench) pumpAny(n int) bool {
	for range 3 {
		if b.pump(n) {
			return true
		}
	}
	return false
}

// settle settles the first n messages of a leaf that are on the wire.
func (b *bench) settle(leaf string, n int, o gateway.Outcome) {
	for ; n > 0 && len(b.flight[leaf]) > 0; n-- {
		d := b.flight[leaf][0]
		b.flight[leaf] = b.flight[leaf][1:]
		b.path.Settle(d, o, "test")
	}
}

func (b *bench) recall(leaf string, pause time.Duration, refused bool) {
	b.path.Recall(leaf, pause, refused)
	b.mine = slices.DeleteFunc(b.mine, func(x string) bool { return x == leaf })
	delete(b.flight, leaf)
}

func (b *bench) linkDown() {
	b.path.LinkDown()
	b.mine = nil
	clear(b.flight)
}

// crash ends the gateway without warning and starts it again.
func (b *bench) crash() {
	b.disk.set(func() { b.life++ })
	b.store.cut()
	b.end()
	b.mine = nil
	clear(b.flight)
	b.begin()
}

// drain settles everything, with time passing, until nothing moves any more.
func (b *bench) drain() {
	b.disk.set(func() { b.disk.full, b.disk.stall = false, false })
	b.path.LinkUp()
	for quiet := 0; quiet < 3; quiet++ {
		time.Sleep(time.Minute)
		synctest.Wait()
		for b.pumpAny(7) {
			quiet = 0
			for leaf := range b.flight {
				b.settle(leaf, 1<<30, gateway.Accepted)
			}
			synctest.Wait()
		}
		for leaf := range b.flight {
			b.settle(leaf, 1<<30, gateway.Accepted)
		}
	}
}

// check is the oracle: what was acknowledged arrived, first arrivals are in
// order, done was called exactly once, nothing is left.
func (b *bench) check() error {
	last := map[string]int{}
	seen := map[string]bool{}
	for _, name := range b.arrived {
		if seen[name] {
			continue
		}
		seen[name] = true
		i := strings.LastIndexByte(name, '/')
		n, _ := strconv.Atoi(name[i+1:])
		order := name[:i]
		if b.cfg.Lanes[gateway.LaneTelemetry].LiveFirst && b.old[name] {
			order += " backlog" // has an order of its own
		}
		if n <= last[order] {
			return fmt.Errorf("%s arrived after number %d of %s", name, last[order], order)
		}
		last[order] = n
	}
	b.disk.mu.Lock()
	defer b.disk.mu.Unlock()
	for name := range b.acked {
		if !seen[name] {
			return fmt.Errorf("%s was acknowledged and never arrived", name)
		}
	}
	for name, n := range b.calls {
		if n != 1 {
			return fmt.Errorf("done of %s was called %d times", name, n)
		}
	}
	return nil
}

// op is one step of a random history.
type op struct {
	what string
	leaf string
	lane gateway.Lane
	n    int
	d    time.Duration
}

func drawOps(t *rapid.T) []op { return drawOpsOf(t) }

// drawOpsOf draws a history of the usual steps and of more.
func drawOpsOf(t *rapid.T, more ...string) []op {
	what := append([]string{
		"publish", "publish", "publish", "publish", "pump", "pump", "settle", "settle", "up", "down",
		"recall", "refuse", "wait", "full", "free", "stall", "go", "crash",
	}, more...)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) op {
		return op{
			what: rapid.SampledFrom(what).Draw(t, "what"),
			leaf: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "leaf"),
			lane: gateway.Lane(rapid.IntRange(0, 1).Draw(t, "lane")),
			n:    rapid.IntRange(1, 4).Draw(t, "n"),
			d:    time.Duration(rapid.SampledFrom([]int{0, 1, 100, 300, 2000, 20000}).Draw(t, "ms")) * time.Millisecond,
		}
	}), 1, 80).Draw(t, "ops")
}

func (b *bench) do(o op) {
	switch o.what {
	case "publish":
		for range o.n {
			b.publish(o.leaf, o.lane)
		}
	case "pump":
		b.pump(o.n)
	case "settle":
		b.settle(o.leaf, o.n, gateway.Accepted)
	case "up":
		b.path.LinkUp()
	case "down":
		b.linkDown()
	case "recall":
		b.recall(o.leaf, o.d, false)
	case "refuse":
		b.recall(o.leaf, o.d, true)
	case "wait":
		time.Sleep(o.d)
		synctest.Wait()
	case "full":
		b.disk.set(func() { b.disk.full = true })
	case "free":
		b.disk.set(func() { b.disk.full = false })
	case "stall":
		b.disk.set(func() { b.disk.stall = true })
	case "go":
		b.disk.set(func() { b.disk.stall = false })
	case "crash":
		b.crash()
	}
}

// Whatever the interleaving of publishing, link loss, refused leaves, full disk,
// slow disk and crash: no acknowledged message is lost, order is kept.
//
// With live_first order is kept among live messages and among those of the
// backlog; a budget changes nothing of it.
func TestCustodyHolds(t *testing.T) {
	for _, c := range []struct {
		name      string
		custody   string
		liveFirst bool
		budget    bool
		memory    gateway.Size // 0: the default
	}{
		{"relay", gateway.CustodyRelay, false, false, 0},
		{"disk", gateway.CustodyDisk, false, false, 0},
		{"relay, live first", gateway.CustodyRelay, true, false, 0},
		{"disk, live first", gateway.CustodyDisk, true, false, 0},
		{"relay, budget", gateway.CustodyRelay, false, true, 0},
		{"disk, live first, budget", gateway.CustodyDisk, true, true, 0},
		{"relay, little memory", gateway.CustodyRelay, false, false, 700},
		{"relay, live first, little memory", gateway.CustodyRelay, true, false, 700},
		{"disk, live first, little memory", gateway.CustodyDisk, true, false, 700},
	} {
		t.Run(c.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				ops := drawOps(rt)
				var err error
				synctest.Test(t, func(t *testing.T) {
					b := newBenchWith(t, c.custody, func(cfg *gateway.Config) {
						for l := range cfg.Lanes {
							cfg.Lanes[l].LiveFirst = c.liveFirst
						}
						if c.memory > 0 {
							cfg.StagedBytes = c.memory
						}
						if c.budget {
							cfg.BackfillMessagesPerSecond, cfg.BackfillBytesPerSecond = 2, 300
							cfg.BackfillMessagesPerDay = 1000
						}
					})
					for _, o := range ops {
						b.do(o)
					}
					b.drain()
					err = b.check()
					if n := b.disk.unsettled(); err == nil && n > 0 {
						err = fmt.Errorf("%d messages are stuck in the store", n)
					}
					b.end()
				})
				if err != nil {
					rt.Fatal(err)
				}
			})
		})
	}
}

func TestRelayWritesNothingWhileTheHubSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		for range 1000 {
			name := b.publish("a", gateway.LaneTelemetry)
			if b.isAcked(name) {
				t.Fatal("acknowledged before anybody had it")
			}
			time.Sleep(10 * time.Millisecond)
			b.pump(10)
			time.Sleep(200 * time.Millisecond)
			b.settle("a", 10, gateway.Accepted)
			synctest.Wait()
			if !b.isAcked(name) {
				t.Fatal("settled and not acknowledged")
			}
		}
		if n := len(b.disk.rows[gateway.LaneTelemetry]); n != 0 {
			t.Fatalf("%d messages were written to flash", n)
		}
	})
}

func TestSlowHubSpills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		name := b.publish("a", gateway.LaneTelemetry)
		b.pump(10)
		time.Sleep(249 * time.Millisecond)
		synctest.Wait()
		if b.isAcked(name) {
			t.Fatal("acknowledged before the spill time")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if !b.isAcked(name) {
			t.Fatal("not acknowledged after the spill time")
		}
		b.settle("a", 1, gateway.Accepted)
		synctest.Wait()
		if n := b.disk.unsettled(); n != 0 {
			t.Fatalf("%d messages left in the store after the hub settled", n)
		}
		if n := len(b.arrived); n != 1 {
			t.Fatalf("sent %d times", n)
		}
	})
}

func TestBoundHoldsReadersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		b.cfg.StagedBytes = 64 << 10
		b.end()
		b.begin()
		defer b.end()
		b.disk.set(func() { b.disk.stall = true })
		published := make(chan int)
		go func() {
			n := 0
			for ctx := t.Context(); ; n++ {
				m := &gateway.Message{Leaf: "a", Lane: gateway.LaneTelemetry, Body: make([]byte, 1000)}
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				var failed error
				b.path.Handle(ctx, m, func(err error) {
					if errors.Is(err, context.DeadlineExceeded) {
						failed = err
					}
				})
				cancel()
				if failed != nil {
					break
				}
			}
			published <- n
		}()
		n := <-published
		if held := b.path.State().StagedBytes; held > 2*64<<10+2000 {
			t.Errorf("%d bytes in memory, bound is %d", held, 2*64<<10)
		}
		if n < 64 {
			t.Errorf("only %d messages taken before the bound", n)
		}
		b.disk.set(func() { b.disk.stall = false })
	})
}

func TestExpiredMessagesAreDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		b.cfg.Lanes[gateway.LaneTelemetry].TTL = gateway.Duration(time.Hour)
		b.end()
		b.begin()
		defer b.end()
		b.publish("a", gateway.LaneTelemetry)
		time.Sleep(2 * time.Hour)
		fresh := b.publish("a", gateway.LaneTelemetry)
		b.drain()
		if !slices.Equal(b.arrived, []string{fresh}) {
			t.Errorf("arrived %v, want only %s", b.arrived, fresh)
		}
		if n := b.path.State().Dropped[gateway.DropTTL]; n != 1 {
			t.Errorf("%d counted as dropped by ttl, want 1", n)
		}
		if n := b.disk.unsettled(); n != 0 {
			t.Errorf("%d left in the store", n)
		}
	})
}

func TestRefusedMessageGoesToTheShelfAndBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		poison := b.publish("a", gateway.LaneTelemetry)
		good := b.publish("a", gateway.LaneTelemetry)
		b.pump(10)
		b.settle("a", 1, gateway.Refused)
		b.settle("a", 1, gateway.Accepted)
		synctest.Wait()
		if len(b.disk.shelf) != 1 || string(b.disk.shelf[0].Body) != poison {
			t.Errorf("shelf holds %v", b.disk.shelf)
		}
		if !b.isAcked(poison) || !b.isAcked(good) {
			t.Error("both are in custody, so both must be acknowledged")
		}
		if n := b.path.State().Dropped[gateway.DropPoison]; n != 1 {
			t.Errorf("%d counted as poison, want 1", n)
		}
	})
}

func TestStrangersAndGiantsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		for _, c := range []struct {
			m    *gateway.Message
			want error
		}{
			{&gateway.Message{Leaf: "stranger"}, gateway.ErrUnknownLeaf},
			{&gateway.Message{Leaf: "a", Body: make([]byte, 256<<10)}, gateway.ErrTooLarge},
		} {
			var got error
			b.path.Handle(t.Context(), c.m, func(err error) { got = err })
			if !errors.Is(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		}
	})
}

// One refused leaf costs only itself: others stay off the flash.
func TestRefusedLeafDoesNotMoveOthersToFlash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		b.publish("a", gateway.LaneTelemetry)
		b.pump(1)
		b.recall("a", time.Hour, true)
		b.publish("a", gateway.LaneTelemetry)
		time.Sleep(time.Second)
		synctest.Wait()
		before := len(b.disk.rows[gateway.LaneTelemetry])
		for range 10 {
			b.publish("b", gateway.LaneTelemetry)
			b.pump(1)
			b.settle("b", 1, gateway.Accepted)
			synctest.Wait()
		}
		if n := len(b.disk.rows[gateway.LaneTelemetry]) - before; n != 0 {
			t.Errorf("%d messages of the other leaf were written to flash", n)
		}
		time.Sleep(time.Hour)
		b.drain()
		if err := b.check(); err != nil {
			t.Error(err)
		}
	})
}

// A leaf whose message is refused begins again with that one. What it had
// handed over behind it must not stay in custody, or it would overtake.
func TestRefusalTakesBackWhatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.disk.set(func() { b.disk.failNext, b.disk.stall = 1, true })
		first := b.publish("a", gateway.LaneTelemetry)
		behind := b.publish("a", gateway.LaneTelemetry)
		other := b.publish("b", gateway.LaneTelemetry)
		b.disk.set(func() { b.disk.stall = false })
		synctest.Wait()
		for name, acked := range map[string]bool{first: false, behind: false, other: true} {
			if b.isAcked(name) != acked {
				t.Errorf("%s acknowledged: %t, want %t", name, !acked, acked)
			}
		}
		b.drain()
		if !slices.Equal(b.arrived, []string{other}) {
			t.Errorf("arrived: %v, want only %s", b.arrived, other)
		}
		again := b.publish("a", gateway.LaneTelemetry)
		b.drain()
		if !b.isAcked(again) {
			t.Error("refused for ever")
		}
	})
}

// A backlog that has expired, larger than what memory holds, drains to the end.
func TestExpiredBacklogDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		b.end()
		b.cfg.StagedBytes = 64 << 10
		b.cfg.Lanes[gateway.LaneTelemetry].TTL = gateway.Duration(time.Hour)
		b.begin()
		defer b.end()
		for range 200 {
			m := &gateway.Message{Leaf: "a", Lane: gateway.LaneTelemetry, Body: make([]byte, 1000)}
			b.path.Handle(t.Context(), m, func(error) {})
			synctest.Wait()
		}
		time.Sleep(2 * time.Hour)
		b.path.LinkUp()
		for range 50 {
			synctest.Wait()
			b.pump(7)
		}
		if n := b.disk.unsettled(); n != 0 {
			t.Errorf("%d expired messages are stuck in the store", n)
		}
	})
}

// A spill of several messages that fails leaves them where they are: nothing
// staged behind them overtakes.
func TestFailedSpillKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		want := []string{b.publish("a", gateway.LaneTelemetry), b.publish("a", gateway.LaneTelemetry)}
		b.disk.set(func() { b.disk.failNext, b.disk.stall = 1, true })
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		want = append(want, b.publish("a", gateway.LaneTelemetry))
		b.disk.set(func() { b.disk.stall = false })
		synctest.Wait()
		b.pump(10)
		if len(b.refused) > 0 || !slices.Equal(b.arrived, want) {
			t.Errorf("refused %v, arrived %v, want %v", b.refused, b.arrived, want)
		}
	})
}

// What was settled behind a message that the hub never settles takes no memory.
func TestSettledBehindUnsettledIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		b.path.LinkUp()
		send := func() *gateway.Delivery {
			b.path.Handle(t.Context(), &gateway.Message{Leaf: "a", Lane: gateway.LaneTelemetry, Body: []byte("x")}, func(error) {})
			for {
				if ds := b.path.Take("a", 1); len(ds) == 1 {
					return ds[0]
				}
				if _, err := b.path.NextLeaf(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		heap := func() int64 {
			time.Sleep(time.Second) // so that nothing waits for its spill time
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		first := send()
		for range 1000 {
			b.path.Settle(send(), gateway.Accepted, "")
		}
		before := heap()
		const more = 100_000
		for range more {
			b.path.Settle(send(), gateway.Accepted, "")
		}
		if grown := heap() - before; grown > more*20 {
			t.Errorf("%d settled messages take %d bytes", more, grown)
		}
		b.path.Settle(first, gateway.Accepted, "")
		if left := b.path.State().StagedBytes; left != 0 {
			t.Errorf("%d bytes are left", left)
		}
	})
}

// What a leaf sends in a row is taken up to the first message that is refused,
// also when the store takes messages again by then.
func TestNothingIsTakenBehindARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyDisk)
		defer b.end()
		answers := map[string]error{}
		hand := func(text string, row *gateway.Stream) {
			m := &gateway.Message{Leaf: "a", Lane: gateway.LaneTelemetry, Body: []byte(text), Stream: row}
			b.path.Handle(t.Context(), m, func(err error) { answers[text] = err })
			synctest.Wait()
		}
		first, second := new(gateway.Stream), new(gateway.Stream)
		hand("1", first)
		b.disk.set(func() { b.disk.failNext = 1 })
		hand("2", first)
		hand("3", first)
		hand("single", nil)
		hand("2 again", second)
		for text, want := range map[string]error{
			"1": nil, "2": gateway.ErrStoreFull, "3": gateway.ErrStoreFull, "single": nil, "2 again": nil,
		} {
			if got, ok := answers[text]; !ok || !errors.Is(got, want) {
				t.Errorf("%q: %v, want %v", text, got, want)
			}
		}
		var stored []string
		for _, r := range b.disk.rows[gateway.LaneTelemetry] {
			stored = append(stored, string(r.m.Body))
		}
		if want := []string{"1", "single", "2 again"}; !slices.Equal(stored, want) {
			t.Errorf("stored %q, want %q", stored, want)
		}
		if n := b.path.State().Rejected["full"]; n != 2 {
			t.Errorf("%d counted as rejected, want 2", n)
		}
	})
}
