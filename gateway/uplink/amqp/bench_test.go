package amqp_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/store"
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
	sent   map[string]int // by leaf, how many were handed over
	end    func()
}

type anyLeaf struct{}

func (anyLeaf) Known(string) bool { return true }

func systemClock() gateway.Instant {
	now := time.Now()
	return gateway.Instant{Wall: now, Quality: gateway.Synced, Boot: 1, Uptime: time.Since(begin)}
}

var begin = time.Now()

// settings are what a test may turn.
type settings struct {
	hub    hubsim.Config
	amqp   amqp.Config
	uplink uplink.Config
	clock  gateway.Clock
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
	hub, err := hubsim.Start(s.hub)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.Close() })
	b := &bench{t: t, hub: hub, keys: identity.NewKeyring("hub.test"), sent: make(map[string]int)}
	b.learnKeys()
	info := hub.Info()
	s.amqp.Host = "hub.test"
	s.amqp.Address = fmt.Sprintf("%s:%d", info.Bind, info.AMQPPort)
	s.amqp.CAFile = info.CAFile
	b.start(s)
	return b
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
	transport, err := amqp.New(s.amqp, b.keys, s.clock, log)
	if err != nil {
		b.t.Fatal(err)
	}
	b.uplink = uplink.New(s.uplink, uplink.Parts{Transport: transport, Clock: s.clock, Log: log})
	cfg := store.DefaultConfig()
	cfg.AllowAnyFS = true
	queue, err := store.Open(b.t.TempDir(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		b.t.Fatal(err)
	}
	b.path = gateway.NewPath(gateway.DefaultConfig(), queue, anyLeaf{}, nil, s.clock, log)
	stopPath := run(b.path.Run)
	stopUplink := run(func(ctx context.Context) error { return b.uplink.Run(ctx, b.path) })
	ended := false
	b.end = func() {
		if ended {
			return
		}
		ended = true
		stopUplink()
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
func (b *bench) publish(leaf string, n int) {
	for range n {
		b.sent[leaf]++
		m := &gateway.Message{Leaf: leaf, Lane: gateway.LaneTelemetry, Body: fmt.Append(nil, b.sent[leaf])}
		b.path.Handle(b.t.Context(), m, func(err error) {
			if err != nil {
				b.t.Errorf("%s: not taken: %v", leaf, err)
			}
		})
	}
}

// arrived returns the numbers of the leaf's messages in the order of arrival.
func (b *bench) arrived(leaf string) []int {
	var numbers []int
	for a := range b.hub.Arrivals() {
		if a.Device != leaf {
			continue
		}
		var n int
		if _, err := fmt.Sscan(string(a.Body), &n); err != nil {
			b.t.Fatalf("%s: body %q: %v", leaf, a.Body, err)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// complete says whether all messages of the leaf have arrived, except skipped.
func (b *bench) complete(leaf string, skipped ...int) bool {
	seen := make(map[int]bool)
	for _, n := range append(b.arrived(leaf), skipped...) {
		seen[n] = true
	}
	return len(seen) == b.sent[leaf]
}

// checkOrder fails the test unless the leaf's messages arrived in order, with
// duplicates only as a tail that was sent again in one piece.
func (b *bench) checkOrder(leaf string) (duplicates int) {
	b.t.Helper()
	last := 0
	for i, n := range b.arrived(leaf) {
		if n > last+1 {
			b.t.Fatalf("%s: %d arrived after %d, at position %d", leaf, n, last, i)
		}
		if n <= last {
			duplicates += last - n + 1
		}
		last = n
	}
	if last != b.sent[leaf] {
		b.t.Fatalf("%s: the last that arrived is %d, of %d", leaf, last, b.sent[leaf])
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
	for _, leaf := range leaves {
		b.await("all messages of "+leaf, func() bool { return b.complete(leaf) })
	}
}

// names returns n leaf ids.
func names(n int) []string {
	leaves := make([]string, n)
	for i := range leaves {
		leaves[i] = fmt.Sprintf("leaf-%03d", i+1)
	}
	return leaves
}
