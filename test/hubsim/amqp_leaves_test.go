package hubsim_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// leaf is a device among many on one connection.
type leaf struct {
	id        registry.ID
	telemetry *goamqp.Sender
	commands  *goamqp.Receiver
	requests  *goamqp.Sender
	answers   *goamqp.Receiver
}

// leaf attaches a device's links in a session of its own, and asks for desired
// properties.
func (c *client) leaf(id string) *leaf {
	c.t.Helper()
	s := c.begin()
	l := &leaf{id: registry.ID{Device: id}}
	pairing := map[string]any{"com.microsoft:channel-correlation-id": "twin:" + id}
	address := "/devices/" + id
	var err error
	attach := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	attach(func() (err error) {
		l.telemetry, err = s.NewSender(within(c.t), address+"/messages/events", nil)
		return err
	})
	attach(func() (err error) {
		l.commands, err = s.NewReceiver(within(c.t), address+"/messages/devicebound", nil)
		return err
	})
	attach(func() (err error) {
		l.requests, err = s.NewSender(within(c.t), address+"/twin", &goamqp.SenderOptions{Properties: pairing})
		return err
	})
	attach(func() (err error) {
		l.answers, err = s.NewReceiver(within(c.t), address+"/twin", &goamqp.ReceiverOptions{Properties: pairing, Credit: 10})
		return err
	})
	attach(func() error {
		put := goamqp.NewMessage(nil)
		put.Annotations = goamqp.Annotations{"operation": "PUT", "resource": "/notifications/twin/properties/desired"}
		return l.requests.Send(within(c.t), put, nil)
	})
	attach(func() error {
		answer, err := l.answers.Receive(within(c.t), nil)
		if err == nil && answer.Annotations["status"] != int32(200) {
			err = fmt.Errorf("PUT: %v", answer.Annotations)
		}
		return err
	})
	if err != nil {
		c.t.Fatalf("%s: %v", id, err)
	}
	return l
}

// A thousand leaves share a connection: 998 with tokens of their own and the
// rest under a token of a policy, which is token 999. Each gets what is meant
// for it, and nothing else.
func TestThousandLeavesOnOneConnection(t *testing.T) {
	const n = 1000
	devices := make(map[string]string, n)
	for i := range n {
		devices[fmt.Sprintf("leaf-%d", i)] = ""
	}
	hub := start(t, hubsim.Config{Devices: devices})
	info := hub.Info()
	c := dial(t, hub, nil)
	owner := decode(t, part(info.OwnerConnectionString, "SharedAccessKey"))
	if got := c.put(sas.New(info.Host, "iothubowner", owner, time.Now().Add(time.Hour))); got != 200 {
		t.Fatalf("token of the policy: got %d, want 200", got)
	}
	leaves := make([]*leaf, n)
	for i := range leaves {
		id := fmt.Sprintf("leaf-%d", i)
		if i < routes.MaxTokens-1 {
			c.login(id)
		}
		leaves[i] = c.leaf(id)
	}
	if s := hub.Stats(); s.ConnectionsEver != 1 || s.Identities != routes.MaxTokens || s.Links != 4*n+2 {
		t.Errorf("got %+v, want 1 connection, %d identities and %d links", s, routes.MaxTokens, 4*n+2)
	}
	for _, l := range leaves {
		if err := hub.Domain().Commands.Send(l.id, &message.Message{Body: []byte(l.id.Device)}); err != nil {
			t.Fatal(err)
		}
		patch := fmt.Appendf(nil, `{"properties":{"desired":{"for":%q}}}`, l.id.Device)
		if _, err := hub.Domain().Twins.Update(l.id, patch, false, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range leaves {
		c.send(l.telemetry, l.id.Device)
		command, err := l.commands.Receive(within(t), nil)
		if err != nil || string(command.GetData()) != l.id.Device {
			t.Fatalf("command for %s: got %v, %v", l.id, command, err)
		}
		if err := l.commands.AcceptMessage(within(t), command); err != nil {
			t.Fatal(err)
		}
		notice, err := l.answers.Receive(within(t), nil)
		if err != nil {
			t.Fatalf("notification for %s: %v", l.id, err)
		}
		var desired struct{ For string }
		if err := json.Unmarshal(notice.GetData(), &desired); err != nil || desired.For != l.id.Device {
			t.Fatalf("notification for %s: got %s, %v", l.id, notice.GetData(), err)
		}
	}
	from := make(map[string]bool)
	for a := range hub.Arrivals() {
		from[a.Device] = string(a.Body) == a.Device
	}
	if len(from) != n {
		t.Errorf("telemetry came from %d leaves, want %d", len(from), n)
	}
	for id, own := range from {
		if !own {
			t.Errorf("telemetry of %s is another leaf's", id)
		}
	}
	loseTwo(t, hub, c, leaves)
}

// loseTwo disables one leaf and lets the token of another expire. That costs
// their links; those of all others stay and work.
func loseTwo(t *testing.T, hub *hubsim.Hub, c *client, leaves []*leaf) {
	t.Helper()
	disabled, expired := leaves[7], leaves[11]
	before := hub.Stats().Links
	if got := c.put(token(t, hub, expired.id.Device, time.Now().Add(2*time.Second))); got != 200 {
		t.Fatalf("a short token: got %d, want 200", got)
	}
	hub.SetEnabled(disabled.id.Device, false)
	for deadline := within(t); hub.Stats().Links > before-8; {
		select {
		case <-deadline.Done():
			t.Fatalf("%d links are left, want %d", hub.Stats().Links, before-8)
		case <-time.After(10 * time.Millisecond):
		}
	}
	for _, l := range leaves {
		err := l.telemetry.Send(within(t), goamqp.NewMessage([]byte("after")), nil)
		if lost := l == disabled || l == expired; lost != (err != nil) {
			t.Errorf("telemetry of %s: lost %v, got %v", l.id, lost, err)
		}
	}
	if got := hub.Stats(); got.Links != before-8 || got.ConnectionsEver != 1 {
		t.Errorf("got %+v, want %d links on the one connection", got, before-8)
	}
}
