package hubsim_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// pump connects one device.
func pump(t *testing.T) (*hubsim.Hub, *client, *goamqp.Sender) {
	t.Helper()
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": "", "pump-2": ""}})
	c := dial(t, hub, nil)
	c.login("pump-1")
	return hub, c, c.sender("pump-1")
}

// refused sends a message and returns the condition with which the hub answers.
func (c *client) refused(s *goamqp.Sender) string {
	c.t.Helper()
	err := s.Send(within(c.t), goamqp.NewMessage([]byte("refuse me")), nil)
	if err == nil {
		return "accepted"
	}
	return condition(err)
}

// bodies lists what has arrived.
func bodies(hub *hubsim.Hub) []string {
	var list []string
	for a := range hub.Arrivals() {
		list = append(list, string(a.Body))
	}
	return list
}

// A cut is silent: the client hears nothing, neither an answer nor the end of
// its socket, until the network is back. Then the sockets of before are closed
// and new ones work.
func TestCutAndRestore(t *testing.T) {
	hub, c, s := pump(t)
	c.send(s, "before")
	hub.Cut()
	sent := make(chan error, 1)
	go func() { sent <- s.Send(context.WithoutCancel(t.Context()), goamqp.NewMessage([]byte("lost")), nil) }()
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	opts := &goamqp.ConnOptions{TLSConfig: clientTLS(t, hub.Info())}
	if conn, err := goamqp.Dial(short, address(hub), opts); err == nil {
		_ = conn.Close()
		t.Error("a new connection came up during the cut")
	}
	select {
	case err := <-sent:
		t.Fatalf("the client heard something during the cut: %v", err)
	default:
	}
	hub.Restore()
	select {
	case err := <-sent:
		if _, ok := errors.AsType[*goamqp.ConnError](err); !ok {
			t.Errorf("after the cut: got %v, want a connection error", err)
		}
	case <-within(t).Done():
		t.Fatal("the old socket was not closed after the cut")
	}
	again := dial(t, hub, nil)
	again.login("pump-1")
	again.send(again.sender("pump-1"), "after")
	if got := fmt.Sprint(bodies(hub)); got != "[before after]" {
		t.Errorf("arrivals: got %s, want [before after]", got)
	}
}

func TestReset(t *testing.T) {
	hub, c, s := pump(t)
	c.send(s, "before")
	if got := hub.Reset(); got != 1 {
		t.Errorf("connections reset: got %d, want 1", got)
	}
	err := s.Send(within(t), goamqp.NewMessage([]byte("x")), nil)
	if _, ok := errors.AsType[*goamqp.ConnError](err); !ok {
		t.Errorf("after a reset: got %v, want a connection error", err)
	}
}

// A detached link leaves the session, and an ended session the connection.
func TestDetachLink(t *testing.T) {
	hub, c, s := pump(t)
	c.login("pump-2")
	other := c.sender("pump-2")
	if got := hub.DetachLink("pump-1", "amqp:link:detach-forced"); got != 1 {
		t.Errorf("links detached: got %d, want 1", got)
	}
	if got := c.refused(s); got != "amqp:link:detach-forced" {
		t.Errorf("got %s, want amqp:link:detach-forced", got)
	}
	c.send(other, "the neighbour goes on")
	c.send(c.sender("pump-1"), "and so does a new link")
}

func TestEndSession(t *testing.T) {
	hub, c, s := pump(t)
	if got := hub.EndSession("pump-1"); got != 1 {
		t.Errorf("links ended: got %d, want 1", got)
	}
	if got := c.refused(s); got != "amqp:internal-error" {
		t.Errorf("got %s, want amqp:internal-error", got)
	}
	c.session = c.begin()
	c.send(c.sender("pump-1"), "in a new session, with the old token")
	if got := hub.Stats().ConnectionsEver; got != 1 {
		t.Errorf("connections: got %d, want 1", got)
	}
}

// Slow settlements come in order and not before their time.
func TestSlowSettle(t *testing.T) {
	hub, c, s := pump(t)
	const delay, n = 300 * time.Millisecond, 20
	hub.SlowSettle(delay)
	var receipts []goamqp.SendReceipt
	started := time.Now()
	for i := range n {
		r, err := s.SendWithReceipt(within(t), goamqp.NewMessage(fmt.Append(nil, i)), nil)
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, r)
	}
	for _, r := range receipts {
		state, err := r.Wait(within(t))
		if _, ok := state.(*goamqp.StateAccepted); !ok || err != nil {
			t.Fatalf("got %v, %v, want accepted", state, err)
		}
	}
	if took := time.Since(started); took < delay {
		t.Errorf("settled after %v, before %v", took, delay)
	}
	hub.SlowSettle(0)
	c.send(s, "at once")
	if got := len(bodies(hub)); got != n+1 {
		t.Errorf("arrivals: got %d, want %d", got, n+1)
	}
}

// What is left unsettled has arrived all the same, and stays unsettled.
func TestSettleNever(t *testing.T) {
	hub, c, s := pump(t)
	hub.SettleNever(true)
	r, err := s.SendWithReceipt(within(t), goamqp.NewMessage([]byte("unsettled")), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range hub.Watch(within(t), 0) {
		break
	}
	hub.SettleNever(false)
	c.send(s, "settled") // whatever was settled before this is known by now
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if state, err := r.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v, want no settlement", state, err)
	}
	if got := fmt.Sprint(bodies(hub)); got != "[unsettled settled]" {
		t.Errorf("arrivals: got %s", got)
	}
}

func TestRefuseToken(t *testing.T) {
	hub, c, s := pump(t)
	soon := time.Now().Add(time.Hour)
	hub.RefuseToken("pump-1", true)
	if got := c.put(token(t, hub, "pump-1", soon)); got != 401 {
		t.Errorf("refused: got %d, want 401", got)
	}
	c.login("pump-2")
	c.send(s, "with the token of before")
	hub.RefuseToken("pump-1", false)
	c.login("pump-1")
}

// A rejection counts down, and costs neither the link nor another device.
func TestReject(t *testing.T) {
	hub, c, s := pump(t)
	c.login("pump-2")
	other := c.sender("pump-2")
	hub.Reject("pump-1", "amqp:precondition-failed", 2)
	c.send(other, "other")
	for range 2 {
		if got := c.refused(s); got != "amqp:precondition-failed" {
			t.Errorf("got %s, want amqp:precondition-failed", got)
		}
	}
	c.send(s, "third")
	if got := fmt.Sprint(bodies(hub)); got != "[other third]" {
		t.Errorf("arrivals: got %s, want [other third]", got)
	}
}

func TestThrottle(t *testing.T) {
	hub, c, s := pump(t)
	hub.Throttle(true)
	if got := c.put(token(t, hub, "pump-2", time.Now().Add(time.Hour))); got != 429 {
		t.Errorf("put-token: got %d, want 429", got)
	}
	if got := c.refused(s); got != "amqp:resource-limit-exceeded" {
		t.Errorf("telemetry: got %s, want amqp:resource-limit-exceeded", got)
	}
	hub.Throttle(false)
	c.login("pump-2")
	c.send(s, "free again")
}

// A disabled device is gone at once, with its token; others do not notice.
func TestDisable(t *testing.T) {
	hub, c, s := pump(t)
	c.login("pump-2")
	other := c.sender("pump-2")
	if !hub.SetEnabled("pump-1", false) || hub.SetEnabled("ghost", false) {
		t.Error("SetEnabled must be true for a device and false for none")
	}
	if got := c.refused(s); got != "amqp:unauthorized-access" {
		t.Errorf("open link: got %s, want amqp:unauthorized-access", got)
	}
	if got := c.put(token(t, hub, "pump-1", time.Now().Add(time.Hour))); got != 401 {
		t.Errorf("put-token: got %d, want 401", got)
	}
	c.send(other, "the neighbour goes on")
	hub.SetEnabled("pump-1", true)
	c.login("pump-1")
	c.send(c.sender("pump-1"), "back")
}
