package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// machine makes the machine that the example's [board] names.
func machine(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, "machine", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The operator sees the board; its LED shows how the gateway is; the watchdog is
// fed while the gateway goes on, and disarmed when it is stopped.
func TestRunOnABoard(t *testing.T) {
	file := folder(t, exampleText(t))
	dir := filepath.Dir(file)
	machine(t, dir, map[string]string{
		"proc/device-tree/model":                              "Raspberry Pi 4 Model B Rev 1.4\x00",
		"proc/device-tree/compatible":                         "raspberrypi,4-model-b\x00brcm,bcm2711\x00",
		"sys/class/leds/ACT/brightness":                       "0\n",
		"sys/class/leds/ACT/trigger":                          "none [mmc0] heartbeat\n",
		"sys/class/thermal/thermal_zone0/type":                "cpu-thermal\n",
		"sys/class/thermal/thermal_zone0/temp":                "61000\n",
		"sys/devices/platform/soc/soc:firmware/get_throttled": "10001\n",
		"dev/watchdog0":                                       "",
	})
	d := start(t, file)
	d.logged("ready", "", "")
	d.logged("in use", "hardware", "watchdog")
	d.logged("in use", "hardware", "led")

	metrics := scrape(t, d.logged("listening", "for", "metrics")["address"].(string))
	for _, want := range []string{
		`fieldgate_board_info{kind="Raspberry Pi 4",model="Raspberry Pi 4 Model B Rev 1.4"} 1` + "\n",
		"fieldgate_board_temperature_celsius 61\n",
		`fieldgate_board_throttled{reason="under-voltage"} 1` + "\n",
		`fieldgate_board_throttled{reason="hot"} 0` + "\n",
		`fieldgate_board_throttled_since_power_on{reason="under-voltage"} 1` + "\n",
		`fieldgate_board_hardware_up{hardware="led"} 1` + "\n",
		`fieldgate_board_hardware_up{hardware="button"} 0` + "\n",
		`fieldgate_board_button_presses_total{press="long"} 0` + "\n",
		"fieldgate_board_watchdog_starving 0\n",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics have no %q", want)
		}
	}
	var s state
	if err := control.NewClient(filepath.Join(dir, "control.sock")).State(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	s.print(&out)
	for _, want := range []string{
		"board    Raspberry Pi 4, 61 °C, under-voltage, led, watchdog, shows ",
		"         no button: lines of GPIO chips are only looked for in /dev\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status has no %q:\n%s", want, &out)
		}
	}
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for name, want := range map[string]string{"sys/class/leds/ACT/trigger": "mmc0", "dev/watchdog0": "V"} {
		if text, err := os.ReadFile(filepath.Join(dir, "machine", name)); err != nil || !strings.HasSuffix(string(text), want) {
			t.Errorf("%s was left with %q (%v), want %q at its end", name, text, err, want)
		}
	}
	if fed, _ := os.ReadFile(filepath.Join(dir, "machine", "dev/watchdog0")); len(fed) < 2 {
		t.Errorf("the watchdog was never fed: %q", fed)
	}
}

func TestSignals(t *testing.T) {
	waiting := gateway.State{}
	waiting.Store.Lanes[gateway.LaneTelemetry].Messages = 1
	failing := gateway.State{}
	failing.Store.Failing = errors.New("input/output error")
	for _, c := range []struct {
		name     string
		ready    bool
		open     bool
		outcome  pairing.Outcome
		path     gateway.State
		up       bool
		starving []string
		want     board.Signal
	}{
		{"at the start", false, true, "", gateway.State{}, false, nil, board.Starting},
		{"the hub before the leaves", false, false, "", gateway.State{}, true, nil, board.Starting},
		{"all is well", true, false, "", gateway.State{}, true, nil, board.Connected},
		{"backlog that drains", true, false, "", waiting, true, nil, board.Connected},
		{"no hub", true, false, "", gateway.State{}, false, nil, board.Away},
		{"no hub, staged", true, false, "", gateway.State{StagedBytes: 1}, false, nil, board.Backlog},
		{"no hub, on flash", true, false, "", waiting, false, nil, board.Backlog},
		{"flash broken", true, true, "", failing, true, nil, board.Failed},
		{"no progress", true, false, "", gateway.State{}, true, []string{"path"}, board.Failed},
		{"a leaf may join", true, true, "", waiting, false, nil, board.Pairing},
		{"it is in", true, false, pairing.Paired, waiting, false, nil, board.Paired},
		{"a wrong code", true, true, pairing.Refused, waiting, false, nil, board.Refused},
		{"it is in, and flash broken", true, false, pairing.Paired, failing, true, nil, board.Failed},
	} {
		if got := signalOf(c.ready, c.open, c.outcome, &c.path, &uplink.State{Connected: c.up}, c.starving); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestBoardLines(t *testing.T) {
	now := time.Now()
	b := boardStateOf(board.State{
		Kind: "generic amd64", Signal: board.Failed, Starving: []string{"path"}, Pressed: now.Add(-time.Minute),
		Parts: []board.Part{{Name: "led", Why: "none"}, {Name: "watchdog", What: "/dev/watchdog0", Why: "another program has it"}},
	})
	var out strings.Builder
	b.print(&out, now)
	want := `board    generic amd64, shows failed
         no watchdog: another program has it
         the watchdog is not fed: no progress of path
         button pressed 1m0s ago
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
	if b.Throttled != nil || b.Temperature != nil {
		t.Errorf("what is unknown is known: %+v", b)
	}
}
