package master

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
)

// maxJobs is how many commands and methods may wait for one slave.
const maxJobs = 64

// A slave that is busy is asked again after busyPause, so many times. One that has
// only acknowledged a write (exception 5) has longer to carry it out.
const (
	busyPause   = 200 * time.Millisecond
	busyTries   = 10
	settleTries = 50
)

// errReadBack says that a register does not hold what was written.
var errReadBack = errors.New("the register does not hold what was written")

// job is what a command or a direct method has to do with a slave: writes, each
// read back, or reads.
type job struct {
	writes []write
	reads  []block
	// finish is called once, with the values as they were read: a JSON object.
	finish func(values []byte, err error)

	// Belongs to the bus:
	values    object
	reading   bool // the first of writes is written, and is read back
	again     bool // it was asked before
	busy      int
	settling  int         // so many times a register may still hold its old value
	cancelled func() bool // nobody waits for it any more; nil: somebody always does
}

// write is one register to be written.
type write struct {
	register *register
	request  *modbus.Request
}

// value is what the register holds by an answer, or, for nil, by what was written.
func (w *write) value(a *modbus.Answer) any {
	if a == nil {
		a = &modbus.Answer{Bits: w.request.Bits, Registers: w.request.Values}
	}
	b := plan([]*register{w.register}, 0)[0]
	v, err := b.value(a, w.register)
	if err != nil {
		return nil
	}
	return v
}

// work does one request of the slave's first job. The error is that of a port
// that is lost.
func (d *Driver) work(b *bus, s *slave) error {
	d.mu.Lock()
	if len(s.jobs) == 0 {
		d.mu.Unlock()
		return nil
	}
	j := s.jobs[0]
	d.mu.Unlock()
	if j.cancelled != nil && j.cancelled() {
		d.done(s, j, errCancelled)
		return nil
	}
	begin := time.Now()
	q := j.request()
	a, err := b.ask(q, s.Timeout.D())
	if !s.everybody() {
		if lost := d.heard(s, begin, err); lost != nil {
			return lost
		}
	} else if err != nil {
		return err
	}
	e, refused := errors.AsType[modbus.Exception](err)
	switch {
	case isSilence(err) && !j.again && s.misses < missesToAway:
		j.again = true
		return nil
	case refused && e == modbus.Busy && j.busy < busyTries:
		j.busy++
		s.rest = time.Now().Add(busyPause)
		return nil
	case refused && e == modbus.IllegalFunction && j.useOtherFunction():
		return nil
	}
	j.again, j.busy = false, 0
	if over, err := j.take(s, a, err); over {
		d.done(s, j, err)
	}
	return nil
}

// done ends a job, if it has not been given up meanwhile.
func (d *Driver) done(s *slave, j *job, err error) {
	d.mu.Lock()
	i := slices.Index(s.jobs, j)
	if i >= 0 {
		s.jobs = slices.Delete(s.jobs, i, i+1)
	}
	d.mu.Unlock()
	if i >= 0 {
		j.finish(j.values.bytes(), err)
	}
}

// request is the job's next one.
func (j *job) request() *modbus.Request {
	switch {
	case len(j.writes) > 0 && !j.reading:
		return j.writes[0].request
	case len(j.writes) > 0:
		return plan([]*register{j.writes[0].register}, 0)[0].request
	}
	return j.reads[0].request
}

// useOtherFunction has a single value written by the function for several, which
// is all that some slaves know, and says whether there is one.
func (j *job) useOtherFunction() bool {
	if len(j.writes) == 0 || j.reading {
		return false
	}
	q := *j.writes[0].request
	switch q.Function {
	case modbus.WriteCoil:
		q.Function = modbus.WriteCoils
	case modbus.WriteRegister:
		q.Function = modbus.WriteRegisters
	default:
		return false
	}
	j.writes[0].request = &q
	return true
}

// take takes the answer to the job's request, and says whether it is over and how.
func (j *job) take(s *slave, a *modbus.Answer, err error) (over bool, _ error) {
	if len(j.writes) == 0 {
		return j.takeRead(a, err)
	}
	w := &j.writes[0]
	switch e, _ := errors.AsType[modbus.Exception](err); {
	case e == modbus.Acknowledged && !j.reading: // it will, and cannot say so yet
		j.reading, j.settling = true, settleTries
		s.rest = time.Now().Add(busyPause)
		return false, nil
	case j.reading && (e == modbus.IllegalFunction || e == modbus.IllegalAddress): // it can be written and not read
		j.values.add(w.register.Name, w.value(nil))
	case err != nil:
		return true, &registerError{w.register.Name, err}
	case !j.reading && !s.everybody():
		j.reading = true
		return false, nil
	case j.reading:
		v := w.value(a)
		same := slices.Equal(a.Bits, w.request.Bits) && slices.Equal(a.Registers, w.request.Values)
		holds := same || !w.register.number() && reflect.DeepEqual(v, w.value(nil))
		if !holds && j.settling > 0 {
			j.settling--
			s.rest = time.Now().Add(busyPause)
			return false, nil
		}
		j.values.add(w.register.Name, v)
		if !holds {
			return true, &registerError{w.register.Name, errReadBack}
		}
	}
	j.writes, j.reading, j.settling = j.writes[1:], false, 0
	return len(j.writes) == 0, nil
}

func (j *job) takeRead(a *modbus.Answer, err error) (over bool, _ error) {
	first := j.reads[0]
	e, refused := errors.AsType[modbus.Exception](err)
	switch {
	case refused && len(first.registers) > 1 && e != modbus.Busy:
		var single []block
		for _, r := range first.registers {
			single = append(single, plan([]*register{r}, 0)...)
		}
		j.reads = append(single, j.reads[1:]...)
		return false, nil
	case err != nil:
		return true, &registerError{first.registers[0].Name, err}
	}
	for _, r := range first.registers {
		if v, err := first.value(a, r); err == nil {
			j.values.add(r.Name, v)
		}
	}
	j.reads = j.reads[1:]
	return len(j.reads) == 0, nil
}

// registerError says at which register a job has failed.
type registerError struct {
	register string
	err      error
}

func (e *registerError) Error() string { return e.register + ": " + e.err.Error() }
func (e *registerError) Unwrap() error { return e.err }

// Why a body does not say what to do.
var (
	errBody     = errors.New("not understood")
	errName     = errors.New("there is no such register")
	errReadOnly = errors.New("the register cannot be written")
)

// parseWrites reads a JSON object of names and values, in its order.
func (s *slave) parseWrites(body []byte) ([]write, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || len(fields) == 0 {
		return nil, fmt.Errorf("%w: write an object of names and values, like {\"setpoint\": 21.5}", errBody)
	}
	var writes []write
	for _, name := range keys(body) {
		r := s.register(name)
		switch {
		case r == nil:
			return nil, &registerError{name, errName}
		case !r.Writable:
			return nil, &registerError{name, errReadOnly}
		}
		q, err := r.write(fields[name])
		if err != nil {
			return nil, &registerError{name, err}
		}
		writes = append(writes, write{r, q})
	}
	return writes, nil
}

// keys are those of a JSON object, in their order, each once.
func keys(body []byte) (names []string) {
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		return nil
	}
	seen := make(map[string]bool)
	for d.More() {
		name, err := d.Token()
		text, ok := name.(string)
		var value json.RawMessage
		if err != nil || !ok || d.Decode(&value) != nil {
			return names
		}
		if !seen[text] {
			seen[text] = true
			names = append(names, text)
		}
	}
	return names
}

// parseReads reads a JSON list of names, or one name; nothing means all.
func (s *slave) parseReads(body []byte) ([]block, error) {
	if s.everybody() {
		return nil, fmt.Errorf("%w: all slaves at once do not answer", errBody)
	}
	var names []string
	var one string
	switch {
	case len(body) == 0 || string(body) == "null" || string(body) == "{}":
		return plan(s.sorted, s.MaxGap), nil
	case json.Unmarshal(body, &one) == nil:
		names = []string{one}
	case json.Unmarshal(body, &names) != nil || len(names) == 0:
		return nil, fmt.Errorf("%w: write a list of names, like [\"power\"], or nothing for all", errBody)
	}
	for _, name := range names {
		if s.register(name) == nil {
			return nil, &registerError{name, errName}
		}
	}
	var wanted []*register
	for _, r := range s.sorted {
		if slices.Contains(names, r.Name) {
			wanted = append(wanted, r)
		}
	}
	return plan(wanted, s.MaxGap), nil
}

func (s *slave) register(name string) *register {
	for _, r := range s.registers {
		if r.Name == name {
			return r
		}
	}
	return nil
}
