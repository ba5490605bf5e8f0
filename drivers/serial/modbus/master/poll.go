package master

import (
	"errors"
	"time"

	"github.com/fieldgate/fieldgate/drivers/handover"
	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
	"github.com/fieldgate/fieldgate/gateway"
)

// round is one reading of the registers of a slave that are due: one message.
type round struct {
	blocks   []block // still to be asked
	values   map[*register]any
	captured gateway.Instant // when the first answer came
	again    bool            // the first block has been asked before
	probe    bool            // only to see whether the slave answers
}

// poll does one request of the slave's round. The error is that of a port that is
// lost.
func (d *Driver) poll(b *bus, s *slave) error {
	begin := time.Now()
	if s.round == nil {
		if s.round = d.begin(s, begin); s.round == nil {
			return nil
		}
	}
	r, first := s.round, &s.round.blocks[0]
	a, err := b.ask(first.request, s.Timeout.D())
	if lost := d.heard(s, begin, err); lost != nil {
		return lost
	}
	e, refused := errors.AsType[modbus.Exception](err)
	switch {
	case err == nil:
		d.keep(r, first, a)
	case refused:
		if d.split(s, r, e) {
			return nil
		}
	case !r.again && d.answers(s):
		r.again = true
		return nil
	default: // the rest of the round would only cost time
		r.blocks = r.blocks[:1]
		d.tally.count("rounds_broken")
	}
	r.blocks, r.again = r.blocks[1:], false
	if len(r.blocks) == 0 {
		s.round = nil
		if !r.probe {
			d.report(s, r)
		}
	}
	return nil
}

// begin makes a round of what is due; nil if there is none now. A slave that is
// away is asked for everything that is polled, or else for anything.
func (d *Driver) begin(s *slave, now time.Time) *round {
	// Each round that is under way makes a message, too.
	alive, held := d.answers(s), !d.queue.Room(1+d.rounds())
	var due []*register
	for _, r := range s.sorted {
		if r.Report == reportNever || alive && r.due.After(now) {
			continue
		}
		due = append(due, r)
		if r.due.IsZero() || !alive {
			r.due = now
		}
		slots := max(0, now.Sub(r.due)/r.Poll.D())
		if slots > 0 {
			d.tally.add("polls_missed", int64(slots))
		}
		r.due = r.due.Add((slots + 1) * r.Poll.D())
	}
	r := &round{values: make(map[*register]any)}
	if held && len(due) > 0 {
		d.tally.count("polls_held")
	}
	if held || len(due) == 0 {
		if alive {
			return nil
		}
		due, r.probe = s.sorted[:1], true
	}
	d.tally.count("rounds")
	r.blocks = plan(due, s.MaxGap)
	return r
}

// rounds is how many slaves have a round under way.
func (d *Driver) rounds() (n int) {
	for _, s := range d.slaves {
		if s.round != nil {
			n++
		}
	}
	return n
}

// keep notes the values of a block.
func (d *Driver) keep(r *round, b *block, a *modbus.Answer) {
	if len(r.values) == 0 {
		r.captured = d.clock()
	}
	for _, reg := range b.registers {
		v, err := b.value(a, reg)
		if err == nil && v != nil {
			r.values[reg] = v
		}
	}
}

// split has the registers of a block that the slave has refused asked one by one,
// from now on: one may not exist, or they may not be read together. It says
// whether there is anything left to split.
func (d *Driver) split(s *slave, r *round, e modbus.Exception) bool {
	first := r.blocks[0]
	if len(first.registers) == 1 {
		if reg := first.registers[0]; !reg.complains {
			reg.complains = true
			d.log.Warn("slave refuses a register", "leaf", s.Leaf, "register", reg.Name, "err", e)
		}
		return false
	}
	if e != modbus.IllegalAddress && e != modbus.IllegalValue && e != modbus.IllegalFunction {
		return false // busy, or broken: another time
	}
	for _, reg := range first.registers {
		reg.alone = true
	}
	d.tally.count("reads_split")
	r.blocks = append(plan(first.registers, s.MaxGap), r.blocks[1:]...)
	return true
}

// report makes a message of what is new in a round.
func (d *Driver) report(s *slave, r *round) {
	var body, units object
	now := time.Now()
	for _, reg := range s.registers {
		v, read := r.values[reg]
		if !read || reg.Report == reportNever || !reg.news(v, now) {
			continue
		}
		reg.told, reg.toldAt = v, now
		body.add(reg.Name, v)
		if reg.Unit != "" {
			units.add(reg.Name, reg.Unit)
		}
	}
	if len(body.text) == 0 {
		return
	}
	m := &gateway.Message{
		Leaf: s.Leaf, Kind: gateway.Telemetry, Lane: s.lane, Channel: s.Channel,
		System: gateway.System{ContentType: "application/json", ContentEncoding: "utf-8"},
		Body:   body.bytes(), Captured: r.captured,
	}
	if len(units.text) > 0 {
		m.Properties = []gateway.Property{{Name: "units", Value: string(units.bytes())}}
	}
	// There is room: begin has looked, and nobody else fills the queue.
	d.queue.Offer(&handover.Item{Message: m, Size: len(m.Body)})
}
