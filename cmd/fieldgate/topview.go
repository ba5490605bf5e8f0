package main

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
)

// tone is how a text is coloured, where there are colours. Nothing is said by
// colour alone.
type tone int

const (
	plainTone tone = iota
	titleTone
	goodTone
	warnTone
	badTone
)

var tones = [...]lipgloss.Style{
	plainTone: lipgloss.NewStyle(),
	titleTone: lipgloss.NewStyle().Foreground(lipgloss.Cyan),
	goodTone:  lipgloss.NewStyle().Foreground(lipgloss.Green),
	warnTone:  lipgloss.NewStyle().Foreground(lipgloss.Yellow),
	badTone:   lipgloss.NewStyle().Foreground(lipgloss.Red),
}

// canvas collects the lines of the screen, cut to its width.
type canvas struct {
	width  int
	colour bool
	lines  []string
}

// span is a piece of a line.
type span struct {
	tone tone
	text string
}

// line adds a line. What is written may come from outside: it is made harmless.
func (c *canvas) line(spans ...span) {
	var b strings.Builder
	left := c.width
	for _, s := range spans {
		text := ansi.Truncate(harmless(s.text, c.colour), left, "~")
		left -= ansi.StringWidth(text)
		if c.colour && s.tone != plainTone && text != "" {
			text = tones[s.tone].Render(text)
		}
		b.WriteString(text)
	}
	c.lines = append(c.lines, b.String())
}

// wrap adds a text of one tone under a label, on as many lines as it needs, but no
// more than most; the last is cut.
func (c *canvas) wrap(name string, t tone, text string, most int) {
	for n := 1; ; n++ {
		first := text
		if room := c.width - labelWidth; n < most && room > 0 && ansi.StringWidth(harmless(text, c.colour)) > room {
			first, _, _ = strings.Cut(ansi.Wrap(harmless(text, c.colour), room, ""), "\n")
			text = strings.TrimSpace(strings.TrimPrefix(harmless(text, c.colour), first))
		} else {
			text = ""
		}
		c.line(label(name), span{t, first})
		if name = ""; text == "" {
			return
		}
	}
}

// harmless replaces what would move the cursor or do worse, and where there are no
// colours, all that an old terminal does not have.
func harmless(text string, modern bool) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case r >= ' ' && r < 0x7f, modern && unicode.IsPrint(r):
			return r
		}
		return '?'
	}, text)
}

// label is the first column.
func label(name string) span { return span{titleTone, fmt.Sprintf("%-*s", labelWidth, name)} }

const labelWidth = 8

// View implements tea.Model.
func (s *screen) View() tea.View {
	v := tea.NewView(strings.Join(s.lines(), "\n"))
	v.AltScreen = true
	v.DisableBracketedPasteMode = true
	return v
}

// lines are those of the screen, as many as it has.
func (s *screen) lines() []string {
	c := &canvas{width: max(1, s.width), colour: s.colour}
	s.awayLine(c)
	x := s.now()
	switch {
	case x == nil && s.away == nil:
		c.line(span{text: "asking the daemon ..."})
	case x == nil:
	case s.away != nil:
		old := &canvas{width: max(1, c.width-len(isOld))} // without colours: green would say that it is so now
		s.show(old, x, len(c.lines))
		for _, line := range old.lines {
			c.lines = append(c.lines, ansi.Truncate(isOld+line, c.width, ""))
		}
	default:
		s.show(c, x, 0)
	}
	height := max(1, s.height)
	for len(c.lines) < height-1 {
		c.lines = append(c.lines, "")
	}
	c.lines = c.lines[:height-1]
	s.help(c)
	return c.lines
}

// isOld stands before each line that is not of now.
const isOld = "old | "

// show shows what the daemon has said, on a screen of which so many lines are taken.
func (s *screen) show(c *canvas, x *snapshot, taken int) {
	height := s.height - taken
	s.head(c, &x.state)
	all := x.state.judge(s.growth())
	c.wrap("STATE", all.tone, all.sentence(), 3)
	s.uplink(c, &x.state)
	detail := s.open && s.index() >= 0
	if !detail || s.height >= roomy {
		s.store(c, &x.state)
		s.drivers(c, &x.state)
	}
	if detail {
		s.detail(c, x, height)
	} else {
		s.table(c, height-len(c.lines)-s.eventRoom()-2)
		s.events(c, x.events, height-len(c.lines)-2)
	}
}

// roomy is from how many lines on a leaf is shown in full without hiding anything else.
const roomy = 36

// eventRoom is how many lines the events have.
func (s *screen) eventRoom() int { return max(3, s.height/5) }

// awayLine says that nobody answers.
func (s *screen) awayLine(c *canvas) {
	if s.away == nil {
		return
	}
	c.line(span{badTone, fmt.Sprintf("NO ANSWER from the daemon for %s; asked again every second.", short(s.asked.Sub(s.since)))})
	why := s.away
	if e, ok := errors.AsType[*url.Error](why); ok {
		why = e.Err // without what was asked for
	}
	c.wrap("", plainTone, why.Error(), 2)
	next := "Start it: systemctl start fieldgate; or name its socket with --socket"
	if s.now() != nil {
		next = "Start it: systemctl start fieldgate. What follows is how it was before."
	}
	c.line(span{warnTone, next})
}

func (s *screen) head(c *canvas, x *state) {
	cpu := "-"
	if used, ok := s.rate(func(x *state) float64 { return x.Machine.CPU }); ok {
		cpu = fmt.Sprintf("%.0f%%", max(0, 100*used))
	}
	clock := goodTone
	if x.Clock != gateway.Synced.String() {
		clock = warnTone
	}
	before := " " + ansi.Truncate(x.Build.Version, 12, "~") + ", up " + short(x.Now.Sub(x.Started)) + ", clock "
	after := fmt.Sprintf(", cpu %s, memory %s", cpu, bytesShort(x.Machine.RSS))
	if x.Board.Temperature != nil {
		after += fmt.Sprintf(", %.0f C", *x.Board.Temperature)
	}
	slowed := ""
	if len(x.Board.Throttled) > 0 {
		slowed = ", SLOWED: " + strings.Join(x.Board.Throttled, ", ")
	}
	name := ansi.Truncate(x.Name, max(8, c.width-len(before)-len(x.Clock)-len(after)), "~")
	c.line(span{titleTone, name}, span{text: before}, span{clock, x.Clock}, span{text: after}, span{badTone, slowed})
}

func (s *screen) uplink(c *canvas, x *state) {
	u := &x.Uplink
	if u.Connected {
		c.line(label("UPLINK"), span{goodTone, "connected"}, span{text: fmt.Sprintf(" %s to %s, %s", short(x.Now.Sub(u.Since)), u.Hub, u.Transport)})
		sent := ""
		if n, ok := s.rate(func(x *state) float64 { return float64(total(x.Path.Sent)) }); ok {
			sent = fmt.Sprintf("%.1f sent/s, ", max(0, n))
		}
		c.line(label(""), span{text: fmt.Sprintf("%d in flight, %slast message taken by the hub %s", u.Inflight, sent, ago(u.LastAccepted, x.Now))},
			span{warnTone, s.hesitation(x)})
		return
	}
	text := " for " + short(x.Now.Sub(u.Since))
	if u.RetryAt.After(x.Now) {
		text += ", tries again in " + short(u.RetryAt.Sub(x.Now))
	} else if u.Waiting == "" {
		text += ", trying now"
	}
	if u.Attempts > 0 {
		text += fmt.Sprintf(" (attempt %d)", u.Attempts+1)
	}
	c.line(label("UPLINK"), span{badTone, "NOT CONNECTED"}, span{text: text})
	why := "no attempt has failed yet"
	if u.LastError != "" {
		why = plainly(u.LastError)
	}
	if u.Waiting != "" && u.RetryAt.IsZero() {
		why = "waits for " + u.Waiting + "; " + why
	}
	c.wrap("", badTone, why+", hub "+u.Hub, 2)
}

// hesitation is what else there is to say of a connection that stands.
func (s *screen) hesitation(x *state) (text string) {
	u := &x.Uplink
	if u.ClosedUntil.After(x.Now) {
		text += ", hub asks to wait " + short(u.ClosedUntil.Sub(x.Now))
	}
	if u.Watchdog != "" {
		text += ", NO PROGRESS: gave up the " + u.Watchdog
	}
	if u.Reason != "" {
		text += ", " + whyNotBetter(u.Reason, inShort)
	}
	return text
}

// worstLane is the lane that is filled most, and by how much, 1 is full.
func (x *state) worstLane() (name string, filled float64) {
	for _, lane := range gateway.LaneNames {
		if l := x.Store.Lanes[lane]; l.LimitBytes > 0 && float64(l.Bytes)/float64(l.LimitBytes) >= filled {
			name, filled = lane, float64(l.Bytes)/float64(l.LimitBytes)
		}
	}
	return name, filled
}

func (s *screen) store(c *canvas, x *state) {
	var messages int
	var used, limit int64
	var oldest float64
	for _, l := range x.Store.Lanes {
		messages, used, limit, oldest = messages+l.Messages, used+l.Bytes, limit+l.LimitBytes, max(oldest, l.OldestSeconds)
	}
	text := fmt.Sprintf("%s, %s of %s", count(messages, "message", "messages"), bytesShort(used), bytesShort(limit))
	if messages > 0 {
		text += ", oldest " + guess(&oldest)
		if n, ok := s.rate(func(x *state) float64 { return float64(x.stored()) }); ok && n >= 0.05 {
			text += fmt.Sprintf(", growing %.1f/s", n)
		} else if ok && n <= -0.05 {
			text += fmt.Sprintf(", shrinking %.1f/s", -n)
		}
	}
	c.line(label("STORE"), x.fullness(s.growth()), span{text: text})

	next := forecast(x) + "dropped: " + byReason(x.Path.Dropped)
	if why := x.bound(); why != "" && x.fullness(s.growth()).tone == badTone {
		next = why + "; " + next
	}
	c.wrap("", plainTone, next, 2)
	c.line(label("FLASH"), span{badTone, failing(x)}, span{text: wear(x)})
}

// forecast says when the store is empty, and when full, as far as that is known.
func forecast(x *state) (text string) {
	switch {
	case x.stored() == 0:
		text += "empty; "
	case !x.Uplink.Connected:
		text += "cannot empty without the hub; "
	case x.Store.DrainTime != nil:
		text += "empty in " + guess(x.Store.DrainTime) + "; "
	}
	switch {
	case x.Store.BufferLeft == nil, *x.Store.BufferLeft == 0:
	case x.Uplink.Connected:
		text += "would be full " + guess(x.Store.BufferLeft) + " after loss of the hub; "
	default:
		text += "full in " + guess(x.Store.BufferLeft) + "; "
	}
	return text
}

func (x *state) stored() (n int) {
	for _, l := range x.Store.Lanes {
		n += l.Messages
	}
	return n
}

// bound says which bound the store has reached, "" for none. What it said of an
// attempt to write is not taken back before the next one, so an empty store has
// reached none.
func (x *state) bound() string {
	if _, why, ok := strings.Cut(x.Store.Failing, gateway.ErrStoreFull.Error()+": "); ok && x.stored() > 0 {
		return why
	}
	return ""
}

// growth is what has grown since the look before.
func (s *screen) growth() growth {
	grows := func(of func(x *state) int64) bool {
		n, _ := s.rate(func(x *state) float64 { return float64(of(x)) })
		return n > 0
	}
	return growth{
		rejected:  grows(func(x *state) int64 { return x.Path.Rejected["full"] }),
		displaced: grows(func(x *state) int64 { return x.Path.Dropped[string(gateway.DropQuota)] }),
	}
}

// wear is what the flash has to bear.
func wear(x *state) string {
	text := bytesShort(x.Store.WrittenToday) + " written in 24h"
	if up := x.Now.Sub(x.Started); up < 24*time.Hour {
		text = bytesShort(x.Store.WrittenToday) + " written in " + short(up)
	}
	if p := x.Path.TakenPayload; p > 0 {
		text += fmt.Sprintf(", %.2f bytes per byte of payload", float64(x.Store.BytesWritten)/float64(p))
	}
	if x.Machine.Free > 0 {
		text += ", " + bytesShort(x.Machine.Free) + " free"
	}
	if x.Store.DeadLetters > 0 {
		text += ", " + count(x.Store.DeadLetters, "dead letter", "dead letters")
	}
	return text
}

func failing(x *state) string {
	if x.Store.Failing == "" || strings.Contains(x.Store.Failing, gateway.ErrStoreFull.Error()) {
		return ""
	}
	return "CANNOT WRITE: " + inShort(x.Store.Failing) + "; "
}

// drivers say in one line how the ways to leaves are, those that are down first.
func (s *screen) drivers(c *canvas, x *state) {
	if len(x.Drivers) == 0 {
		return
	}
	spans := []span{label("PORTS")}
	for _, up := range []bool{false, true} {
		for i := range x.Drivers {
			d := &x.Drivers[i]
			if d.Up != up {
				continue
			}
			t, text := goodTone, d.Kind+" "+d.line(x.Now)
			if !up {
				t = badTone
			} else if d.Note != "" {
				t, text = warnTone, text+" ("+d.Note+")"
			}
			if len(spans) > 1 {
				text = "; " + text
			}
			spans = append(spans, span{t, text})
		}
	}
	c.line(spans...)
}

// table shows leaves in so many lines.
func (s *screen) table(c *canvas, room int) {
	x := s.now()
	n, connected := &x.state.Leaves, 0
	for i := range x.devices {
		if x.devices[i].State == isConnected {
			connected++
		}
	}
	text := ""
	if s.filter != "" || s.typing {
		cursor := map[bool]string{true: "_"}[s.typing]
		text = fmt.Sprintf("filter \"%s%s\": %d; ", s.filter, cursor, len(s.leaves))
	}
	text += fmt.Sprintf("%d, %d connected", len(x.devices), connected)
	if n.Away > 0 {
		text += fmt.Sprintf(", %d away", n.Away)
	}
	if n.Refused > 0 {
		text += fmt.Sprintf(", %d refused by the hub", n.Refused)
	}
	text += "; by " + orders[s.order].name
	c.line(label("LEAVES"), span{text: text})
	names := 12
	for _, r := range s.leaves {
		names = max(names, min(ansi.StringWidth(r.ID), c.width/3))
	}
	room = max(1, room-2)
	first := max(0, min(s.index()-room/2, len(s.leaves)-room))
	part := ""
	if room < len(s.leaves) {
		part = fmt.Sprintf("   (%d to %d of %d)", first+1, first+room, len(s.leaves))
	}
	c.line(span{titleTone, fmt.Sprintf("  %-*s %-9s %-12s %s%s", names, "LEAF", "STATE", "LAST SEEN", "TROUBLE", part)})
	for i := first; i < len(s.leaves) && i < first+room; i++ {
		s.rowLine(c, &s.leaves[i], names, x.state.Now)
	}
	if len(s.leaves) == 0 {
		c.line(span{text: "  none" + map[bool]string{true: " fits the filter: Esc clears it"}[s.filter != ""]})
	}
}

func (s *screen) rowLine(c *canvas, r *leafRow, names int, now time.Time) {
	mark, state, trouble := "  ", plainTone, plainTone
	if r.ID == s.chosen {
		mark = "> "
	}
	switch {
	case r.grave >= isStuck:
		trouble = badTone
	case r.State == isConnected:
		state = goodTone
	}
	name := ansi.Truncate(harmless(r.ID, s.colour), names, "~")
	name += strings.Repeat(" ", max(0, names-ansi.StringWidth(name)))
	c.line(span{text: mark + name + " "}, span{state, fmt.Sprintf("%-9s", r.State)},
		span{text: fmt.Sprintf(" %-12s ", seen(r.Device, now))}, span{trouble, orDash(r.trouble)})
}

// detail shows the chosen leaf in full.
func (s *screen) detail(c *canvas, x *snapshot, height int) {
	r := &s.leaves[s.index()]
	c.line(label("LEAF"), span{titleTone, r.ID})
	say := func(name, text string) {
		c.line(span{titleTone, fmt.Sprintf("  %-12s", name)}, span{text: text})
	}
	state := r.State
	if r.Connections > 0 {
		state += ", " + count(r.Connections, "connection", "connections") + " over MQTT"
	}
	say("state", state)
	say("last seen", seen(r.Device, x.state.Now))
	say("listens to", orDash(strings.Join(r.Listens, ", ")))
	say("identity", map[string]string{
		"key": "its own, with the key kept here", "relay": "its own, with the token it brings", "gateway": "that of the gateway",
	}[r.Auth])
	say("hub", map[string]string{
		control.HubTakes: "takes it", control.HubRefuses: "REFUSES IT", control.HubEnrols: "does not know it yet: it waits for enrolment",
		control.HubAwaitsToken: "is asked when the leaf brings a token", control.HubUnasked: "not asked yet",
	}[r.Hub])
	if r.Refused != "" {
		say("", plainly(r.Refused))
		again := "now"
		if r.RetryAt.After(x.state.Now) {
			again = "in " + short(r.RetryAt.Sub(x.state.Now))
		}
		say("asked again", again)
	}
	if r.Parked {
		say("waiting", "its messages are on flash until the hub takes it")
	}
	if s.twinOf == r.ID {
		say("twin", s.twinHas)
	}
	for i := range x.state.Drivers {
		d := &x.state.Drivers[i]
		for _, p := range d.Leaves {
			if p.Leaf == r.ID {
				say(d.Kind, upOrNot(p.Up, p.Error, p.Since, x.state.Now))
			}
		}
	}
	own := slices.DeleteFunc(slices.Clone(x.events), func(e control.Event) bool { return e.Leaf != r.ID })
	own = own[max(0, len(own)-max(1, s.eventRoom()/2)):]
	s.messages(c, x, r.ID, height-len(c.lines)-len(own)-3)
	s.events(c, own, len(own))
}

// messages shows the last ones of the leaf, the last at the bottom, in so many lines.
func (s *screen) messages(c *canvas, x *snapshot, leaf string, room int) {
	list := x.messages
	if x.messagesOf != leaf {
		list = nil
	}
	c.line(label("MESSAGES"), span{text: map[bool]string{true: " none since the start, or not asked for yet", false: " the last ones, UTC; > to the leaf"}[len(list) == 0]})
	for _, m := range list[max(0, len(list)-max(1, room)):] {
		mark, name, tone := "  ", m.Lane, plainTone
		fate := fateOf(&m, x.state.Now)
		switch m.Fate {
		case control.FateWaiting:
			tone = warnTone
		case control.FateRefused:
			tone = badTone
		}
		if m.Channel != "" {
			name += "/" + m.Channel
		}
		if m.Direction == control.ToLeaf {
			mark = "> "
		}
		if s.bodies {
			tone, fate = plainTone, string(m.Excerpt)
		}
		c.line(span{text: mark + clockTime(m.Time, x.state.Now) + " "},
			span{text: fmt.Sprintf("%-20s %9s  ", ansi.Truncate(harmless(name, s.colour), 20, "~"), bytesShort(int64(m.Bytes)))}, span{tone, fate})
	}
}

// fateOf says what has become of a message.
func fateOf(m *control.Passage, now time.Time) string {
	to := m.Direction == control.ToLeaf
	switch {
	case m.Fate == control.FateWaiting:
		return "waits for " + short(now.Sub(m.Time))
	case m.Fate == control.FateRefused && to:
		return "not taken: " + m.Why
	case m.Fate == control.FateRefused:
		return "refused: " + m.Why
	case to && m.Why != "":
		return fmt.Sprintf("answered after %.0f ms: %s", m.Milliseconds, m.Why)
	case to:
		return fmt.Sprintf("taken by the leaf after %.0f ms", m.Milliseconds)
	}
	return fmt.Sprintf("taken by the hub after %.0f ms", m.Milliseconds)
}

// events shows the last warnings, the last at the bottom, in so many lines.
func (s *screen) events(c *canvas, all []control.Event, room int) {
	c.line(label("WARNINGS"), span{text: map[bool]string{
		true: " none since the start", false: " the last ones, UTC; it is " + s.now().state.Now.UTC().Format("15:04:05") + " now",
	}[len(all) == 0]})
	for _, e := range all[max(0, len(all)-max(0, room)):] {
		tone := warnTone
		if e.Level == "error" {
			tone = badTone
		}
		text := e.Message
		if e.Leaf != "" {
			text = e.Leaf + ": " + text
		} else if e.Part != "" {
			text = e.Part + ": " + text
		}
		if e.Count > 1 {
			text += fmt.Sprintf(" (%d times)", e.Count)
		}
		if e.Facts != "" {
			text += ", " + e.Facts
		}
		c.line(span{text: "  " + clockTime(e.Time, s.now().state.Now) + " "}, span{tone, text})
	}
}

// clockTime is a time of today, or the day of one before. UTC, as all times.
func clockTime(t, now time.Time) string {
	if now.Sub(t) < 24*time.Hour {
		return t.UTC().Format("15:04:05")
	}
	return t.UTC().Format("2 Jan   ")
}

func (s *screen) help(c *canvas) {
	text := "q quit  s sort  f filter  up/down choose  Enter all of a leaf"
	switch {
	case s.typing:
		text = "type a part of name, state or trouble; Enter keeps it, Esc clears it"
	case s.open:
		text = "q quit  up/down other leaf  p bodies of messages  Esc back"
	}
	c.line(span{titleTone, text})
}

// byReason says how many by which reason, without those that did not happen.
func byReason(n map[string]int64) string {
	list := []string{}
	for _, why := range slices.Sorted(maps.Keys(n)) {
		if n[why] > 0 {
			list = append(list, fmt.Sprintf("%d %s", n[why], why))
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

func total(n map[string]int64) (sum int64) {
	for _, v := range n {
		sum += v
	}
	return sum
}

func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return short(now.Sub(t)) + " ago"
}

// bytesShort writes a size in few characters.
func bytesShort(n int64) string {
	const unit = 1 << 10
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10*unit:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
