package site

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/fieldgate/fieldgate/test/leafsim/meter"
)

// Reading is what a Modbus slave of the site sends in one poll round.
type Reading struct {
	// Energy goes up by one with each poll.
	Energy      *uint32  `json:"energy"`
	Temperature *float64 `json:"temperature"`
	Setpoint    *float64 `json:"setpoint"` // only when it has changed
}

// startBus puts the Modbus slaves on a bus, with addresses from 1.
func (s *Site) startBus() (err error) {
	slaves := make(map[byte]*meter.Slave)
	for _, d := range s.plan.Leaves {
		if d.Kind == Modbus {
			slaves[byte(len(slaves)+1)] = &meter.Slave{Input: []uint16{0, 0, 215}, Holding: []uint16{180}, Counts: true}
		}
	}
	if len(slaves) > 0 {
		s.bus, err = meter.Start(s.path("leaf/bus"), slaves)
	}
	return err
}

// Bus is the line of the Modbus slaves, whose addresses are 1, 2, 3 in the order
// of the plan.
func (s *Site) Bus() *meter.Bus { return s.bus }

// busText is the configuration of the bus.
func (s *Site) busText(b *strings.Builder) {
	if s.bus == nil {
		return
	}
	fmt.Fprintf(b, "[[serial]]\nport = %q\nformat = \"modbus\"\n", s.bus.Link)
	address := 0
	for _, d := range s.plan.Leaves {
		if d.Kind != Modbus {
			continue
		}
		address++
		fmt.Fprintf(b, `
[[serial.slave]]
address = %d
leaf = %q

[[serial.slave.register]]
name = "energy"
table = "input"
address = 0
type = "uint32"
unit = "Wh"
poll = "200ms"

[[serial.slave.register]]
name = "temperature"
table = "input"
address = 2
type = "int16"
scale = 0.1
unit = "Cel"
poll = "200ms"

[[serial.slave.register]]
name = "setpoint"
table = "holding"
address = 0
scale = 0.1
unit = "Cel"
poll = "200ms"
report = "change"
writable = true
`, address, d.ID)
	}
}

// Readings are those of a Modbus slave that have arrived at the hub, each once,
// in their order. The error says what is wrong with them: one that came under
// another identity, out of order, or twice under different message ids.
func (s *Site) Readings(id string) (list []Reading, err error) {
	ids := make(map[string]bool)
	last := uint32(0)
	for _, e := range s.Events() {
		if e.Device != id || ids[e.MessageID] {
			continue
		}
		ids[e.MessageID] = true
		var r Reading
		switch bad := json.Unmarshal(e.Body, &r); {
		case bad != nil || r.Energy == nil || r.Temperature == nil:
			err = errors.Join(err, fmt.Errorf("%s is no reading of %s", e.Body, id))
			continue
		case *r.Energy <= last:
			err = errors.Join(err, fmt.Errorf("reading %d of %s came after %d", *r.Energy, id, last))
		default:
			last = *r.Energy
		}
		list = append(list, r)
	}
	return list, err
}
