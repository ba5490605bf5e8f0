package hubsim_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// condition returns the condition with which the hub refused something.
func condition(err error) string {
	if e, ok := errors.AsType[*goamqp.LinkError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*goamqp.SessionError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*goamqp.Error](err); ok {
		return string(e.Condition)
	}
	return fmt.Sprint(err)
}

func TestTokenVerdicts(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": "", "pump-2": ""}})
	info := hub.Info()
	soon := time.Now().Add(time.Hour)
	owner := decode(t, part(info.OwnerConnectionString, "SharedAccessKey"))
	other := decode(t, part(info.Devices["pump-2"].ConnectionString, "SharedAccessKey"))
	c := dial(t, hub, nil)
	for _, v := range []struct {
		what, token string
		want        int
	}{
		{"the device's key", token(t, hub, "pump-1", soon), 200},
		{"a policy's key", sas.New(info.Host+"/devices/pump-1", "iothubowner", owner, soon), 200},
		{"another device's key", sas.New(info.Host+"/devices/pump-1", "", other, soon), 401},
		{"an unknown policy", sas.New(info.Host+"/devices/pump-1", "nobody", owner, soon), 401},
		{"another hub", sas.New("elsewhere.test/devices/pump-2", "", other, soon), 401},
		{"expired", token(t, hub, "pump-2", time.Now().Add(-time.Second)), 401},
		{"unknown device", sas.New(info.Host+"/devices/ghost", "", other, soon), 404},
		{"no token", "SharedAccessSignature of nothing", 400},
	} {
		if got := c.put(v.token); got != v.want {
			t.Errorf("%s: got %d, want %d", v.what, got, v.want)
		}
	}
	if got := hub.Stats().Identities; got != 1 {
		t.Errorf("identities: got %d, want 1", got)
	}
}

// A link needs a token of its own device; a refusal costs nobody else anything.
func TestTelemetryNeedsToken(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": "", "pump-2": ""}})
	c := dial(t, hub, nil)
	c.login("pump-1")
	one := c.sender("pump-1")
	for device, want := range map[string]string{
		"pump-2": "amqp:unauthorized-access",
		"ghost":  "amqp:not-found",
	} {
		_, err := c.session.NewSender(within(t), "/devices/"+device+"/messages/events", nil)
		if got := condition(err); got != want {
			t.Errorf("%s without a token: got %s, want %s", device, got, want)
		}
	}
	_, err := c.session.NewReceiver(within(t), "messages/events/ConsumerGroups/$Default/Partitions/0", nil)
	if got := condition(err); got != "amqp:unauthorized-access" {
		t.Errorf("a device reads events: got %s, want amqp:unauthorized-access", got)
	}
	c.send(one, "still here")
}

func TestTwoDevicesOnOneConnection(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": "", "pump-2": ""}})
	c := dial(t, hub, nil)
	for _, device := range []string{"pump-1", "pump-2"} {
		c.login(device)
		c.send(c.sender(device), "from "+device)
	}
	if s := hub.Stats(); s.ConnectionsEver != 1 || s.Identities != 2 || s.Messages != 2 {
		t.Errorf("got %+v, want 1 connection, 2 identities, 2 messages", s)
	}
	for a := range hub.Arrivals() {
		if got := string(a.Body); got != "from "+a.Device {
			t.Errorf("arrival of %s: got %q", a.Device, got)
		}
	}
}

// When a token ends, the links it allowed end; when it is renewed, they do not
// notice.
func TestTokenExpires(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": "", "pump-2": ""}})
	var c *client
	var ends, stays *goamqp.Sender
	// A busy machine may need longer for what comes before the end of the tokens.
	for life := 3 * time.Second; ends == nil; life *= 2 {
		c = dial(t, hub, nil)
		ends, stays = c.briefly(life)
		if ends == nil && life > time.Minute {
			t.Fatalf("nothing is ready within %v", life)
		}
	}
	hub.SettleNever(true) // the send waits for the end of its link
	err := ends.Send(within(t), goamqp.NewMessage([]byte("x")), nil)
	hub.SettleNever(false)
	if got := condition(err); got != "amqp:unauthorized-access" {
		t.Errorf("end of the token: got %s, want amqp:unauthorized-access", got)
	}
	c.send(stays, "renewed")
}

// briefly attaches pump-1 and pump-2 with tokens of so long a life, and renews that of
// pump-2. The senders are nil if it has taken longer than that.
func (c *client) briefly(life time.Duration) (ends, stays *goamqp.Sender) {
	c.t.Helper()
	brief := time.Now().Add(life).Truncate(time.Second) // as it stands in a token
	var senders []*goamqp.Sender
	for _, device := range []string{"pump-1", "pump-2"} {
		code := c.put(token(c.t, c.hub, device, brief))
		s, err := c.session.NewSender(within(c.t), "/devices/"+device+"/messages/events", nil)
		if !time.Now().Before(brief) {
			return nil, nil
		}
		if code != 200 || err != nil {
			c.t.Fatalf("%s: got %d and %v, want 200", device, code, err)
		}
		senders = append(senders, s)
	}
	c.login("pump-2")
	if !time.Now().Before(brief) {
		return nil, nil
	}
	return senders[0], senders[1]
}

func TestTokensPerConnection(t *testing.T) {
	const more = routes.MaxTokens + 1
	devices := make(map[string]string, more)
	for i := range more {
		devices[fmt.Sprintf("d%d", i)] = ""
	}
	hub := start(t, hubsim.Config{Devices: devices})
	c := dial(t, hub, nil)
	for i := range routes.MaxTokens {
		c.login(fmt.Sprintf("d%d", i))
	}
	last := fmt.Sprintf("d%d", routes.MaxTokens)
	if got := c.put(token(t, hub, last, time.Now().Add(time.Hour))); got != 403 {
		t.Errorf("token %d: got %d, want 403", more, got)
	}
	c.login("d0") // a renewal is not one more
	dial(t, hub, nil).login(last)
}
