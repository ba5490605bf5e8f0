package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

// hearing is what "sub" is asked for.
type hearing struct {
	remote
	topics  []string
	leaf    string
	count   int
	limit   patience
	verbose bool
	fresh   bool // nothing retained
	bare    bool // no end of line
}

func subCommand(std streams) *cobra.Command {
	var h hearing
	c := &cobra.Command{
		Use:   "sub [-t] TOPIC...",
		Short: "Listen on topics of the local broker, without a password",
		Long: `Listens through the daemon and writes what comes, a payload a line, until it is
interrupted, -C messages have come, or the time -W is over. Flags are named as those of
mosquitto_sub, and + and # stand for levels as there.

What leaves send is on leaf/LEAF/telemetry[/CHANNEL] and leaf/LEAF/alarm[/CHANNEL], over
whatever it came, once it is in custody: for root and members of fieldgate-admin. What
the gateway says of itself is on fieldgate/status/...: for members of fieldgate too.

With --leaf it listens in the place of a leaf, to commands and desired properties, and
what comes is taken from the hub with that: the leaf itself may miss it. The
configuration must let operators stand in for it (stand_in = true in its table).

No leaf waits for who listens. What comes faster than it is read is dropped, and how
much is said on standard error, and in "dropped" of the other forms. With -C it exits
with 7 if fewer messages have come when the time is over.`,
		Example: `  fieldgate sub leaf/pump-1/# -v
  fieldgate sub leaf/+/alarm/# --output jsonl | jq .topic
  fieldgate sub fieldgate/status/bridge -C 1 -W 5
  fieldgate sub --leaf test-1 leaf/test-1/command/+ -v`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			h.topics = append(h.topics, args...)
			if len(h.topics) == 0 {
				return errors.New("name a topic")
			}
			if h.count < 0 {
				return fmt.Errorf("-C %d makes no sense", h.count)
			}
			return h.run(cmd.Context(), std)
		},
	}
	h.flags(c, textForms...)
	f := c.Flags()
	f.StringArrayVarP(&h.topics, "topic", "t", nil, "the `TOPIC`, or a filter; may be repeated")
	f.StringVar(&h.leaf, "leaf", "", "listen in the place of `LEAF`")
	f.IntVarP(&h.count, "count", "C", 0, "end after so many messages")
	f.VarP(&h.limit, "timeout", "W", "end after so long, in `SECONDS` or like 1m30s")
	f.BoolVarP(&h.verbose, "verbose", "v", false, "write the topic before each payload")
	f.BoolVarP(&h.fresh, "no-retained", "R", false, "leave out what was said before")
	f.BoolVarP(&h.bare, "no-newline", "N", false, "write no end of line behind payloads")
	return c
}

// patience is a time that can be written as a number.
type patience time.Duration

// Set is described at pflag.Value.
func (s *patience) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, bad := strconv.ParseUint(text, 10, 32); bad == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d <= 0 {
		return errors.New("write seconds, or a time like 1m30s")
	}
	*s = patience(d)
	return nil
}

// String is described at pflag.Value.
func (s *patience) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

// Type is described at pflag.Value.
func (s *patience) Type() string { return "seconds" }

// errEnough says that there is nothing more to wait for.
var errEnough = errors.New("enough")

func (h *hearing) run(ctx context.Context, std streams) error {
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if h.limit > 0 {
		waiting, cancel = context.WithTimeout(ctx, time.Duration(h.limit))
	}
	defer cancel()
	n := 0
	err := h.client().Listen(waiting, h.leaf, h.topics, h.fresh, func(x control.Overheard) error {
		if x.Dropped > 0 {
			fmt.Fprintf(std.err, "%s dropped: they came faster than they were read\n", count(int(x.Dropped), "message was", "messages were"))
		}
		if err := h.write(std.out, &x); err != nil {
			return err
		}
		if n++; n == h.count {
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, errEnough), ctx.Err() != nil, waiting.Err() != nil && h.count == 0:
		return nil
	case waiting.Err() != nil:
		err = fmt.Errorf("%w: %d of %d have come", control.ErrTimedOut, n, h.count)
		return &failure{exitTimedOut, "not enough was heard", err, "wait longer with -W, or look whether the leaf sends: fieldgate device list"}
	}
	return standInFailed(h.leaf, h.failed("cannot listen", err))
}

func (h *hearing) write(out io.Writer, x *control.Overheard) error {
	switch h.output {
	case "json", "jsonl": // a list that does not end is a list of lines
		return encode(out, "jsonl", x)
	case "yaml":
		return encode(out, "yaml", []*control.Overheard{x})
	}
	text := x.Payload()
	if h.verbose {
		text = append([]byte(x.Topic+" "), text...)
	}
	if !h.bare {
		text = append(text, '\n')
	}
	_, err := out.Write(text)
	return err
}
