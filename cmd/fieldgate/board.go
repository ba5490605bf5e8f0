package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// boardConfig is the table [board]. docs/board.md explains it to users.
type boardConfig struct {
	// Root is the folder in which /sys, /proc and /dev of the machine are.
	Root string `toml:"root"`
	// LED is the name of the status light in /sys/class/leds, "auto" or "off".
	LED string `toml:"led"`
	// Button is "CHIP:LINE", "auto" for the line of the kind of board, or "off". Off is
	// the default, because other things on the pin header would press it.
	Button string `toml:"button"`
	// ButtonPressed is the level of the line while the button is down.
	ButtonPressed string `toml:"button_pressed"`
	// Watchdog arms the hardware watchdog.
	Watchdog bool `toml:"watchdog"`
	// WatchdogTimeout is after how long without food it resets the machine, 5s to 5m.
	WatchdogTimeout gateway.Duration `toml:"watchdog_timeout"`
}

// defaultBoard has a timeout that all hardware can do: that of a Raspberry Pi ends
// at 15 s (drivers/watchdog/bcm2835_wdt.c).
func defaultBoard() boardConfig {
	return boardConfig{Root: "/", LED: board.Auto, Button: board.Off, ButtonPressed: "low", WatchdogTimeout: gateway.Duration(15 * time.Second)}
}

// Validate checks the table. Errors are of type *gateway.KeyError.
func (c *boardConfig) Validate() error {
	if c.LED == "" || strings.ContainsAny(c.LED, "/\x00") || c.LED == "." || c.LED == ".." {
		return gateway.BadKey("led", "%q is no LED: write a name of /sys/class/leds, \"auto\" or \"off\"", c.LED)
	}
	if c.Button != board.Auto && c.Button != board.Off {
		if _, _, err := board.ParseLine(c.Button); err != nil {
			return gateway.BadKey("button", "%v; or \"auto\" or \"off\"", err)
		}
	}
	if c.ButtonPressed != "low" && c.ButtonPressed != "high" {
		return gateway.BadKey("button_pressed", "%q is no level: write \"low\" or \"high\"", c.ButtonPressed)
	}
	if t := c.WatchdogTimeout.D(); t < 5*time.Second || t > 5*time.Minute || t%time.Second != 0 {
		return gateway.BadKey("watchdog_timeout", "write whole seconds from \"5s\" to \"5m\"")
	}
	return nil
}

func openBoard(c *boardConfig, log *slog.Logger) *board.Board {
	return board.Open(board.Config{
		Root: c.Root, LED: c.LED, Button: c.Button, PressedHigh: c.ButtonPressed == "high",
		Watchdog: c.Watchdog, WatchdogTimeout: c.WatchdogTimeout.D(),
	}, log)
}

// progressBound is within how long the path and the locks of all parts have to show
// that they go on. That is many times as long as they need on a slow card.
const progressBound = time.Minute

// signalEvery is how often the gateway looks at itself for the LED and the watchdog.
const signalEvery = 2 * time.Second

// boardParts are the board, and what tells it and the service manager how the gateway is.
func (g *assembly) boardParts() []part {
	path, locks := g.board.Progress("path", progressBound), g.board.Progress("locks", progressBound)
	pressed := newButton(g.window, g.cfg.file, g.log.With("part", "board"))
	g.board.OnPress(pressed.press)
	follow := func(ctx context.Context) error {
		every := time.NewTicker(signalEvery)
		defer every.Stop()
		manager := newManager(g.log)
		ready := g.broker.Ready()
		var looked time.Time
		for {
			// A part that holds its lock for ever holds this loop, and the watchdog bites.
			p, u := g.path.State(), g.uplink.State()
			g.broker.State()
			locks.Made()
			if p.Looked != looked {
				looked = p.Looked
				path.Made()
			}
			starving := g.board.Starving()
			g.board.Show(signalOf(g.ready(), g.window.State().Open, g.window.Outcome(showOutcome), &p, &u, starving))
			manager.tell(g.ready(), starving, statusLine(g.cfg.Hub.Host, &p, &u))
			select {
			case <-every.C:
			case <-ready:
				ready = nil // once
			case <-ctx.Done():
				return nil
			}
		}
	}
	return []part{{"board", g.board.Run}, {"signal", follow}, {"button", pressed.run}}
}

// ready says whether leaves can connect.
func (g *assembly) ready() bool {
	select {
	case <-g.broker.Ready():
		return true
	default:
		return false
	}
}

// showOutcome is how long the LED shows what became of somebody who wanted to pair.
const showOutcome = 10 * time.Second

// signalOf is what the LED shows: the first of these that holds.
func signalOf(ready, open bool, outcome pairing.Outcome, p *gateway.State, u *uplink.State, starving []string) board.Signal {
	waiting := slices.ContainsFunc(p.Store.Lanes[:], func(l gateway.LaneState) bool { return l.Messages > 0 })
	switch {
	case p.Store.Failing != nil, len(starving) > 0:
		return board.Failed
	case !ready:
		return board.Starting
	case outcome == pairing.Paired:
		return board.Paired
	case outcome == pairing.Refused:
		return board.Refused
	case open:
		return board.Pairing
	case u.Connected:
		return board.Connected
	case waiting || p.StagedBytes > 0:
		return board.Backlog
	default:
		return board.Away
	}
}

// boardState is the board in the state of the gateway. The names are stable.
type boardState struct {
	Kind        string            `json:"kind"`
	Model       string            `json:"model,omitempty"` // of the device tree
	Hardware    []hardwareState   `json:"hardware"`
	Signal      string            `json:"signal"` // that the LED shows, or would
	Presses     map[string]int64  `json:"presses"`
	LastPress   time.Time         `json:"last_press,omitzero"`
	Temperature *float64          `json:"temperature_celsius"` // null: unknown
	Throttled   []string          `json:"throttled"`           // now; null: unknown
	SincePower  []string          `json:"throttled_since_power_on,omitempty"`
	Fed         int64             `json:"watchdog_fed"`
	Timeout     float64           `json:"watchdog_timeout_seconds,omitempty"`
	Starving    []string          `json:"watchdog_starving,omitempty"` // parts for which it is not fed
	Ports       []serialPortState `json:"serial_ports"`
	RTCs        []rtcState        `json:"rtcs"`
}

type hardwareState struct {
	Name   string `json:"name"`
	Up     bool   `json:"up"`
	Device string `json:"device,omitempty"`
	Why    string `json:"why,omitempty"` // it is not used
}

type serialPortState struct {
	Name   string `json:"name"` // for [[serial]] port
	Device string `json:"device"`
}

type rtcState struct {
	Device string `json:"device"`
	Name   string `json:"name"`
	Set    bool   `json:"set"`       // it shows a time that can be
	Setter bool   `json:"set_clock"` // the kernel's clock was set from it at start
}

func boardStateOf(s board.State) boardState {
	b := boardState{
		Kind: s.Kind, Model: s.Model, Signal: s.Signal.String(), Presses: make(map[string]int64), LastPress: s.Pressed,
		Temperature: s.Temperature, SincePower: words(s.Throttles), Fed: s.Fed, Timeout: s.Timeout.Seconds(), Starving: s.Starving,
		Hardware: []hardwareState{}, Ports: []serialPortState{}, RTCs: []rtcState{},
	}
	for p, n := range s.Presses {
		b.Presses[string(p)] = n
	}
	if s.ThrottleKnown {
		b.Throttled = words(s.Throttled)
	}
	for _, p := range s.Parts {
		b.Hardware = append(b.Hardware, hardwareState{p.Name, p.Up, p.What, p.Why})
	}
	for _, p := range s.Serial {
		b.Ports = append(b.Ports, serialPortState{p.Name, p.Device})
	}
	for _, c := range s.RTCs {
		b.RTCs = append(b.RTCs, rtcState{c.Device, c.Name, c.Set, c.Setter})
	}
	return b
}

func words(list []board.Throttle) []string {
	all := make([]string, len(list))
	for i, t := range list {
		all[i] = string(t)
	}
	return all
}

// print writes one line of the board, and one for each piece that is wanted and
// not there.
func (b *boardState) print(out io.Writer, now time.Time) {
	line := []string{b.Kind}
	if b.Temperature != nil {
		line = append(line, fmt.Sprintf("%.0f °C", *b.Temperature))
	}
	line = append(line, b.Throttled...)
	for _, h := range b.Hardware {
		if h.Up {
			line = append(line, h.Name)
		}
	}
	line = append(line, "shows "+b.Signal)
	say(out, "board    %s", strings.Join(line, ", "))
	for _, h := range b.Hardware {
		if !h.Up && h.Device != "" {
			say(out, "         no %s: %s", h.Name, h.Why)
		}
	}
	if len(b.Starving) > 0 {
		say(out, "         the watchdog is not fed: no progress of %s", strings.Join(b.Starving, ", "))
	}
	if !b.LastPress.IsZero() {
		say(out, "         button pressed %s ago", short(now.Sub(b.LastPress)))
	}
}
