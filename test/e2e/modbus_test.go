package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim/meter"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// The readings of Modbus slaves arrive under their own identities, in order, and
// commands write their registers: also with the hub away for a while and the
// gateway killed in the middle.
func TestModbusMeter(t *testing.T) {
	ctx := testContext(t, 3*time.Minute)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "meter-a", Kind: site.Modbus}, {ID: "meter-b", Kind: site.Modbus}}})
	m := modbusSite{ctx, t, s}
	m.await("readings of both", func() bool { return m.readings("meter-a") > 2 && m.readings("meter-b") > 2 })
	if e := s.Events()[0]; e.ContentType != "application/json" || !strings.Contains(e.Properties["units"], `"energy":"Wh"`) {
		t.Errorf("the first reading is %+v", e)
	}

	must(t, s.Hub().Send(ctx, "meter-a", `{"setpoint": 21.5}`))
	m.holds(1, 215)
	m.await("the new setpoint at the hub", func() bool { return m.setpoint("meter-a") == 21.5 })
	answer, err := s.Hub().Call(ctx, "meter-b", "write", `{"setpoint": 19}`)
	must(t, err)
	if !strings.Contains(answer, "200") || !strings.Contains(answer, "19") {
		t.Errorf("the method answers %s", answer)
	}
	m.holds(2, 190)

	must(t, s.Cut(ctx))
	before := m.kept()
	m.await("readings on flash", func() bool { return m.kept() > before+5 })
	s.Bus().Do(2, func(x *meter.Slave) { x.Dead = true })
	must(t, s.Hub().Send(ctx, "meter-a", `{"setpoint": 22}`))
	must(t, s.Hub().Send(ctx, "meter-b", `{"setpoint": 23}`))
	first := m.kept() // in custody: must arrive
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	m.await("readings after the kill", func() bool { return m.kept() > 5 })
	m.await("the operator to see which slave is away", func() bool {
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), "status", "--socket", filepath.Join(s.Dir(), "gateway", "control.sock")).Output()
		text := string(out)
		return err == nil && strings.Contains(text, "\nmodbus   ") && strings.Contains(text, " meter-a up ") &&
			strings.Contains(text, " meter-b down ") && strings.Contains(text, ": no answer\n")
	})
	must(t, s.Restore(ctx))
	m.holds(1, 220)
	m.await("the setpoint that came after the cut", func() bool { return m.setpoint("meter-a") == 22 })
	s.Bus().Do(2, func(x *meter.Slave) { x.Dead = false })
	m.holds(2, 230)

	m.await("everything to arrive", func() bool {
		second := m.kept() // since the restart
		return m.readings("meter-a")+m.readings("meter-b") >= first+second
	})
	for _, id := range []string{"meter-a", "meter-b"} {
		if _, err := s.Readings(id); err != nil {
			t.Error(err)
		}
	}
	for _, e := range s.Events() {
		if e.Device != "meter-a" && e.Device != "meter-b" {
			t.Errorf("a reading came under the identity of %s", e.Device)
		}
	}
}

type modbusSite struct {
	ctx context.Context
	t   *testing.T
	*site.Site
}

func (m modbusSite) await(what string, met func() bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	must(m.t, m.Await(ctx, what, met))
}

func (m modbusSite) readings(id string) int {
	list, _ := m.Readings(id)
	return len(list)
}

// setpoint is the last one that the hub has heard of.
func (m modbusSite) setpoint(id string) (last float64) {
	list, _ := m.Readings(id)
	for _, r := range list {
		if r.Setpoint != nil {
			last = *r.Setpoint
		}
	}
	return last
}

// kept is how many readings the running gateway has taken into custody, -1 while
// it does not say.
func (m modbusSite) kept() int {
	all, err := m.Metrics(m.ctx)
	if err != nil {
		return -1
	}
	return int(all[`fieldgate_messages_received_total{kind="telemetry",transport="modbus"}`])
}

// holds waits until a slave's register has a value.
func (m modbusSite) holds(unit byte, want uint16) {
	m.t.Helper()
	m.await(fmt.Sprintf("slave %d to hold %d", unit, want), func() bool {
		var got uint16
		m.Bus().Do(unit, func(x *meter.Slave) { got = x.Holding[0] })
		return got == want
	})
}
