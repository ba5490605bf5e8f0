package hubsim_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// backEnd is a hub of one partition with five events, and a client that may
// read them.
func backEnd(t *testing.T) (*hubsim.Hub, *client, *goamqp.Sender, string) {
	t.Helper()
	hub := start(t, hubsim.Config{Partitions: 1, Devices: map[string]string{"pump-1": ""}})
	c := dial(t, hub, nil)
	c.login("pump-1")
	s := c.sender("pump-1")
	for i := range 5 {
		c.send(s, fmt.Sprint(i))
	}
	return hub, c, s, c.service(hub.Info())
}

// reading attaches a reader with a selector, on a session of its own.
func (c *client) reading(address, selector string, opts goamqp.ReceiverOptions) (*goamqp.Receiver, error) {
	c.t.Helper()
	if selector != "" {
		opts.Filters = []goamqp.LinkFilter{goamqp.NewSelectorFilter(selector)}
	}
	return c.begin().NewReceiver(within(c.t), address, &opts)
}

func (c *client) next(r *goamqp.Receiver) *goamqp.Message {
	c.t.Helper()
	m, err := r.Receive(within(c.t), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// A reader begins where its selector says.
func TestSelectorsOnLinks(t *testing.T) {
	_, c, s, address := backEnd(t)
	all, err := c.reading(address, "", goamqp.ReceiverOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var offsets []string
	for range 5 {
		offsets = append(offsets, c.next(all).Annotations["x-opt-offset"].(string))
	}
	latest, err := c.reading(address, "amqp.annotation.x-opt-offset > '@latest'", goamqp.ReceiverOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.send(s, "5")
	for _, v := range []struct{ selector, want string }{
		{"amqp.annotation.x-opt-offset > '-1'", "0"},
		{"amqp.annotation.x-opt-offset > '" + offsets[2] + "'", "3"},
		{"amqp.annotation.x-opt-offset >= '" + offsets[2] + "'", "2"},
		{"amqp.annotation.x-opt-sequence-number > '1'", "2"},
		{"amqp.annotation.x-opt-sequence-number >= '1'", "1"},
		{"amqp.annotation.x-opt-sequence-number > 4", "5"},
		{"amqp.annotation.x-opt-enqueued-time > '0'", "0"},
	} {
		r, err := c.reading(address, v.selector, goamqp.ReceiverOptions{Credit: 1})
		if err != nil {
			t.Fatalf("%s: %v", v.selector, err)
		}
		if got := string(c.next(r).GetData()); got != v.want {
			t.Errorf("%s: begins with %s, want %s", v.selector, got, v.want)
		}
	}
	if got := string(c.next(latest).GetData()); got != "5" {
		t.Errorf("@latest: begins with %s, want 5", got)
	}
}

func TestReadersRefused(t *testing.T) {
	_, c, _, address := backEnd(t)
	for _, v := range []struct{ address, selector, want string }{
		{address, "amqp.annotation.of-nothing > '1'", "com.microsoft:argument-error"},
		{"messages/events/ConsumerGroups/$Default/Partitions/1", "", "amqp:not-found"},
		{"messages/events/ConsumerGroups/another/Partitions/0", "", "amqp:not-found"},
		{"messages/elsewhere", "", "amqp:not-found"},
	} {
		_, err := c.reading(v.address, v.selector, goamqp.ReceiverOptions{})
		if got := condition(err); got != v.want {
			t.Errorf("%s with %q: got %s, want %s", v.address, v.selector, got, v.want)
		}
	}
}

// What the hub adds to an event names the device and how it proved itself.
func TestAnnotations(t *testing.T) {
	hub, c, _, address := backEnd(t)
	r, err := c.reading(address, "amqp.annotation.x-opt-sequence-number > 2", goamqp.ReceiverOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := c.next(r)
	for a := range hub.Arrivals() {
		if got, _ := m.Annotations["x-opt-enqueued-time"].(time.Time); a.Sequence == 3 && !got.Equal(a.Enqueued) {
			t.Errorf("time: got %v, want %v", got, a.Enqueued)
		}
	}
	for name, want := range map[string]any{
		"x-opt-sequence-number":         int64(3),
		"x-opt-partition-key":           "pump-1",
		"iothub-connection-device-id":   "pump-1",
		"iothub-connection-auth-method": `{"scope":"device","type":"sas","issuer":"iothub"}`,
		"iothub-message-source":         "Telemetry",
	} {
		if got := m.Annotations[name]; got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	if _, err := strconv.ParseInt(fmt.Sprint(m.Annotations["x-opt-offset"]), 10, 64); err != nil {
		t.Errorf("offset: %v", err)
	}
}

// An exclusive reader pushes out whoever has a lower epoch or none, and keeps
// them out.
func TestEpochs(t *testing.T) {
	_, c, _, address := backEnd(t)
	read := func(epoch any) (*goamqp.Receiver, error) {
		opts := goamqp.ReceiverOptions{}
		if epoch != nil {
			opts.Properties = map[string]any{"com.microsoft:epoch": epoch}
		}
		return c.reading(address, "amqp.annotation.x-opt-offset > '@latest'", opts)
	}
	const stolen = "amqp:link:stolen"
	plain, err := read(nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := read(int64(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Receive(within(t), nil); condition(err) != stolen {
		t.Errorf("reader without epoch: got %v, want %s", err, stolen)
	}
	for _, lower := range []any{nil, int64(1)} {
		if _, err := read(lower); condition(err) != stolen {
			t.Errorf("epoch %v after 2: got %v, want %s", lower, err, stolen)
		}
	}
	if _, err := read(int64(3)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Receive(within(t), nil); condition(err) != stolen {
		t.Errorf("epoch 2 after 3: got %v, want %s", err, stolen)
	}
}
