package routes_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"
)

const (
	commandAddress = "/devices/pump-1/messages/devicebound"
	serviceAddress = "/messages/devicebound"
)

// command makes a message of the back end for a device.
func command(to, id, body string) *goamqp.Message {
	m := text(body)
	m.Properties = &goamqp.MessageProperties{To: &to, MessageID: id}
	return m
}

// A command carries everything its sender wrote, and what the hub knows of its
// stay in the queue.
func TestCommand(t *testing.T) {
	b := newBench(t)
	commands := b.device(pump).receiver(commandAddress, nil)
	service := b.service()
	m := command("/devices/pump-1/messages/deviceBound", "id-1", "stop")
	when := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	contentType := "text/plain"
	m.Properties.CorrelationID, m.Properties.UserID = "c", []byte("u")
	m.Properties.ContentType, m.Properties.AbsoluteExpiryTime = &contentType, &when
	m.ApplicationProperties = map[string]any{"color": "red", "iothub-ack": "full"}
	service.send(service.sender(serviceAddress, nil), m)

	got := service.next(commands)
	p := got.Properties
	if string(got.GetData()) != "stop" || p.MessageID != "id-1" || p.CorrelationID != "c" || string(p.UserID) != "u" ||
		*p.ContentType != contentType || !p.AbsoluteExpiryTime.Equal(when) || *p.To != *m.Properties.To {
		t.Errorf("got %+v %+v", got, p)
	}
	if got.ApplicationProperties["color"] != "red" || got.ApplicationProperties["iothub-ack"] != "full" {
		t.Errorf("application properties: got %v", got.ApplicationProperties)
	}
	lock, _ := got.Annotations["x-opt-lock-token"].(string)
	if want := netGUID(t, lock); !bytes.Equal(got.DeliveryTag, want) {
		t.Errorf("delivery tag: got %x, want %x", got.DeliveryTag, want)
	}
	enqueued, _ := got.Annotations["iothub-enqueuedtime"].(time.Time)
	if time.Since(enqueued) > patience || got.Annotations["iothub-deliverycount"] != uint8(0) {
		t.Errorf("annotations: got %v", got.Annotations)
	}
	if n, _ := got.Annotations["x-opt-sequence-number"].(uint64); n == 0 {
		t.Errorf("sequence number: got %v", got.Annotations["x-opt-sequence-number"])
	}
	if err := commands.AcceptMessage(within(t), got); err != nil {
		t.Fatal(err)
	}
	b.eventually("the command is complete", func() bool { return b.hub.Commands.Len(pump) == 0 })
}

// netGUID writes GUID text as .NET does.
func netGUID(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != 16 {
		t.Fatalf("the lock token %q is no GUID", text)
	}
	for _, group := range [][]byte{raw[:4], raw[4:6], raw[6:8]} {
		for i, j := 0, len(group)-1; i < j; i, j = i+1, j-1 {
			group[i], group[j] = group[j], group[i]
		}
	}
	return raw
}

// What the device says about a command decides what becomes of it.
func TestCommandOutcomes(t *testing.T) {
	for what, c := range map[string]struct {
		settle func(*client, *goamqp.Receiver, *goamqp.Message) error
		again  bool
		count  uint8 // abandoned deliveries, when it comes again
	}{
		"accepted": {func(c *client, r *goamqp.Receiver, m *goamqp.Message) error {
			return r.AcceptMessage(within(c.t), m)
		}, false, 0},
		"rejected": {func(c *client, r *goamqp.Receiver, m *goamqp.Message) error {
			return r.RejectMessage(within(c.t), m, nil)
		}, false, 0},
		"released": {func(c *client, r *goamqp.Receiver, m *goamqp.Message) error {
			return r.ReleaseMessage(within(c.t), m)
		}, true, 1},
		"modified": {func(c *client, r *goamqp.Receiver, m *goamqp.Message) error {
			return r.ModifyMessage(within(c.t), m, &goamqp.ModifyMessageOptions{DeliveryFailed: true})
		}, true, 1},
		"link closed": {func(c *client, r *goamqp.Receiver, _ *goamqp.Message) error {
			return r.Close(within(c.t))
		}, true, 0},
	} {
		for mode, settle := range map[string]goamqp.ReceiverSettleMode{
			"first": goamqp.ReceiverSettleModeFirst, "second": goamqp.ReceiverSettleModeSecond,
		} {
			t.Run(what+" "+mode, func(t *testing.T) {
				b := newBench(t)
				device, service := b.device(pump), b.service()
				s := service.sender(serviceAddress, nil)
				opts := &goamqp.ReceiverOptions{SettlementMode: settle.Ptr()}
				r := device.receiver(commandAddress, opts)
				service.send(s, command(commandAddress, "1", "first"))
				if err := c.settle(device, r, device.next(r)); err != nil {
					t.Fatal(err)
				}
				if what == "link closed" {
					r = device.receiver(commandAddress, opts)
				}
				if !c.again {
					b.eventually("the queue is empty", func() bool { return b.hub.Commands.Len(pump) == 0 })
					service.send(s, command(commandAddress, "2", "second"))
				}
				got := device.take(r)
				want := "first"
				if !c.again {
					want = "second"
				}
				if string(got.GetData()) != want || got.Annotations["iothub-deliverycount"] != c.count {
					t.Errorf("got %s with %v, want %s with count %d", got.GetData(), got.Annotations, want, c.count)
				}
			})
		}
	}
}

// A client that asks for settled deliveries has taken a command when it is sent.
func TestSettledCommand(t *testing.T) {
	b := newBench(t)
	device, service := b.device(pump), b.service()
	r := device.receiver(commandAddress, &goamqp.ReceiverOptions{
		RequestedSenderSettleMode: goamqp.SenderSettleModeSettled.Ptr(),
	})
	service.send(service.sender(serviceAddress, nil), command(commandAddress, "1", "x"))
	device.next(r)
	b.eventually("the command is complete", func() bool { return b.hub.Commands.Len(pump) == 0 })
}

// Commands wait for the device, and for its credit.
func TestCommandsWait(t *testing.T) {
	b := newBench(t)
	service := b.service()
	s := service.sender(serviceAddress, nil)
	service.send(s, command(commandAddress, "1", "early"))
	device := b.device(pump)
	r := device.receiver(commandAddress, &goamqp.ReceiverOptions{Credit: -1})
	service.send(s, command(commandAddress, "2", "late"))
	for _, want := range []string{"early", "late"} {
		if err := r.IssueCredit(1); err != nil {
			t.Fatal(err)
		}
		if got := device.take(r); string(got.GetData()) != want {
			t.Errorf("got %s, want %s", got.GetData(), want)
		}
	}
}

// A newer link of the same device takes the commands over.
func TestNewerCommandLink(t *testing.T) {
	b := newBench(t)
	device := b.device(pump)
	older := device.receiver(commandAddress, nil)
	newer := device.receiver(commandAddress, nil)
	if got := device.ended(older); got != "amqp:link:stolen" {
		t.Errorf("older link: got %s, want amqp:link:stolen", got)
	}
	service := b.service()
	service.send(service.sender(serviceAddress, nil), command(commandAddress, "1", "x"))
	device.take(newer)
}

// What the back end may not send is rejected, and its link goes on.
func TestBadCommands(t *testing.T) {
	b := newBench(t)
	service := b.service()
	s := service.sender(serviceAddress, nil)
	past := command(commandAddress, "1", "x")
	yesterday := time.Now().Add(-24 * time.Hour)
	past.Properties.AbsoluteExpiryTime = &yesterday
	unnamed := command(commandAddress, "", "x")
	unnamed.Properties.MessageID = nil
	unnamed.ApplicationProperties = map[string]any{"iothub-ack": "full"}
	for what, c := range map[string]struct {
		m    *goamqp.Message
		want string
	}{
		"no device":            {command("/devices/ghost/messages/devicebound", "1", "x"), "amqp:not-found"},
		"no address":           {text("x"), "com.microsoft:argument-error"},
		"another address":      {command("/devices/pump-1/twin", "1", "x"), "com.microsoft:argument-error"},
		"too large":            {command(commandAddress, "1", strings.Repeat("x", 65<<10)), "amqp:link:message-size-exceeded"},
		"expired":              {past, "com.microsoft:argument-error"},
		"feedback without id":  {unnamed, "com.microsoft:argument-error"},
		"a module that is not": {command("/devices/pump-1/modules/no/messages/devicebound", "1", "x"), "amqp:not-found"},
	} {
		if got := condition(s.Send(within(t), c.m, nil)); got != c.want {
			t.Errorf("%s: got %q, want %s", what, got, c.want)
		}
	}
	if !b.hub.Registry.SetEnabled(pump.Device, false) {
		t.Fatal("there is no device " + pump.Device)
	}
	if got := condition(s.Send(within(t), command(commandAddress, "1", "x"), nil)); got != "amqp:not-found" {
		t.Errorf("a disabled device: got %q, want amqp:not-found", got)
	}
	b.hub.Registry.SetEnabled(pump.Device, true)
	for range 50 {
		service.send(s, command(commandAddress, "1", "x"))
	}
	err := s.Send(within(t), command(commandAddress, "1", "x"), nil)
	if got := condition(err); got != "amqp:resource-limit-exceeded" || !strings.Contains(err.Error(), "403004") {
		t.Errorf("message 51: got %v, want amqp:resource-limit-exceeded with 403004", err)
	}
}

// A module has a mailbox of its own; the link for inputs stays silent.
func TestModuleCommand(t *testing.T) {
	b := newBench(t)
	c := b.device(module)
	r := c.receiver("/devices/pump-1/modules/valve/messages/devicebound", nil)
	c.receiver("/devices/pump-1/modules/valve/messages/events", nil)
	service := b.service()
	service.send(service.sender(serviceAddress, nil),
		command("/devices/pump-1/modules/valve/messages/devicebound", "1", "to the module"))
	if got := c.take(r); string(got.GetData()) != "to the module" {
		t.Errorf("got %s", got.GetData())
	}
}

// Feedback and file notifications come by either spelling of their addresses.
func TestNotices(t *testing.T) {
	b := newBench(t)
	service := b.service()
	for i, address := range []string{"/messages/serviceBound/filenotifications", "/messages/servicebound/fileuploadnotifications"} {
		record := `{"blobName":"` + string(rune('a'+i)) + `"}`
		b.hub.FileNotices.Add(pump, []byte(record))
		r := service.receiver(address, nil)
		got := service.take(r)
		if string(got.GetData()) != record || len(got.DeliveryTag) != 16 {
			t.Errorf("%s: got %s with tag %x", address, got.GetData(), got.DeliveryTag)
		}
		if err := r.Close(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	for range 64 { // a full batch comes at once
		b.hub.Feedback.Add(pump, []byte(`{"statusCode":"Success"}`))
	}
	got := service.take(service.receiver("/messages/serviceBound/feedback", nil))
	if !strings.HasPrefix(string(got.GetData()), `[{"statusCode":"Success"},`) ||
		*got.Properties.ContentType != "application/vnd.microsoft.iothub.feedback.json" ||
		string(got.Properties.UserID) != hostName {
		t.Errorf("feedback: got %s with %+v", got.GetData(), got.Properties)
	}
}

// The links of the back end need a token of the whole hub that may serve.
func TestServiceNeedsToken(t *testing.T) {
	b := newBench(t)
	for what, token := range map[string]string{
		"a device":                b.token(pump, time.Hour),
		"a policy for devices":    b.policyToken("device", hostName),
		"a policy, about one":     b.policyToken("iothubowner", hostName+"/devices/pump-1"),
		"a policy, about reading": b.policyToken("service", "sb://"+hostName+"/messages/events"),
	} {
		c := b.dial()
		c.login(token)
		if got, _ := c.refused(serviceAddress); got != "amqp:unauthorized-access" {
			t.Errorf("%s: sending: got %q, want amqp:unauthorized-access", what, got)
		}
		if _, got := c.refused("/messages/serviceBound/feedback"); got != "amqp:unauthorized-access" {
			t.Errorf("%s: feedback: got %q, want amqp:unauthorized-access", what, got)
		}
	}
}
