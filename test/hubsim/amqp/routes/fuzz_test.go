package routes

import (
	"log/slog"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// fuzzGuest is a device on a connection that has no wire.
func fuzzGuest(f *testing.F) *guest {
	f.Helper()
	h := hub.New(hub.Config{Host: "fuzz.test", Partitions: 1, Log: slog.New(slog.DiscardHandler)})
	f.Cleanup(h.Close)
	id := registry.ID{Device: "d"}
	if _, err := h.Registry.Create(registry.Identity{ID: id}); err != nil {
		f.Fatal(err)
	}
	c := newConnection(New(h), nil)
	return &guest{c: c, source: hub.Source{ID: id}, visit: &visit{session: h.Presence.Enter(id, nil)}}
}

// Whatever a message holds, each kind of link has an answer to it. Deliveries
// are settled, so that nothing is to be said.
func FuzzRequests(f *testing.F) {
	note := func(pairs ...string) (m amqp.Map) {
		for i := 0; i < len(pairs); i += 2 {
			m = append(m, amqp.Pair{Key: amqp.Symbol(pairs[i]), Value: pairs[i+1]})
		}
		return m
	}
	inner := (&amqp.Message{Data: [][]byte{[]byte("x")}}).Append(nil)
	for _, seed := range []struct {
		format uint32
		m      amqp.Message
	}{
		{0, amqp.Message{Data: [][]byte{[]byte("x")}}},
		{amqp.FormatBatch, amqp.Message{Data: [][]byte{inner, inner}}},
		{0, amqp.Message{Annotations: note("operation", "GET")}},
		{0, amqp.Message{Annotations: note("operation", "PATCH", "resource", reportedResource), Data: [][]byte{[]byte(`{"a":1}`)}}},
		{0, amqp.Message{Annotations: note("operation", "PUT", "resource", notificationsResource)}},
		{0, amqp.Message{
			Properties:  &amqp.Properties{CorrelationID: amqp.UUID{1}},
			Application: amqp.Map{{Key: methodStatus, Value: int32(200)}},
		}},
		{0, amqp.Message{Properties: &amqp.Properties{To: "/devices/d/messages/devicebound"}}},
		{0, amqp.Message{Application: note("operation", "put-token", "name", "x"), HasValue: true, Value: "SharedAccessSignature sr=x"}},
		{0, amqp.Message{Application: note("operation", "READ", "name", eventPath, "type", "com.microsoft:partition", "partition", "0")}},
		{0, amqp.Message{Application: note("AzIoTHub_FaultOperationType", "KillTcp")}},
	} {
		f.Add(seed.format, seed.m.Append(nil))
	}
	g := fuzzGuest(f)
	twin := &twinLink{guest: g}
	f.Fuzz(func(t *testing.T, format uint32, raw []byte) {
		in, state := readTelemetry(server.Delivery{Format: format, Payload: raw, Settled: true})
		if state.Outcome != amqp.Accepted && state.Error == nil {
			t.Fatalf("refused without a reason: %v", state)
		}
		for _, m := range in.messages {
			if _, err := amqp.ParseMessage(m); err != nil {
				t.Fatalf("a message to store cannot be read: %v", err)
			}
		}
		g.takeAnswer(server.Delivery{Payload: raw, Settled: true})
		m, err := amqp.ParseMessage(raw)
		if err != nil {
			return
		}
		if status, ok := twin.handle(m).Annotations.Get("status").(int32); !ok || status < 200 {
			t.Fatalf("the answer about the twin has status %d", status)
		}
		if status, ok := g.c.manage(m.Application).Application.Get("status-code").(int32); !ok || status < 200 {
			t.Fatalf("the answer of the management node has status %d", status)
		}
		_ = g.c.putToken(m)              // refused, but not with a panic
		_ = g.c.sendCommand(m, len(raw)) // until the queue is full
	})
}
