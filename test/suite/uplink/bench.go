package suite

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
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
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
	"github.com/fieldgate/fieldgate/gateway/uplink/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim"
)

// Gateway is the gateway's own device id at the hub.
const Gateway = "gate-7"

// Host is the hub's name on the bench.
const Host = "hub.test"

// Bench is the upper half of a gateway, with a hub on the other end.
type Bench struct {
	t         *testing.T
	Hub       *hubsim.Hub
	Path      *gateway.Path
	Uplink    *uplink.Uplink
	Twins     *twin.Twins // and the way down behind them
	transport string
	keys      *identity.Keyring
	s         Settings
	dir       string         // of the store
	sent      map[string]int // by leaf, how many were handed over
	End       func()         // ends the gateway; it may be called again
	ended     bool
}

// Settings are what a test may turn.
type Settings struct {
	Hub    hubsim.Config
	Way    dial.Config
	Uplink uplink.Config
	Clock  gateway.Clock
	Log    io.Writer // takes the log as well, nil for the test's output alone
	// OneConnection has the end of the test check that the hub never had messages
	// from two connections in turn, and that it has one now, or none after End.
	OneConnection bool
}

// laterHub is an uplink that is made after those who use it.
type laterHub struct{ *uplink.Uplink }

type anyLeaf struct{}

func (anyLeaf) Known(string) bool { return true }

var begin = time.Now()

func systemClock() gateway.Instant {
	now := time.Now()
	return gateway.Instant{Wall: now, Quality: gateway.Synced, Boot: 1, Uptime: time.Since(begin)}
}

// NewBench starts a hub with the leaves and the gateway, and a gateway that
// connects to it over the transport.
func NewBench(t *testing.T, transport string, leaves []string, adjust ...func(*Settings)) *Bench {
	t.Helper()
	s := Settings{Way: dial.DefaultConfig(), Uplink: uplink.DefaultConfig(), Clock: systemClock}
	s.Way.Host, s.Way.Transport = Host, transport
	s.Uplink.BackoffMin = gateway.Duration(100 * time.Millisecond)
	s.Uplink.AuthBackoffMin = gateway.Duration(time.Second)
	s.Hub = hubsim.Config{Dir: t.TempDir(), Host: Host, Devices: map[string]string{Gateway: ""}}
	for _, leaf := range leaves {
		s.Hub.Devices[leaf] = ""
	}
	for _, a := range adjust {
		a(&s)
	}
	b := &Bench{t: t, transport: transport, keys: identity.NewKeyring(Host), sent: make(map[string]int)}
	b.Hub = b.startHub(s.Hub)
	t.Cleanup(func() { b.Hub.Close() })
	for id, d := range b.Hub.Info().Devices {
		_, text, _ := strings.Cut(d.ConnectionString, "SharedAccessKey=")
		key, err := identity.ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		b.keys.Put(id, key)
	}
	info := b.Hub.Info()
	at := func(port int) string { return fmt.Sprintf("%s:%d", info.Bind, port) }
	s.Way.CAFile = cmp.Or(s.Way.CAFile, info.CAFile)
	s.Way.Address = cmp.Or(s.Way.Address, map[string]string{
		dial.Auto: at(info.AMQPPort), dial.AMQP: at(info.AMQPPort), dial.AMQPWebSocket: at(info.HTTPSPort),
		dial.MQTT: at(info.MQTTPort), dial.MQTTWebSocket: at(info.HTTPSPort),
	}[transport])
	if transport == dial.Auto {
		s.Way.WebSocketAddress = cmp.Or(s.Way.WebSocketAddress, at(info.HTTPSPort))
	}
	b.s = s
	b.Start()
	if s.OneConnection {
		t.Cleanup(b.checkOneConnection) // before it ends
	}
	return b
}

// checkOneConnection judges by the hub's account.
func (b *Bench) checkOneConnection() {
	if b.t.Failed() {
		return
	}
	var last uint64
	for a := range b.Hub.Arrivals() {
		if a.Connection < last {
			b.t.Errorf("message %d came on connection %d, after one on %d", a.Number, a.Connection, last)
		}
		last = max(last, a.Connection)
	}
	want := 1
	if b.ended {
		want = 0
	}
	// What the play did last may still be on its way.
	b.Await(fmt.Sprintf("%d connections at the hub", want), func() bool {
		return b.Connections() == want && (b.ended || b.Uplink.State().Connected)
	})
}

func (b *Bench) startHub(cfg hubsim.Config) *hubsim.Hub {
	b.t.Helper()
	hub, err := hubsim.Start(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return hub
}

// RestartHub starts the hub again after its Close, with its keys and ports.
func (b *Bench) RestartHub(before hubsim.Info) {
	cfg := b.s.Hub
	cfg.AMQPPort, cfg.MQTTPort, cfg.HTTPSPort = before.AMQPPort, before.MQTTPort, before.HTTPSPort
	b.Hub = b.startHub(cfg)
}

// Identity returns the device that stands at the hub for a leaf.
func (b *Bench) Identity(leaf string) string {
	if b.OneIdentity() {
		return Gateway
	}
	return leaf
}

// OneIdentity says that the transport has the gateway's identity for all leaves.
func (b *Bench) OneIdentity() bool {
	return b.transport == dial.MQTT || b.transport == dial.MQTTWebSocket
}

func (b *Bench) newTransport(log *slog.Logger) (uplink.Transport, error) {
	if b.OneIdentity() {
		return mqtt.New(b.s.Way, Gateway, b.keys, b.s.Clock, log)
	}
	cfg := amqp.DefaultConfig()
	cfg.Config = b.s.Way
	return amqp.New(cfg, identity.NewProofs(b.keys, Gateway, nil, nil), b.s.Clock, log)
}

// Start joins store, path and uplink, and runs them until End. After End it
// starts again with the same store.
func (b *Bench) Start() {
	b.t.Helper()
	out := b.t.Output()
	if b.s.Log != nil {
		out = io.MultiWriter(out, b.s.Log)
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	transport, err := b.newTransport(log)
	if err != nil {
		b.t.Fatal(err)
	}
	cfg := store.DefaultConfig()
	cfg.AllowAnyFS = true
	b.dir = cmp.Or(b.dir, b.t.TempDir())
	queue, err := store.Open(b.dir, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		b.t.Fatal(err)
	}
	down, err := gateway.NewDown(nil, queue, b.s.Clock, log)
	if err != nil {
		b.t.Fatal(err)
	}
	hub := &laterHub{}
	b.Twins, err = twin.New(twin.DefaultConfig(), twin.Parts{Hub: hub, Down: down, Notes: queue, Clock: b.s.Clock, Log: log})
	if err != nil {
		b.t.Fatal(err)
	}
	b.Uplink = uplink.New(b.s.Uplink, uplink.Parts{Transport: transport, Down: b.Twins, Clock: b.s.Clock, Log: log})
	hub.Uplink = b.Uplink
	b.Path = gateway.NewPath(gateway.DefaultConfig(), queue, anyLeaf{}, nil, b.s.Clock, log)
	stops := []func(){run(b.Path.Run), run(down.Run), run(b.Twins.Run), run(func(ctx context.Context) error { return b.Uplink.Run(ctx, b.Path) })}
	b.ended = false
	b.End = func() {
		if b.ended {
			return
		}
		b.ended = true
		for _, stop := range slices.Backward(stops) {
			stop()
		}
		queue.Close()
	}
	b.t.Cleanup(b.End)
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

// Publish hands over the next n messages of the leaf; their bodies are numbers
// from 1.
func (b *Bench) Publish(leaf string, n int) { b.PublishLarge(leaf, n, 0) }

// PublishLarge is Publish with that many spaces behind each number.
func (b *Bench) PublishLarge(leaf string, n, spaces int) {
	b.t.Helper()
	for range n {
		b.sent[leaf]++
		body := append(fmt.Append(nil, b.sent[leaf]), bytes.Repeat([]byte{' '}, spaces)...)
		b.Hand(&gateway.Message{Leaf: leaf, Lane: gateway.LaneTelemetry, Body: body})
	}
}

// Hand hands over one message.
func (b *Bench) Hand(m *gateway.Message) {
	b.Path.Handle(b.t.Context(), m, func(err error) {
		if err != nil {
			b.t.Errorf("%s: not taken: %v", m.Leaf, err)
		}
	})
}

// leafOf returns the leaf that a message is of: its device, or the one that it
// names where the device is the gateway.
func leafOf(a hubsim.Arrival) string { return cmp.Or(a.Properties["fieldgate-leaf"], a.Device) }

// Arrivals returns the numbers of all messages in the order of arrival, by leaf.
// It fails the test when a message that came twice has another id the second time.
func (b *Bench) Arrivals() map[string][]int {
	numbers := make(map[string][]int)
	ids := make(map[string]string)
	for a := range b.Hub.Arrivals() {
		if a.Properties["fieldgate-probe"] != "" {
			continue
		}
		leaf, number := leafOf(a), 0
		if _, err := fmt.Sscan(string(a.Body), &number); err != nil {
			b.t.Fatalf("%s: body %.20q: %v", leaf, a.Body, err)
		}
		name := fmt.Sprint(leaf, "/", number)
		if id, again := ids[name]; a.MessageID == "" || again && id != a.MessageID {
			b.t.Fatalf("%s has id %q, before %q", name, a.MessageID, id)
		}
		ids[name] = a.MessageID
		numbers[leaf] = append(numbers[leaf], number)
	}
	return numbers
}

// Complete says whether all messages of the leaves have arrived, except skipped
// ones of each.
func (b *Bench) Complete(leaves []string, skipped ...int) bool {
	arrivals := b.Arrivals()
	return !slices.ContainsFunc(leaves, func(leaf string) bool {
		seen := make(map[int]bool)
		for _, n := range append(arrivals[leaf], skipped...) {
			seen[n] = true
		}
		return len(seen) < b.sent[leaf]
	})
}

// AwaitAll waits until all messages of the leaves have arrived.
func (b *Bench) AwaitAll(leaves ...string) {
	b.t.Helper()
	b.Await("all messages of "+strings.Join(leaves, ", "), func() bool { return b.Complete(leaves) })
}

// CheckOrder fails the test unless the leaf's messages arrived in order, with
// duplicates only as a tail that was sent again in one piece.
func (b *Bench) CheckOrder(leaf string) (duplicates int) {
	b.t.Helper()
	var arrived []int
	b.Await("the end of the messages of "+leaf, func() bool { // what is sent again may still come
		arrived = b.Arrivals()[leaf]
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

// patience is how long a test waits for what must happen.
const patience = 90 * time.Second

// Await waits until the condition holds.
func (b *Bench) Await(what string, condition func() bool) {
	b.t.Helper()
	for limit := time.Now().Add(patience); !condition(); {
		if time.Now().After(limit) {
			b.t.Fatalf("never: %s\nuplink %+v\nhub %+v", what, b.Uplink.State(), b.Hub.Stats())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Connections is how many connections the hub has open.
func (b *Bench) Connections() int {
	s := b.Hub.Stats()
	return s.ConnectionsOpen + s.MQTTConnections
}

// Leaves returns n leaf ids.
func Leaves(n int) []string {
	leaves := make([]string, n)
	for i := range leaves {
		leaves[i] = fmt.Sprintf("leaf-%03d", i+1)
	}
	return leaves
}
