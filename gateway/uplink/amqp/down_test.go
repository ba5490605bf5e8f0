package amqp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// leafEnd is the leaf's side of the way down: it takes commands at once, or keeps
// them in its hands while held.
type leafEnd struct {
	mu       sync.Mutex
	held     bool
	verdict  gateway.Verdict
	commands []*gateway.Command
	inHand   []func(gateway.Verdict)
	desired  []string
}

func (l *leafEnd) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	l.mu.Lock()
	l.commands = append(l.commands, c)
	held, verdict := l.held, l.verdict
	if held {
		l.inHand = append(l.inHand, answer)
	}
	l.mu.Unlock()
	if !held {
		answer(verdict)
	}
}

func (l *leafEnd) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	if c.Name == "silent" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &gateway.Reply{Status: 201, Body: fmt.Appendf(nil, `{"leaf":%q,"name":%q,"got":%s}`, c.Leaf, c.Name, c.Body)}, nil
}

func (l *leafEnd) Desired(_ string, patch []byte, _ int64, heard func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.desired = append(l.desired, string(patch))
	go heard()
}

func (l *leafEnd) bodies() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, c := range l.commands {
		all = append(all, string(c.Body))
	}
	return strings.Join(all, " ")
}

func (l *leafEnd) changes() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.desired, " ")
}

// say answers everything in hand.
func (l *leafEnd) say(v gateway.Verdict) {
	l.mu.Lock()
	inHand := l.inHand
	l.inHand = nil
	l.mu.Unlock()
	for _, answer := range inHand {
		answer(v)
	}
}

const everything = gateway.WantsCommands | gateway.WantsCalls | gateway.WantsDesired

func device(leaf string) registry.ID { return registry.ID{Device: leaf} }

// send queues a command at the hub.
func (b *bench) send(leaf, body string) {
	b.t.Helper()
	err := b.hub.Domain().Commands.Send(device(leaf), &message.Message{
		To: "/devices/" + leaf + "/messages/devicebound", Body: []byte(body), ID: "id-" + body, Ack: "full",
		Properties: []message.Property{{Name: "site", Value: "north"}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) call(leaf, name string, timeout time.Duration) (methods.Answer, error) {
	return b.hub.Domain().Methods.Invoke(b.t.Context(), device(leaf), methods.Call{
		Name: name, Payload: json.RawMessage(`{"a":1}`), ConnectTimeout: timeout, ResponseTimeout: 5 * time.Second,
	})
}

// feedback reads the hub's feedback until every command of the list has some.
func (b *bench) feedback(ids ...string) map[string]string {
	b.t.Helper()
	got := make(map[string]string)
	b.hub.Domain().Feedback.SetDelay(time.Millisecond)
	b.await("feedback", func() bool {
		for {
			d, ok := b.hub.Domain().Feedback.Receive()
			if !ok {
				break
			}
			var records []struct{ OriginalMessageID, StatusCode string }
			if err := json.Unmarshal(d.Message.Body, &records); err != nil {
				b.t.Fatal(err)
			}
			for _, r := range records {
				got[r.OriginalMessageID] = r.StatusCode
			}
			_ = b.hub.Domain().Feedback.Complete(d.LockToken)
		}
		return !slices.ContainsFunc(ids, func(id string) bool { return got[id] == "" })
	})
	return got
}

// noted is how many commands the gateway remembers that the leaf has had.
func (b *bench) noted(leaf string) int {
	text, err := b.notes.Note("command", leaf)
	if err != nil {
		b.t.Fatal(err)
	}
	return len(text) / 17
}

func (b *bench) queued(leaf string) int { return b.hub.Domain().Commands.Len(device(leaf)) }

func TestCommandsAreCompletedWhenTheLeafHasThem(t *testing.T) {
	b := newBench(t, []string{"pump-1", "pump-2"})
	leaf := &leafEnd{held: true}
	b.twins.Attend("pump-1", leaf, gateway.WantsCommands)
	var want []string
	for i := range 30 {
		body := fmt.Sprint(i)
		want = append(want, body)
		b.send("pump-1", body)
	}
	b.await("the first are in the leaf's hands", func() bool { return len(leaf.bodies()) > 0 })
	if n := b.queued("pump-1"); n != 30 {
		t.Errorf("%d commands in the hub's queue, want all 30: the leaf has not answered", n)
	}
	b.await("all are completed", func() bool {
		leaf.say(gateway.Completed)
		return b.queued("pump-1") == 0
	})
	if got := leaf.bodies(); got != strings.Join(want, " ") {
		t.Errorf("got %s", got)
	}
	c := leaf.commands[3]
	if c.Leaf != "pump-1" || c.System.MessageID != "id-3" || c.Ack != "full" || c.Number == 0 || c.Enqueued.IsZero() ||
		len(c.Properties) != 1 || c.Properties[0] != (gateway.Property{Name: "site", Value: "north"}) {
		t.Errorf("got %+v", c)
	}
	b.send("pump-1", "no")
	b.await("it is in the leaf's hands", func() bool { return strings.HasSuffix(leaf.bodies(), " no") })
	leaf.say(gateway.Rejected)
	got := b.feedback("id-0", "id-29", "id-no")
	if got["id-0"] != "Success" || got["id-29"] != "Success" || got["id-no"] != "Rejected" {
		t.Errorf("feedback %v", got)
	}
	if s := b.hub.Stats(); s.ConnectionsEver != 1 {
		t.Errorf("%d connections", s.ConnectionsEver)
	}
}

func TestACommandSurvivesTheEndOfItsLock(t *testing.T) {
	b := newBench(t, []string{"pump-1"})
	const lock = time.Second
	b.hub.Domain().Commands.Configure(commands.Config{Lock: lock})
	leaf := &leafEnd{held: true}
	b.twins.Attend("pump-1", leaf, gateway.WantsCommands)
	b.send("pump-1", "slow")
	b.await("it is in the leaf's hands", func() bool { return leaf.bodies() == "slow" })
	// The leaf takes its time: the hub offers the command a second time.
	time.Sleep(3 * lock)
	leaf.say(gateway.Completed)
	b.await("it is completed", func() bool { return b.queued("pump-1") == 0 })
	if got := leaf.bodies(); got != "slow" {
		t.Errorf("the leaf got %s", got)
	}
	if got := b.feedback("id-slow"); got["id-slow"] != "Success" {
		t.Errorf("feedback %v", got)
	}
}

func TestTheWordOfALeafOutlivesLinkAndGateway(t *testing.T) {
	b := newBench(t, []string{"pump-1"})
	leaf := &leafEnd{held: true}
	b.twins.Attend("pump-1", leaf, gateway.WantsCommands)
	b.send("pump-1", "one")
	b.send("pump-1", "two")
	b.await("both are in the leaf's hands", func() bool { return leaf.bodies() == "one two" })
	b.hub.Cut()
	leaf.say(gateway.Completed) // nobody hears it
	b.await("it is noted", func() bool { return b.noted("pump-1") == 2 })
	b.end()
	b.hub.Restore()
	b.restart()
	b.twins.Attend("pump-1", leaf, gateway.WantsCommands)
	b.await("both are completed", func() bool { return b.queued("pump-1") == 0 })
	if got := leaf.bodies(); got != "one two" {
		t.Errorf("the leaf got %s", got)
	}
}

func TestMethods(t *testing.T) {
	b := newBench(t, []string{"pump-1", "pump-2"})
	leaf := &leafEnd{}
	b.twins.Attend("pump-1", leaf, gateway.WantsCalls)
	b.twins.Attend("pump-2", leaf, gateway.WantsCalls|gateway.Asleep)
	answer, err := b.call("pump-1", "reboot", 20*time.Second)
	if err != nil || answer.Status != 201 || string(answer.Payload) != `{"leaf":"pump-1","name":"reboot","got":{"a":1}}` {
		t.Errorf("got %+v, %v", answer, err)
	}
	if _, err := b.call("pump-2", "reboot", 0); !refusal.Is(err, 404103) {
		t.Errorf("asleep: got %v, want 404103", err)
	}
	if _, err := b.call("pump-1", "silent", 0); !refusal.Is(err, 504101) {
		t.Errorf("no reply: got %v, want 504101", err)
	}
	b.twins.Attend("pump-1", leaf, 0)
	b.await("the hub knows that the leaf has gone", func() bool {
		_, err := b.call("pump-1", "reboot", 0)
		return refusal.Is(err, 404103)
	})
	b.twins.Attend("pump-1", leaf, gateway.WantsCalls)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := b.call("pump-1", "many", 20*time.Second); err != nil && !refusal.Is(err, 403800) {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestTwinOverTheWire(t *testing.T) {
	b := newBench(t, []string{"pump-1"}, func(s *settings) { s.amqp.KeepAlive = gateway.Duration(time.Second) })
	leaf := &leafEnd{}
	hub := b.hub.Domain()
	update := func(patch string) {
		t.Helper()
		if _, err := hub.Twins.Update(device("pump-1"), []byte(`{"properties":{"desired":`+patch+`}}`), false, ""); err != nil {
			t.Fatal(err)
		}
	}
	b.await("the link is up", func() bool { return b.uplink.State().Connected })
	update(`{"interval":5}`)
	document, age, err := b.twins.Twin(t.Context(), "pump-1")
	if err != nil || age != 0 || string(document) != `{"desired":{"$version":2,"interval":5},"reported":{"$version":1}}` {
		t.Fatalf("got %s, %v, %v", document, age, err)
	}
	report := func(patch string) int64 {
		t.Helper()
		done := make(chan int64, 1)
		b.twins.Report("pump-1", []byte(patch), func(version int64, err error) {
			if err != nil {
				t.Error(err)
			}
			done <- version
		})
		return <-done
	}
	if v := report(`{"fw":"1.2"}`); v != 2 {
		t.Errorf("version %d, want 2", v)
	}
	b.twins.Attend("pump-1", leaf, gateway.WantsDesired)
	update(`{"interval":6}`)
	b.await("the leaf hears of it", func() bool { return leaf.changes() != "" })

	b.hub.Cut()
	b.await("the link is down", func() bool { return !b.uplink.State().Connected })
	if v := report(`{"fw":"1.3","t":1}`); v != 0 {
		t.Errorf("version %d without a hub", v)
	}
	report(`{"t":null}`)
	update(`{"interval":7,"x":1}`)
	update(`{"x":null}`)
	document, age, err = b.twins.Twin(t.Context(), "pump-1")
	if err != nil || age <= 0 || !strings.Contains(string(document), `"interval":6`) || !strings.Contains(string(document), `"fw":"1.3"`) {
		t.Errorf("copy: got %s, %v, %v", document, age, err)
	}
	b.hub.Restore()
	b.await("the leaf hears of what it missed", func() bool { return strings.Contains(leaf.changes(), `"interval":7`) })
	b.await("the hub has what was reported", func() bool {
		got, err := hub.Twins.ForDevice(device("pump-1"))
		return err == nil && strings.Contains(string(got), `"fw":"1.3"`) && !strings.Contains(string(got), `"t"`)
	})
	if got, want := leaf.changes(), `{"$version":3,"interval":6} {"$version":5,"interval":7}`; got != want {
		t.Errorf("the leaf was told\n%s, want\n%s", got, want)
	}
}

func TestADisabledLeafCostsItselfOnly(t *testing.T) {
	b := newBench(t, []string{"pump-1", "pump-2"}, func(s *settings) {
		s.uplink.AuthBackoffMin = gateway.Duration(50 * time.Millisecond)
	})
	leaf := &leafEnd{}
	for _, id := range []string{"pump-1", "pump-2"} {
		b.twins.Attend(id, leaf, everything)
		b.send(id, "before-"+id)
	}
	b.await("both have theirs", func() bool { return b.queued("pump-1")+b.queued("pump-2") == 0 })
	b.hub.SetEnabled("pump-1", false)
	b.await("the leaf is refused", func() bool { return b.uplink.State().Refused["pump-1"] != "" })
	b.send("pump-2", "other")
	b.await("the other has its own", func() bool { return b.queued("pump-2") == 0 })
	b.hub.SetEnabled("pump-1", true)
	b.send("pump-1", "after")
	b.await("the leaf is taken again", func() bool { return b.queued("pump-1") == 0 })
	if s := b.hub.Stats(); s.ConnectionsEver != 1 {
		t.Errorf("%d connections", s.ConnectionsEver)
	}
}

func TestManyLeavesListenOnOneConnection(t *testing.T) {
	count := 200
	if testing.Short() {
		count = 30
	}
	leaves := names(count)
	b := newBench(t, leaves)
	leaf := &leafEnd{}
	for _, id := range leaves {
		b.twins.Attend(id, leaf, everything)
		b.publish(id, 1)
		b.send(id, id)
	}
	b.awaitAll(leaves...)
	b.await("all commands are completed", func() bool {
		return !slices.ContainsFunc(leaves, func(id string) bool { return b.queued(id) > 0 })
	})
	for _, id := range leaves {
		answer, err := b.call(id, "x", 20*time.Second)
		if err != nil || !strings.Contains(string(answer.Payload), id) {
			t.Fatalf("%s: got %+v, %v", id, answer, err)
		}
	}
	if s := b.hub.Stats(); s.ConnectionsEver != 1 || s.Identities != count {
		t.Errorf("%d connections, %d identities", s.ConnectionsEver, s.Identities)
	}
	// What a leaf asleep does not need is given up at once, the rest later.
	for _, id := range leaves {
		b.twins.Attend(id, leaf, everything|gateway.Asleep)
	}
	b.await("nobody answers calls", func() bool {
		return !slices.ContainsFunc(leaves, func(id string) bool {
			_, err := b.call(id, "x", 0)
			return err == nil
		})
	})
}
