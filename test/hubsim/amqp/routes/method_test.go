package routes_test

import (
	"encoding/json"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// outcome is what a back end hears of a call.
type outcome struct {
	answer methods.Answer
	err    error
}

// invoke calls a method and returns where its outcome will be.
func (b *bench) invoke(id registry.ID, c methods.Call) <-chan outcome {
	done := make(chan outcome, 1)
	b.served.Go(func() {
		answer, err := b.hub.Methods.Invoke(b.t.Context(), id, c)
		done <- outcome{answer, err}
	})
	return done
}

// methodLinks attaches both links of a pair.
func (c *client) methodLinks(id registry.ID) (requests *goamqp.Receiver, answers *goamqp.Sender) {
	c.t.Helper()
	properties := map[string]any{"com.microsoft:channel-correlation-id": "methods:one"}
	address := "/" + id.Path() + "/methods/devicebound"
	answers = c.sender(address, &goamqp.SenderOptions{Properties: properties})
	requests = c.receiver(address, &goamqp.ReceiverOptions{Properties: properties, Credit: 10})
	return requests, answers
}

// answer makes the device's answer to a request.
func answer(request *goamqp.Message, status any, payload string) *goamqp.Message {
	m := text(payload)
	m.Properties = &goamqp.MessageProperties{CorrelationID: request.Properties.CorrelationID}
	m.ApplicationProperties = map[string]any{"IoThub-status": status}
	return m
}

func TestMethod(t *testing.T) {
	for _, id := range []registry.ID{pump, module} {
		t.Run(id.String(), func(t *testing.T) {
			b := newBench(t)
			c := b.device(id)
			requests, answers := c.methodLinks(id)
			done := b.invoke(id, methods.Call{Name: "reboot", Payload: json.RawMessage(`{"in":5}`)})
			request := c.next(requests)
			if _, ok := request.Properties.CorrelationID.(goamqp.UUID); !ok {
				t.Errorf("correlation id: got %T, want a UUID", request.Properties.CorrelationID)
			}
			if got := request.ApplicationProperties["IoThub-methodname"]; got != "reboot" || string(request.GetData()) != `{"in":5}` {
				t.Errorf("request: got %v with %s", got, request.GetData())
			}
			c.send(answers, answer(request, int32(207), `{"done":true}`))
			if got := <-done; got.err != nil || got.answer.Status != 207 || string(got.answer.Payload) != `{"done":true}` {
				t.Errorf("answer: got %d %s, %v", got.answer.Status, got.answer.Payload, got.err)
			}
			c.send(answers, answer(request, int32(200), "")) // late: dropped without notice
		})
	}
}

// A device listens from the attach of the requests' link to its end.
func TestMethodsNeedListener(t *testing.T) {
	b := newBench(t)
	c := b.device(pump)
	call := methods.Call{Name: "m"}
	if got := <-b.invoke(pump, call); !refusal.Is(got.err, 404103) {
		t.Errorf("before: got %v, want 404103", got.err)
	}
	waiting := b.invoke(pump, methods.Call{Name: "patient", ConnectTimeout: patience})
	requests, answers := c.methodLinks(pump)
	request := c.next(requests)
	c.send(answers, answer(request, int32(200), ""))
	if got := <-waiting; got.err != nil || got.answer.Payload != nil {
		t.Errorf("a call that waited: got %+v", got)
	}
	if err := requests.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	b.eventually("nobody listens", func() bool {
		return refusal.Is((<-b.invoke(pump, call)).err, 404103)
	})
}

// An answer that says too little is refused, and the caller can still get a
// better one.
func TestBadMethodAnswers(t *testing.T) {
	b := newBench(t)
	c := b.device(pump)
	requests, answers := c.methodLinks(pump)
	done := b.invoke(pump, methods.Call{Name: "m"})
	request := c.next(requests)
	nameless := answer(request, int32(200), "")
	nameless.Properties = nil
	for what, m := range map[string]*goamqp.Message{
		"no correlation": nameless, "no status": answer(request, "two hundred", ""),
	} {
		if got := condition(answers.Send(within(t), m, nil)); got != "com.microsoft:argument-error" {
			t.Errorf("%s: got %q, want com.microsoft:argument-error", what, got)
		}
	}
	c.send(answers, answer(request, int64(200), "[]"))
	if got := <-done; got.err != nil || string(got.answer.Payload) != "[]" {
		t.Errorf("got %+v", got)
	}
}

// A method reaches the connection that came last.
func TestMethodsFollowTheDevice(t *testing.T) {
	b := newBench(t)
	older, _ := b.device(pump).methodLinks(pump)
	c := b.device(pump)
	requests, answers := c.methodLinks(pump)
	if got := c.ended(older); got != "amqp:link:stolen" {
		t.Errorf("older link: got %q, want amqp:link:stolen", got)
	}
	done := b.invoke(pump, methods.Call{Name: "m", ResponseTimeout: 5 * time.Second})
	c.send(answers, answer(c.next(requests), int32(200), "1"))
	if got := <-done; got.err != nil {
		t.Error(got.err)
	}
}
