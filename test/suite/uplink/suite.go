package suite

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// play is one test of the suite, with a bench over the transport in question.
type play struct {
	name string
	long bool // not with -short
	f    func(t *testing.T, transport string, adjust func(*Settings))
}

var plays = []play{
	{"everything arrives once and in order", false, everythingArrives},
	{"a message arrives with everything it had", false, everythingItHad},
	{"resets keep the order", false, resets},
	{"a silent cut is noticed", false, silentCut},
	{"a half-open connection is noticed", false, halfOpen},
	{"a throttled hub is left alone", true, throttled},
	{"a used-up quota costs nothing but time", true, quota},
	{"a refused token is asked for again", false, refusedToken},
	{"a disabled identity waits until it is enabled", false, disabled},
	{"a deleted identity waits until it is there again", false, deleted},
	{"slow settling keeps the order", false, slowSettle},
	{"a message that is never settled is sent again", false, settleNever},
	{"a second settlement changes nothing", false, settleTwice},
	{"garbage costs the connection only", false, garbage},
	{"what is too large is refused at once", false, oversize},
	{"a message that only the hub finds too large is shelved", false, poison},
	{"the hub restarts", false, hubRestarts},
	{"tokens are renewed", true, renewal},
	{"commands and calls come down", false, down},
	{"a command outlives its lock", false, lostLock},
	{"nothing runs on", false, nothingRunsOn},
}

// Run plays the suite over a transport, as dial spells it. adjust, if not nil,
// turns what is particular about the way there.
func Run(t *testing.T, transport string, adjust func(*Settings)) {
	if adjust == nil {
		adjust = func(*Settings) {}
	}
	for _, p := range plays {
		t.Run(p.name, func(t *testing.T) {
			if p.long && testing.Short() {
				t.Skip("it waits for many seconds")
			}
			p.f(t, transport, func(s *Settings) {
				adjust(s)
				s.OneConnection = true
			})
		})
	}
}

func everythingArrives(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(30)
	b := NewBench(t, transport, leaves, adjust)
	for range 5 {
		for _, leaf := range leaves {
			b.Publish(leaf, 4)
		}
	}
	b.AwaitAll(leaves...)
	for _, leaf := range leaves {
		if d := b.CheckOrder(leaf); d > 0 {
			t.Errorf("%s: %d duplicates without any failure", leaf, d)
		}
	}
	if s := b.Hub.Stats(); s.ConnectionsEver != 1 || b.Connections() != 1 {
		t.Errorf("the hub saw %d connections, want 1", s.ConnectionsEver)
	}
	if s := b.Uplink.State(); s.Transport != transport || s.Reason != "" {
		t.Errorf("state says %q because of %q, want %q", s.Transport, s.Reason, transport)
	}
}

func everythingItHad(t *testing.T, transport string, adjust func(*Settings)) {
	const leaf = "pump%1_=&"
	b := NewBench(t, transport, []string{"pump%1_="}, adjust)
	id := leaf[:len(leaf)-1]
	expiry := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	b.Hand(&gateway.Message{
		Leaf: id, Lane: gateway.LaneAlarm, Channel: "bearing", Kind: gateway.Will,
		System: gateway.System{
			MessageID: "m-1/ä", CorrelationID: "c-1", UserID: "u-1", ContentType: "application/json",
			ContentEncoding: "utf-8", Expiry: expiry, CreationTime: "2026-01-02T03:04:05Z", Schema: "s", OutputName: "o",
		},
		Properties: []gateway.Property{{Name: "site", Value: "north & south=50%+ü"}, {Name: "empty", Value: ""}, {Name: "fieldgate-seq", Value: "99"}, {Name: "Fieldgate-Leaf", Value: "another"}},
		Body:       []byte(`{"t":1}`),
	})
	b.Await("arrival", func() bool { return b.Hub.Stats().Messages == 1 })
	for a := range b.Hub.Arrivals() {
		if a.Device != b.Identity(id) || leafOf(a) != id || string(a.Body) != `{"t":1}` || a.MessageID != "m-1/ä" || a.CorrelationID != "c-1" ||
			a.UserID != "u-1" || a.ContentType != "application/json" || a.ContentEncoding != "utf-8" || !a.Expiry.Equal(expiry) {
			t.Errorf("got %+v", a)
		}
		if _, err := time.Parse(time.RFC3339Nano, a.Properties["fieldgate-captured"]); err != nil {
			t.Errorf("capture time: %v", err)
		}
		for _, name := range []string{"fieldgate-captured", "fieldgate-start", "fieldgate-leaf"} {
			delete(a.Properties, name)
		}
		want := map[string]string{
			"site": "north & south=50%+ü", "empty": "", "fieldgate-lane": "alarm", "fieldgate-seq": "1", "fieldgate-clock": "synced",
			"fieldgate-channel": "bearing", "iothub-MessageType": "Will", "iothub-creation-time-utc": "2026-01-02T03:04:05Z",
			"iothub-message-schema": "s", "iothub-outputname": "o",
		}
		if !maps.Equal(a.Properties, want) {
			t.Errorf("properties:\ngot  %v\nwant %v", a.Properties, want)
		}
	}
}

// disturbed publishes, waits until something arrives, disturbs, and goes on.
// disturb says on how many connections.
func disturbed(b *Bench, leaves []string, times int, disturb func() int) {
	for range times {
		for _, leaf := range leaves {
			b.Publish(leaf, 100)
		}
		before := b.Hub.Stats().Messages
		b.Await("something arrives", func() bool { return b.Hub.Stats().Messages > before })
		connects := b.Uplink.State().Connects[uplink.ConnectOK]
		if disturb() > 0 {
			b.Await("the connection is back", func() bool { return b.Uplink.State().Connects[uplink.ConnectOK] > connects })
		}
	}
	b.AwaitAll(leaves...)
	for _, leaf := range leaves {
		b.CheckOrder(leaf)
	}
}

func resets(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(3)
	b := NewBench(t, transport, leaves, adjust)
	b.Hub.SlowSettle(2 * time.Millisecond)
	disturbed(b, leaves, 4, b.Hub.Reset)
	if s := b.Uplink.State(); s.Connects[uplink.ConnectOK] < 5 || s.LastError == "" || s.Offline <= 0 {
		t.Errorf("state %+v", s)
	}
}

// impatient has breaks noticed soon.
func impatient(adjust func(*Settings)) func(*Settings) {
	return func(s *Settings) {
		adjust(s)
		s.Way.KeepAlive = gateway.Duration(time.Second)
		s.Way.Timeout = gateway.Duration(2 * time.Second)
	}
}

func silentCut(t *testing.T, transport string, adjust func(*Settings)) {
	t.Parallel() // it waits most of the time
	b := NewBench(t, transport, Leaves(2), impatient(adjust))
	b.Publish("leaf-001", 10)
	b.AwaitAll("leaf-001")
	b.Hub.Cut()
	b.PublishLarge("leaf-002", 60, 200<<10) // fills the socket: the writer hangs when the reader notices
	b.Await("the cut is noticed", func() bool { return !b.Uplink.State().Connected })
	b.Publish("leaf-001", 10)
	b.Hub.Restore()
	b.AwaitAll("leaf-001", "leaf-002")
	b.CheckOrder("leaf-001")
	b.CheckOrder("leaf-002")
}

func halfOpen(t *testing.T, transport string, adjust func(*Settings)) {
	t.Parallel()
	b := NewBench(t, transport, Leaves(2), impatient(adjust))
	b.Publish("leaf-001", 10)
	b.AwaitAll("leaf-001")
	b.Hub.HalfOpen()
	b.Publish("leaf-001", 50)
	b.Publish("leaf-002", 50)
	b.Await("it is noticed", func() bool { return !b.Uplink.State().Connected })
	b.Hub.Restore()
	b.AwaitAll("leaf-001", "leaf-002")
	b.CheckOrder("leaf-001")
	b.CheckOrder("leaf-002")
}

func throttled(t *testing.T, transport string, adjust func(*Settings)) {
	t.Parallel()
	b := NewBench(t, transport, Leaves(2), adjust)
	b.Publish("leaf-001", 1)
	b.AwaitAll("leaf-001")
	b.Hub.Throttle(true)
	b.Publish("leaf-001", 10)
	b.Await("the pause", func() bool { return pausing(b) })
	b.Hub.Throttle(false)
	b.Publish("leaf-002", 1) // waits for the end of the pause like everybody
	b.AwaitAll("leaf-001", "leaf-002")
	b.CheckOrder("leaf-001")
	if s := b.Uplink.State(); s.Rejected != 0 {
		t.Errorf("state %+v", s)
	}
}

// pausing says that the hub has asked to wait, and that the gateway does.
func pausing(b *Bench) bool {
	s := b.Uplink.State()
	return s.ClosedUntil.After(time.Now()) || !s.Connected && s.Connects[uplink.ConnectThrottled] > 0 && s.RetryAt.After(time.Now())
}

func quota(t *testing.T, transport string, adjust func(*Settings)) {
	t.Parallel()
	leaves := Leaves(2)
	b := NewBench(t, transport, leaves, adjust)
	b.Publish("leaf-001", 5)
	b.AwaitAll("leaf-001")
	b.Hub.Quota(true)
	b.Publish("leaf-001", 20)
	b.Publish("leaf-002", 20)
	b.Await("the pause", func() bool { return pausing(b) })
	if !b.OneIdentity() { // AMQP says what it is, and that is over with the day
		now := time.Now().UTC()
		reset := time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, time.UTC)
		if until := b.Uplink.State().ClosedUntil; until.After(reset.Add(time.Minute)) || until.Before(now.Add(min(reset.Sub(now), 50*time.Minute))) {
			t.Errorf("closed until %v, the quota is reset at %v", until, reset)
		}
		b.End() // nobody wants to wait for it here; what is waiting must outlive it
		b.Hub.Quota(false)
		b.Start()
	}
	b.Hub.Quota(false)
	b.AwaitAll(leaves...)
	for _, leaf := range leaves {
		b.CheckOrder(leaf)
	}
	if s := b.Uplink.State(); s.Rejected != 0 {
		t.Errorf("messages were shelved: %+v", s)
	}
}

// refused says that the hub refuses the leaf, or the gateway that speaks for it.
func refused(b *Bench, leaf string) bool {
	s := b.Uplink.State()
	if b.OneIdentity() {
		return s.Connects[uplink.ConnectRefused] > 0 && !s.Connected
	}
	return s.Refused[leaf] != ""
}

func refusedToken(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(2)
	b := NewBench(t, transport, leaves, adjust)
	b.Publish(leaves[1], 1)
	b.AwaitAll(leaves[1])
	b.Hub.RefuseToken(b.Identity(leaves[0]), true)
	if b.OneIdentity() {
		b.Hub.Reset() // a token is asked for again
	}
	b.Publish(leaves[0], 50)
	b.Await("the refusal is seen", func() bool { return refused(b, leaves[0]) })
	if n := len(b.Arrivals()[leaves[0]]); n > 0 {
		t.Errorf("%d messages of the refused leaf arrived", n)
	}
	if !b.OneIdentity() {
		b.Publish(leaves[1], 50)
		b.AwaitAll(leaves[1])
	}
	b.Hub.RefuseToken(b.Identity(leaves[0]), false)
	b.AwaitAll(leaves...)
	b.CheckOrder(leaves[0])
}

func disabled(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(1)
	b := NewBench(t, transport, leaves, adjust)
	b.Hub.SlowSettle(2 * time.Millisecond)
	b.Publish(leaves[0], 300)
	b.Await("it is in the middle", func() bool { return len(b.Arrivals()[leaves[0]]) > 10 })
	b.Hub.SetEnabled(b.Identity(leaves[0]), false)
	b.Await("the refusal is seen", func() bool { return refused(b, leaves[0]) })
	b.Hub.SetEnabled(b.Identity(leaves[0]), true)
	b.AwaitAll(leaves...)
	b.CheckOrder(leaves[0])
	if s := b.Uplink.State(); s.Rejected != 0 {
		t.Errorf("messages were shelved: %+v", s)
	}
}

func deleted(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(1)
	b := NewBench(t, transport, leaves, adjust)
	b.Publish(leaves[0], 10)
	b.AwaitAll(leaves...)
	id := b.Identity(leaves[0])
	_, key, _ := strings.Cut(b.Hub.Info().Devices[id].ConnectionString, "SharedAccessKey=")
	if err := b.Hub.RemoveDevice(id); err != nil {
		t.Fatal(err)
	}
	b.Publish(leaves[0], 10)
	b.Await("the refusal is seen", func() bool { return refused(b, leaves[0]) })
	if _, err := b.Hub.AddDevice(id, key); err != nil {
		t.Fatal(err)
	}
	b.AwaitAll(leaves...)
	b.CheckOrder(leaves[0])
}

func slowSettle(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(3)
	b := NewBench(t, transport, leaves, adjust)
	b.Hub.SlowSettle(300 * time.Millisecond) // longer than the spill
	for _, leaf := range leaves {
		b.Publish(leaf, 200)
	}
	b.AwaitAll(leaves...)
	for _, leaf := range leaves {
		if d := b.CheckOrder(leaf); d > 0 {
			t.Errorf("%s: %d duplicates", leaf, d)
		}
	}
}

func settleNever(t *testing.T, transport string, adjust func(*Settings)) {
	b := NewBench(t, transport, Leaves(1), func(s *Settings) {
		adjust(s)
		s.Uplink.StallTimeout = gateway.Duration(time.Second)
	})
	b.Hub.SettleNever(true)
	b.Publish("leaf-001", 10)
	b.Await("the stall", func() bool {
		s := b.Uplink.State()
		return s.Recalls > 0 || s.Connects[uplink.ConnectOK] > 1
	})
	b.Hub.SettleNever(false)
	b.AwaitAll("leaf-001")
	b.Await("settled", func() bool { s := b.Uplink.State(); return s.Inflight == 0 && s.Accepted >= 10 })
	b.CheckOrder("leaf-001")
}

func settleTwice(t *testing.T, transport string, adjust func(*Settings)) {
	b := NewBench(t, transport, Leaves(2), adjust)
	b.Hub.SettleTwice(true)
	b.Publish("leaf-001", 100)
	b.Publish("leaf-002", 100)
	b.AwaitAll("leaf-001", "leaf-002")
	b.CheckOrder("leaf-001")
	b.CheckOrder("leaf-002")
}

func garbage(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(2)
	b := NewBench(t, transport, leaves, adjust)
	broken := 0
	disturbed(b, leaves, 3, func() int {
		n := b.Hub.Malform(b.Identity(leaves[0]))
		broken += n
		return n
	})
	if broken == 0 {
		t.Error("nothing was ever broken")
	}
}

func oversize(t *testing.T, transport string, adjust func(*Settings)) {
	b := NewBench(t, transport, Leaves(1), adjust)
	for _, m := range []*gateway.Message{
		{Body: make([]byte, 256<<10)},
		// The hub takes it, and flash does not.
		{Body: make([]byte, 240<<10), Properties: slices.Repeat([]gateway.Property{{Name: "p"}}, 5000)},
	} {
		m.Leaf, m.Lane = "leaf-001", gateway.LaneTelemetry
		told := make(chan error, 1)
		b.Path.Handle(t.Context(), m, func(err error) { told <- err })
		select {
		case err := <-told:
			if !errors.Is(err, gateway.ErrTooLarge) {
				t.Errorf("the leaf is told %v", err)
			}
		default:
			t.Error("the leaf is not told at once")
		}
	}
	// The largest that is let in is taken by the hub.
	b.PublishLarge("leaf-001", 3, 256<<10-512)
	// One whose properties fit the hub but not every protocol, in the middle.
	b.Hand(&gateway.Message{
		Leaf: "leaf-001", Lane: gateway.LaneTelemetry, Body: []byte("4"),
		Properties: []gateway.Property{{Name: "p", Value: string(bytes.Repeat([]byte("%"), 30<<10))}},
	})
	b.sent["leaf-001"]++
	b.Publish("leaf-001", 10)
	b.Await("the rest", func() bool { return b.Complete([]string{"leaf-001"}, 4) })
	arrived := slices.Contains(b.Arrivals()["leaf-001"], 4)
	if s := b.Uplink.State(); arrived == b.OneIdentity() || s.Rejected != 0 && arrived || s.Connects[uplink.ConnectOK] != 1 {
		t.Errorf("arrived: %v, state %+v", arrived, s)
	}
}

// poison sends a message that is within the hub's size as the gateway counts it, and
// above it as this hub does, who counts what surrounds each property as well.
func poison(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(2)
	b := NewBench(t, transport, leaves, adjust)
	b.Publish(leaves[0], 5)
	m := &gateway.Message{Leaf: leaves[0], Lane: gateway.LaneTelemetry}
	for i := range 1500 {
		m.Properties = append(m.Properties, gateway.Property{Name: fmt.Sprintf("p%04d", i)})
	}
	m.Body = append([]byte("6"), bytes.Repeat([]byte{' '}, 256<<10-1500*len("p0000")-1024)...)
	b.Hand(m)
	b.sent[leaves[0]]++
	b.Publish(leaves[0], 50)
	b.Publish(leaves[1], 50)
	b.Await("the rest", func() bool { return b.Complete(leaves[:1], 6) && b.Complete(leaves[1:]) })
	b.Await("it is shelved", func() bool { return b.Uplink.State().Rejected == 1 })
	last := 0
	for _, n := range b.Arrivals()[leaves[0]] {
		if n == 6 || n > last+1 && n != 7 {
			t.Fatalf("%d arrived after %d", n, last)
		}
		last = n
	}
	b.CheckOrder(leaves[1])
}

func hubRestarts(t *testing.T, transport string, adjust func(*Settings)) {
	leaves := Leaves(2)
	b := NewBench(t, transport, leaves, adjust)
	b.Await("the first connection", func() bool { return b.Uplink.State().Connected })
	before := b.Hub.Info()
	b.Hub.Close()
	for _, leaf := range leaves {
		b.Publish(leaf, 10)
	}
	b.Await("attempts fail, and why is said", func() bool {
		s := b.Uplink.State()
		return s.Connects[uplink.ConnectFailed] >= 2 && s.LastError != ""
	})
	b.RestartHub(before)
	b.AwaitAll(leaves...)
	for _, leaf := range leaves {
		b.CheckOrder(leaf)
	}
}

func renewal(t *testing.T, transport string, adjust func(*Settings)) {
	t.Parallel()
	leaves := Leaves(3)
	b := NewBench(t, transport, leaves, func(s *Settings) {
		adjust(s)
		s.Way.TokenTTL = gateway.Duration(15 * time.Second) // some seconds are left after the renewal, also on a busy machine
	})
	for end := time.Now().Add(18 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, leaf := range leaves {
			b.Publish(leaf, 1)
		}
	}
	b.AwaitAll(leaves...)
	for _, leaf := range leaves {
		if d := b.CheckOrder(leaf); d > 0 {
			t.Errorf("%s: %d duplicates", leaf, d)
		}
	}
	s := b.Uplink.State()
	if s.Recalls != 0 || s.LastError != "" {
		t.Errorf("a link was lost: %+v", s)
	}
	if again := s.Connects[uplink.ConnectOK] > 1; again != b.OneIdentity() {
		t.Errorf("connected %d times: AMQP renews in place, MQTT by connecting again", s.Connects[uplink.ConnectOK])
	}
}

func nothingRunsOn(t *testing.T, transport string, adjust func(*Settings)) {
	before := runtime.NumGoroutine()
	t.Run("a busy uplink", func(t *testing.T) {
		leaves := Leaves(20)
		b := NewBench(t, transport, leaves, adjust)
		b.Hub.SlowSettle(time.Millisecond)
		for _, leaf := range leaves {
			b.Publish(leaf, 50)
		}
		b.Await("something arrives", func() bool { return b.Hub.Stats().Messages > 0 })
		b.End()
	})
	for limit := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}
