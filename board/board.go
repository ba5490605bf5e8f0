// Package board is what the gateway knows about the machine it runs on: the clock
// and how far to trust it, which board it is, its status LED, its button, its
// watchdog, temperature and throttling, serial ports and battery-backed clocks.
//
// Hardware that is not there is no failure: State says of each piece whether it
// is there and, if not, why. The package knows nothing of messages; see
// cmd/fieldgate for what makes the LED blink and the watchdog bark.
package board

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// Off as the name of an LED or a button says that there is to be none, and Auto
// that it is the one that the board has by itself.
const (
	Off  = "off"
	Auto = "auto"
)

// Config says what of the board is used.
type Config struct {
	// Root is the folder in which the machine's /sys, /proc and /dev are; "/" but in
	// containers and tests. Lines of GPIO chips are only to be had where it is "/".
	Root string
	// LED is the name of the status LED in /sys/class/leds, Auto or Off.
	LED string
	// Button is the line of the button as CHIP:LINE, chip by its label, line by its
	// number on that chip; or Auto or Off.
	Button string
	// PressedHigh: the line is high, not low, while the button is down.
	PressedHigh bool
	// Watchdog is whether the hardware watchdog is armed. Once it is, a program that
	// is killed, or that Progress says has stopped, costs a reset of the machine.
	Watchdog bool
	// WatchdogTimeout is how long the watchdog waits before it resets the machine, in
	// whole seconds. The hardware may know only shorter ones: then it is the longest of these.
	WatchdogTimeout time.Duration
}

// Board is the machine. Its methods are safe for concurrent use.
type Board struct {
	model  Model
	root   root
	log    *slog.Logger
	led    *led
	button *button
	dog    *watchdog
}

// Open looks what there is. It opens GPIO chips, if a button is configured, and
// has to be called before the program opens any other file: see openLine.
func Open(c Config, log *slog.Logger) *Board {
	at := root(c.Root)
	m := at.model()
	b := &Board{model: m, root: at, log: log}
	b.led = newLED(at, c.LED, m.kind, log)
	b.button = newButton(at, c, m.kind, log)
	b.dog = newWatchdog(at, c, log)
	return b
}

// Run drives the LED, hears the button and feeds the watchdog until ctx ends; then
// the LED is what it was and the watchdog is disarmed. The error is nil: what
// fails is in State.
func (b *Board) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { b.led.run(ctx) })
	all.Go(func() { b.button.run(ctx) })
	all.Go(func() { b.dog.run(ctx) })
	all.Wait()
	return nil
}

// Show has the LED show s from now on.
func (b *Board) Show(s Signal) { b.led.show(s) }

// Progress adds a part of the program that has to make progress, at least once in
// bound, for the watchdog to be fed. It starts with this call. To be called before Run.
func (b *Board) Progress(part string, bound time.Duration) *Progress { return b.dog.watch(part, bound) }

// OnPress has f called after each press of the button, with how it was. f must not
// block. To be called before Run.
func (b *Board) OnPress(f func(Press)) { b.button.tell = f }

// Starving returns the parts that make no progress: no watchdog may be fed for them,
// neither the board's nor that of whoever has started the program. None if all is well.
func (b *Board) Starving() []string { return b.dog.state().Starving }

// State is what there is and how it is.
type State struct {
	Kind  string // name of the row in the table of boards
	Model string // what the device tree says, "" where there is none
	Parts []Part // LED, button, watchdog, in this order

	Signal   Signal // that the LED shows, or would
	Presses  map[Press]int64
	Pressed  time.Time // when last, zero if never
	Fed      int64     // how often the watchdog was fed
	Starving []string  // parts of the program that make no progress, see Board.Starving
	// Timeout is that of the armed watchdog; 0 if there is none, or it does not say.
	Timeout time.Duration

	Temperature *float64 // of the processor, degrees Celsius; nil: not known
	// Throttled are the reasons for which the processor is slower than it could be
	// now, and Throttles those since the machine was switched on, where it says so.
	// Known says whether the machine says anything.
	Throttled, Throttles []Throttle
	ThrottleKnown        bool

	Serial []SerialPort
	RTCs   []RTC
}

// Part is a piece of hardware that is used, or why it is not.
type Part struct {
	Name string
	Up   bool
	What string // which one it is, "" if none was found
	Why  string // it is not up, "" if it is
}

// State looks at the hardware. It reads a dozen small files.
func (b *Board) State() State {
	s := State{Kind: b.model.kind.name, Model: b.model.name}
	var parts [3]Part
	parts[0], s.Signal = b.led.state()
	parts[1], s.Presses, s.Pressed = b.button.state()
	d := b.dog.state()
	parts[2] = d.Part
	s.Parts, s.Fed, s.Starving, s.Timeout = parts[:], d.Fed, d.Starving, d.Timeout
	s.Temperature = b.root.temperature(b.model.kind)
	s.Throttled, s.Throttles, s.ThrottleKnown = b.root.throttling()
	s.Serial, s.RTCs = b.root.serialPorts(), b.root.rtcs()
	return s
}

// part is a Part that changes. Its log speaks only of changes.
type part struct {
	log *slog.Logger

	mu sync.Mutex
	p  Part // guarded by mu
}

func newPart(name, what, why string, log *slog.Logger) *part {
	return &part{log: log, p: Part{Name: name, What: what, Why: why}}
}

// up says that the part works, or why it does not any more.
func (p *part) up(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	p.mu.Lock()
	was := p.p
	p.p.Up, p.p.Why = err == nil, why
	p.mu.Unlock()
	switch {
	case err == nil && !was.Up:
		p.log.Info("in use", "hardware", was.Name, "device", was.What)
	case err != nil && why != was.Why:
		p.log.Warn("cannot be used", "hardware", was.Name, "device", was.What, "error", err)
	}
}

// down says that the part is not used any more, and that all is well.
func (p *part) down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.p.Up, p.p.Why = false, "the program stops"
}

func (p *part) now() Part {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.p
}

// root is the folder in which /sys, /proc and /dev are.
type root string

func (r root) path(name string) string { return filepath.Join(string(r), name) }
