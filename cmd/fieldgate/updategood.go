package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/board/slots"
	"github.com/fieldgate/fieldgate/gateway/control"
)

// What is remembered beside the slots, for the judgement of a start.
const (
	noteBefore  = "before"  // an installation: the version, and whether the hub was reached then
	noteReached = "reached" // not empty: the hub was reached from this machine

	hubUp, hubDown = "up", "down"
)

// errNoTwin says that the hub has taken nothing, and has nothing that could be asked for.
var errNoTwin = errors.New("the hub has taken no message, and there is no twin to read from it")

// proofEvery is how often a start that has not proven good is looked at.
const proofEvery = 2 * time.Second

func (u *updater) markGoodCommand(std streams) *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:   "mark-good",
		Short: "Confirm the slot that runs",
		Long: `Gives the running slot its three starts again, and notes that what is in it has
proven good.

With --await it waits until that is so, and confirms nothing otherwise. What runs
for the first time has proven good when the hub has taken a message since the start,
or has answered; or, when the time is over, if the hub was not reached before the
installation either and what is taken from leaves is kept on flash. What had proven
good before must only answer: a hub that is away for weeks is no reason to leave a
slot. The card image runs this at each start, and starts anew when it fails.`,
		Example: "  fieldgate update mark-good\n  fieldgate update mark-good --await 15m",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			const what = "cannot confirm the slot"
			return u.onSlots(cmd.Context(), what, func(m *slots.Machine) error {
				running, err := m.Running(cmd.Context())
				if err != nil {
					return err
				}
				by := "as asked"
				if wait > 0 {
					if err := noteStart(m, u.kept, running); err != nil {
						return err
					}
					j := &judge{client: u.daemon.client(), machine: m}
					if by, err = j.await(cmd.Context(), running, wait); err != nil {
						return &failure{exitTimedOut, what, err, "fieldgate check"}
					}
				}
				if err = m.Confirm(cmd.Context()); err == nil {
					err = noteGood(m, u.kept, running)
				}
				if err == nil {
					fmt.Fprintln(std.out, "confirmed: "+by)
				}
				return err
			})
		},
	}
	u.daemon.flags(c)
	c.Flags().DurationVar(&wait, "await", 0, "wait so long for a proof that the start was good")
	return c
}

// judge looks for what shows that a start was good.
type judge struct {
	client  *control.Client
	machine *slots.Machine
}

// await waits for a proof and says what it was. The error says what is missing.
func (j *judge) await(ctx context.Context, running slots.Slot, limit time.Duration) (by string, err error) {
	over := time.After(limit)
	for {
		by, err := j.look(ctx, running)
		if by != "" {
			return by, nil
		}
		select {
		case <-time.After(proofEvery):
		case <-over:
			if errors.Is(err, errNoTwin) {
				return "the hub is connected, and nobody has sent anything", nil
			}
			if by, without := j.withoutHub(ctx, running); by != "" {
				return by, nil
			} else if without != nil {
				err = fmt.Errorf("%w; %w", err, without)
			}
			return "", err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// look returns a proof, or what is missing.
func (j *judge) look(ctx context.Context, running slots.Slot) (by string, missing error) {
	if _, err := os.Stat(defaultConfig()); errors.Is(err, fs.ErrNotExist) {
		return "there is no configuration yet", nil
	}
	ctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
	defer cancel()
	var s state
	if err := j.client.State(ctx, &s); err != nil {
		return "", fmt.Errorf("the daemon does not answer: %w", err)
	}
	if running.Confirmed {
		return "it answers, and has proven good before", nil
	}
	switch {
	case !s.Uplink.LastAccepted.IsZero():
		by = "the hub has taken a message"
	case !s.Uplink.Connected:
		return "", errors.New("the hub is not reached: " + cmp.Or(s.Uplink.LastError, "it is being dialled"))
	default:
		switch _, err := j.client.RoundTrip(ctx); {
		case errors.Is(err, control.ErrNotFound):
			return "", errNoTwin
		case err != nil:
			return "", fmt.Errorf("the hub does not answer: %w", err)
		}
		by = "the hub answers"
	}
	// Without the note the next version could only be judged too leniently.
	_ = j.machine.Remember(noteReached, s.Uplink.Hub)
	return by, nil
}

// withoutHub returns a proof that needs no hub, where that is enough; else what is
// missing of it, nil where none is enough.
func (j *judge) withoutHub(ctx context.Context, running slots.Slot) (by string, missing error) {
	before := j.machine.Recall(noteBefore) == running.Version+" "+hubDown
	if !before && j.machine.Recall(noteReached) != "" {
		return "", nil
	}
	if err := j.client.ProbeStore(ctx); err != nil {
		return "", fmt.Errorf("nothing can be kept on flash: %w", err)
	}
	return "what leaves send is kept on flash; the hub was not reached before either", nil
}
