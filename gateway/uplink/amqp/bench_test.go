package amqp_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/store"
	"github.com/fieldgate/fieldgate/gateway/twin"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim"
)

// bench is the upper half of a gateway, real from custody to the wire, with a
// hub on the other end.
type bench struct {
	t      *testing.T
	hub    *hubsim.Hub
	keys   *identity.Keyring
	path   *gateway.Path
	uplink *uplink.Uplink
	twins  *twin.Twins    // and the way down behind them
	sent   map[string]int // by leaf, how many were handed over
	s      settings
	dir    string // of the store
	notes  gateway.Notes
	end    func()
	ended  chan error // what the uplink's Run returned
}

// laterHub is an uplink that is made after those who use it.
type laterHub struct{ *uplink.Uplink }

type anyLeaf struct{}

func (anyLeaf) Known(string) bool { return true }

func systemClock() gateway.Instant {
	now := time.Now()
	return gateway.Instant{Wall: now, Quality: gateway.Synced, Boot: 1, Uptime: time.Since(begin)}
}

var begin = time.Now()

// settings are what a test may turn.
type settings struct {
	hub hubsim.Config
	// hubLate is how far the hub's clock is behind: tokens are good for so much longer.
	hubLate time.Duration
	amqp    amqp.Config
	uplink  uplink.Config
	clock   gateway.Clock
	proofs  *identity.Proofs
	keys    *identity.Keyring // with proofs: the ring that it has
}

// newBench starts a hub with the leaves and a gateway that connects to it.
func newBench(t *testing.T, leaves []string, adjust ...func(*settings)) *bench {
	t.Helper()
	s := settings{amqp: amqp.DefaultConfig(), uplink: uplink.DefaultConfig(), clock: systemClock}
	s.hub = hubsim.Config{Dir: t.TempDir(), Host: "hub.test", Devices: make(map[string]string)}
	for _, leaf := range leaves {
		s.hub.Devices[leaf] = ""
	}
	for _, a := range adjust {
		a(&s)
	}
	hub := startHub(t, s.hub)
	hub.ClockSkew(-s.hubLate)
	b := &bench{t: t, hub: hub, keys: cmp.Or(s.keys, identity.NewKeyring("hub.test")), sent: make(map[string]int)}
	b.learnKeys()
	info := hub.Info()
	s.amqp.Host = "hub.test"
	s.amqp.Address = fmt.Sprintf("%s:%d", info.Bind, info.AMQPPort)
	s.amqp.CAFile = cmp.Or(s.amqp.CAFile, info.CAFile)
	b.s = s
	b.start(s)
	return b
}

// restart starts the gateway again, after its end, with the same store.
func (b *bench) restart() { b.start(b.s) }

// proofs proves leaves with their keys, if the test has not set it otherwise.
func (b *bench) proofs() *identity.Proofs {
	if b.s.proofs == nil {
		b.s.proofs = identity.NewProofs(b.keys, "", nil, nil)
	}
	return b.s.proofs
}

// startHub starts a hub that the end of the test closes.
func startHub(t *testing.T, cfg hubsim.Config) *hubsim.Hub {
	t.Helper()
	hub, err := hubsim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.Close() })
	return hub
}

// learnKeys gives the gateway the keys of the hub's leaves.
func (b *bench) learnKeys() {
	for id, d := range b.hub.Info().Devices {
		_, text, _ := strings.Cut(d.ConnectionString, "SharedAccessKey=")
		key, err := identity.ParseKey(text)
		if err != nil {
			b.t.Fatal(err)
		}
		b.keys.Put(id, key)
	}
}

// start joins store, path and uplink, and runs them until end.
func (b *bench) start(s settings) {
	log := slog.New(slog.NewTextHandler(b.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	transport, err := amqp.New(s.amqp, b.proofs(), s.clock, log)
	if err != nil {
		b.t.Fatal(err)
	}
	cfg := store.DefaultConfig()
	cfg.AllowAnyFS = true
	if b.dir == "" {
		b.dir = b.t.TempDir()
	}
	queue, err := store.Open(b.dir, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		b.t.Fatal(err)
	}
	down, err := gateway.NewDown(nil, queue, s.clock, log)
	if err != nil {
		b.t.Fatal(err)
	}
	b.notes = queue
	hub := &laterHub{}
	b.twins, err = twin.New(twin.DefaultConfig(), twin.Parts{Hub: hub, Down: down, Notes: queue, Clock: s.clock, Log: log})
	if err != nil {
		b.t.Fatal(err)
	}
	b.uplink = uplink.New(s.uplink, uplink.Parts{Transport: transport, Down: b.twins, Clock: s.clock, Log: log})
	hub.Uplink = b.uplink
	b.path = gateway.NewPath(gateway.DefaultConfig(), queue, anyLeaf{}, nil, s.clock, log)
	stopPath := run(b.path.Run)
	stopDown := run(down.Run)
	stopTwins := run(b.twins.Run)
	b.ended = make(chan error, 1)
	stopUplink := run(func(ctx context.Context) error {
		err := b.uplink.Run(ctx, b.path)
		b.ended <- err
		return err
	})
	ended := false
	b.end = func() {
		if ended {
			return
		}
		ended = true
		stopUplink()
		stopTwins()
		stopDown()
		stopPath()
		queue.Close()
	}
	b.t.Cleanup(func() { b.end() })
}

// run runs f until the function it returns is called, which waits for its end.
func run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = f(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// publish hands over the next n messages of the leaf; their bodies are numbers
// from 1.
func (b *bench) publish(leaf string, n int) { b.publishLarge(leaf, n, 0) }

// publishLarge is publish with that many spaces behind each number.
func (b *bench) publishLarge(leaf string, n, spaces int) {
	for range n {
		b.sent[leaf]++
		body := append(fmt.Append(nil, b.sent[leaf]), bytes.Repeat([]byte{' '}, spaces)...)
		m := &gateway.Message{Leaf: leaf, Lane: gateway.LaneTelemetry, Body: body}
		b.path.Handle(b.t.Context(), m, func(err error) {
			if err != nil {
				b.t.Errorf("%s: not taken: %v", leaf, err)
			}
		})
	}
}

// arrivals returns the numbers of all messages in the order of arrival, by leaf.
// It fails the test when a message that came twice has another id the second time.
func (b *bench) arrivals() map[string][]int {
	numbers := make(map[string][]int)
	type message struct {
		leaf   string
		number int
	}
	ids := make(map[message]string)
	for a := range b.hub.Arrivals() {
		m := message{leaf: cmp.Or(a.Properties["fieldgate-leaf"], a.Device)}
		if _, err := fmt.Sscan(string(a.Body), &m.number); err != nil {
			b.t.Fatalf("%s: body %.20q: %v", a.Device, a.Body, err)
		}
		if id, again := ids[m]; a.MessageID == "" || again && id != a.MessageID {
			b.t.Fatalf("%+v has id %q, before %q", m, a.MessageID, id)
		}
		ids[m] = a.MessageID
		numbers[m.leaf] = append(numbers[m.leaf], m.number)
	}
	return numbers
}

// arrived is arrivals of one leaf.
func (b *bench) arrived(leaf string) []int { return b.arrivals()[leaf] }

// complete says whether all messages of the leaf have arrived, except skipped.
func (b *bench) complete(leaf string, skipped ...int) bool {
	return b.covers(leaf, append(b.arrived(leaf), skipped...))
}

// covers says whether every message of the leaf is among the numbers.
func (b *bench) covers(leaf string, numbers []int) bool {
	seen := make(map[int]bool)
	for _, n := range numbers {
		seen[n] = true
	}
	return len(seen) == b.sent[leaf]
}

// missing returns the numbers of the leaf's messages that have not arrived.
func (b *bench) missing(leaf string) (numbers []int) {
	arrived := b.arrived(leaf)
	for n := 1; n <= b.sent[leaf]; n++ {
		if !slices.Contains(arrived, n) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// checkOrder fails the test unless the leaf's messages arrived in order, with
// duplicates only as a tail that was sent again in one piece.
func (b *bench) checkOrder(leaf string) (duplicates int) {
	b.t.Helper()
	var arrived []int
	b.await("the end of the messages of "+leaf, func() bool { // what is sent again may still come
		arrived = b.arrived(leaf)
		return len(arrived) > 0 && arrived[len(arrived)-1] == b.sent[leaf]
	})
	last := 0
	for i, n := range arrived {
		if n > last+1 {
			b.t.Fatalf("%s: %d arrived after %d, at position %d", leaf, n, last, i)
		}
		if n <= last {
			duplicates += last - n + 1
		}
		last = n
	}
	return duplicates
}

// await waits until the condition holds.
func (b *bench) await(what string, condition func() bool) {
	b.t.Helper()
	for limit := time.Now().Add(time.Minute); !condition(); {
		if time.Now().After(limit) {
			b.t.Fatalf("never: %s\nuplink %+v\nhub %+v", what, b.uplink.State(), b.hub.Stats())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// awaitAll waits until all messages of the leaves have arrived.
func (b *bench) awaitAll(leaves ...string) {
	b.t.Helper()
	b.await("all messages of "+strings.Join(leaves, ", "), func() bool {
		arrivals := b.arrivals()
		return !slices.ContainsFunc(leaves, func(leaf string) bool { return !b.covers(leaf, arrivals[leaf]) })
	})
}

// names returns n leaf ids.
func names(n int) []string {
	leaves := make([]string, n)
	for i := range leaves {
		leaves[i] = fmt.Sprintf("leaf-%03d", i+1)
	}
	return leaves
}
