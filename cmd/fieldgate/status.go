package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// remote is what subcommands that talk to the daemon have in common.
type remote struct {
	formFlag

	socket string
	list   string // what lists the things that may not be found
}

// flags adds the common flags; formats are what --output takes, the first one is
// the default.
func (r *remote) flags(c *cobra.Command, formats ...string) {
	c.Flags().StringVar(&r.socket, "socket", daemonSocket(), "control socket of the daemon, `FILE`")
	if len(formats) > 0 {
		r.flag(c, formats...)
	}
}

// daemonSocket is where the daemon is asked if nothing is said: the socket of the
// environment, else of the configuration. A configuration that cannot be read is
// no mistake of who only asks for the state.
var daemonSocket = sync.OnceValue(func() string {
	socket, _ := findSocket()
	return socket
})

// findSocket does that, and says why it is that one.
func findSocket() (socket, why string) {
	if socket := os.Getenv("FIELDGATE_SOCKET"); socket != "" {
		return socket, "FIELDGATE_SOCKET names that socket"
	}
	var file struct {
		Control struct{ Socket string }
	}
	path := defaultConfig()
	if os.Getenv("FIELDGATE_CONFIG") != "" {
		why = "FIELDGATE_CONFIG names "
	}
	why += path
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return control.DefaultSocket, why + ", which is not there"
	case errors.Is(err, fs.ErrPermission):
		return control.DefaultSocket, why + ", which this user may not read"
	case err != nil, toml.Unmarshal(text, &file) != nil:
		return control.DefaultSocket, why + ", which cannot be read"
	case file.Control.Socket == "":
		return control.DefaultSocket, why + ", which leaves the socket where it is by default"
	case filepath.IsAbs(file.Control.Socket):
		return file.Control.Socket, why + ", which names that socket"
	}
	return filepath.Join(filepath.Dir(path), file.Control.Socket), why + ", which names that socket"
}

// noDaemonHint is what to do about a daemon that does not answer at a socket: where that
// comes from is said, since most often it is another gateway's.
func noDaemonHint(socket string) string {
	const start = "start it: systemctl start fieldgate; or "
	found, why := findSocket()
	if socket != found {
		return start + "name another socket with --socket"
	}
	return start + "name its configuration with FIELDGATE_CONFIG, or its socket with --socket (" + why + ")"
}

func (r *remote) client() *control.Client { return control.NewClient(r.socket) }

// failed says what a call of the daemon came to.
func (r *remote) failed(what string, err error) error {
	if err == nil {
		return nil
	}
	f := &failure{exitFailed, what, err, "look at the log: journalctl -u fieldgate"}
	switch {
	case errors.Is(err, control.ErrNotRunning):
		f.code, f.next = exitNotRunning, noDaemonHint(r.socket)
	case errors.Is(err, control.ErrForbidden):
		f.code, f.next = exitForbidden, "run it with sudo, or have yourself added to the group"
	case errors.Is(err, control.ErrConflict):
		f.code, f.next = exitForbidden, cmp.Or(r.list, "look at what is there")
	case errors.Is(err, control.ErrNotFound):
		f.code, f.next = exitNotFound, cmp.Or(r.list, "run: fieldgate store dead-letters list")
	case errors.Is(err, control.ErrPolicy):
		f.code, f.next = exitForbidden, "say so if that is what you want: --help has the flag"
	case errors.Is(err, control.ErrTaken):
		f.code, f.next = exitForbidden, "wait until that is over, or end it: fieldgate pair close"
	case errors.Is(err, control.ErrTooEarly):
		f.code, f.next = exitForbidden, "wait for so long, then try again"
	case errors.Is(err, control.ErrRefused):
		f.code, f.next = exitForbidden, "send what the reason says can be taken"
	case errors.Is(err, control.ErrStore):
		f.code, f.next = exitStore, "run: fieldgate store status"
	case errors.Is(err, control.ErrUnproven):
		f.code, f.next = exitRejected, "try again with what the device shows"
	case errors.Is(err, control.ErrTimedOut):
		f.code, f.next = exitTimedOut, "try again with a longer --timeout, or look at the leaf"
	case errors.Is(err, control.ErrUnreachable):
		f.code, f.next = exitUnreachable, "fieldgate check"
	case errors.Is(err, control.ErrRejected):
		f.code, f.next = exitRejected, "fieldgate check"
	}
	return f
}

// asking completes a command that has the daemon do one thing, and says what is done.
func (r remote) asking(std streams, c *cobra.Command, failed string, do func(context.Context, *control.Client, []string) (said string, err error)) *cobra.Command {
	c.RunE = func(cmd *cobra.Command, args []string) error {
		said, err := do(cmd.Context(), r.client(), args)
		if err != nil {
			return r.failed(failed, err)
		}
		fmt.Fprintln(std.out, said)
		return nil
	}
	r.flags(c)
	return c
}

func statusCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:     "status",
		Short:   "Say how the gateway is",
		Example: "  fieldgate status\n  fieldgate status --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.failed("cannot read the state", r.status(cmd.Context(), std.out))
		},
	}
	r.flags(c, textForms...)
	return c
}

func (r *remote) status(ctx context.Context, out io.Writer) error {
	var s state
	if err := r.client().State(ctx, &s); err != nil {
		return err
	}
	if !r.forPeople() {
		return encode(out, r.output, s)
	}
	s.print(out)
	return nil
}

func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// print writes the state for people, at most 80 columns where values allow.
func (s *state) print(out io.Writer) {
	say(out, "fieldgate %s, up %s, clock %s", s.Build.Version, short(s.Now.Sub(s.Started)), s.Clock)
	all := s.judge(growth{})
	all.print(out)
	say(out, "uplink   %s", s.Uplink.line(s.Now))
	if u := &s.Uplink; !u.Connected && u.LastError != "" {
		say(out, "         %s", plainly(u.LastError))
	}
	if u := &s.Uplink; u.Connected && u.Reason != "" {
		say(out, "         %s", whyNotBetter(u.Reason, plainly))
	}
	for _, name := range gateway.LaneNames {
		l := s.Store.Lanes[name]
		say(out, "%-8s %s, %s of %s", name, count(l.Messages, "message", "messages")+" on flash",
			mebibytes(l.Bytes), mebibytes(l.LimitBytes))
	}
	say(out, "buffer   lasts %s without the hub; drained in %s", guess(s.Store.BufferLeft), guess(s.Store.DrainTime))
	say(out, "shelf    %s", count(s.Store.DeadLetters, "dead letter", "dead letters"))
	if s.Store.Failing != "" {
		say(out, "flash    cannot write: %s", plainly(s.Store.Failing))
	}
	say(out, "leaves   %s", s.Leaves.line())
	s.refusals(out)
	say(out, "memory   %s in use, %s at start, %s for each leaf", mebibytes(s.Memory.InUse), mebibytes(s.Memory.AtStart), s.Memory.each())
	s.Board.print(out, s.Now)
	for _, d := range s.Drivers {
		say(out, "%-8s %s", d.Kind, d.line(s.Now))
		for _, l := range d.Leaves {
			say(out, "         %s %s", l.Leaf, upOrNot(l.Up, l.Error, l.Since, s.Now))
		}
		if d.Note != "" {
			say(out, "         %s", d.Note)
		}
		if n := len(d.Strangers); n > 0 {
			say(out, "         strangers: %d, see fieldgate status --output json", n)
		}
	}
	all.printNext(out)
}

// line says how leaves are: those over MQTT, as drivers have lines of their own, and
// what the hub thinks of all. What waits on flash is counted in messages, by lane.
func (l *leafState) line() string {
	parts := []string{fmt.Sprintf("%d connected over MQTT, %d of %d taken by the hub", l.Connected, l.Taken, l.Admitted)}
	for _, more := range []struct {
		n    int
		what string
	}{
		{l.Refused, "refused by the hub"}, {l.Unasked, "not asked yet"}, {l.Enrolling, "waiting for enrolment"},
	} {
		if more.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", more.n, more.what))
		}
	}
	return strings.Join(parts, ", ")
}

// maxRefusals is how many refused leaves are shown by name.
const maxRefusals = 5

// print says how it is all in all, a thing a line.
func (j *judgement) print(out io.Writer) {
	if len(j.said) == 0 {
		say(out, "state    %s", allIsWell)
	}
	for i, text := range j.said {
		say(out, "%-8s %s", map[bool]string{true: "state"}[i == 0], text)
	}
}

// printNext says what to do.
func (j *judgement) printNext(out io.Writer) {
	if j.check {
		say(out, "next     what is wrong, and what to do about it: fieldgate check")
	}
}

// refusals says which leaves the hub refuses, and why, and which are not configured.
func (s *state) refusals(out io.Writer) {
	u := &s.Uplink
	for i, leaf := range slices.Sorted(maps.Keys(u.Refused)) {
		if i == maxRefusals {
			say(out, "         and %d more: fieldgate device list", len(u.Refused)-i)
			break
		}
		d := control.Device{Refused: u.Refused[leaf], RetryAt: u.RefusedUntil[leaf]}
		say(out, "         %s: %s", leaf, hubWord(&d, s.Now))
	}
	for i, leaf := range s.Leaves.Unknown {
		if i == maxRefusals {
			say(out, "         and %d more", len(s.Leaves.Unknown)-i)
			break
		}
		say(out, "         %s: its messages wait on flash, and no such leaf is configured", leaf)
	}
}

// each is what a leaf needs.
func (m *memoryState) each() string {
	if m.PerLeaf == nil {
		return "(unknown)"
	}
	return fmt.Sprintf("%d KiB", *m.PerLeaf>>10)
}

func (d *driverState) line(now time.Time) string {
	_, name, _ := strings.Cut(d.Name, ":")
	text := name + " " + upOrNot(d.Up, d.Error, d.Since, now)
	discarded := int64(0)
	for _, n := range d.Discarded {
		discarded += n
	}
	if discarded > 0 {
		text += fmt.Sprintf(", %d discarded", discarded)
	}
	return text
}

func upOrNot(up bool, why string, since, now time.Time) string {
	text := "not tried yet"
	switch {
	case up:
		text = "up"
	case !since.IsZero():
		text = "down"
	}
	if !since.IsZero() {
		text += " " + short(now.Sub(since))
	}
	if why != "" {
		text += ": " + why
	}
	return text
}

func (u *uplinkState) line(now time.Time) string {
	text := fmt.Sprintf("connected %s over %s, %d in flight", short(now.Sub(u.Since)), u.Transport, u.Inflight)
	if !u.Connected {
		text = "not connected for " + short(now.Sub(u.Since))
		again := u.RetryAt.After(now)
		if u.Waiting != "" && !(again && u.Waiting == uplink.NextAttempt) {
			text += ", waits for " + u.Waiting
		}
		if again {
			text += ", tries again in " + short(u.RetryAt.Sub(now))
		}
	}
	if u.ClosedUntil.After(now) {
		text += ", the hub asks to wait " + short(u.ClosedUntil.Sub(now))
	}
	if u.Watchdog != "" {
		text += ", no progress: gave up the " + u.Watchdog
	}
	return text
}

// short writes a duration with as much precision as people need.
func short(d time.Duration) string {
	d = max(0, d).Round(time.Second)
	if d >= 48*time.Hour {
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
	return d.String()
}

// foreseeable is how far a forecast goes.
const foreseeable = 365 * 24 * time.Hour

// guess writes a forecast in seconds.
func guess(s *float64) string {
	if s == nil {
		return "(unknown)"
	}
	d := time.Duration(*s * float64(time.Second))
	if d > foreseeable {
		return "more than a year"
	}
	return short(d)
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
