package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/board/slots"
)

func updateCommand(std streams) *cobra.Command {
	c := group("update", "The software on the card: which version runs, the next, the last",
		updateStatusCommand(std), updateInstallCommand(std), markGoodCommand(std), updateRollbackCommand(std))
	c.Long = `The card has two slots, A and B. An update goes into the one that is not running,
which is started next; after three starts that were not confirmed the other one has
its turn. The configuration and everything in custody are in neither.`
	return c
}

// onSlots does something with RAUC.
func onSlots(ctx context.Context, what string, do func(*slots.Machine) error) error {
	m, err := slots.Open(ctx)
	if err == nil {
		defer m.Close()
		err = do(m)
	}
	if err == nil {
		return nil
	}
	f := &failure{exitFailed, what, err, "look at the log: journalctl -u rauc"}
	switch {
	case errors.Is(err, slots.ErrAbsent):
		f.code, f.next = exitNotRunning, "updates of this kind are for the card image; elsewhere: apt upgrade"
	case errors.Is(err, slots.ErrRefused):
		f.code, f.next = exitForbidden, "look at the slots: fieldgate update status"
	}
	return f
}

func updateStatusCommand(std streams) *cobra.Command {
	var form formFlag
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show the slots",
		Example: "  fieldgate update status\n  fieldgate update status --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return onSlots(cmd.Context(), "cannot read the slots", func(m *slots.Machine) error {
				all, err := m.Slots(cmd.Context())
				if err != nil {
					return err
				}
				if !form.forPeople() {
					return encode(std.out, form.output, all)
				}
				return printSlots(std, all)
			})
		},
	}
	form.flag(c, forms...)
	return c
}

func printSlots(std streams, all []slots.Slot) error {
	t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SLOT\tRUNS\tNEXT\tSTATE\tVERSION\tINSTALLED")
	mark := map[bool]string{true: "yes", false: "-"}
	for _, s := range all {
		state := map[bool]string{true: "good", false: "bad"}[s.Good]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, mark[s.Booted], mark[s.Primary], state, cmp.Or(s.Version, "as on the card"), cmp.Or(s.Installed, "-"))
	}
	return t.Flush()
}

func updateInstallCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "install FILE",
		Short: "Install an update into the slot that is not running",
		Long: `Checks the signature of a bundle and writes it into the slot that is not running.
It counts from the next start on. What is unsigned, signed by somebody else, for
another board or damaged is refused.`,
		Example: "  fieldgate update install rpi4.raucb && systemctl reboot",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return onSlots(cmd.Context(), "cannot install "+args[0], func(m *slots.Machine) error {
				file, err := filepath.Abs(args[0])
				if err != nil {
					return err
				}
				err = m.Install(cmd.Context(), file, func(percent int, doing string) {
					fmt.Fprintf(std.err, "%3d%% %s\n", percent, doing)
				})
				if err == nil {
					fmt.Fprintln(std.out, "installed; it is started next: systemctl reboot")
				}
				return err
			})
		},
	}
}

func markGoodCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "mark-good",
		Short: "Confirm the slot that runs",
		Long: `Gives the running slot its three starts again. The gateway's own check does so
after each start that was good.`,
		Example: "  fieldgate update mark-good",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return onSlots(cmd.Context(), "cannot confirm the slot", func(m *slots.Machine) error {
				err := m.MarkGood(cmd.Context())
				if err == nil {
					fmt.Fprintln(std.out, "confirmed")
				}
				return err
			})
		},
	}
}

func updateRollbackCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:     "rollback",
		Short:   "Start the other slot next",
		Example: "  fieldgate update rollback && systemctl reboot",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return onSlots(cmd.Context(), "cannot go back", func(m *slots.Machine) error {
				err := m.StartOther(cmd.Context())
				if err == nil {
					fmt.Fprintln(std.out, "the other slot is started next: systemctl reboot")
				}
				return err
			})
		},
	}
}
