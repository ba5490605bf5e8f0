package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/fakebluez"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// What a sensor advertises arrives under its own identity, and a command writes a value
// of a connected device: also with the hub away for a while, the gateway killed in the
// middle and bluetoothd crashing.
func TestBluetooth(t *testing.T) {
	if _, err := fakebluez.FindBus(); err != nil {
		need(t, err.Error())
	}
	ctx := testContext(t, 3*time.Minute)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "room-1", Kind: site.BTHome}, {ID: "valve-1", Kind: site.Valve}}})
	b := bluetooth{ctx, t, s}
	b.await("measurements", func() bool { return b.measurements() > 3 })

	must(t, s.Hub().Send(ctx, "valve-1", "70"))
	b.holds(70)
	b.await("the command to be completed", func() bool { return queued(ctx, t, s, "valve-1") == 0 })
	answer, err := s.Hub().Call(ctx, "valve-1", "position", "30")
	must(t, err)
	b.holds(30)
	if !strings.Contains(answer, "200") {
		t.Errorf("the method answers %s", answer)
	}
	if answer, err = s.Hub().Call(ctx, "valve-1", "position", "null"); err != nil || !strings.Contains(answer, `"value":30`) {
		t.Errorf("the method answers %s, %v", answer, err)
	}

	must(t, s.Cut(ctx))
	before := b.kept()
	b.await("measurements on flash", func() bool { return b.kept() > before+5 })
	must(t, s.Hub().Send(ctx, "valve-1", "55"))
	first := b.kept() // in custody: must arrive
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	b.await("measurements after the kill", func() bool { return b.kept() > 5 })
	s.Radio().BlueZ.Crash()
	must(t, s.Radio().BlueZ.Start())
	after := b.kept()
	b.await("measurements after the crash of bluetoothd", func() bool { return b.kept() > after+5 })
	must(t, s.Restore(ctx))
	b.holds(55)
	b.await("everything to arrive", func() bool {
		second := b.kept() // since the restart; the valve sends, too
		return b.events() >= first+second
	})
	if _, err := s.Measurements("room-1"); err != nil {
		t.Error(err)
	}
	for _, e := range s.Events() {
		if want := map[string]string{"room-1": "advertised", "valve-1": "unpaired"}[e.Device]; want == "" || e.Properties["fieldgate-trust"] != want {
			t.Errorf("from %s came %s with %v", e.Device, e.Body, e.Properties)
		}
	}
}

type bluetooth struct {
	ctx context.Context
	t   *testing.T
	*site.Site
}

func (b bluetooth) await(what string, met func() bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	must(b.t, b.Await(ctx, what, met))
}

func (b bluetooth) measurements() int {
	list, _ := b.Measurements("room-1")
	return len(list)
}

// events counts messages that have arrived, each once.
func (b bluetooth) events() int {
	ids := make(map[string]bool)
	for _, e := range b.Events() {
		ids[e.Device+" "+e.MessageID] = true
	}
	return len(ids)
}

// kept is how many messages the running gateway has taken into custody, -1 while it
// does not say.
func (b bluetooth) kept() int {
	all, err := b.Metrics(b.ctx)
	if err != nil {
		return -1
	}
	return int(all[`fieldgate_messages_received_total{kind="telemetry",transport="ble"}`])
}

// holds waits until the valve has been moved to a position.
func (b bluetooth) holds(want int) {
	b.t.Helper()
	b.await("the valve to move", func() bool { return b.Radio().Position("valve-1") == want })
}
