// Command guest runs inside a virtual machine beside a true bluetoothd with emulated
// controllers, a hub on the bench and the real fieldgate. It is the leaf on hci1, the
// operator at the terminal and the back end at the hub. It prints what happens; a line
// that begins with HOST asks the machine's owner for something, and OK is the last one.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/control"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
}

// patience bounds each step.
const patience = 2 * time.Minute

// tickEvery is how often the leaf has something new to say.
const tickEvery = 500 * time.Millisecond

const hubAddress = "127.0.0.5"

// config is the gateway's. Its leaves have their keys beside it.
const config = `
[gateway]
data_dir = "/tmp/data"
[store]
allow_any_filesystem = true
[control]
socket = "/tmp/control.sock"
[hub]
host = "` + hubAddress + `"
ca_file = "/tmp/hub/ca.pem"
[[broker.listener]]
address = "127.0.0.1:1883"
plain = true
[[leaf]]
id = "room-1"
key_file = "/tmp/room-1.key"
[[leaf]]
id = "valve-1"
key_file = "/tmp/valve-1.key"
[[leaf]]
id = "meter-1"
key_file = "/tmp/meter-1.key"
[[leaf]]
id = "node-1"
key_file = "/tmp/node-1.key"
[board]
watchdog = true
watchdog_timeout = "20s"
[[serial]]
port = "usb:FG1"
leaf = "meter-1"
[ble]
adapter = "hci0"
[[ble.advert]]
address = "LEAF"
leaf = "room-1"
min_interval = "0s"
[[ble.device]]
address = "LEAF"
leaf = "valve-1"
[[ble.device.characteristic]]
uuid = "` + leafPosition + `"
name = "position"
format = "uint8"
read = "once"
command = "position"
[[ble.device.characteristic]]
uuid = "` + leafNotes + `"
name = "note"
format = "uint8"
notify = true
[[ble.device]]
address = "NODE"
leaf = "node-1"
pairing = "none"
format = "mqtt-sn"
`

// bench is all that runs in the machine.
type bench struct {
	*leaf
	node    *node
	hub     *control.Client
	gateway *exec.Cmd
	began   time.Time

	mu  sync.Mutex
	got []hubsim.Arrival // guarded by mu
}

// step waits for a condition.
func (b *bench) step(what string, met func() bool) error {
	for limit := time.Now().Add(patience); !met(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			status, _ := exec.Command("/fieldgate", "status", "--output", "json").CombinedOutput()
			return fmt.Errorf("waited in vain: %s\n%s", what, status)
		}
	}
	fmt.Printf("%5.1fs %s\n", time.Since(b.began).Seconds(), what)
	return nil
}

// arrived says whether the hub has a message of a leaf with a text in it, after so many
// others.
func (b *bench) arrived(leaf, text string, after int) func() bool {
	return func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.ContainsFunc(b.got[min(after, len(b.got)):], func(a hubsim.Arrival) bool {
			return a.Device == leaf && strings.Contains(string(a.Body), text)
		})
	}
}

func (b *bench) arrivals() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got)
}

// fieldgate is the operator's command; what goes in is what he types. It returns all
// that he sees.
func fieldgate(in io.Reader, args ...string) (string, error) {
	c := exec.Command("/fieldgate", args...)
	c.Stdin = in
	out, err := c.CombinedOutput()
	fmt.Printf("$ fieldgate %s\n%s", strings.Join(args, " "), out)
	return string(out), err
}

// begin starts a program whose words are shown.
func begin(program string, args ...string) (*exec.Cmd, error) {
	c := exec.Command(program, args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stdout
	return c, c.Start()
}

func run() error {
	if _, err := begin("/hubsim", "serve", "--host", hubAddress, "--bind", hubAddress, "--dir", "/tmp/hub",
		"--device", "room-1", "--device", "valve-1", "--device", "meter-1", "--device", "node-1"); err != nil {
		return err
	}
	b := &bench{hub: control.NewClient("/tmp/hub"), began: time.Now()}
	var err error
	if stepErr := b.step("bluetoothd and the hub answer", func() bool {
		if b.leaf == nil {
			if b.leaf, err = newLeaf(); err != nil {
				b.leaf = nil
				return false
			}
		}
		if b.node == nil {
			if b.node, err = newNode(2, "node-1"); err != nil {
				b.node = nil
				return false
			}
		}
		_, err = b.hub.Stats(context.Background())
		return err == nil
	}); stepErr != nil {
		return errors.Join(stepErr, err)
	}
	go func() {
		for range time.Tick(tickEvery) {
			b.tick()
		}
	}()
	go func() {
		_ = b.hub.Arrivals(context.Background(), true, func(a hubsim.Arrival) error {
			b.mu.Lock()
			b.got = append(b.got, a)
			b.mu.Unlock()
			return nil
		})
	}()
	if err := b.configure(); err != nil {
		return err
	}
	if b.gateway, err = begin("/fieldgate", "run", "--config", "/tmp/fieldgate.toml"); err != nil {
		return err
	}
	for _, part := range []func() error{b.pairing, b.valve, b.uart, b.adapter, b.keys, b.watchdog} {
		if err := part(); err != nil {
			return err
		}
	}
	fmt.Println("OK")
	select {} // until the watchdog bites
}

// configure writes the gateway's files.
func (b *bench) configure() error {
	info, err := hubsim.ReadInfo("/tmp/hub")
	if err != nil {
		return err
	}
	for id, d := range info.Devices {
		_, key, _ := strings.Cut(d.ConnectionString, "SharedAccessKey=")
		if err := os.WriteFile("/tmp/"+id+".key", []byte(key), 0o600); err != nil {
			return err
		}
	}
	addresses := strings.NewReplacer("LEAF", b.leaf.address, "NODE", b.node.address)
	return os.WriteFile("/tmp/fieldgate.toml", []byte(addresses.Replace(config)), 0o600)
}

// pairing: a sensor's measurement reaches the hub under its own identity, and says that
// nothing proves it; the operator finds the valve, types a wrong passkey, and the
// right one.
func (b *bench) pairing() error {
	if err := b.step("a sensor's measurement at the hub", b.arrived("room-1", `"temperature":21.5`, 0)); err != nil {
		return err
	}
	b.mu.Lock()
	trust := b.got[0].Properties["fieldgate-trust"]
	b.mu.Unlock()
	if trust != "advertised" {
		return fmt.Errorf("the sensor's trust is %q", trust)
	}
	state, err := fieldgate(nil, "status", "--output", "json")
	if err != nil || !strings.Contains(state, `"scans_passive": 1`) {
		return fmt.Errorf("the scan is not passive: %w", err)
	}
	found, err := fieldgate(nil, "ble", "scan", "--for", "3s")
	if err != nil || !strings.Contains(found, b.address) {
		return fmt.Errorf("the valve is not found: %w", err)
	}
	if code, err := b.pair(1); code != 6 {
		return fmt.Errorf("a wrong passkey: exit code %d, %w", code, err)
	}
	if code, err := b.pair(0); code != 0 {
		return fmt.Errorf("the right passkey: exit code %d, %w", code, err)
	}
	return nil
}

// pair pairs the valve: what it shows is typed, with a mistake.
func (b *bench) pair(mistake uint32) (code int, err error) {
	in, typed := io.Pipe()
	go func() {
		_, err := fmt.Fprintf(typed, "%06d\n", (<-b.passkey+mistake)%1000000)
		typed.CloseWithError(err)
	}()
	defer in.Close()
	_, err = fieldgate(in, "ble", "pair", b.address)
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return failed.ExitCode(), err
	}
	return 0, err
}

// valve: what the valve says reaches the hub, and what the hub sends moves it, also what
// came while the valve was away.
func (b *bench) valve() error {
	send := func(text string) func() error {
		return func() error { return b.hub.Send(context.Background(), "valve-1", text) }
	}
	before := 0
	return inTurn(
		func() error { return b.step("the valve is read", b.arrived("valve-1", `"position":0`, 0)) },
		func() error { return b.step("it notifies", b.arrived("valve-1", `"note":`, 0)) },
		send("70"),
		func() error { return b.step("the valve has moved", b.moved(70)) },
		func() error { return b.step("the hub knows", b.settled("valve-1")) },
		func() error { return b.away(true) },
		func() error {
			return b.step("the loss is noticed", func() bool { return b.device("valve-1") == "asleep" })
		},
		send("30"),
		func() error { before = b.arrivals(); return b.away(false) },
		func() error {
			return b.step("connected again, without pairing: it notifies", b.arrived("valve-1", `"note":`, before))
		},
		func() error { return b.step("what came meanwhile has moved it", b.moved(30)) },
		func() error { return b.step("the hub knows", b.settled("valve-1")) },
	)
}

// uart: a node that speaks MQTT-SN over the Nordic UART Service takes the valve's place, as
// the emulated controller can hold but one connection (btvirt tells the second peripheral
// the number of the first one's). Its telemetry reaches the hub, marked as what nothing
// proves, and it is told what the hub sends, also after its connection was lost.
func (b *bench) uart() error {
	sends := func(text string) error {
		return inTurn(
			func() error { return b.hub.Send(context.Background(), "node-1", text) },
			func() error { return b.step("the node is told "+text, b.node.told(text)) },
			func() error { return b.step("the hub knows", b.settled("node-1")) },
		)
	}
	before := 0
	return inTurn(
		func() error { return b.away(true) },
		func() error {
			return b.step("the valve is away", func() bool { return b.device("valve-1") == "asleep" })
		},
		func() error { return b.node.begin() },
		func() error {
			return b.step("the node's telemetry at the hub", b.arrived("node-1", `"lane":"telemetry"`, 0))
		},
		func() error {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, a := range b.got {
				if trust := a.Properties["fieldgate-trust"]; a.Device == "node-1" && trust != "unpaired" {
					return fmt.Errorf("the node's trust is %q", trust)
				}
			}
			return nil
		},
		func() error { return sends("open") },
		func() error { return b.node.cut() },
		func() error {
			return b.step("the node's loss is noticed", func() bool { return b.device("node-1") == "asleep" })
		},
		func() error { before = b.arrivals(); return nil },
		func() error { return b.step("its telemetry again", b.arrived("node-1", `"lane":"telemetry"`, before)) },
		func() error { return sends("shut") },
	)
}

// adapter: lines of a USB serial adapter reach the hub; it is pulled out while it sends,
// another one takes its name, and it is found again under the next one.
func (b *bench) adapter() error {
	there := func(tty string) func() bool {
		return func() bool { _, err := os.Stat("/dev/" + tty); return err == nil }
	}
	host := func(words ...string) error {
		_, err := fmt.Println("HOST", strings.Join(words, " "))
		return err
	}
	return inTurn(
		func() error { return host("plug", "FG1", `{"life":1}`) },
		func() error { return b.step("a line at the hub", b.arrived("meter-1", `"life":1`, 0)) },
		func() error { return host("unplug", "FG1") },
		func() error {
			return b.step("the adapter is missed", func() bool {
				out, _ := exec.Command("/fieldgate", "status").Output()
				return strings.Contains(string(out), "usb:FG1 down")
			})
		},
		func() error { return host("plug", "OTHER", `{"life":2}`) },
		func() error { return b.step("another one has its name", there("ttyUSB0")) },
		func() error { return host("plug", "FG1", `{"life":3}`) },
		func() error { return b.step("it has the next one", there("ttyUSB1")) },
		func() error { return b.step("a line at the hub again", b.arrived("meter-1", `"life":3`, 0)) },
		func() error {
			if b.arrived("meter-1", `"life":2`, 0)() {
				return errors.New("the gateway has opened the wrong adapter")
			}
			return nil
		},
	)
}

// inTurn does one thing after the other, up to the first that fails.
func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// keys: what pairing has left behind is a key of LE Secure Connections, which a passkey has
// proven (bluez, src/adapter.c, store_ltk_group, and doc/mgmt-api.txt: type 3).
func (b *bench) keys() error {
	const central = "00:AA:01:00:00:00"
	return b.step("the key is one of LE Secure Connections, proven", func() bool {
		info, err := os.ReadFile(filepath.Join("/var/lib/bluetooth", central, b.leaf.address, "info"))
		_, key, ok := strings.Cut(string(info), "LongTermKey]")
		return err == nil && ok && strings.Contains(key, "\nAuthenticated=3\n")
	})
}

// watchdog: it is armed and fed; then the gateway is killed.
func (b *bench) watchdog() error {
	if err := b.step("the watchdog is fed", func() bool {
		var s struct {
			Board struct {
				Fed int64 `json:"watchdog_fed"`
			}
		}
		out, _ := exec.Command("/fieldgate", "status", "--output", "json").Output()
		return json.Unmarshal(out, &s) == nil && s.Board.Fed > 0
	}); err != nil {
		return err
	}
	return b.gateway.Process.Kill()
}

// settled says whether no command for the leaf waits at the hub.
func (b *bench) settled(leaf string) func() bool {
	return func() bool {
		list, err := b.hub.Devices(context.Background())
		for line := range strings.Lines(list) {
			if f := strings.Fields(line); f[0] == leaf {
				return err == nil && f[len(f)-1] == "0"
			}
		}
		return false
	}
}

// device is the state of a leaf, as the operator sees it.
func (b *bench) device(leaf string) string {
	out, err := exec.Command("/fieldgate", "device", "show", leaf).Output()
	_, rest, ok := strings.Cut(string(out), "state ")
	if err != nil || !ok {
		return ""
	}
	return strings.Fields(rest)[0]
}
