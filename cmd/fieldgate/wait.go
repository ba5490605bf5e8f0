package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

// condition is something that can be waited for.
type condition struct {
	says string
	met  func(*state) bool
}

// states are what can be waited for, by name.
var states = map[string]condition{
	"running":   {"the daemon answers", func(*state) bool { return true }},
	"connected": {"the hub is connected", func(s *state) bool { return s.Uplink.Connected }},
	"drained": {"the hub has taken everything: nothing is on flash, in memory or on the way", func(s *state) bool {
		return s.Store.messages() == 0 && s.Path.StagedBytes == 0 && s.Uplink.Inflight == 0
	}},
	"synced": {"a time source steers the clock", func(s *state) bool { return s.Clock == "synced" }},
}

// awaitState waits until the daemon meets a condition. A daemon that does not run
// may be starting.
func awaitState(ctx context.Context, client *control.Client, limit time.Duration, c condition) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		var s state
		err := client.State(ctx, &s)
		switch {
		case err == nil && c.met(&s):
			return nil
		case err == nil && s.Uplink.LastError != "" && !s.Uplink.Connected:
			last = errors.New(s.Uplink.LastError)
		case err == nil:
			last = fmt.Errorf("%s on flash, %d in flight, clock %s", count(s.Store.messages(), "message", "messages"), s.Uplink.Inflight, s.Clock)
		case errors.Is(err, control.ErrForbidden):
			r := remote{}
			return r.failed("cannot read the state", err)
		case ctx.Err() == nil:
			last = err
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			if last == nil {
				last = errors.New("the daemon has not answered")
			}
			return &failure{exitTimedOut, "waited " + short(limit) + " in vain until " + c.says, last, "fieldgate check"}
		}
	}
}

func waitCommand(std streams) *cobra.Command {
	var r remote
	var what string
	var limit time.Duration
	names := slices.Sorted(maps.Keys(states))
	var long strings.Builder
	long.WriteString("Waits until the daemon is in a state, for scripts. The exit code is 7 if the time\nruns out before.\n\n")
	for _, n := range names {
		fmt.Fprintf(&long, "  %-10s %s\n", n, states[n].says)
	}
	c := &cobra.Command{
		Use:     "wait --for=STATE",
		Short:   "Wait until the gateway is connected, or drained",
		Long:    strings.TrimRight(long.String(), "\n"),
		Example: "  fieldgate wait --for=connected --timeout 3m\n  fieldgate wait --for=drained && systemctl poweroff",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, known := states[what]
			if !known {
				return fmt.Errorf("--for %q is unknown: write one of %v", what, names)
			}
			return awaitState(cmd.Context(), r.client(), limit, c)
		},
	}
	r.flags(c)
	c.Flags().StringVar(&what, "for", "connected", "the `STATE`, one of "+strings.Join(names, ", "))
	c.Flags().DurationVar(&limit, "timeout", time.Minute, "how long to wait")
	return c
}
