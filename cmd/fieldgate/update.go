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
	"github.com/fieldgate/fieldgate/gateway/control"
)

func updateCommand(std streams) *cobra.Command {
	u := new(updater)
	c := group("update", "The software on the card: which version runs, the next, the last",
		u.statusCommand(std), u.installCommand(std), u.markGoodCommand(std), u.rollbackCommand(std), u.takeCommand(std))
	c.PersistentFlags().StringVar(&u.kept, "kept", keptFolder(), "`FOLDER` in which it is noted which slots have proven good")
	c.Long = `The card has two slots, A and B. An update goes into the one that is not running,
which is started next; after three starts that were not confirmed the other one has
its turn. The configuration and everything in custody are in neither.`
	return c
}

// updater is what the commands of update have in common.
type updater struct {
	kept   string
	daemon remote
}

// onSlots does something with RAUC.
func (u *updater) onSlots(ctx context.Context, what string, do func(*slots.Machine) error) error {
	m, err := slots.Open(ctx, u.kept)
	if err == nil {
		defer m.Close()
		err = do(m)
	}
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	f := &failure{exitFailed, what, err, "look at the log: journalctl -u rauc"}
	switch {
	case errors.Is(err, slots.ErrAbsent):
		f.code, f.next = exitNotRunning, "updates of this kind are for the card image; elsewhere: apt upgrade"
	case errors.Is(err, slots.ErrOlder):
		f.code, f.next = exitForbidden, "take a newer one; with --allow-downgrade an old one is taken, with every hole that has been closed since"
	case errors.Is(err, slots.ErrRefused):
		f.code, f.next = exitForbidden, "look at the slots: fieldgate update status"
	}
	return f
}

func (u *updater) statusCommand(std streams) *cobra.Command {
	var form formFlag
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show the slots",
		Example: "  fieldgate update status\n  fieldgate update status --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return u.onSlots(cmd.Context(), "cannot read the slots", func(m *slots.Machine) error {
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
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, mark[s.Booted], mark[s.Primary], slotState(s), cmp.Or(s.Version, "-"), cmp.Or(s.Installed, "-"))
	}
	return t.Flush()
}

func slotState(s slots.Slot) string {
	switch {
	case s.Empty():
		return "empty"
	case !s.Good:
		return "bad"
	case !s.Confirmed:
		return "unproven"
	}
	return "good"
}

func (u *updater) installCommand(std streams) *cobra.Command {
	var older bool
	c := &cobra.Command{
		Use:   "install FILE",
		Short: "Install an update into the slot that is not running",
		Long: `Checks the signature of a bundle and writes it into the slot that is not running.
It counts from the next start on. What is unsigned, signed by somebody else, for
another board or damaged is refused, and so is what is older than what runs.

With --allow-downgrade an older version is taken. It has every hole that has been
closed since, and may not be able to read a store or a configuration that a newer
one has written: then the gateway does not start, and after three starts what runs
now has its turn again. The hub cannot ask for that.`,
		Example: `  fieldgate update install rpi4.raucb && systemctl reboot
  fieldgate update install old.raucb --allow-downgrade`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return u.onSlots(cmd.Context(), "cannot install "+args[0], func(m *slots.Machine) error {
				file, err := filepath.Abs(args[0])
				if err != nil {
					return err
				}
				err = u.install(cmd.Context(), m, file, "", older, func(percent int, doing string) {
					fmt.Fprintf(std.err, "%3d%% %s\n", percent, doing)
				})
				if err == nil {
					fmt.Fprintln(std.out, "installed; it is started next: systemctl reboot")
				}
				return err
			})
		},
	}
	u.daemon.flags(c)
	c.Flags().BoolVar(&older, "allow-downgrade", false, "take a version that is older than what runs, with its holes")
	return c
}

// stateTime is how long the daemon may take to say how it is.
var stateTime = control.DefaultTimeout

// install installs a bundle that came from an address, "" for an operator's file, and
// notes what becomes of it. Before, it remembers whether the hub is reached now: what is
// installed is judged by that.
func (u *updater) install(ctx context.Context, m *slots.Machine, file, url string, older bool, progress func(int, string)) error {
	done, err := u.alone()
	if err != nil {
		return err
	}
	defer done()
	return u.installAlone(ctx, m, file, url, older, progress)
}

// installAlone is install for whoever is alone at it.
func (u *updater) installAlone(ctx context.Context, m *slots.Machine, file, url string, older bool, progress func(int, string)) error {
	now := updateState{State: updateInstalling, URL: url}
	err := u.installNoting(ctx, m, file, &now, older, progress)
	switch {
	case err == nil:
		now.State = updateInstalled
	case errors.Is(err, slots.ErrRefused), errors.Is(err, slots.ErrOlder):
		now.State, now.Error = updateRefused, err.Error()
	default:
		now.State, now.Error = updateFailed, err.Error()
	}
	return errors.Join(err, noteState(m, now))
}

func (u *updater) installNoting(ctx context.Context, m *slots.Machine, file string, now *updateState, older bool, progress func(int, string)) (err error) {
	if now.Version, err = m.Version(ctx, file); err != nil {
		return err
	}
	before := hubDown
	var s state
	// A daemon that is hung, or was taken over, must not keep its successor out.
	asking, cancel := context.WithTimeout(ctx, stateTime)
	defer cancel()
	if u.daemon.client().State(asking, &s) == nil && s.Uplink.Connected {
		before = hubUp
	}
	if err := errors.Join(m.Remember(noteBefore, now.Version+" "+before), noteState(m, *now)); err != nil {
		return err
	}
	return m.Install(ctx, file, older, progress)
}

func (u *updater) rollbackCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback",
		Short: "Start the other slot next",
		Long: `Has the slot that is not running started next. Refused where nothing is in it, or
what is in it has never proven good.`,
		Example: "  fieldgate update rollback && systemctl reboot",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return u.onSlots(cmd.Context(), "cannot go back", func(m *slots.Machine) error {
				err := m.StartOther(cmd.Context())
				if err == nil {
					fmt.Fprintln(std.out, "the other slot is started next: systemctl reboot")
				}
				return err
			})
		},
	}
}
