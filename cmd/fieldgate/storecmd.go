package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway"
)

// storeLane is a lane as "store status" shows it. The names are stable.
type storeLane struct {
	Lane string `json:"lane"`
	laneState
}

func storeStatusCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:   "status",
		Short: "Say what waits on flash, lane by lane",
		Long: `Shows for each lane how many messages wait on flash, how much room they take of how
much, and how old the oldest is. The daemon is asked: nothing else opens the store.`,
		Example: "  fieldgate store status\n  fieldgate store status --output yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s state
			if err := r.client().State(cmd.Context(), &s); err != nil {
				return r.failed("cannot read the state", err)
			}
			var lanes []storeLane
			for _, name := range gateway.LaneNames {
				lanes = append(lanes, storeLane{name, s.Store.Lanes[name]})
			}
			if !r.forPeople() {
				return encode(std.out, r.output, lanes)
			}
			return s.Store.printLanes(std.out, lanes)
		},
	}
	r.flags(c, forms...)
	return c
}

func (s *storeState) printLanes(out io.Writer, lanes []storeLane) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LANE\tMESSAGES\tSIZE\tROOM\tOLDEST")
	for _, l := range lanes {
		oldest := "-"
		if l.Messages > 0 {
			oldest = short(time.Duration(l.OldestSeconds * float64(time.Second)))
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", l.Lane, l.Messages, mebibytes(l.Bytes), mebibytes(l.LimitBytes), oldest)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s; without the hub it lasts %s, and is drained in %s\n",
		count(s.DeadLetters, "dead letter", "dead letters"), guess(s.BufferLeft), guess(s.DrainTime))
	if s.Failing != "" {
		fmt.Fprintf(out, "it cannot write: %s\n", s.Failing)
	}
	return nil
}

func drainCommand(std streams) *cobra.Command {
	var r remote
	var limit time.Duration
	c := &cobra.Command{
		Use:   "drain",
		Short: "Wait until the hub has taken all that waits",
		Long: `Waits until nothing is on flash, in memory or on its way to the hub, and says now and
then on standard error how much is left. The daemon sends what waits by itself, as
fast as its budget and the hub allow; this only watches it. The exit code is 7 if
the time runs out before.`,
		Example: "  fieldgate store drain --timeout 1h && systemctl poweroff",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return awaitState(cmd.Context(), r.client(), limit, watched(states["drained"], std.err))
		},
	}
	r.flags(c)
	c.Flags().DurationVar(&limit, "timeout", time.Hour, "how long to wait")
	return c
}

// sayEvery is how often a command that waits says how far it is.
const sayEvery = 5 * time.Second

// watched is the condition, and says meanwhile how much is left.
func watched(c condition, out io.Writer) condition {
	met, said := c.met, time.Time{}
	c.met = func(s *state) bool {
		if met(s) {
			return true
		}
		if time.Since(said) >= sayEvery {
			said = time.Now()
			fmt.Fprintf(out, "%s on flash, %d in flight, %s\n", count(s.Store.messages(), "message", "messages"), s.Uplink.Inflight, s.Uplink.line(s.Now))
		}
		return false
	}
	return c
}
