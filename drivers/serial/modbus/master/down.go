package master

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
	"github.com/fieldgate/fieldgate/gateway"
)

// errCancelled says that whoever asked has gone.
var errCancelled = errors.New("cancelled")

// errBusyBus says that too much waits for the slave already.
var errBusyBus = errors.New("too many requests wait for this slave")

// Command writes the registers that the body names. It is described at
// gateway.DownHandler. A command is completed when every register holds its value;
// a slave that refuses one has it rejected. One that does not answer, or is busy,
// gets it again.
func (d *Driver) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	said := func(v gateway.Verdict) {
		d.tally.command(v)
		answer(v)
	}
	s := d.byLeaf[c.Leaf]
	if s == nil {
		said(gateway.Undelivered)
		return
	}
	writes, err := s.parseWrites(c.Body)
	if err != nil {
		d.log.Warn("command rejected", "leaf", s.Leaf, "err", err)
		said(gateway.Rejected)
		return
	}
	finish := func(_ []byte, err error) {
		v := verdict(err)
		if v == gateway.Rejected {
			d.log.Warn("command rejected", "leaf", s.Leaf, "err", err)
		}
		said(v)
		if v == gateway.Undelivered { // after its answer: else the new attempt could be before it
			d.owe(s, err)
		}
	}
	if err := d.enqueue(s, &job{writes: writes, finish: finish}); err != nil {
		finish(nil, err)
	}
}

// verdict is what the outcome of a write means for a command.
func verdict(err error) gateway.Verdict {
	e, refused := errors.AsType[modbus.Exception](err)
	switch {
	case err == nil:
		return gateway.Completed
	case errors.Is(err, errReadBack), refused && e <= modbus.DeviceFailure:
		return gateway.Rejected
	}
	return gateway.Undelivered
}

// owe notes that a command is to be had again when the slave answers. A slave that
// is not polled would never answer by itself: it is probed.
func (d *Driver) owe(s *slave, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.owed = true
	if s.alive && s.polled == 0 && !s.everybody() {
		s.alive, s.why = false, err.Error()
	}
	d.ringLocked()
}

// enqueue puts a job in line.
func (d *Driver) enqueue(s *slave, j *job) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !s.alive:
		return gateway.ErrAbsent
	case len(s.jobs) >= maxJobs:
		return errBusyBus
	}
	s.jobs = append(s.jobs, j)
	d.ringLocked()
	return nil
}

// Call does the direct methods "write" and "read". It is described at
// gateway.DownHandler.
func (d *Driver) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	reply, err := d.call(ctx, c)
	switch {
	case err == nil:
		d.tally.call("answered")
	case errors.Is(err, gateway.ErrAbsent):
		d.tally.call("absent")
	default:
		d.tally.call("silent")
	}
	return reply, err
}

func (d *Driver) call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	s := d.byLeaf[c.Leaf]
	if s == nil {
		return nil, gateway.ErrAbsent
	}
	var gone atomic.Bool
	j := &job{cancelled: gone.Load}
	var err error
	switch c.Name {
	case "write":
		j.writes, err = s.parseWrites(c.Body)
	case "read":
		j.reads, err = s.parseReads(c.Body)
	default:
		err = errMethod
	}
	if err != nil {
		return refusal(err), nil
	}
	type result struct {
		values []byte
		err    error
	}
	out := make(chan result, 1)
	j.finish = func(values []byte, err error) { out <- result{values, err} }
	if err := d.enqueue(s, j); err != nil {
		if errors.Is(err, gateway.ErrAbsent) {
			return nil, err
		}
		return refusal(err), nil
	}
	select {
	case r := <-out:
		switch {
		case errors.Is(r.err, gateway.ErrAbsent):
			return nil, r.err
		case r.err != nil:
			return refusal(r.err), nil
		}
		return &gateway.Reply{Status: 200, Body: r.values}, nil
	case <-ctx.Done():
		gone.Store(true)
		return nil, ctx.Err()
	}
}

// errMethod says that there is no such method.
var errMethod = errors.New("there are the methods \"write\" and \"read\"")

// exceptionStatus is what a slave's exception is as the status of a method.
var exceptionStatus = map[modbus.Exception]int{
	modbus.IllegalFunction: 405, modbus.IllegalAddress: 404, modbus.IllegalValue: 422,
	modbus.DeviceFailure: 500, modbus.Acknowledged: 202, modbus.Busy: 503, modbus.MemoryParity: 500,
	modbus.NoPath: 502, modbus.NoTarget: 504,
}

// refusal makes the reply of a method that failed.
func refusal(err error) *gateway.Reply {
	var body object
	status := 500
	e, refused := errors.AsType[modbus.Exception](err)
	switch {
	case refused:
		if status = exceptionStatus[e]; status == 0 {
			status = 500
		}
	case errors.Is(err, errBody), errors.Is(err, errValue):
		status = 400
	case errors.Is(err, errReadOnly):
		status = 403
	case errors.Is(err, errName), errors.Is(err, errMethod):
		status = 404
	case errors.Is(err, errReadBack):
		status = 409
	case errors.Is(err, errBusyBus):
		status = 429
	case isSilence(err):
		status = 504
	}
	body.add("error", err.Error())
	if refused {
		body.add("exception", int(e))
	}
	if at, ok := errors.AsType[*registerError](err); ok {
		body.add("register", at.register)
	}
	return &gateway.Reply{Status: status, Body: body.bytes()}
}

// Desired is described at gateway.DownHandler. Slaves do not ask for desired
// properties.
func (d *Driver) Desired(string, []byte, int64, func()) {}
