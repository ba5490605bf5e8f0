// Package demo tells the main job of the gateway as a story that runs by
// itself: leaves send, the link to the hub breaks, the gateway is killed, the
// link returns, and everything that was acknowledged has arrived, in order.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/fakebluez"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/meter"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// Options say how the story is told.
type Options struct {
	Bin    string        // folder with the programs fieldgate and hubsim
	Dir    string        // an empty folder for everything
	Leaves int           // leaves over MQTT; three more come over serial lines, one of them in MQTT-SN, and a Modbus slave
	Length time.Duration // of the story until the last part, the draining
	Rate   float64       // messages per second of each leaf
	Out    io.Writer     // where it is told
}

// The parts of the story, in thirtieths of its length.
const (
	online  = 8
	offline = 5 // before the gateway is killed
	killed  = 5 // after it was killed, still offline
	back    = 8
)

// patience bounds every wait for something that must happen.
const patience = time.Minute

// story is the telling of one.
type story struct {
	o    Options
	site *site.Site
	crew *site.Crew

	started time.Time
	part    string
	cut     bool
	tail    []string // faults that the table does not show
	shown   uint64   // acknowledged, at the last line
	shownAt time.Time
	sensor  bool // there is a BTHome sensor
	crowd   int  // looks in a row that saw more than one connection
}

// Run tells the story. It returns nil when every promise was kept. Everything
// it started has ended then; the folder stays.
func Run(ctx context.Context, o Options) (err error) {
	s := &story{o: o}
	s.say("Starting a hub, a gateway and %d leaves in %s", o.Leaves+3, o.Dir)
	s.say("Beside them %s, a Modbus meter; its RS-485 bus and the serial lines are simulated by pseudo-terminals.", modbusMeter)
	leaves := devices(o.Leaves)
	if _, err := fakebluez.FindBus(); err != nil {
		s.say("Without a BTHome sensor over Bluetooth: %v.", err)
	} else {
		s.say("And %s, a BTHome sensor; the Bluetooth adapter and BlueZ are simulated.", bthomeSensor)
		s.sensor = true
		leaves = append(leaves, site.Device{ID: bthomeSensor, Kind: site.BTHome})
	}
	s.site, err = site.New(ctx, site.Plan{Dir: o.Dir, Bin: o.Bin, Leaves: leaves})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.site.Close()) }()
	if err := s.tell(ctx); err != nil {
		return err
	}
	return s.judge(ctx)
}

// modbusMeter is a slave that is polled: nobody acknowledges it. It is at address
// 1 of its bus.
const modbusMeter = "meter-3"

// bthomeSensor only advertises: nobody acknowledges it either.
const bthomeSensor = "room-1"

// What the hub sends to it while the link is cut, and what its register holds then.
const (
	setpoint     = `{"setpoint": 21.5}`
	setpointHeld = 215
)

// devices mixes the kinds of leaf.
func devices(mqtt int) (list []site.Device) {
	names := []string{site.SDK: "sdk", site.MQTT3: "pump", site.MQTT5: "valve"}
	kinds := []site.Kind{site.SDK, site.MQTT3, site.MQTT5}
	for i := range mqtt {
		kind := kinds[i%len(kinds)]
		list = append(list, site.Device{ID: fmt.Sprintf("%s-%02d", names[kind], i+1), Kind: kind})
	}
	return append(list, site.Device{ID: "meter-1", Kind: site.Serial}, site.Device{ID: "meter-2", Kind: site.Serial},
		site.Device{ID: "node-1", Kind: site.MQTTSN},
		site.Device{ID: modbusMeter, Kind: site.Modbus})
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.o.Out, format+"\n", args...) }

// tell goes through the parts.
func (s *story) tell(ctx context.Context) error {
	if err := s.site.StartGateway(ctx); err != nil {
		return err
	}
	// The leaves outlive ctx for a moment: Abandon ends them, before the
	// gateway is stopped.
	var err error
	s.crew, err = s.site.Launch(context.WithoutCancel(ctx), devices(s.o.Leaves), leafsim.Options{Rate: s.o.Rate, AlarmEvery: 20, Size: 200})
	if err != nil {
		return err
	}
	defer s.crew.Abandon()
	if err := s.await(ctx, "all leaves to connect", func() bool { return s.crew.Stats().Connected }); err != nil {
		return err
	}
	s.say("%8s  %-12s %12s %8s %15s %8s %15s", "time", "part", "acknowledged", "per s", "backlog on disk", "arrived", "hub connections")
	s.started, s.shownAt = time.Now(), time.Now()
	for _, part := range []func(context.Context) error{s.online, s.offline, s.killed, s.back, s.drain} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) online(ctx context.Context) error {
	s.part = "online"
	if err := s.watch(ctx, online); err != nil {
		return err
	}
	if s.arrived() == 0 {
		return errors.New("nothing arrived at the hub while the link was up")
	}
	return s.await(ctx, "readings of the Modbus meter and the sensor at the hub", func() bool {
		return s.readings() > 0 && (!s.sensor || s.measurements() > 0)
	})
}

// arrived counts what came from leaves that are acknowledged.
func (s *story) arrived() int { return len(s.site.Arrivals()) - s.unacknowledged() }

func (s *story) unacknowledged() (n int) {
	for _, a := range s.site.Arrivals() {
		if a.Device == modbusMeter || a.Device == bthomeSensor {
			n++
		}
	}
	return n
}

func (s *story) readings() int {
	list, _ := s.site.Readings(modbusMeter)
	return len(list)
}

func (s *story) measurements() int {
	list, _ := s.site.Measurements(bthomeSensor)
	return len(list)
}

// hasSetpoint says whether the meter has what the hub sent.
func (s *story) hasSetpoint() (has bool) {
	s.site.Bus().Do(1, func(m *meter.Slave) { has = m.Holding[0] == setpointHeld })
	return has
}

func (s *story) offline(ctx context.Context) error {
	s.say("-- the link to the hub is cut: no FIN, packets just stop --")
	if err := s.site.Cut(ctx); err != nil {
		return err
	}
	if err := s.site.Hub().Send(ctx, modbusMeter, setpoint); err != nil {
		return err
	}
	s.part, s.cut = "link cut", true
	before := s.crew.Stats().Acked
	if err := s.watch(ctx, offline); err != nil {
		return err
	}
	return s.await(ctx, "leaves to be acknowledged without the hub, from disk", func() bool {
		return s.crew.Stats().Acked > before && s.backlog(ctx) > 0
	})
}

func (s *story) killed(ctx context.Context) error {
	s.say("-- the gateway is killed with signal 9, and started again --")
	s.site.Gateway().Kill()
	before := s.acked()
	if err := s.site.StartGateway(ctx); err != nil {
		return err
	}
	s.part = "still cut"
	if err := s.watch(ctx, killed); err != nil {
		return err
	}
	return s.await(ctx, "each leaf to come back and be acknowledged", func() bool {
		for i, now := range s.acked() {
			if now <= before[i] {
				return false
			}
		}
		return true
	})
}

// acked is how many messages of each leaf are acknowledged.
func (s *story) acked() (counts []uint64) {
	for _, l := range s.crew.Leaves() {
		counts = append(counts, l.Stats().Acked)
	}
	return counts
}

func (s *story) back(ctx context.Context) error {
	s.say("-- the link is back --")
	s.part, s.cut = "link back", false
	if err := s.site.Restore(ctx); err != nil {
		return err
	}
	if err := s.watch(ctx, back); err != nil {
		return err
	}
	return s.await(ctx, "the Modbus meter to have what the hub sent meanwhile", s.hasSetpoint)
}

func (s *story) drain(ctx context.Context) error {
	s.say("-- the leaves stop; what is left drains --")
	s.part = "draining"
	// What does not come to its end is a result, shown beside the table.
	for _, step := range []func(context.Context) error{s.crew.Finish, s.site.AwaitArrival, s.emptyBacklog} {
		bounded, cancel := context.WithTimeout(ctx, patience)
		err := step(bounded)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.tail = append(s.tail, err.Error())
		}
	}
	return s.look(ctx)
}

func (s *story) emptyBacklog(ctx context.Context) error {
	return s.site.Await(ctx, "an empty backlog", func() bool { return s.backlog(ctx) == 0 })
}

// await waits for something that the story is about.
func (s *story) await(ctx context.Context, what string, met func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.site.Await(ctx, what, met)
}

// watch shows a line every second for so many thirtieths of the length.
func (s *story) watch(ctx context.Context, thirtieths int) error {
	end := time.After(s.o.Length * time.Duration(thirtieths) / 30)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		case <-tick.C:
			if err := s.look(ctx); err != nil {
				return err
			}
		}
	}
}

// look shows one line, and checks that the hub has one connection.
func (s *story) look(ctx context.Context) error {
	hub, err := s.site.HubStats(ctx)
	if err != nil {
		return err
	}
	acked, now := s.crew.Stats().Acked, time.Now()
	backlog := "-"
	if b := s.backlog(ctx); b >= 0 {
		backlog = fmt.Sprintf("%.0f", b)
	}
	connections := "-" // a hub cut off cannot know
	if !s.cut {
		connections = strconv.Itoa(hub.ConnectionsOpen)
	}
	s.say("%7.1fs  %-12s %12d %8.0f %15s %8d %15s", now.Sub(s.started).Seconds(), s.part, acked,
		float64(acked-s.shown)/now.Sub(s.shownAt).Seconds(), backlog, s.arrived(), connections)
	s.shown, s.shownAt = acked, now
	// Right after a failure the hub may not yet know that the connection of
	// before is gone; a second later it does.
	if s.crowd++; hub.ConnectionsOpen <= 1 || s.cut {
		s.crowd = 0
	}
	if s.crowd == 2 {
		s.tail = append(s.tail, fmt.Sprintf("the hub saw %d connections at once", hub.ConnectionsOpen))
	}
	return nil
}

// backlog is how many messages are on disk, -1 while the gateway does not say.
func (s *story) backlog(ctx context.Context) float64 {
	m, err := s.site.Metrics(ctx)
	if err != nil || !m.Has("fieldgate_store_messages") {
		return -1
	}
	return m.Sum("fieldgate_store_messages")
}

// judge draws the table and says what it means.
func (s *story) judge(ctx context.Context) error {
	report, err := s.site.Check(ctx)
	if err != nil {
		return err
	}
	s.say("")
	if err := report.WriteTable(s.o.Out); err != nil {
		return err
	}
	if !s.site.OneConnectionAtATime() {
		s.tail = append(s.tail, "messages came over more than one connection at a time")
	}
	_, meterErr := s.site.Readings(modbusMeter)
	_, sensorErr := s.site.Measurements(bthomeSensor)
	err = errors.Join(report.Err(), meterErr, sensorErr)
	if s.tail != nil {
		err = errors.Join(err, errors.New(strings.Join(s.tail, "\n")))
	}
	if err != nil {
		s.say("\nFAILED: a promise was broken.")
		return err
	}
	total := report.Total()
	s.say("\n%s (simulated Modbus): %d readings at the hub under its own identity, each once and in order; the command %s,\nsent while the link was cut, is in its register.", modbusMeter, s.readings(), setpoint)
	if s.sensor {
		s.say("%s (simulated BTHome sensor): %d measurements at the hub under its own identity, each once and in order.", bthomeSensor, s.measurements())
	}
	s.say("\nOK: %d messages acknowledged, %d lost, %d out of order; %d were sent twice after the failures, under the same id.",
		total.Acked, total.Lost, total.OutOfOrder, total.Duplicated)
	return nil
}
