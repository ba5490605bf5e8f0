package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// leafEnd is a leaf's side of the way down, which keeps commands in its hands.
type leafEnd struct {
	mu     sync.Mutex
	got    []string
	inHand []func(gateway.Verdict)
}

func (l *leafEnd) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, c.Leaf+":"+string(c.Body))
	l.inHand = append(l.inHand, answer)
}

func (l *leafEnd) Call(_ context.Context, c *gateway.Call) (*gateway.Reply, error) {
	return &gateway.Reply{Status: 201, Body: fmt.Appendf(nil, `{"leaf":%q,"name":%q,"got":%s}`, c.Leaf, c.Name, c.Body)}, nil
}

func (l *leafEnd) Desired(_ string, _ []byte, _ int64, heard func()) { go heard() }

func (l *leafEnd) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.got, " ")
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

// command queues a command at the hub as a back end must: to the leaf, or to the
// gateway with the leaf named in a property.
func (b *Bench) command(leaf, body string) { b.commandWithID(leaf, body, "id-"+body) }

func (b *Bench) commandWithID(leaf, body, messageID string) {
	b.t.Helper()
	id := b.Identity(leaf)
	m := &message.Message{To: "/devices/" + id + "/messages/devicebound", Body: []byte(body), ID: messageID}
	if b.OneIdentity() {
		m.Properties = []message.Property{{Name: "fieldgate-leaf", Value: leaf}}
	}
	if err := b.Hub.Domain().Commands.Send(registry.ID{Device: id}, m); err != nil {
		b.t.Fatal(err)
	}
}

// call calls a method as a back end must.
func (b *Bench) call(leaf, name string) (methods.Answer, error) {
	payload := `{"a":1}`
	if b.OneIdentity() {
		payload = fmt.Sprintf(`{"leaf":%q,"payload":{"a":1}}`, leaf)
	}
	return b.Hub.Domain().Methods.Invoke(b.t.Context(), registry.ID{Device: b.Identity(leaf)}, methods.Call{
		Name: name, Payload: json.RawMessage(payload), ConnectTimeout: 20 * time.Second, ResponseTimeout: 5 * time.Second,
	})
}

func (b *Bench) queued(leaf string) int {
	return b.Hub.Domain().Commands.Len(registry.ID{Device: b.Identity(leaf)})
}

func down(t *testing.T, transport string, adjust func(*Settings)) {
	b := NewBench(t, transport, Leaves(2), adjust)
	first, second := &leafEnd{}, &leafEnd{}
	b.Twins.Attend("leaf-001", first, gateway.WantsCommands|gateway.WantsCalls)
	b.Twins.Attend("leaf-002", second, gateway.WantsCommands)
	for i := range 5 {
		b.command("leaf-001", fmt.Sprint("a", i))
		b.command("leaf-002", fmt.Sprint("b", i))
	}
	b.Await("the first are in the leaves' hands", func() bool { return first.all() != "" && second.all() != "" })
	if n := b.queued("leaf-001") + b.queued("leaf-002"); n < 10 {
		t.Errorf("%d commands in the hub's queues, want all: no leaf has answered", n)
	}
	b.Await("all are completed", func() bool {
		first.say(gateway.Completed)
		second.say(gateway.Completed)
		return b.queued("leaf-001")+b.queued("leaf-002") == 0
	})
	if got, want := first.all(), "leaf-001:a0 leaf-001:a1 leaf-001:a2 leaf-001:a3 leaf-001:a4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	answer, err := b.call("leaf-001", "reboot")
	if err != nil || answer.Status != 201 || string(answer.Payload) != `{"leaf":"leaf-001","name":"reboot","got":{"a":1}}` {
		t.Errorf("got %+v, %v", answer, err)
	}
	// Commands that look the same are as many as there are.
	for range 3 {
		b.commandWithID("leaf-001", "open", "")
	}
	b.Await("all are completed", func() bool {
		first.say(gateway.Completed)
		return b.queued("leaf-001") == 0
	})
	if n := strings.Count(first.all(), ":open"); n != 3 {
		t.Errorf("the leaf saw %d of 3 equal commands: %s", n, first.all())
	}
	// The link breaks with a command in the leaf's hands: it is completed once.
	b.command("leaf-001", "last")
	b.Await("it is in the leaf's hands", func() bool { return strings.HasSuffix(first.all(), ":last") })
	b.Hub.Reset()
	first.say(gateway.Completed)
	b.Await("it is completed", func() bool { return b.queued("leaf-001") == 0 })
	if n := strings.Count(first.all(), "last"); n != 1 {
		t.Errorf("the leaf saw it %d times", n)
	}
}

// lostLock: the hub takes its lock on a command back while the leaf has it in its
// hands, and offers it again; our word on the first offer comes too late (412).
func lostLock(t *testing.T, transport string, adjust func(*Settings)) {
	b := NewBench(t, transport, Leaves(1), adjust)
	b.Hub.Domain().Commands.Configure(commands.Config{Lock: time.Second})
	end := &leafEnd{}
	b.Twins.Attend("leaf-001", end, gateway.WantsCommands)
	b.command("leaf-001", "slow")
	b.Await("it is in the leaf's hands", func() bool { return end.all() == "leaf-001:slow" })
	time.Sleep(2500 * time.Millisecond) // the leaf takes its time
	end.say(gateway.Completed)
	b.Await("it is completed", func() bool { return b.queued("leaf-001") == 0 })
	if got := end.all(); got != "leaf-001:slow" {
		t.Errorf("the leaf saw %s", got)
	}
}
