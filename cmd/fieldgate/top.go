package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

func topCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch the gateway on one screen",
		Long: `Shows how the gateway is, once a second: the connection to the hub, what is kept on
flash, what that costs the flash, the leaves, those with trouble first, and the last
warnings. It needs 80 columns and 24 lines, and a line of 9600 baud is enough.

Keys: up and down choose a leaf, Enter shows all of it with its last messages, p shows
what is in them, Esc goes back, s sorts otherwise, f filters, q quits. There is no colour where NO_COLOR is set, or TERM is
dumb or a vt100 or vt220.`,
		Example: "  fieldgate top\n  NO_COLOR=1 fieldgate top",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !isTerminal(std.in) || !isTerminal(std.out) {
				return &failure{
					exitFailed, "cannot show the screen", errors.New("standard input and output are no terminal"),
					"run it in a terminal; for programs there is: fieldgate status --output json",
				}
			}
			return r.failed("cannot watch the gateway", r.top(cmd.Context(), std))
		},
	}
	r.flags(c)
	return c
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(f.Fd())
}

// hasColour says whether the terminal is to be sent colours. Those of DEC that
// consoles are taken for have none.
func hasColour(getenv func(string) string) bool {
	name := getenv("TERM")
	return getenv("NO_COLOR") == "" && name != "" && name != "dumb" &&
		!strings.HasPrefix(name, "vt1") && !strings.HasPrefix(name, "vt2")
}

// top shows the screen until the operator leaves it.
func (r *remote) top(ctx context.Context, std streams) error {
	client := r.client()
	s := newScreen(r.socket, hasColour(os.Getenv), func(leaves bool, of string) tea.Msg { return look(ctx, client, leaves, of) })
	s.twin = func(leaf string) tea.Msg { return lookAtTwin(ctx, client, leaf) }
	end, err := tea.NewProgram(s, screenOptions(ctx, std.in, std.out, s.colour)...).Run()
	if err != nil && ctx.Err() == nil {
		return err
	}
	if s, ok := end.(*screen); ok && errors.Is(s.away, control.ErrForbidden) {
		return s.away
	}
	return nil
}

// screenOptions tell the library what it would otherwise find out by itself, for
// which it starts programs.
func screenOptions(ctx context.Context, in io.Reader, out io.Writer, colour bool) []tea.ProgramOption {
	profile := colorprofile.ASCII
	if colour {
		profile = colorprofile.ANSI
	}
	return []tea.ProgramOption{
		tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithColorProfile(profile),
		tea.WithoutSignalHandler(), // main has one
	}
}

// snapshot is all that the daemon says at one moment.
type snapshot struct {
	at      time.Time // here, when it was asked
	state   state
	devices []control.Device // nil: not asked for
	events  []control.Event
	// messages are the last ones of a leaf; nil: not asked for.
	messages   []control.Passage
	messagesOf string
	err        error // why there is no answer: then the rest is empty
}

// patienceWithDaemon bounds one look at the daemon.
const patienceWithDaemon = 5 * time.Second

// look asks the daemon: see lookFunc.
func look(ctx context.Context, c *control.Client, leaves bool, messagesOf string) tea.Msg {
	ctx, cancel := context.WithTimeout(ctx, patienceWithDaemon)
	defer cancel()
	s := snapshot{at: time.Now()}
	if s.err = c.State(ctx, &s.state); s.err == nil && leaves {
		s.devices, s.err = c.Devices(ctx)
	}
	if s.err == nil {
		s.events, s.err = c.Events(ctx)
	}
	if s.err == nil && messagesOf != "" {
		s.messagesOf = messagesOf
		s.messages, _ = c.Messages(ctx, messagesOf) // the leaf may be gone
	}
	return s
}

// twinSeen is what came of asking for a twin, in words.
type twinSeen struct{ leaf, words string }

// lookAtTwin asks for the twin of a leaf. It is asked once for each look at a leaf:
// with the hub there, each time goes to the hub.
func lookAtTwin(ctx context.Context, c *control.Client, leaf string) tea.Msg {
	ctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
	defer cancel()
	t, err := c.Twin(ctx, leaf)
	switch {
	case err != nil:
		return twinSeen{leaf, "none: " + err.Error()}
	case t.AgeSeconds == nil:
		return twinSeen{leaf, fmt.Sprintf("%d bytes, a copy of unknown age", len(t.Twin))}
	case *t.AgeSeconds > 0:
		return twinSeen{leaf, fmt.Sprintf("%d bytes, a copy %s old", len(t.Twin), guess(t.AgeSeconds))}
	}
	return twinSeen{leaf, fmt.Sprintf("%d bytes, from the hub", len(t.Twin))}
}
