package hub_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

var (
	pump  = registry.ID{Device: "pump-1"}
	valve = registry.ID{Device: "pump-1", Module: "valve"}
)

// bench is a hub with one device and a module on it.
func bench(t *testing.T, systemEvents bool) *hub.Hub {
	t.Helper()
	h := hub.New(hub.Config{
		Host: "hub.test", Partitions: 1, SystemEvents: systemEvents, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(h.Close)
	for _, id := range []registry.ID{pump, valve} {
		if _, err := h.Registry.Create(registry.Identity{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func TestTelemetry(t *testing.T) {
	h := bench(t, false)
	from := hub.Source{ID: valve, Generation: "1", Auth: "{}", Connection: h.NextConnection()}
	if err := h.Message(from, &message.Message{ID: "m", Body: []byte("hello")}); err != nil {
		t.Fatal(err)
	}
	if err := h.Telemetry(from, make([]byte, hub.MaxTelemetry), []byte("x")); !refusal.Is(err, 413001) {
		t.Errorf("too large: %v", err)
	}
	h.Faults.Quota(true)
	if err := h.Message(from, &message.Message{}); !refusal.Is(err, 403002) {
		t.Errorf("over the quota: %v", err)
	}
	events := slices.Collect(h.Events.Since(0))
	if len(events) != 1 {
		t.Fatalf("%d events stored, want 1", len(events))
	}
	e := events[0]
	if e.Device != "pump-1" || e.Module != "valve" || e.Generation != "1" || e.Auth != "{}" || e.Connection != 1 {
		t.Errorf("stored %+v", e)
	}
	m, err := amqp.ParseMessage(e.Message)
	if err != nil || message.FromAMQP(m).ID != "m" || string(m.Body()) != "hello" {
		t.Errorf("the message is %+v, %v", m, err)
	}
}

// Who is disabled or deleted is cut off at once, with its modules, and what was
// for it is gone when it is deleted.
func TestCutOff(t *testing.T) {
	for what, act := range map[string]func(h *hub.Hub) (code int){
		"disabled": func(h *hub.Hub) int { h.Registry.SetEnabled("pump-1", false); return 401003 },
		"deleted": func(h *hub.Hub) int {
			if err := h.Registry.Delete(pump, "*"); err != nil {
				t.Error(err)
			}
			return 404001
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := bench(t, false)
			ended := make(map[registry.ID]int)
			for _, id := range []registry.ID{pump, valve} {
				h.Presence.Enter(id, func(reason *refusal.Error) { ended[id] = reason.Code })
			}
			if err := h.Commands.Send(pump, &message.Message{Body: []byte("open")}); err != nil {
				t.Fatal(err)
			}
			code := act(h)
			if ended[pump] != code || ended[valve] != code {
				t.Errorf("ended with %v, want %d for both", ended, code)
			}
			left := 1
			if what == "deleted" {
				left = 0
			}
			if n := h.Commands.Len(pump); n != left {
				t.Errorf("%d commands are left, want %d", n, left)
			}
		})
	}
}

// The events that the hub writes itself (section 5.10), from a device's life.
func TestSystemEvents(t *testing.T) {
	h := bench(t, true)
	s := h.Presence.Enter(pump, func(*refusal.Error) {})
	if _, err := h.Twins.Update(pump, []byte(`{"properties":{"desired":{"a":1}}}`), false, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Twins.Update(pump, []byte(`{"tags":{"b":2}}`), true, ""); err != nil {
		t.Fatal(err)
	}
	s.Leave()
	if err := h.Registry.Delete(pump, "*"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e := range h.Events.Since(0) {
		if e.Module != "" {
			continue
		}
		m, err := amqp.ParseMessage(e.Message)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(m.Body()) || m.Application.Text("hubName") != "hub.test" || m.Application.Text("deviceId") != "pump-1" {
			t.Errorf("%s: %+v with body %s", e.Kind, m.Application, m.Body())
		}
		got = append(got, e.Kind+" "+m.Application.Text("opType"))
	}
	want := []string{
		"deviceLifecycleEvents createDeviceIdentity",
		"deviceConnectionStateEvents deviceConnected",
		"twinChangeEvents updateTwin",
		"twinChangeEvents replaceTwin",
		"deviceConnectionStateEvents deviceDisconnected",
		"deviceLifecycleEvents deleteDeviceIdentity",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}
