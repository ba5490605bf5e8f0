package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/trace"
)

// whereIDs says where ids of messages come from.
const whereIDs = "ids are in: fieldgate store list; fieldgate store dead-letters list -o jsonl; fieldgate sub -o jsonl 'leaf/+/#'; and at the hub, as the message id of what has arrived"

func whyCommand(std streams) *cobra.Command {
	r := remote{list: whereIDs}
	c := &cobra.Command{
		Use:   "why MESSAGE-ID",
		Short: "Say what became of a message",
		Long: fmt.Sprintf(`Shows who sent a message, what happened to it and when, how long it took to be on
flash, on which link it was sent, and where it is now. The daemon remembers the
last %d messages since its start, in memory; what is on the dead-letter shelf is
found there as well.

An id is the leaf's own, or the one that the gateway has given. It is in "store list"
and "store dead-letters list", in what "sub -o jsonl" shows while messages come, and
at the hub, where it is the message id of what has arrived.`, trace.Messages),
		Example: "  fieldgate why fg-k3v9x2ab-17-telemetry-4f6k2-1042\n  fieldgate why order-77 --output json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := r.client().Message(cmd.Context(), args[0])
			if errors.Is(err, control.ErrNotFound) {
				letters, broken := r.client().DeadLetters(cmd.Context())
				for _, l := range letters {
					if l.MessageID == args[0] && broken == nil {
						m, err = shelved(&l), nil
					}
				}
			}
			if err != nil {
				return r.failed("nothing is known of this message", err)
			}
			if r.output != "table" {
				return encode(std.out, r.output, m)
			}
			printTrace(std.out, &m)
			return nil
		},
	}
	r.flags(c, forms...)
	return c
}

// shelved is what a dead letter says of its message.
func shelved(l *control.Letter) trace.Message {
	return trace.Message{
		ID: l.MessageID, Leaf: l.Leaf, Lane: l.Lane, Bytes: l.Bytes, Disposition: trace.Shelved,
		Steps: []trace.Step{{Time: l.Captured, What: trace.Received}, {Time: l.Time, What: trace.Shelved, Reason: l.Reason}},
	}
}

func printTrace(out io.Writer, m *trace.Message) {
	fmt.Fprintf(out, "message      %s\nleaf         %s\nlane         %s\nbytes        %d\ndisposition  %s\nattempts     %d\n",
		m.ID, m.Leaf, m.Lane, m.Bytes, m.Disposition, m.Attempts)
	stored := "never on flash"
	if m.Stored > 0 {
		stored = fmt.Sprintf("on flash after %d ms", time.Duration(m.Stored*float64(time.Second)).Milliseconds())
	}
	say(out, "store        %s", stored)
	for i, s := range m.Steps {
		if m.More > 0 && i == len(m.Steps)-1 {
			say(out, "             and %s", count(m.More, "more step", "more steps"))
		}
		text := s.What
		if s.Link != "" {
			text += " over " + s.Link
		}
		if s.Reason != "" {
			text += ": " + s.Reason
		}
		say(out, "%s  %s", s.Time.Format("2006-01-02T15:04:05.000Z"), text)
	}
}
