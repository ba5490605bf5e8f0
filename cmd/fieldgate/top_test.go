package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
)

var update = flag.Bool("update", false, "write the golden screens anew")

// noon is when the screens of these tests were seen.
var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// scene is a gateway at noon, with so many leaves; at is seconds later. All
// figures grow with it.
func scene(at int, leaves int) snapshot {
	now := noon.Add(time.Duration(at) * time.Second)
	drain, buffer, celsius := 0.0, 22320.0, 47.4
	x := snapshot{at: now, state: state{
		Name: "gate-7", Build: build{Version: "v1.4.0"}, Now: now, Clock: "synced", Started: noon.Add(-75*time.Hour - 4*time.Minute),
		Uplink: uplinkState{
			Hub: "plant.azure-devices.net", Transport: "amqp", Connected: true, Since: noon.Add(-75 * time.Hour),
			Inflight: 12, LastAccepted: now,
		},
		Store: storeState{
			Lanes:        map[string]laneState{"alarm": {LimitBytes: 64 << 20}, "telemetry": {LimitBytes: 512 << 20}},
			BytesWritten: 9 << 20, WrittenToday: 3 << 20, DrainTime: &drain, BufferLeft: &buffer,
		},
		Path:    pathState{Sent: map[string]int64{"telemetry": int64(900000 + 240*at)}, TakenPayload: 90 << 20},
		Board:   boardState{Temperature: &celsius},
		Machine: machineState{CPU: 1000 + 0.03*float64(at), RSS: 41 << 20, Free: 12 << 30},
		Drivers: []driverState{{Name: "serial:usb:A50285BI", Kind: "serial", Up: true, Since: noon.Add(-75 * time.Hour)}},
	}}
	for i := range leaves {
		d := control.Device{Hub: control.HubTakes, ID: fmt.Sprintf("pump-%d", i+1), State: isConnected, Connections: 1, Auth: "key", Listens: []string{"commands", "methods"}}
		if i%4 == 3 {
			d.State, d.LastSeen, d.Connections = isAway, noon.Add(-time.Duration(i)*time.Minute), 0
		}
		x.devices = append(x.devices, d)
	}
	x.state.Leaves.countAway(x.devices, now)
	x.events = []control.Event{
		{Time: noon.Add(-3 * time.Hour), Count: 1, Level: "warning", Part: "uplink", Message: "connection lost", Facts: "error=EOF"},
		{Time: noon.Add(-time.Hour), Count: 4, Level: "warning", Part: "broker", Leaf: "pump-3", Message: "login refused", Facts: "result=credentials"},
	}
	return x
}

// refusing has a leaf that the hub refuses.
func refusing(x snapshot) snapshot {
	d := &x.devices[1]
	d.Hub, d.Refused, d.Parked = control.HubRefuses, "token not accepted: status 401 401003 DeviceDisabled: 403012: the device is disabled", true
	d.RetryAt = x.state.Now.Add(5 * time.Minute)
	x.state.Leaves.Refused = 1
	x.state.Store.Lanes["telemetry"] = laneState{Messages: 3, Bytes: 612, LimitBytes: 512 << 20, OldestSeconds: x.state.Now.Sub(noon).Seconds() + 3}
	x.state.Store.DrainTime = nil
	x.events = append(x.events, control.Event{
		Time: noon.Add(-3 * time.Second), Count: 1, Level: "warning", Part: "uplink", Leaf: d.ID, Message: "hub refuses leaf", Facts: "error=" + d.Refused,
	})
	return x
}

// talking has the last messages of pump-2.
func talking(x snapshot) snapshot {
	x.messagesOf = "pump-2"
	for i := range maxRecent {
		x.messages = append(x.messages, control.Passage{
			Direction: control.FromLeaf,
			Time:      noon.Add(time.Duration(i-maxRecent) * time.Second), Lane: "telemetry", Channel: "line/1", Bytes: 23, Fate: control.FateTaken,
			Milliseconds: float64(3 + i), Excerpt: fmt.Appendf(nil, `{"temperature": %d.5}`+"\x1b[2J", i),
		})
	}
	last := x.messages[len(x.messages)-4:]
	last[0].Lane, last[0].Fate, last[0].Why, last[0].Bytes = "alarm", control.FateRefused, "270000 bytes of at most 262144: message is too large", 270000
	for i := range last[1:] {
		last[1+i].Fate = control.FateWaiting
	}
	for i, sent := range []control.Passage{
		{Lane: "command", Channel: "set", Fate: control.FateRefused, Why: "rejected", Excerpt: []byte(`{"rate": 5}`)},
		{Lane: "command", Fate: control.FateTaken, Excerpt: []byte("5")},
		{Lane: "method", Channel: "blink", Fate: control.FateTaken, Why: "status 200", Excerpt: []byte(`{"times": 3}`)},
		{Lane: "twin", Channel: "desired", Fate: control.FateWaiting, Excerpt: []byte(`{"interval": 5, "$version": 3}`)},
	} {
		sent.Time, sent.Direction, sent.Milliseconds, sent.Bytes = noon.Add(time.Duration(i-4)*time.Second/4), control.ToLeaf, 7, len(sent.Excerpt)
		x.messages = append(x.messages, sent)
	}
	slices.SortStableFunc(x.messages, func(a, b control.Passage) int { return a.Time.Compare(b.Time) })
	return x
}

// cutOff has no link, and a backlog that grows.
func cutOff(x snapshot, at int) snapshot {
	u := &x.state.Uplink
	u.Connected, u.Since, u.Inflight, u.Attempts = false, noon.Add(-2*time.Minute), 0, 4
	u.LastError, u.RetryAt = "dial tcp 20.49.84.1:5671: i/o timeout", noon.Add(14*time.Second)
	left := float64(22200 - at)
	x.state.Store.DrainTime, x.state.Store.BufferLeft = nil, &left
	x.state.Store.Lanes["telemetry"] = laneState{
		Messages: 28800 + 240*at, Bytes: int64(3<<20 + 24000*at), LimitBytes: 512 << 20, OldestSeconds: float64(120 + at),
	}
	return x
}

// filledUp is where that ends.
func filledUp(x snapshot, at int) snapshot {
	x = cutOff(x, at)
	none, celsius := 0.0, 85.2
	x.state.Uplink.Since = noon.Add(-22320 * time.Second)
	x.state.Store.BufferLeft, x.state.Board.Temperature = &none, &celsius
	x.state.Store.Failing = "store is full: lane telemetry has reached its 512MiB"
	x.state.Store.Lanes["telemetry"] = laneState{Messages: 2100000, Bytes: 510 << 20, LimitBytes: 512 << 20, OldestSeconds: 22320}
	x.state.Path.Rejected = map[string]int64{"full": int64(100 * at)}
	x.state.Path.Dropped = map[string]int64{"ttl": 17, "poison": 0}
	x.state.Clock = "estimated"
	x.state.Board.Throttled = []string{"hot"}
	x.state.Drivers[0].Up, x.state.Drivers[0].Error = false, "open /dev/serial/by-id/usb-A50285BI: no such file or directory"
	return x
}

// misdated has nothing wrong but its clock.
func misdated(x snapshot) snapshot {
	x.state.Clock = gateway.Unsynced.String()
	return x
}

func screenOf(colour bool, width, height int, answers ...snapshot) *screen {
	s := newScreen("/run/fieldgate/control.sock", colour, func(bool, string) tea.Msg { return nil })
	s.Update(tea.WindowSizeMsg{Width: width, Height: height})
	for _, x := range answers {
		s.Update(x)
	}
	return s
}

func keys(s *screen, names ...string) {
	special := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "down": tea.KeyDown, "backspace": tea.KeyBackspace}
	for _, name := range names {
		k := tea.Key{Text: name, Code: []rune(name)[0]}
		if code, ok := special[name]; ok {
			k = tea.Key{Code: code}
		}
		if _, cmd := s.Update(tea.KeyPressMsg(k)); cmd != nil {
			if msg, ok := cmd().(twinSeen); ok {
				s.Update(msg)
			}
		}
	}
}

// story is a screen in a situation that an operator meets.
type story struct {
	name string
	make func(colour bool, width, height int) *screen
}

var stories = []story{
	{"connected", func(c bool, w, h int) *screen { return screenOf(c, w, h, scene(0, 12), scene(10, 12)) }},
	{"cut", func(c bool, w, h int) *screen {
		return screenOf(c, w, h, cutOff(scene(0, 12), 0), cutOff(scene(10, 12), 10))
	}},
	{"refused", func(c bool, w, h int) *screen {
		return screenOf(c, w, h, refusing(scene(0, 12)), refusing(scene(10, 12)))
	}},
	{"full", func(c bool, w, h int) *screen {
		return screenOf(c, w, h, filledUp(scene(0, 40), 0), filledUp(scene(10, 40), 10))
	}},
	{"clock", func(c bool, w, h int) *screen {
		return screenOf(c, w, h, misdated(scene(0, 12)), misdated(scene(10, 12)))
	}},
	{"leaf", func(c bool, w, h int) *screen {
		s := screenOf(c, w, h, refusing(scene(0, 12)), refusing(scene(10, 12)))
		s.twin = func(leaf string) tea.Msg { return twinSeen{leaf, "412 bytes, a copy 3m0s old"} }
		s.chosen = "pump-2"
		keys(s, "enter")
		s.Update(talking(refusing(scene(11, 12))))
		return s
	}},
	{"bodies", func(c bool, w, h int) *screen {
		s := screenOf(c, w, h, refusing(scene(0, 12)), refusing(scene(10, 12)))
		s.chosen = "pump-2"
		keys(s, "enter", "p")
		s.Update(talking(refusing(scene(11, 12))))
		return s
	}},
	{"filter", func(c bool, w, h int) *screen {
		s := screenOf(c, w, h, scene(0, 12), scene(10, 12))
		keys(s, "s", "f", "p", "-", "1", "x", "backspace")
		return s
	}},
	{"away", func(c bool, w, h int) *screen {
		gone := snapshot{err: fmt.Errorf("%w: dial unix /run/fieldgate/control.sock: connect: connection refused", control.ErrNotRunning)}
		s := screenOf(c, w, h, scene(0, 12), scene(10, 12))
		for _, at := range []int{11, 23} {
			gone.at = noon.Add(time.Duration(at) * time.Second)
			s.Update(gone)
		}
		return s
	}},
	{"never", func(c bool, w, h int) *screen {
		return screenOf(c, w, h, snapshot{at: noon, err: control.ErrNotRunning})
	}},
}

// Each situation looks as it did when somebody last looked at it: go test -update
// writes the screens anew.
func TestScreensAreGolden(t *testing.T) {
	for _, s := range stories {
		for _, size := range [][2]int{{80, 24}, {120, 40}} {
			for _, colour := range []string{"mono", "colour"} {
				lines := s.make(colour == "colour", size[0], size[1]).lines()
				if len(lines) != size[1] {
					t.Errorf("%s: %d lines, want %d", s.name, len(lines), size[1])
				}
				text := strings.Join(lines, "\n") + "\n"
				if colour == "mono" && strings.Contains(text, "\x1b") {
					t.Errorf("%s: a screen without colours has escapes", s.name)
				}
				file := filepath.Join("testdata", "screen", fmt.Sprintf("%s-%dx%d-%s.txt", s.name, size[0], size[1], colour))
				if *update {
					if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil || string(want) != text {
					t.Errorf("%v; %s is\n%s\nwant\n%s", err, file, text, want)
				}
			}
		}
	}
}

// The clock alone is said by all who judge: it is no reason for alarm, and is mended.
func TestWrongClockIsSaid(t *testing.T) {
	const words = "the clock is not set by the network"
	for quality, want := range map[gateway.TimeQuality]string{
		gateway.Synced: allIsWell, gateway.Estimated: words + ". What to do: fieldgate check", gateway.Unsynced: words + ". What to do: fieldgate check",
	} {
		st := scene(0, 12).state
		st.Clock, st.Leaves.Away = quality.String(), 0
		j := st.judge(growth{})
		if got := j.sentence(); got != want || (j.tone == goodTone) != (quality == gateway.Synced) || j.tone == badTone {
			t.Errorf("%s: %q in tone %d, want %q", quality, got, j.tone, want)
		}
		var status bytes.Buffer
		st.print(&status)
		if said := strings.Contains(status.String(), "state    "+words+"\n"); said == (quality == gateway.Synced) {
			t.Errorf("%s: status says\n%s", quality, &status)
		}
	}
}

// The screen in the README is one of them.
func TestScreenInREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join(screenOf(false, 80, 24, refusing(scene(0, 12)), refusing(scene(10, 12))).lines(), "\n")
	if !strings.Contains(string(readme), "```\n"+want+"\n```") {
		t.Errorf("README.md does not show\n%s", want)
	}
}

// meter counts what is written at a time.
type meter struct {
	mu     sync.Mutex
	writes []int
	signal chan struct{}
}

func (m *meter) Write(p []byte) (int, error) {
	m.mu.Lock()
	m.writes = append(m.writes, len(p))
	m.mu.Unlock()
	select {
	case m.signal <- struct{}{}:
	default:
	}
	return len(p), nil
}

// Over 9600 baud a refresh has to come through within a second or two: at most 2 KB
// (operator's reference, section 7), whatever has changed, also if all has.
func TestRefreshIsSmall(t *testing.T) {
	const most = 2048
	for _, colour := range []bool{false, true} {
		m := &meter{signal: make(chan struct{}, 1)}
		s := screenOf(colour, 80, 24)
		s.look = func(bool, string) tea.Msg { return nil }
		s.tick = func(time.Duration) tea.Cmd { return nil }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		options := append(screenOptions(ctx, nil, m, colour), tea.WithWindowSize(80, 24), tea.WithEnvironment([]string{"TERM=vt100"}))
		p := tea.NewProgram(s, options...)
		ended := make(chan error, 1)
		go func() {
			_, err := p.Run()
			ended <- err
		}()
		largest, sum, rounds := 0, 0, 0
		show := func(x snapshot) {
			m.mu.Lock()
			before := len(m.writes)
			m.mu.Unlock()
			p.Send(x)
			for written := false; !written; {
				select {
				case <-m.signal:
				case <-ctx.Done():
					t.Fatal("nothing was written for a refresh")
				}
				m.mu.Lock()
				written = len(m.writes) > before
				m.mu.Unlock()
			}
		}
		for at := range 40 {
			x := refusing(scene(at, 40))
			switch {
			case at%10 > 7: // all else than a second before
				x = filledUp(scene(at, 40), at)
				for i := range x.devices {
					x.devices[i].ID = fmt.Sprintf("%s-%d-with-a-long-name", strings.Repeat(string(rune('a'+at%26)), 9), i)
				}
				for i := range 10 {
					x.events = append(x.events, control.Event{Time: x.at, Count: at, Message: strings.Repeat(string(rune('k'+at%10)), 100), Leaf: fmt.Sprint(i)})
				}
			case at > 20:
				x = cutOff(x, at)
			}
			show(x)
		}
		m.mu.Lock()
		for _, n := range m.writes {
			largest, sum, rounds = max(largest, n), sum+n, rounds+1
		}
		m.mu.Unlock()
		p.Quit()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		t.Logf("colour %v: %d writes, %d bytes on average, at most %d", colour, rounds, sum/max(1, rounds), largest)
		if largest > most || rounds < 40 {
			t.Errorf("colour %v: %d bytes at a time, want at most %d", colour, largest, most)
		}
	}
}

// What leaves, hub and log say cannot reach the terminal as anything but text, and
// no line is longer than the screen.
func TestScreenIsHarmless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.OneOf(rapid.Rune(), rapid.RuneFrom([]rune{0x1b, 0x9b, '\r', '\n', 7, 8, 0x202e, '日'})))
		x := refusing(scene(0, rapid.IntRange(2, 30).Draw(t, "leaves")))
		x.devices[0].ID, x.devices[1].Refused = text.Draw(t, "id"), text.Draw(t, "refusal")
		x.state.Name, x.state.Uplink.Hub, x.state.Store.Failing = text.Draw(t, "name"), text.Draw(t, "hub"), text.Draw(t, "failing")
		x.state.Uplink.Connected, x.state.Uplink.LastError = rapid.Bool().Draw(t, "up"), text.Draw(t, "error")
		x.events = append(x.events, control.Event{Message: text.Draw(t, "event"), Facts: text.Draw(t, "facts")})
		w, h := rapid.IntRange(0, 130).Draw(t, "width"), rapid.IntRange(0, 50).Draw(t, "height")
		colour := rapid.Bool().Draw(t, "colour")
		s := screenOf(colour, w, h, x)
		if rapid.Bool().Draw(t, "open") {
			keys(s, "enter")
		}
		lines := s.lines()
		if len(lines) != max(1, h) {
			t.Errorf("%d lines, want %d", len(lines), h)
		}
		for _, line := range lines {
			if n := ansi.StringWidth(line); n > max(1, w) {
				t.Errorf("a line of %d columns, want at most %d: %q", n, w, line)
			}
			for _, tone := range tones {
				if before, after, ok := strings.Cut(tone.Render("|"), "|"); ok && before != "" {
					line = strings.ReplaceAll(strings.ReplaceAll(line, before, ""), after, "")
				}
			}
			if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e }); i >= 0 {
				t.Errorf("control characters in %q", line)
			}
		}
	})
}

func TestWhoGetsColours(t *testing.T) {
	for _, c := range []struct {
		term, no string
		want     bool
	}{
		{"xterm-256color", "", true},
		{"linux", "", true},
		{"tmux", "", true},
		{"xterm", "1", false},
		{"vt100", "", false},
		{"vt220", "", false},
		{"dumb", "", false},
		{"", "", false},
	} {
		getenv := func(name string) string { return map[string]string{"TERM": c.term, "NO_COLOR": c.no}[name] }
		if got := hasColour(getenv); got != c.want {
			t.Errorf("TERM=%s NO_COLOR=%s: colours %v", c.term, c.no, got)
		}
	}
}

func TestKeysOfTheScreen(t *testing.T) {
	s := screenOf(false, 80, 24, refusing(scene(0, 12)))
	first := func() string { return s.leaves[0].ID }
	if first() != "pump-2" {
		t.Errorf("%s comes first, want the one with trouble", first())
	}
	for _, want := range []string{"pump-1", "pump-12", "pump-4", "pump-2"} {
		keys(s, "s")
		if first() != want {
			t.Errorf("by %s: %s comes first, want %s", orders[s.order].name, first(), want)
		}
	}
	// A leaf stays chosen wherever it goes.
	keys(s, "down", "s")
	if s.chosen != "pump-12" || s.index() != 3 {
		t.Errorf("chosen is %s at %d", s.chosen, s.index())
	}
	// q is a letter while the filter is typed.
	keys(s, "f", "q")
	if s.filter != "q" || len(s.leaves) != 0 {
		t.Errorf("the filter is %q and leaves %d", s.filter, len(s.leaves))
	}
	keys(s, "esc")
	if s.filter != "" || len(s.leaves) != 12 {
		t.Errorf("Esc leaves the filter at %q", s.filter)
	}
	if _, cmd := s.Update(tea.KeyPressMsg{Text: "q", Code: 'q'}); cmd == nil || cmd() != tea.Quit() {
		t.Error("q does not quit")
	}
}

// A list of many leaves is not fetched every second, and is kept meanwhile.
func TestManyLeavesAreFetchedSeldom(t *testing.T) {
	var asked []bool
	s := screenOf(false, 80, 24)
	s.look = func(leaves bool, _ string) tea.Msg { asked = append(asked, leaves); return nil }
	s.Init()()
	x := scene(0, 1000)
	x.at = time.Now()
	s.Update(x)
	s.ask()()
	y := scene(1, 0)
	y.at = x.at.Add(time.Second)
	s.Update(y)
	if len(asked) != 2 || !asked[0] || asked[1] || len(s.leaves) != 1000 {
		t.Errorf("asked for leaves: %v; %d are shown", asked, len(s.leaves))
	}
}

func TestForbiddenEndsTheScreen(t *testing.T) {
	s := screenOf(false, 80, 24)
	_, cmd := s.Update(snapshot{at: noon, err: fmt.Errorf("%w: you", control.ErrForbidden)})
	if cmd == nil || cmd() != tea.Quit() || !errors.Is(s.away, control.ErrForbidden) {
		t.Error("who may not look is left waiting")
	}
}

func TestTopNeedsATerminal(t *testing.T) {
	var out bytes.Buffer
	code := execute(t.Context(), []string{"top"}, streams{strings.NewReader(""), &out, &out})
	if text := out.String(); code != exitFailed || !strings.Contains(text, "next: run it in a terminal; for programs there is: fieldgate status") || strings.Contains(text, "\x1b") {
		t.Errorf("exit code %d, %q", code, text)
	}
}
