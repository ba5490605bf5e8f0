package master

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/leafsim/meter"
)

func clock() gateway.Instant {
	return gateway.Instant{Wall: time.Now().UTC(), Quality: gateway.Synced, Boot: 1, Uptime: time.Hour}
}

// rig is a driver on a simulated bus, and a gateway around it.
type rig struct {
	*Driver
	bus  *meter.Bus
	stop func()

	mu     sync.Mutex
	got    []*gateway.Message
	refuse error
	wants  map[string]gateway.Interest
	seen   map[string]int // how often a leaf was attended to
}

func (r *rig) Handle(_ context.Context, m *gateway.Message, done gateway.Done) {
	r.mu.Lock()
	err := r.refuse
	if err == nil {
		r.got = append(r.got, m)
	}
	r.mu.Unlock()
	done(err)
}

func (r *rig) Attend(leaf string, way gateway.Reach, wants gateway.Interest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if way != gateway.Reach(r.Driver) {
		panic("another way")
	}
	r.wants[leaf] = wants
	r.seen[leaf]++
}

// bodies are those of a leaf so far.
func (r *rig) bodies(leaf string) (texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.got {
		if m.Leaf == leaf {
			texts = append(texts, string(m.Body))
		}
	}
	return texts
}

func (r *rig) awake(leaf string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.wants[leaf]
	return w.Has(gateway.WantsCommands|gateway.WantsCalls) && !w.Has(gateway.Asleep)
}

func (r *rig) count(event string) int64 { return r.State().Counts[event] }

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// reg is a register of the table holding that is polled often.
func reg(name string, address int) RegisterConfig {
	return RegisterConfig{Name: name, Table: "holding", Address: address, Poll: gateway.Duration(20 * time.Millisecond), Writable: true}
}

// slaveConfig gives the slave a time that it needs on no machine: it is in the process of
// the test.
func slaveConfig(address int, leaf string, registers ...RegisterConfig) SlaveConfig {
	return SlaveConfig{Address: address, Leaf: leaf, Timeout: gateway.Duration(time.Second), Registers: registers}
}

// waitedFor is a slave that does not answer in this time, and the test waits for that.
func waitedFor(timeout time.Duration, s SlaveConfig) SlaveConfig {
	s.Timeout = gateway.Duration(timeout)
	return s
}

func config(port string, slaves ...SlaveConfig) Config {
	c := DefaultConfig()
	c.Port, c.Baud, c.Slaves = port, 115200, slaves
	return c
}

func start(t *testing.T, devices map[byte]*meter.Slave, slaves ...SlaveConfig) *rig {
	t.Helper()
	return startWith(t, devices, nil, slaves...)
}

func startWith(t *testing.T, devices map[byte]*meter.Slave, set func(*rig, *Config), slaves ...SlaveConfig) *rig {
	t.Helper()
	t.Parallel() // they wait more than they work
	r := &rig{wants: make(map[string]gateway.Interest), seen: make(map[string]int)}
	var err error
	if r.bus, err = meter.Start(filepath.Join(t.TempDir(), "bus"), devices); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.bus.Close)
	cfg := config(r.bus.Link, slaves...)
	if set != nil {
		set(r, &cfg)
	}
	r.run(t, cfg)
	return r
}

// run starts the driver.
func (r *rig) run(t *testing.T, cfg Config) {
	t.Helper()
	var err error
	if r.Driver, err = New(cfg, clock, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, gateway.Ways{Up: r, Attendance: r}) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(r.stop)
}

// Every table and type, in one message a round, read with one request a table.
func TestValuesOfAllKinds(t *testing.T) {
	device := &meter.Slave{
		Holding:   []uint16{0, 0x0102, 0x0304, 0x41BC, 0x0000, 0xFFFE, 0x4142, 0x4300, 0x8001, 1, 0x7FC0, 0},
		Input:     []uint16{237, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFE},
		Coils:     []bool{false, true},
		Discretes: []bool{true, false, true},
	}
	typed := func(r RegisterConfig, kind modbus.Type) RegisterConfig { r.Type, r.Writable = kind, false; return r }
	of := func(table string, r RegisterConfig) RegisterConfig { r.Table, r.Writable = table, false; return r }
	scaled := of("input", reg("temperature", 0))
	scaled.Scale, scaled.Unit = 0.1, "Cel"
	text := typed(reg("model", 6), modbus.Text)
	text.Count = 2
	swapped := typed(reg("swapped", 1), modbus.Uint32)
	swapped.Order = modbus.CDAB
	r := start(t, map[byte]*meter.Slave{9: device}, slaveConfig(9, "meter-9",
		typed(reg("count", 1), modbus.Uint32), swapped, typed(reg("power", 3), modbus.Float32), typed(reg("depth", 5), modbus.Int16),
		text, typed(reg("flags", 8), modbus.Bits), typed(reg("on", 9), modbus.Bool), typed(reg("none", 10), modbus.Float32),
		scaled, typed(of("input", reg("total", 1)), modbus.Int64), of("coil", reg("pump", 1)), of("discrete", reg("door", 2)),
	))
	until(t, "a message", func() bool { return len(r.bodies("meter-9")) > 0 })
	want := `{"count":16909060,"swapped":50594050,"power":23.5,"depth":-2,"model":"ABC",` +
		`"flags":[true,false,false,false,false,false,false,false,false,false,false,false,false,false,false,true],` +
		`"on":true,"temperature":23.7,"total":-2,"pump":true,"door":true}`
	if got := r.bodies("meter-9")[0]; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r.stop()
	m := r.got[0]
	if m.Kind != gateway.Telemetry || m.Lane != gateway.LaneTelemetry || m.System.ContentType != "application/json" || m.Captured.Wall.IsZero() {
		t.Errorf("message %+v", m)
	}
	if len(m.Properties) != 1 || m.Properties[0] != (gateway.Property{Name: "units", Value: `{"temperature":"Cel"}`}) {
		t.Errorf("properties %v", m.Properties)
	}
	r.bus.Do(9, func(s *meter.Slave) {
		if rounds := int(r.count("rounds")); s.Asked > 4*rounds || s.Asked < 4*(rounds-1) {
			t.Errorf("%d requests in %d rounds, want 4 each: one a table", s.Asked, rounds)
		}
	})
}

func TestReportOnChange(t *testing.T) {
	device := &meter.Slave{Holding: []uint16{100, 7}}
	near, exact := reg("level", 0), reg("state", 1)
	near.Report, near.Deadband, exact.Report = "change", 5, "change"
	r := start(t, map[byte]*meter.Slave{1: device}, slaveConfig(1, "tank", near, exact))
	set := func(address int, value uint16) {
		t.Helper()
		r.bus.Do(1, func(s *meter.Slave) { s.Holding[address] = value })
		n := r.count("rounds")
		until(t, "polled", func() bool { return r.count("rounds") > n+2 })
	}
	until(t, "first", func() bool { return len(r.bodies("tank")) == 1 })
	set(0, 105) // within the deadband
	set(0, 106)
	set(1, 8)
	set(0, 101)
	set(0, 100)
	want := []string{`{"level":100,"state":7}`, `{"level":106}`, `{"state":8}`, `{"level":100}`}
	until(t, "all handed over", func() bool { return len(r.bodies("tank")) >= len(want) })
	if got := r.bodies("tank"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMaxAge(t *testing.T) {
	aged := reg("level", 0)
	aged.Report, aged.MaxAge = "change", gateway.Duration(50*time.Millisecond)
	r := start(t, map[byte]*meter.Slave{1: {Holding: []uint16{1}}}, slaveConfig(1, "tank", aged))
	until(t, "reported again though nothing has changed", func() bool { return len(r.bodies("tank")) >= 3 })
}

// Two slaves that are dead take their twentieth of the bus and no more; the living
// one is polled, and the dead are back when they live.
func TestDeadSlavesDoNotSlowTheOthers(t *testing.T) {
	devices := map[byte]*meter.Slave{1: {Holding: []uint16{1}}, 2: {Holding: []uint16{2}, Dead: true}, 3: {Holding: []uint16{3}, Dead: true}}
	const timeout = 60 * time.Millisecond
	r := start(t, devices, slaveConfig(1, "a", reg("v", 0)),
		waitedFor(timeout, slaveConfig(2, "b", reg("v", 0))), waitedFor(timeout, slaveConfig(3, "c", reg("v", 0))))
	until(t, "both probed", func() bool {
		n := 0
		for _, unit := range []byte{2, 3} {
			r.bus.Do(unit, func(s *meter.Slave) { n += min(s.Asked, 1) })
		}
		return n == 2
	})
	until(t, "a polled 100 times", func() bool { return len(r.bodies("a")) >= 100 })
	dead := 0
	for _, unit := range []byte{2, 3} {
		r.bus.Do(unit, func(s *meter.Slave) { dead += s.Asked })
	}
	// 100 polls of 20 ms are 2 s or more: probes after 1, 2, 4 … s and for 5 % of
	// the time, of 60 ms each.
	polls := len(r.bodies("a"))
	if limit := 4 + polls/10; dead > limit {
		t.Errorf("dead slaves were asked %d times in %d polls of the living one, want at most %d", dead, polls, limit)
	}
	if !r.awake("a") || r.awake("b") {
		t.Errorf("attendance %v", r.wants)
	}
	peers := r.State().Peers
	if !peers[0].Up || peers[1].Up || peers[1].Err == "" {
		t.Errorf("peers %+v", peers)
	}
	r.bus.Do(2, func(s *meter.Slave) { s.Dead = false })
	until(t, "b is back", func() bool { return r.awake("b") && len(r.bodies("b")) > 2 })
}

// A slave that was there and is lost costs three timeouts, spread out, and then
// its leaf sleeps.
func TestSlaveIsLost(t *testing.T) {
	r := start(t, map[byte]*meter.Slave{1: {Holding: []uint16{1}}, 2: {Holding: []uint16{2}}},
		slaveConfig(1, "a", reg("v", 0)), waitedFor(500*time.Millisecond, slaveConfig(2, "b", reg("v", 0))))
	until(t, "both there", func() bool { return r.awake("a") && r.awake("b") })
	r.bus.Do(2, func(s *meter.Slave) { s.Dead = true })
	until(t, "b sleeps", func() bool { return !r.awake("b") })
	if n := r.count("slaves_lost"); n != 1 {
		t.Errorf("%d slaves lost, want 1", n)
	}
	n := len(r.bodies("a"))
	until(t, "a goes on", func() bool { return len(r.bodies("a")) > n+5 })
}

func (r *rig) command(leaf, body string) gateway.Verdict {
	said := make(chan gateway.Verdict, 1)
	r.Command(&gateway.Command{Leaf: leaf, Body: []byte(body)}, func(v gateway.Verdict) { said <- v })
	return <-said
}

func (r *rig) call(leaf, method, body string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	reply, err := r.Call(ctx, &gateway.Call{Leaf: leaf, Name: method, Body: []byte(body)})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", reply.Status, reply.Body)
}

func TestCommands(t *testing.T) {
	device := &meter.Slave{Holding: make([]uint16, 20), Coils: make([]bool, 4)}
	setpoint := reg("setpoint", 0)
	setpoint.Type, setpoint.Scale = modbus.Int32, 0.5
	label := reg("label", 4)
	label.Type, label.Count = modbus.Text, 3
	pump := reg("pump", 2)
	pump.Table = "coil"
	reading := reg("reading", 10)
	reading.Writable = false
	missing := reg("missing", 100)
	r := start(t, map[byte]*meter.Slave{1: device}, slaveConfig(1, "valve", setpoint, label, pump, reading, missing))
	until(t, "awake", func() bool { return r.awake("valve") })
	for _, c := range []struct {
		body string
		want gateway.Verdict
	}{
		{`{"setpoint":-21.5,"pump":true,"label":"hi"}`, gateway.Completed},
		{`{"setpoint":1e300}`, gateway.Rejected},
		{`{"setpoint":"1"}`, gateway.Rejected},
		{`{"label":"too long a text"}`, gateway.Rejected},
		{`{"reading":1}`, gateway.Rejected},
		{`{"other":1}`, gateway.Rejected},
		{`{"missing":1}`, gateway.Rejected}, // by the slave
		{`[1]`, gateway.Rejected},
		{``, gateway.Rejected},
	} {
		if got := r.command("valve", c.body); got != c.want {
			t.Errorf("%s: %v, want %v", c.body, got, c.want)
		}
	}
	r.bus.Do(1, func(s *meter.Slave) {
		if s.Holding[0] != 0xFFFF || s.Holding[1] != 0xFFD5 || !s.Coils[2] || s.Holding[4] != 0x6869 {
			t.Errorf("registers %x, coils %v", s.Holding, s.Coils)
		}
		s.Stuck = true
	})
	if got := r.command("valve", `{"setpoint":3}`); got != gateway.Rejected {
		t.Errorf("a write that did not hold: %v, want rejected", got)
	}
	r.bus.Do(1, func(s *meter.Slave) { s.Stuck, s.OnlyMany = false, true })
	if got := r.command("valve", `{"pump":false}`); got != gateway.Completed {
		t.Errorf("a slave that knows only the function for many: %v", got)
	}
	if got := r.command("stranger", `{"pump":false}`); got != gateway.Undelivered {
		t.Errorf("a leaf of somebody else: %v", got)
	}
	s := r.State()
	if s.Commands["completed"] != 2 || s.Commands["rejected"] != 9 {
		t.Errorf("counted %v", s.Commands)
	}
}

// A slave that only acknowledges a write (exception 5) carries it out later: it is
// done when the register holds the value, not before.
func TestWriteThatIsOnlyAcknowledged(t *testing.T) {
	r := start(t, map[byte]*meter.Slave{1: {Holding: []uint16{1}, Refuses: map[byte]byte{6: 5}}}, slaveConfig(1, "valve", reg("v", 0)))
	until(t, "awake", func() bool { return r.awake("valve") })
	answer := make(chan string, 1)
	go func() { answer <- r.call("valve", "write", `{"v":5}`) }()
	until(t, "asked", func() bool { return r.count("exception_5") > 0 })
	until(t, "polled meanwhile", func() bool { return r.count("rounds") > 20 })
	select {
	case got := <-answer:
		t.Fatalf("said to be done before it was: %s", got)
	default:
	}
	r.bus.Do(1, func(s *meter.Slave) { s.Holding[0] = 5 })
	if got := <-answer; got != `200 {"v":5}` {
		t.Errorf("got %s", got)
	}
}

// A register that cannot be read back is no success, unless it can only be written.
func TestReadBackFails(t *testing.T) {
	device := &meter.Slave{Holding: []uint16{1}}
	silent := reg("v", 0)
	silent.Report = "never"
	r := start(t, map[byte]*meter.Slave{1: device}, slaveConfig(1, "valve", silent))
	until(t, "there", func() bool { return r.State().Leaves == 1 })
	for _, c := range []struct {
		exception byte
		status    string
		verdict   gateway.Verdict
	}{
		{1, `200 {"v":2}`, gateway.Completed},
		{2, `200 {"v":2}`, gateway.Completed},
		{4, `500 {"error":"v: modbus exception 4`, gateway.Rejected},
		{6, `503 {"error":"v: modbus exception 6`, gateway.Undelivered},
		{8, `500 {"error":"v: modbus exception 8`, gateway.Undelivered},
		{11, `504 {"error":"v: modbus exception 11`, gateway.Undelivered},
	} {
		r.bus.Do(1, func(s *meter.Slave) { s.Refuses = map[byte]byte{3: c.exception} })
		if got := r.call("valve", "write", `{"v":2}`); !strings.HasPrefix(got, c.status) {
			t.Errorf("exception %d: %s, want %s", c.exception, got, c.status)
		}
		until(t, "there", func() bool { return r.State().Leaves == 1 })
		if got := r.command("valve", `{"v":2}`); got != c.verdict {
			t.Errorf("exception %d: %v, want %v", c.exception, got, c.verdict)
		}
		r.bus.Do(1, func(s *meter.Slave) { s.Refuses = nil })
		until(t, "there", func() bool { return r.State().Leaves == 1 })
	}
}

// What a slave could not be told is offered again when it answers.
func TestCommandForASlaveThatIsAway(t *testing.T) {
	r := start(t, map[byte]*meter.Slave{1: {Holding: []uint16{1}}}, waitedFor(500*time.Millisecond, slaveConfig(1, "valve", reg("v", 0))))
	until(t, "awake", func() bool { return r.awake("valve") })
	r.bus.Do(1, func(s *meter.Slave) { s.Dead = true })
	if got := r.command("valve", `{"v":5}`); got != gateway.Undelivered {
		t.Fatalf("%v, want undelivered", got)
	}
	until(t, "asleep", func() bool { return !r.awake("valve") })
	if got := r.command("valve", `{"v":6}`); got != gateway.Undelivered {
		t.Fatalf("%v, want undelivered", got)
	}
	if got := r.call("valve", "read", ""); got != gateway.ErrAbsent.Error() {
		t.Errorf("method: %s", got)
	}
	r.bus.Do(1, func(s *meter.Slave) { s.Dead = false })
	until(t, "awake again", func() bool { return r.awake("valve") })
	if got := r.command("valve", `{"v":6}`); got != gateway.Completed {
		t.Errorf("%v, want completed", got)
	}
}

// One write that got no answer does not make the slave sleep; the next answer
// brings the command again.
func TestCommandThatGotNoAnswerIsOwed(t *testing.T) {
	for _, report := range []string{"never", "change"} {
		t.Run(report, func(t *testing.T) { commandIsOwed(t, report) })
	}
}

func commandIsOwed(t *testing.T, report string) {
	rarely := reg("v", 0)
	rarely.Report, rarely.Poll = report, gateway.Duration(200*time.Millisecond)
	r := start(t, map[byte]*meter.Slave{1: {Holding: []uint16{1}}}, waitedFor(500*time.Millisecond, slaveConfig(1, "valve", rarely)))
	until(t, "awake", func() bool { return r.awake("valve") })
	r.bus.Do(1, func(s *meter.Slave) { s.Ignores = 6 })
	r.mu.Lock()
	n := r.seen["valve"]
	r.mu.Unlock()
	if got := r.command("valve", `{"v":5}`); got != gateway.Undelivered {
		t.Fatalf("%v, want undelivered", got)
	}
	r.bus.Do(1, func(s *meter.Slave) { s.Ignores = 0 })
	until(t, "attended to again", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.seen["valve"] > n && !r.wants["valve"].Has(gateway.Asleep)
	})
	if got := r.command("valve", `{"v":5}`); got != gateway.Completed {
		t.Errorf("%v, want completed", got)
	}
	if report == "never" && len(r.bodies("valve")) != 0 {
		t.Errorf("a register that is never reported was: %v", r.bodies("valve"))
	}
}

func TestMethods(t *testing.T) {
	device := &meter.Slave{Holding: make([]uint16, 20), Forbidden: []uint16{3}}
	big := reg("big", 8)
	big.Type = modbus.Int64
	fixed := reg("fixed", 1)
	fixed.Writable = false
	r := start(t, map[byte]*meter.Slave{1: device}, slaveConfig(1, "valve", reg("a", 0), fixed, reg("gone", 3), big))
	until(t, "awake", func() bool { return r.awake("valve") })
	for _, c := range []struct{ method, body, want string }{
		{"write", `{"a":42,"big":-9007199254740993}`, `200 {"a":42,"big":-9007199254740993}`},
		{"read", `["big","a"]`, `200 {"a":42,"big":-9007199254740993}`},
		{"read", `"fixed"`, `200 {"fixed":0}`},
		{"read", ``, `404 {"error":"gone: modbus exception 2: illegal data address","exception":2,"register":"gone"}`},
		{"write", `{"gone":1}`, `404 {"error":"gone: modbus exception 2: illegal data address","exception":2,"register":"gone"}`},
		{"write", `{"fixed":1}`, `403 {"error":"fixed: the register cannot be written","register":"fixed"}`},
		{"write", `{"b":1}`, `404 {"error":"b: there is no such register","register":"b"}`},
		{"write", `{"a":65536}`, `400 `},
		{"write", `{"a":1.5}`, `400 `},
		{"write", `7`, `400 `},
		{"read", `{"x":1}`, `400 `},
		{"reboot", ``, `404 {"error":"there are the methods \"write\" and \"read\""}`},
	} {
		if got := r.call("valve", c.method, c.body); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s %s: %s, want %s", c.method, c.body, got, c.want)
		}
	}
	for exception, status := range map[byte]int{1: 405, 3: 422, 4: 500, 8: 500, 10: 502, 11: 504} {
		r.bus.Do(1, func(s *meter.Slave) { s.Refuse = exception })
		got := r.call("valve", "write", `{"big":1}`)
		if want := fmt.Sprintf(`%d {"error":"big: modbus exception %d`, status, exception); !strings.HasPrefix(got, want) {
			t.Errorf("exception %d: %s, want %s", exception, got, want)
		}
	}
	r.bus.Do(1, func(s *meter.Slave) { s.Refuse, s.Stuck = 0, true })
	if got := r.call("valve", "write", `{"a":1}`); !strings.HasPrefix(got, `409 {"error":"a: `) {
		t.Errorf("stuck: %s", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Call(ctx, &gateway.Call{Leaf: "valve", Name: "read"}); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("a caller that has gone: %v", err)
	}
}

// A register that does not exist costs only itself, also where it lies between
// others.
func TestRefusedRegisterCostsItself(t *testing.T) {
	device := &meter.Slave{Holding: []uint16{10, 11, 12}, Forbidden: []uint16{1}}
	r := start(t, map[byte]*meter.Slave{1: device}, slaveConfig(1, "m", reg("a", 0), reg("b", 1), reg("c", 2)))
	until(t, "two rounds", func() bool { return len(r.bodies("m")) >= 2 })
	for _, got := range r.bodies("m") {
		if got != `{"a":10,"c":12}` {
			t.Errorf("got %s", got)
		}
	}
	if n := r.count("reads_split"); n != 1 {
		t.Errorf("split %d times, want once and remembered", n)
	}
}

// Noise before answers, wrong checksums and answers cut short neither stop the
// polling nor make a wrong value.
func TestNoise(t *testing.T) {
	const timeout = 60 * time.Millisecond
	r := start(t, map[byte]*meter.Slave{1: {Holding: []uint16{4711}}, 2: {Holding: []uint16{4712}}},
		waitedFor(timeout, slaveConfig(1, "a", reg("v", 0))), waitedFor(timeout, slaveConfig(2, "b", reg("v", 0))))
	for _, noise := range [][]byte{{0}, {1, 3, 2, 0, 0}, bytes.Repeat([]byte{0x55}, 200)} {
		r.bus.Noise(noise)
		for range 3 {
			if err := r.bus.Babble(noise); err != nil {
				t.Fatal(err)
			}
			r.bus.Do(1, func(s *meter.Slave) { s.Garble++ })
			r.bus.Do(2, func(s *meter.Slave) { s.Cut++ })
			n, m := len(r.bodies("a")), len(r.bodies("b"))
			until(t, "polled on", func() bool { return len(r.bodies("a")) > n && len(r.bodies("b")) > m })
		}
	}
	for leaf, want := range map[string]string{"a": `{"v":4711}`, "b": `{"v":4712}`} {
		for _, got := range r.bodies(leaf) {
			if got != want {
				t.Errorf("%s sent %s, want %s", leaf, got, want)
			}
		}
	}
	if r.State().Discarded["noise"] == 0 {
		t.Error("noise is not counted")
	}
}

// Answers that come after their time are not taken for those to the next request.
func TestLateAnswers(t *testing.T) {
	device := &meter.Slave{Holding: make([]uint16, 300)}
	device.Holding[0], device.Holding[200] = 1, 2
	const timeout, late = 60 * time.Millisecond, 80 * time.Millisecond
	r := start(t, map[byte]*meter.Slave{1: device}, waitedFor(timeout, slaveConfig(1, "slow", reg("first", 0), reg("second", 200))))
	until(t, "there", func() bool { return len(r.bodies("slow")) > 0 })
	for range 10 {
		n := r.count("no_answer")
		until(t, "late", func() bool {
			// Again and again: where the test is held up, a late answer may be there in time.
			r.bus.Do(1, func(s *meter.Slave) { s.Late = []time.Duration{late, late} })
			return r.count("no_answer") > n+1
		})
		r.bus.Do(1, func(s *meter.Slave) { s.Late = nil })
		m := len(r.bodies("slow"))
		until(t, "back", func() bool { return len(r.bodies("slow")) > m })
	}
	for _, got := range r.bodies("slow") {
		var v map[string]int
		if err := json.Unmarshal([]byte(got), &v); err != nil {
			t.Fatal(err)
		}
		if f, ok := v["first"]; ok && f != 1 {
			t.Errorf("%s: the first register has the second's value", got)
		}
		if s, ok := v["second"]; ok && s != 2 {
			t.Errorf("%s: the second register has the first's value", got)
		}
	}
}

// While the gateway takes nothing, what was read waits, no more is read, and that
// is counted; afterwards everything arrives in order.
func TestGatewayAtABound(t *testing.T) {
	r := startWith(t, map[byte]*meter.Slave{1: {Holding: []uint16{1}}}, func(r *rig, c *Config) {
		c.MaxInflight, r.refuse = 3, gateway.ErrStoreFull
	}, slaveConfig(1, "m", reg("v", 0)))
	until(t, "held", func() bool { return r.count("polls_held") > 5 })
	r.bus.Do(1, func(s *meter.Slave) { s.Holding[0] = 2 })
	if got := r.call("m", "read", ""); got != `200 {"v":2}` {
		t.Errorf("methods at the bound: %s", got)
	}
	rounds := r.count("rounds")
	if rounds > 4 {
		t.Errorf("%d rounds though only 3 messages may wait", rounds)
	}
	r.mu.Lock()
	r.refuse = nil
	r.mu.Unlock()
	until(t, "all there", func() bool { return len(r.bodies("m")) > 4 })
	got := r.bodies("m")[:5]
	if want := `{"v":1} {"v":1} {"v":1} {"v":2} {"v":2}`; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Rounds of several slaves that go on at the same time at the bound do not push out
// what was read before: no reading is missing.
func TestRoundsOfSeveralSlavesAtABound(t *testing.T) {
	const slaves = 5
	devices := make(map[byte]*meter.Slave)
	var configs []SlaveConfig
	for i := range slaves {
		devices[byte(i+1)] = &meter.Slave{Holding: []uint16{7}, Input: []uint16{0, 0}, Counts: true}
		total := reg("total", 0)
		total.Table, total.Type, total.Writable = "input", modbus.Uint32, false
		configs = append(configs, slaveConfig(i+1, fmt.Sprintf("m%d", i+1), total, reg("v", 0))) // two requests a round
	}
	r := startWith(t, devices, func(r *rig, c *Config) { c.MaxInflight, r.refuse = 3, gateway.ErrStoreFull }, configs...)
	until(t, "held", func() bool { return r.count("polls_held") > 20 })
	r.mu.Lock()
	r.refuse = nil
	r.mu.Unlock()
	until(t, "all there", func() bool {
		for i := range slaves {
			if len(r.bodies(fmt.Sprintf("m%d", i+1))) < 3 {
				return false
			}
		}
		return true
	})
	for i := range slaves {
		for n, got := range r.bodies(fmt.Sprintf("m%d", i+1)) {
			if want := fmt.Sprintf(`{"total":%d,"v":7}`, n+1); got != want {
				t.Fatalf("message %d of slave %d is %s, want %s", n+1, i+1, got, want)
			}
		}
	}
}

func TestUnpluggedInMidFrame(t *testing.T) {
	r := start(t, map[byte]*meter.Slave{1: {Holding: []uint16{1}, Delay: 30 * time.Millisecond}}, slaveConfig(1, "m", reg("v", 0)))
	for i := range int64(3) {
		until(t, "awake", func() bool { return r.awake("m") && r.State().Ups == i+1 })
		n := len(r.bodies("m"))
		until(t, "polled", func() bool { return len(r.bodies("m")) > n })
		r.bus.Unplug()
		until(t, "asleep", func() bool { return !r.awake("m") && !r.State().Up })
		if got := r.command("m", `{"v":1}`); got != gateway.Undelivered {
			t.Errorf("command without a port: %v", got)
		}
		if err := r.bus.Plug(); err != nil {
			t.Fatal(err)
		}
	}
	r.stop()
	if w, known := r.wants["m"]; !known || w != 0 {
		t.Errorf("after the end the leaf wants %v", w)
	}
}

// What is written to everybody changes all slaves, and nobody answers.
func TestBroadcast(t *testing.T) {
	devices := map[byte]*meter.Slave{1: {Holding: []uint16{1}}, 2: {Holding: []uint16{2}}}
	all := slaveConfig(0, "all", RegisterConfig{Name: "v", Table: "holding", Writable: true})
	r := start(t, devices, slaveConfig(1, "a", reg("v", 0)), slaveConfig(2, "b", reg("v", 0)), all)
	until(t, "awake", func() bool { return r.awake("all") && r.awake("a") && r.awake("b") })
	if got := r.command("all", `{"v":77}`); got != gateway.Completed {
		t.Fatalf("%v", got)
	}
	if got := r.call("all", "read", ""); !strings.HasPrefix(got, "400 ") {
		t.Errorf("reading from everybody: %s", got)
	}
	until(t, "both changed", func() bool {
		a, b := r.bodies("a"), r.bodies("b")
		return len(a) > 0 && a[len(a)-1] == `{"v":77}` && len(b) > 0 && b[len(b)-1] == `{"v":77}`
	})
}

// An adapter that hears itself: the echo of a write looks like its answer.
func TestEcho(t *testing.T) {
	r := startWith(t, map[byte]*meter.Slave{1: {Holding: []uint16{5}, OnlyMany: true}}, func(r *rig, c *Config) {
		r.bus.Echo()
		c.Echo = true
	}, slaveConfig(1, "m", reg("v", 0)))
	until(t, "polled", func() bool { return len(r.bodies("m")) > 0 })
	if got := r.call("m", "write", `{"v":6}`); got != `200 {"v":6}` {
		t.Errorf("write: %s", got)
	}
}

// Bytes that nobody sent stand before the answer.
func TestFind(t *testing.T) {
	q := modbus.Read(1, modbus.ReadHolding, 0, 1)
	answer := []byte{1, 3, 2, 0, 5, 0x78, 0x47}
	for _, heard := range [][]byte{answer, append([]byte{9, 9}, answer...)} {
		a, skipped, err := find(q, heard)
		if err != nil || a.Registers[0] != 5 || skipped != len(heard)-len(answer) {
			t.Errorf("% X: %v, %d, %v", heard, a, skipped, err)
		}
	}
}

func TestManySlavesTakeTurns(t *testing.T) {
	devices := make(map[byte]*meter.Slave)
	var slaves []SlaveConfig
	for i := 1; i <= 10; i++ {
		devices[byte(i)] = &meter.Slave{Holding: make([]uint16, 400)}
		var all []RegisterConfig
		for k := range 1 + 14*(i%2) { // every other one has many
			all = append(all, reg(fmt.Sprint("r", k), 10*k))
		}
		for k := range all {
			all[k].Poll = gateway.Duration(10 * time.Millisecond)
		}
		slave := slaveConfig(i, fmt.Sprint("m", i), all...)
		slave.Timeout = gateway.Duration(10 * time.Second) // one that is taken for gone is asked less often
		slaves = append(slaves, slave)
	}
	r := start(t, devices, slaves...)
	until(t, "polled", func() bool { return len(r.bodies("m1")) >= 2 })
	low, high := 1<<30, 0
	for i := 1; i <= 10; i++ {
		r.bus.Do(byte(i), func(s *meter.Slave) { low, high = min(low, s.Asked), max(high, s.Asked) })
	}
	if high > low+3 {
		t.Errorf("on a bus that is full, slaves were asked between %d and %d times", low, high)
	}
}

func FuzzFind(f *testing.F) {
	f.Add(byte(3), uint16(1), []byte{9, 9, 1, 3, 2, 0, 5, 0x78, 0x47})
	f.Add(byte(16), uint16(2), []byte{1, 0x90, 2, 0, 0})
	f.Fuzz(func(t *testing.T, function byte, count uint16, heard []byte) {
		q := modbus.Read(1, modbus.Function(function), 0, count)
		if q.Validate() != nil {
			return
		}
		a, skipped, err := find(q, heard)
		if skipped > len(heard) || err == nil && len(a.Bits)+len(a.Registers) != int(count) {
			t.Errorf("% X: %v, %d", heard, a, skipped)
		}
	})
}

func FuzzWrite(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":"x"}`))
	f.Add([]byte(`{"a":-1e400}`))
	text := reg("b", 4)
	text.Type, text.Count = modbus.Text, 2
	scaled := reg("a", 0)
	scaled.Scale = 0.1
	cfg := config("/dev/ttyS0", slaveConfig(1, "m", scaled, text))
	if err := cfg.Validate(); err != nil {
		f.Fatal(err)
	}
	s := newSlave(cfg.Slaves[0])
	f.Fuzz(func(t *testing.T, body []byte) {
		writes, err := s.parseWrites(body)
		for _, w := range writes {
			if err := w.request.Validate(); err != nil {
				t.Errorf("%s: %v", body, err)
			}
		}
		if err == nil && len(writes) == 0 {
			t.Errorf("%s: nothing to write, and no error", body)
		}
		if blocks, err := s.parseReads(body); err == nil && len(blocks) == 0 {
			t.Errorf("%s: nothing to read, and no error", body)
		}
	})
}
