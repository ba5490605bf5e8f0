package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/board/slots"
)

func (u *updater) takeCommand(std streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "take FOLDER",
		Short: "Install what the hub has asked for",
		Long: `Takes the order that the daemon has laid into the folder after the hub has called
its method "update", and the bundle beside it, and installs that as "update install"
does: an older version never. Then the machine starts anew, unless the order says
otherwise. For systemd, which runs it as root when there is an order.`,
		Example: "  fieldgate update take /var/lib/fieldgate/update",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return u.onSlots(cmd.Context(), "cannot take the order", func(m *slots.Machine) error {
				return u.take(cmd.Context(), m, args[0], std.err)
			})
		},
	}
	u.daemon.flags(c)
	return c
}

// take installs what was ordered, and has the machine start anew.
func (u *updater) take(ctx context.Context, m *slots.Machine, dir string, said io.Writer) error {
	done, locked := u.alone()
	if locked == nil {
		defer done()
	}
	o, err := takeOrder(dir) // in any case: systemd starts this again as long as there is an order
	if err != nil {
		return errors.Join(locked, err)
	}
	if locked != nil {
		return u.noteEnd(m, o, locked)
	}
	bundle := filepath.Join(u.kept, orderBundle)
	defer os.RemoveAll(bundle)                   // what lay there may be a folder: the other one is the daemon's
	if err := os.RemoveAll(bundle); err != nil { // left by a cut of power
		return u.noteEnd(m, o, err)
	}
	// From here on nobody but root can put another file in its place. What the daemon's
	// user still holds open is of no use: the signature is over what RAUC reads.
	if err := os.Rename(filepath.Join(dir, orderBundle), bundle); err != nil {
		return u.noteEnd(m, o, err)
	}
	if err := ordinary(bundle); err != nil {
		return u.noteEnd(m, o, err)
	}
	err = u.installAlone(ctx, m, bundle, o.URL, false, func(percent int, doing string) { fmt.Fprintf(said, "%3d%% %s\n", percent, doing) })
	if err != nil || o.Restart != nil && !*o.Restart {
		return err
	}
	return m.Restart(ctx)
}

// updateLock is the file that whoever installs an update has locked.
const updateLock = "update.lock"

// alone keeps others from installing an update until done, and shows that this process
// lives. The lock goes with the process, however that ends.
func (u *updater) alone() (done func(), err error) {
	if err := os.MkdirAll(u.kept, 0o755); err != nil {
		return nil, err
	}
	// The daemon's user may see it and not open it: who could would keep root out.
	f, err := os.OpenFile(filepath.Join(u.kept, updateLock), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another update is being installed")
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// updateRuns says whether a process installs an update. Whoever cannot see that takes it
// for so.
func updateRuns(kept string) bool {
	info, err := os.Stat(filepath.Join(kept, updateLock))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	_, runs, err := lockedBy(info)
	return runs || err != nil
}

// noteEnd notes an error that came before the installation, and returns it.
func (u *updater) noteEnd(m *slots.Machine, o order, err error) error {
	return errors.Join(err, noteState(m, updateState{State: updateFailed, URL: o.URL, Error: err.Error()}))
}

// takeOrder reads an order and removes it, so that it is tried once, whatever happens.
// The folder is the daemon's, whom root does not trust.
func takeOrder(dir string) (o order, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return o, err
	}
	defer root.Close()
	f, err := root.OpenFile(orderFile, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return o, errors.Join(err, root.RemoveAll(orderFile))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxOrder))
	if err = errors.Join(err, root.RemoveAll(orderFile)); err != nil {
		return o, err
	}
	return parseOrder(text)
}

// parseOrder reads an order. Its address is only told, without what may be a secret.
func parseOrder(text []byte) (o order, err error) {
	if err := json.Unmarshal(text, &o); err != nil {
		return o, fmt.Errorf("the order cannot be read: %w", err)
	}
	if o.URL, err = bareText(o.URL); err != nil {
		return o, errors.New("the order has no address")
	}
	return o, nil
}

// ordinary returns an error unless a file is one, with no other name, and of a size
// that an update can have.
func ordinary(file string) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); info.Mode().Type() != 0 || !ok || s.Nlink != 1 {
		return fmt.Errorf("%s is no ordinary file", file)
	}
	if info.Size() > maxBundle {
		return fmt.Errorf("%s has %d bytes, and an update at most %d", file, info.Size(), maxBundle)
	}
	return nil
}

// noteState notes what became of an update now.
func noteState(m *slots.Machine, s updateState) error {
	s.Time, s.Boot = time.Now().UTC(), bootID()
	text, _ := json.Marshal(s) // plain values: it cannot fail
	return m.Remember(noteUpdate, string(text))
}

// noteStart notes what became of an installation before this start: what runs is what
// was installed, or it is not.
func noteStart(m *slots.Machine, kept string, running slots.Slot) error {
	s := notedUpdateState(kept)
	if s != nil && s.Boot == bootID() {
		return nil
	}
	if !updateRuns(kept) {
		if err := os.RemoveAll(filepath.Join(kept, orderBundle)); err != nil { // left by a cut of power
			return err
		}
	}
	if s == nil {
		return nil
	}
	switch s.State {
	case updateInstalling:
		s.State, s.Error = updateFailed, "the machine was started anew while it was installed"
	case updateInstalled, updateTrial:
		if running.Version == s.Version {
			s.State = updateTrial
		} else {
			s.State, s.Error = updateBack, "version "+running.Version+" runs: the other one was started and did not prove good"
		}
	default:
		return nil
	}
	return noteState(m, *s)
}

// noteGood notes that what is on trial has proven good.
func noteGood(m *slots.Machine, kept string, running slots.Slot) error {
	s := readUpdateState(kept)
	if s == nil || s.State != updateTrial || s.Version != running.Version {
		return nil
	}
	s.State, s.Error = updateGood, ""
	return noteState(m, *s)
}
