package main

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/fieldgate/fieldgate/gateway/control"
)

// screen is what fieldgate top shows: the last answer of the daemon, some before it
// for rates, and where the operator is. One goroutine of the library uses it.
type screen struct {
	socket string
	colour bool
	look   lookFunc                    // asks the daemon
	twin   func(leaf string) tea.Msg   // asks for a twin
	tick   func(time.Duration) tea.Cmd // comes back with a tickMsg
	width  int                         // columns
	height int                         // lines

	recent []snapshot // answers of the last rateSpan, the oldest first
	leaves []leafRow  // of the last one, sorted and filtered
	away   error      // why the daemon does not answer, nil if it does
	since  time.Time  // of away
	asked  time.Time  // when the daemon was asked last
	listed time.Time  // and when for the leaves

	order   int    // index of orders
	filter  string // part of what a row has to say
	typing  bool   // the filter
	chosen  string // leaf
	open    bool   // the chosen leaf in full
	bodies  bool   // with what is in its messages
	twinOf  string // leaf of which twinHas speaks
	twinHas string
}

const (
	// askEvery is the time between looks at the daemon. A list of more than
	// manyLeaves is fetched only each manyEvery: it would cost a small board too much.
	askEvery   = time.Second
	manyEvery  = 5 * time.Second
	manyLeaves = 200
	// rateSpan is the time over which rates are measured.
	rateSpan = 10 * time.Second
	// maxFilter bounds the filter, in characters.
	maxFilter = 40
)

type tickMsg struct{}

// lookFunc asks the daemon for everything, for the leaves if that is wanted, and for
// the messages of one, "" for none.
type lookFunc func(leaves bool, messagesOf string) tea.Msg

func newScreen(socket string, colour bool, look lookFunc) *screen {
	return &screen{
		socket: socket, colour: colour, look: look, width: 80, height: 24,
		twin: func(string) tea.Msg { return nil },
		tick: func(d time.Duration) tea.Cmd { return tea.Tick(d, func(time.Time) tea.Msg { return tickMsg{} }) },
	}
}

// Init implements tea.Model.
func (s *screen) Init() tea.Cmd { return s.ask() }

// ask asks the daemon.
func (s *screen) ask() tea.Cmd {
	leaves := s.now() == nil || len(s.now().devices) <= manyLeaves || time.Since(s.listed) >= manyEvery
	of := ""
	if s.open {
		of = s.chosen
	}
	return func() tea.Msg { return s.look(leaves, of) }
}

// Update implements tea.Model.
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.width, s.height = msg.Width, msg.Height
	case tickMsg:
		return s, s.ask()
	case snapshot:
		return s, s.take(msg)
	case twinSeen:
		if msg.leaf == s.twinOf {
			s.twinHas = msg.words
		}
	case tea.KeyPressMsg:
		return s, s.press(msg)
	}
	return s, nil
}

// take takes an answer of the daemon.
func (s *screen) take(x snapshot) tea.Cmd {
	s.asked = x.at
	if x.err != nil {
		if s.away == nil {
			s.since = x.at
		}
		s.away = x.err
		if errors.Is(x.err, control.ErrForbidden) {
			return tea.Quit
		}
		return s.tick(askEvery)
	}
	s.away = nil
	if n := len(s.recent); n > 0 && !s.recent[n-1].state.Started.Equal(x.state.Started) {
		s.recent = nil // another daemon counts from zero
	}
	if x.devices != nil {
		s.listed = x.at
	}
	if before := s.now(); before != nil {
		if x.devices == nil {
			x.devices = before.devices
		}
		before.devices, before.events = nil, nil
	}
	s.recent = append(s.recent, x)
	for len(s.recent) > 2 && x.at.Sub(s.recent[1].at) >= rateSpan {
		s.recent = slices.Delete(s.recent, 0, 1)
	}
	s.arrange()
	return s.tick(askEvery)
}

// now is the last answer, nil before the first.
func (s *screen) now() *snapshot {
	if len(s.recent) == 0 {
		return nil
	}
	return &s.recent[len(s.recent)-1]
}

// rate is by how much a value grows in a second; ok is false while that is not
// known.
func (s *screen) rate(value func(*state) float64) (perSecond float64, ok bool) {
	if len(s.recent) < 2 {
		return 0, false
	}
	first, last := &s.recent[0], s.now()
	return (value(&last.state) - value(&first.state)) / last.at.Sub(first.at).Seconds(), true
}

// leafRow is a leaf in the table.
type leafRow struct {
	*control.Device
	trouble string // what is wrong, "" for nothing
	grave   int    // how bad, for sorting
}

// How bad it is.
const (
	allWell = iota
	isOff   // somebody wanted that
	isGone
	isStuck
	isRefused
)

// An order sorts the table; leaves that are equal are in the order of their ids.
var orders = []struct {
	name    string
	compare func(a, b *leafRow) int
}{
	{"trouble", func(a, b *leafRow) int { return cmp.Compare(b.grave, a.grave) }},
	{"name", func(*leafRow, *leafRow) int { return 0 }},
	{"state", func(a, b *leafRow) int { return strings.Compare(a.State, b.State) }},
	{"last seen", func(a, b *leafRow) int { return b.LastSeen.Compare(a.LastSeen) }},
}

// arrange makes the table of the last answer.
func (s *screen) arrange() {
	x := s.now()
	if x == nil {
		return
	}
	lines := make(map[string]peerState)
	for _, d := range x.state.Drivers {
		for _, p := range d.Leaves {
			lines[p.Leaf] = p
		}
	}
	s.leaves = s.leaves[:0]
	for i := range x.devices {
		d := &x.devices[i]
		r := leafRow{Device: d}
		r.trouble, r.grave = troubleOf(d, lines[d.ID], x.state.Now)
		if s.filter == "" || containsFold(d.ID+" "+d.State+" "+r.trouble, s.filter) {
			s.leaves = append(s.leaves, r)
		}
	}
	slices.SortFunc(s.leaves, func(a, b leafRow) int {
		return cmp.Or(orders[s.order].compare(&a, &b), strings.Compare(a.ID, b.ID))
	})
	if s.index() < 0 && len(s.leaves) > 0 && !s.open {
		s.chosen = s.leaves[0].ID
	}
}

// troubleOf says what is wrong with a leaf, and how bad that is.
func troubleOf(d *control.Device, line peerState, now time.Time) (string, int) {
	switch {
	case d.Refused != "" && d.RetryAt.After(now):
		return "hub refuses it: " + inShort(d.Refused) + "; again in " + short(d.RetryAt.Sub(now)), isRefused
	case d.Refused != "":
		return "hub refuses it: " + inShort(d.Refused) + "; again now", isRefused
	case d.Parked:
		return "waits on flash: the hub does not take its messages", isStuck
	case d.State == isDisabled:
		return "disabled in the configuration", isOff
	case d.Hub == control.HubEnrols, d.Hub == control.HubAwaitsToken:
		return hubWord(d, now), isGone
	case line.Leaf != "" && !line.Up && line.Error != "":
		return line.Error, isStuck
	case d.State == isAway && d.LastSeen.IsZero():
		return "not seen since the start", isGone
	case d.State == isAway:
		return "away", isGone
	}
	return "", allWell
}

func containsFold(text, part string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(part))
}

// index is where the chosen leaf is in the table, -1 if it is not there.
func (s *screen) index() int {
	return slices.IndexFunc(s.leaves, func(r leafRow) bool { return r.ID == s.chosen })
}

// move chooses another leaf, so many lines down.
func (s *screen) move(lines int) tea.Cmd {
	n := len(s.leaves)
	if n == 0 {
		return nil
	}
	s.chosen = s.leaves[min(max(0, s.index()+lines), n-1)].ID
	return s.askTwin()
}

// askTwin asks for the twin of the leaf that is shown in full, if one is.
func (s *screen) askTwin() tea.Cmd {
	leaf := s.chosen
	if !s.open || s.twinOf == leaf {
		return nil
	}
	s.twinOf, s.twinHas = leaf, "being asked for ..."
	return func() tea.Msg { return s.twin(leaf) }
}

// press is a key.
func (s *screen) press(key tea.KeyPressMsg) tea.Cmd {
	if key.String() == "ctrl+c" {
		return tea.Quit
	}
	if s.typing {
		s.typed(key)
		return nil
	}
	switch key.String() {
	case "q":
		return tea.Quit
	case "s":
		s.order = (s.order + 1) % len(orders)
		s.arrange()
	case "f", "/":
		s.typing, s.open = true, false
	case "up", "k":
		return s.move(-1)
	case "down", "j":
		return s.move(1)
	case "pgup":
		return s.move(-10)
	case "pgdown", "space":
		return s.move(10)
	case "home":
		return s.move(-len(s.leaves))
	case "end":
		return s.move(len(s.leaves))
	case "enter":
		return s.openChosen()
	case "p":
		s.bodies = s.open && !s.bodies
	case "esc":
		if !s.open {
			s.filter = ""
		}
		s.open = false
		s.arrange()
	}
	return nil
}

// openChosen shows the chosen leaf in full, or goes back.
func (s *screen) openChosen() tea.Cmd {
	s.open, s.twinOf, s.bodies = !s.open && s.index() >= 0, "", false
	return s.askTwin()
}

// typed changes the filter.
func (s *screen) typed(key tea.KeyPressMsg) {
	switch key.String() {
	case "enter":
		s.typing = false
	case "esc":
		s.typing, s.filter = false, ""
	case "backspace":
		_, n := utf8.DecodeLastRuneInString(s.filter)
		s.filter = s.filter[:len(s.filter)-n]
	default:
		if utf8.RuneCountInString(s.filter) < maxFilter {
			s.filter += key.Text
		}
	}
	s.chosen = ""
	s.arrange()
}
