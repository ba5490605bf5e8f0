package hubsim_test

import (
	"net/url"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// Link names repeat from session to session (trap 9.10): each link stays its
// own device's, and the end of one is not the end of the other.
func TestLinkNamesRepeat(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": "", "pump-2": ""}})
	c := dial(t, hub, nil)
	senders := make(map[string]*goamqp.Sender)
	for _, device := range []string{"pump-1", "pump-2"} {
		c.login(device)
		s, err := c.begin().NewSender(within(t), "/devices/"+device+"/messages/events", &goamqp.SenderOptions{Name: "TelemetrySenderLink"})
		if err != nil {
			t.Fatalf("%s: %v", device, err)
		}
		senders[device] = s
	}
	for device, s := range senders {
		c.send(s, device)
	}
	if err := senders["pump-1"].Close(within(t)); err != nil {
		t.Fatal(err)
	}
	c.send(senders["pump-2"], "pump-2")
	got := make(map[string]int)
	for a := range hub.Arrivals() {
		if string(a.Body) != a.Device {
			t.Errorf("%s of another device: %q", a.Device, a.Body)
		}
		got[a.Device]++
	}
	if got["pump-1"] != 1 || got["pump-2"] != 2 {
		t.Errorf("arrived: %v", got)
	}
}

// Ids with every character that something else gives a meaning work over AMQP,
// each for itself, although some read like another one escaped.
func TestOddIDsOverAMQP(t *testing.T) {
	ids := []string{"a%b", "a%25b", "a;b=c", "50%", "a#b?c+d"}
	devices := make(map[string]string)
	for _, id := range ids {
		devices[id] = ""
	}
	hub := start(t, hubsim.Config{Devices: devices})
	for _, id := range ids {
		c := dial(t, hub, nil)
		c.login(id)
		s, err := c.session.NewSender(within(t), "/devices/"+url.PathEscape(id)+"/messages/events", nil)
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		c.send(s, id)
	}
	n := 0
	for a := range hub.Arrivals() {
		if n++; string(a.Body) != a.Device {
			t.Errorf("%s is taken for %s", a.Body, a.Device)
		}
	}
	if n != len(ids) {
		t.Errorf("%d messages, want %d", n, len(ids))
	}
}
