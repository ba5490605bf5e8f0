package routes_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"
)

// order makes a message that orders the hub to misbehave.
func order(operation string, delay, duration int) *goamqp.Message {
	m := text("not telemetry")
	m.ApplicationProperties = map[string]any{
		"AzIoTHub_FaultOperationType":           operation,
		"AzIoTHub_FaultOperationCloseReason":    "boom",
		"AzIoTHub_FaultOperationDelayInSecs":    fmt.Sprint(delay),
		"AzIoTHub_FaultOperationDurationInSecs": fmt.Sprint(duration),
	}
	return m
}

// everyLink is a device with one link of every kind.
type everyLink struct {
	*client
	telemetry *goamqp.Sender
	commands  *goamqp.Receiver
	twin      *twinClient
	requests  *goamqp.Receiver
	results   *goamqp.Sender
}

func (b *bench) everyLink() *everyLink {
	c := b.device(pump)
	e := &everyLink{client: c, telemetry: c.sender(telemetryAddress, nil), commands: c.receiver(commandAddress, nil)}
	e.twin = c.twin(pump, "one")
	e.requests, e.results = c.methodLinks(pump)
	return e
}

// Each order ends the link it names, and no other one.
func TestOrderedDetach(t *testing.T) {
	for operation, use := range map[string]func(*everyLink) error{
		"KillAmqpCBSLinkReq": func(e *everyLink) error { return e.cbs.Send(within(e.t), text("x"), nil) },
		"KillAmqpCBSLinkResp": func(e *everyLink) error {
			_, err := e.answers.Receive(within(e.t), nil)
			return err
		},
		"KillAmqpD2CLink": func(e *everyLink) error { return e.telemetry.Send(within(e.t), text("x"), nil) },
		"KillAmqpC2DLink": func(e *everyLink) error {
			_, err := e.commands.Receive(within(e.t), nil)
			return err
		},
		"KillAmqpTwinLinkReq": func(e *everyLink) error { return e.twin.requests.Send(within(e.t), text("x"), nil) },
		"KillAmqpTwinLinkResp": func(e *everyLink) error {
			_, err := e.twin.answers.Receive(within(e.t), nil)
			return err
		},
		"KillAmqpMethodReqLink": func(e *everyLink) error {
			_, err := e.requests.Receive(within(e.t), nil)
			return err
		},
		"KillAmqpMethodRespLink": func(e *everyLink) error { return e.results.Send(within(e.t), text("x"), nil) },
	} {
		t.Run(operation, func(t *testing.T) {
			b := newBench(t)
			e := b.everyLink()
			before := b.routes.Stats().Links
			err := e.telemetry.Send(within(t), order(operation, 0, 0), nil)
			if err != nil && operation != "KillAmqpD2CLink" { // go-amqp may see the link's end first
				t.Fatal(err)
			}
			b.eventually("a link is gone", func() bool { return b.routes.Stats().Links < before })
			b.eventually("the client hears of it", func() bool { // who sends settled messages hears late
				err = use(e)
				return err != nil
			})
			if got := condition(err); got != "amqp:link:detach-forced" {
				t.Errorf("got %q, want amqp:link:detach-forced", got)
			}
			if got := b.routes.Stats().Links; got != before-1 {
				t.Errorf("links: got %d, want %d", got, before-1)
			}
			if got := len(b.bodies()); got != 0 {
				t.Errorf("%d events, want none of the order", got)
			}
		})
	}
}

// Orders about sessions and connections end them the way they say.
func TestOrderedEnd(t *testing.T) {
	for operation, want := range map[string]string{
		"KillTcp":            "", // no reason given
		"KillAmqpConnection": "amqp:connection:forced",
		"ShutDownAmqp":       "",
		"KillAmqpSession":    "amqp:internal-error",
	} {
		t.Run(operation, func(t *testing.T) {
			b := newBench(t)
			e := b.everyLink()
			_ = e.telemetry.Send(within(t), order(operation, 0, 0), nil) // may be lost with its connection
			_, err := e.commands.Receive(within(t), nil)
			if want != "" && condition(err) != want {
				t.Errorf("got %v, want %s", err, want)
			}
			if _, ok := errors.AsType[*goamqp.ConnError](err); !ok && operation != "KillAmqpSession" {
				t.Errorf("got %v, want the end of the connection", err)
			}
			again := b.device(pump)
			again.send(again.sender(telemetryAddress, nil), text("well again"))
		})
	}
}

// Ordered errors last as long as the order says.
func TestOrderedRefusals(t *testing.T) {
	for operation, want := range map[string]string{
		"InvokeThrottling":      "com.microsoft:device-container-throttled",
		"InvokeMaxMessageQuota": "amqp:resource-limit-exceeded",
		"InvokeAuthError":       "amqp:unauthorized-access",
	} {
		t.Run(operation, func(t *testing.T) {
			b := newBench(t)
			c := b.device(pump)
			c.login(b.token(other, time.Hour))
			s := c.sender(telemetryAddress, nil)
			neighbour := c.sender("/devices/pump-2/messages/events", nil)
			c.send(s, order(operation, 0, 1))
			b.eventually("messages are refused", func() bool {
				return condition(s.Send(within(t), text("x"), nil)) == want
			})
			c.send(neighbour, text("neighbour"))
			b.eventually("messages are taken again", func() bool {
				return s.Send(within(t), text("x"), nil) == nil
			})
		})
	}
}

// An order waits for its time, which is not the time of the link it came on.
func TestOrderedLater(t *testing.T) {
	b := newBench(t)
	e := b.everyLink()
	started := time.Now()
	e.send(e.telemetry, order("KillAmqpC2DLink", 1, 0))
	if err := e.telemetry.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := e.ended(e.commands); got != "amqp:link:detach-forced" {
		t.Errorf("got %q, want amqp:link:detach-forced", got)
	}
	if took := time.Since(started); took < time.Second {
		t.Errorf("obeyed after %v, before its time", took)
	}
}

// An order that waits does not outlive its connection.
func TestOrderDiesWithConnection(t *testing.T) {
	b := newBench(t)
	c := b.device(pump)
	c.send(c.sender(telemetryAddress, nil), order("KillTcp", 3600, 0))
	_ = c.conn.Close() // the hub may be the first to close the pipe
	b.served.Wait()
}

// An order in a batch is obeyed, and the rest of the batch stored.
func TestOrderInBatch(t *testing.T) {
	b := newBench(t)
	e := b.everyLink()
	batch := &goamqp.Message{Format: 0x80013700}
	for _, m := range []*goamqp.Message{text("one"), order("KillAmqpC2DLink", 0, 0), text("two")} {
		raw, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		batch.Data = append(batch.Data, raw)
	}
	e.send(e.telemetry, batch)
	if got := e.ended(e.commands); got != "amqp:link:detach-forced" {
		t.Errorf("got %q, want amqp:link:detach-forced", got)
	}
	if got := fmt.Sprint(b.bodies()); got != "[one two]" {
		t.Errorf("events: got %s, want [one two]", got)
	}
}
