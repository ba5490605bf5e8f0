package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/control"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/check"
	"github.com/fieldgate/fieldgate/test/leafsim/meter"
)

// Kind is what a leaf of the site speaks.
type Kind int

// The kinds of leaf.
const (
	MQTT3  Kind = iota // MQTT 3.1.1, plain dialect, user and password
	MQTT5              // MQTT 5, plain dialect, user and password
	SDK                // MQTT 3.1.1, IoT Hub dialect, SAS token, like a stock device SDK
	Serial             // newline-delimited JSON over a pseudo-terminal
	MQTTSN             // MQTT-SN over a pseudo-terminal
	Modbus             // a simulated Modbus slave, on one bus with the others of its kind
	BTHome             // a sensor that advertises, around a simulated Bluetooth adapter
	Valve              // a device that is connected and written to, there too
	NUS                // MQTT-SN over the Nordic UART Service of a device, there too

	Gateway // no leaf: the gateway's own device at the hub
)

// Device is one leaf of the site.
type Device struct {
	ID   string
	Kind Kind
	Auth string // how the gateway proves it to the hub; "" is its default
	More string // further lines of its [[leaf]]
	// New says that neither the gateway nor the hub knows it yet. A Valve that is new
	// shows NewPasskey when it is paired.
	New bool
}

// NewPasskey is what a new Valve shows.
const NewPasskey = 123456

// Plan describes a site.
type Plan struct {
	Dir    string // an empty folder, made if missing
	Bin    string // folder with the programs fieldgate and hubsim
	Leaves []Device
	Config Config
	// Through, if set, is told the hub's address and returns the one at which the
	// gateway is to find the hub: that of a proxy.
	Through func(hub string) (address string, err error)
	// Socket is a loopback address on whose port 443 the gateway awaits MQTT over
	// WebSocket, as stock SDKs insist; "" is none.
	Socket string
}

// Site is a running installation. Close ends it. Its methods are for one
// goroutine, except those that read: Arrivals, Metrics, HubStats.
type Site struct {
	plan     Plan
	broker   string // address of the gateway's MQTT listener
	metrics  string // address of the gateway's metrics
	hub      hubFile
	hubAt    string // where the gateway finds the hub
	hubsim   *Process
	control  *control.Client // of hubsim's switches
	gateway  *Process
	serial   map[string]*leafsim.Serial // lines of the leaves made so far
	bus      *meter.Bus                 // of the Modbus slaves; nil without any
	radio    *Radio                     // of the leaves over BLE; nil without any
	acks     *leafsim.AckLog
	arrivals arrivals
}

// HubHost is the name by which leaves and gateway know the hub. Only the
// gateway needs to find it, and it is told where (address in [hub]).
const HubHost = "bench.hub.test"

// New lays out a site, starts its hub and begins to read what arrives there.
// The gateway is not started yet.
func New(ctx context.Context, plan Plan) (*Site, error) {
	s := &Site{plan: plan, serial: make(map[string]*leafsim.Serial)}
	err := s.build(ctx)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Site) build(ctx context.Context) error {
	if err := LookAtSources(); err != nil {
		return err
	}
	for _, dir := range []string{"hub", "gateway/leaf.d", "leaf"} {
		if err := os.MkdirAll(s.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := s.startHub(ctx); err != nil {
		return err
	}
	if err := s.chooseAddresses(); err != nil {
		return err
	}
	err := MakeCertificates(s.path("leaf/ca.pem"), s.path("gateway/broker.crt"), s.path("gateway/broker.key"), s.plan.Socket)
	if err != nil {
		return err
	}
	if err := s.startBus(); err != nil {
		return err
	}
	if err := s.startRadio(); err != nil {
		return err
	}
	if err := s.writeConfig(ctx); err != nil {
		return err
	}
	if s.acks, err = leafsim.OpenAckLog(s.AckFile()); err != nil {
		return err
	}
	s.arrivals.start(func(ctx context.Context, use func(hubsim.Arrival) error) error {
		return s.control.Arrivals(ctx, true, use)
	})
	return nil
}

func (s *Site) path(name string) string { return filepath.Join(s.plan.Dir, name) }

// Dir is the site's folder.
func (s *Site) Dir() string { return s.plan.Dir }

// AckFile is where the leaves' acknowledgements are written down.
func (s *Site) AckFile() string { return s.path("acks.jsonl") }

// HubDir is the hub's folder, with hub.json in it.
func (s *Site) HubDir() string { return s.path("hub") }

// DataDir is the gateway's data folder.
func (s *Site) DataDir() string { return s.plan.Config.DataDir }

// ConfigFile is the gateway's configuration file.
func (s *Site) ConfigFile() string { return s.path("gateway/fieldgate.toml") }

// CAFile is the authority that leaves trust.
func (s *Site) CAFile() string { return s.path("leaf/ca.pem") }

// Broker is the address of the gateway's MQTT listener, with TLS.
func (s *Site) Broker() string { return s.broker }

// Log is the file with what a program said: "fieldgate" or "hubsim".
func (s *Site) Log(program string) string { return s.path(program + ".log") }

// ConnectionString is the device's connection string as the hub gives it out.
func (s *Site) ConnectionString(device string) string {
	return s.hub.Devices[device].ConnectionString
}

func (s *Site) program(name string) string { return filepath.Join(s.plan.Bin, name) }

// startHub starts hubsim and waits until it serves.
func (s *Site) startHub(ctx context.Context) error {
	args := []string{
		"serve", "--host", HubHost, "--bind", "127.0.0.1", "--dir", s.HubDir(),
		"--amqp-port", "0", "--mqtt-port", "0", "--https-port", "0",
	}
	for _, d := range s.plan.Leaves {
		if !d.New {
			args = append(args, "--device", d.ID)
		}
	}
	var err error
	if s.hubsim, err = Spawn(s.Log("hubsim"), nil, s.program("hubsim"), args...); err != nil {
		return err
	}
	err = until(ctx, s.hubsim, func() bool {
		text, _ := os.ReadFile(s.Log("hubsim"))
		return strings.Contains("\n"+string(text), "\nready\n")
	})
	if err != nil {
		return err
	}
	s.control = control.NewClient(s.HubDir())
	if s.hub, err = readHubFile(s.HubDir()); err != nil {
		return err
	}
	s.hubAt = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.hub.AMQPPort))
	if s.plan.Through != nil {
		s.hubAt, err = s.plan.Through(s.hubAt)
	}
	return err
}

// until waits for a condition that a program is to bring about.
func until(ctx context.Context, p *Process, met func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w, see %s", p.name, ctx.Err(), p.log)
		case <-p.Done():
			return fmt.Errorf("%s ended with exit code %d, see %s", p.name, p.ExitCode(), p.log)
		case <-tick.C:
		}
	}
	return nil
}

// chooseAddresses finds two free ports for the gateway. They must stay the same
// when it is started again, so port 0 in its configuration would not do.
func (s *Site) chooseAddresses() (err error) {
	if s.broker, err = FreeAddress(); err != nil {
		return err
	}
	for s.metrics == "" || s.metrics == s.broker {
		if s.metrics, err = FreeAddress(); err != nil {
			return err
		}
	}
	return nil
}

// FreeAddress finds an address of this machine that nobody listens on, for a
// server that is started later, and again. Its port is below those the system
// gives to outgoing connections (from 32768 on Linux): one of those may be taken
// by somebody's connection while the server is down. No address is given twice in
// the life of the process. Safe for concurrent use.
func FreeAddress() (string, error) { return freeAddress(lowestPort, systemsPort) }

// freeAddress gives a port from low to below high.
func freeAddress(low, high int) (string, error) {
	var err error
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", low+rand.IntN(high-low))
		if _, taken := given.LoadOrStore(address, true); taken {
			err = errors.New("all ports that were tried are given away")
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", err
}

// The ports that FreeAddress gives, from the lowest to below the system's.
const lowestPort, systemsPort = 10_000, 32_768

// given has the addresses that FreeAddress gave or found taken.
var given sync.Map

// StartGateway starts the gateway, with variables ("NAME=value") added to its
// environment, and waits until leaves can connect.
func (s *Site) StartGateway(ctx context.Context, env ...string) error {
	if err := s.SpawnGateway(env...); err != nil {
		return err
	}
	return s.AwaitGateway(ctx)
}

// SpawnGateway starts the gateway, with variables added to its environment, and
// does not wait for it.
func (s *Site) SpawnGateway(env ...string) (err error) {
	if s.bus != nil {
		if err := s.bus.Restart(); err != nil {
			return err
		}
	}
	if s.radio != nil {
		env = append([]string{"DBUS_SYSTEM_BUS_ADDRESS=" + s.radio.bus.Address}, env...)
	}
	s.gateway, err = Spawn(s.Log("fieldgate"), env, s.program("fieldgate"), "run", "--config", s.ConfigFile())
	return err
}

// AwaitGateway waits until leaves can connect.
func (s *Site) AwaitGateway(ctx context.Context) error {
	return until(ctx, s.gateway, func() bool {
		c, err := net.DialTimeout("tcp", s.broker, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// Gateway is the running gateway, nil before StartGateway.
func (s *Site) Gateway() *Process { return s.gateway }

// Cut cuts the link between gateway and hub without a FIN: packets just stop.
func (s *Site) Cut(ctx context.Context) error { return s.Fault(ctx, "cut") }

// Restore ends all faults.
func (s *Site) Restore(ctx context.Context) error { return s.Fault(ctx, "restore") }

// Fault turns one of hubsim's switches; see hubsim fault --help.
func (s *Site) Fault(ctx context.Context, name string, args ...string) error {
	_, err := s.control.Fault(ctx, name, args...)
	return err
}

// Hub works the hub's switches, and does what a back end does.
func (s *Site) Hub() *control.Client { return s.control }

// HubStats returns the hub's own counts.
func (s *Site) HubStats(ctx context.Context) (hubsim.Stats, error) { return s.control.Stats(ctx) }

// Leaf makes a leaf of the site. What o leaves open is filled in: its line, and
// the site's record of acknowledgements.
func (s *Site) Leaf(d Device, o leafsim.Options) (*leafsim.Leaf, error) {
	o.ID, o.Log = d.ID, s.acks
	if d.Kind == Serial || d.Kind == SDK {
		o.AlarmEvery = 0 // it has one lane only
	}
	if d.Kind == Serial {
		line := &leafsim.Serial{Link: s.port(d)}
		s.serial[d.ID] = line
		o.Line = line
		return leafsim.New(o), nil
	}
	if d.Kind == MQTTSN || d.Kind == NUS {
		line, _ := o.Line.(*leafsim.SN) // one that is to do more, or none
		if line == nil {
			line = &leafsim.SN{}
		}
		line.Link = s.port(d)
		if d.Kind == NUS {
			line.Open = func() (io.ReadWriteCloser, error) { return s.radio.uarts[d.ID], nil }
		}
		o.Line = line
		return leafsim.New(o), nil
	}
	line, err := s.mqtt(d)
	if err != nil {
		return nil, err
	}
	o.Line = line
	return leafsim.New(o), nil
}

// Noise writes bytes to the line of a serial leaf that was made before.
func (s *Site) Noise(d Device, bytes []byte) error { return s.serial[d.ID].Noise(bytes) }

// port is where a serial leaf's port appears.
func (s *Site) port(d Device) string { return s.path("leaf/tty-" + d.ID) }

func (s *Site) mqtt(d Device) (*leafsim.MQTT, error) {
	config, err := Trust(s.CAFile())
	if err != nil {
		return nil, err
	}
	q := &leafsim.MQTT{Address: s.broker, TLS: config, Version: 4}
	switch d.Kind {
	case SDK:
		key, err := s.hub.key(d.ID)
		if err != nil {
			return nil, err
		}
		q.Dialect = leafsim.IoTHub
		q.Login, err = leafsim.TokenLogin(HubHost, key)
		return q, err
	case MQTT5:
		q.Version = 5
	}
	q.Login = leafsim.PasswordLogin(Password(d.ID))
	return q, nil
}

// Password is the password of a leaf that logs in with one.
func Password(leaf string) string { return leaf + "-bench-secret" }

// Check compares what was acknowledged so far with what a back end reads now. It
// leaves out Modbus slaves and BLE leaves, which nobody acknowledges: see Readings.
func (s *Site) Check(ctx context.Context) (check.Report, error) {
	var meters []string
	for _, d := range s.plan.Leaves {
		if d.Kind == Modbus || d.Kind == BTHome || d.Kind == Valve {
			meters = append(meters, d.ID)
		}
	}
	return CheckFiles(ctx, s.AckFile(), s.HubDir(), meters...)
}

// Close ends the site's programs and waits for them.
func (s *Site) Close() error {
	var errs []error
	if s.gateway != nil {
		select {
		case <-s.gateway.Done(): // somebody else has judged its exit code
		default:
			errs = append(errs, s.gateway.Stop())
		}
	}
	if s.bus != nil {
		s.bus.Close()
	}
	errs = append(errs, s.radio.close())
	errs = append(errs, s.arrivals.stop(), s.arrivals.save(s.path("arrivals.jsonl")))
	if s.hubsim != nil {
		errs = append(errs, s.hubsim.Stop())
	}
	if s.acks != nil {
		errs = append(errs, s.acks.Close())
	}
	return errors.Join(errs...)
}
