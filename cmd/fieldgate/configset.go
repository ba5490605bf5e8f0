package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
)

// countsHint says what makes changes count.
func countsHint(all []differing) string {
	if slices.ContainsFunc(all, func(d differing) bool { return d.Change == changeRestart }) {
		return "make it count: fieldgate config apply --restart"
	}
	return "make it count: fieldgate config apply"
}

func setKeyCommand(std streams) *cobra.Command {
	var l local
	c := &cobra.Command{
		Use:   "set KEY VALUE [KEY VALUE]...",
		Short: "Set keys in the configuration file",
		Long: `Sets keys in the configuration file, or in the file of leaf.d where they stand.
Nothing else in it changes: comments and spacing stay. Keys that only make sense
together are set together. The result is checked as "config validate" does before
it is written, and is written whole or not at all.

Text needs no quotes, and a list of texts can be written with commas. In lists of
tables one is named by its id or its place: leaf.pump-1.key_file,
leaf[id=pump-1].key_file or leaf[0].key_file.

A password in the URL of hub.proxy is not written there, but into the file of
hub.proxy_password_file, sealed where this machine has a key.`,
		Example: "  fieldgate config set hub.keep_alive 1m\n" +
			"  fieldgate config set hub.device_id gate-7 hub.key_file gate-7.key\n" +
			"  fieldgate config set leaf.pump-1.disabled true",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args)%2 != 0 {
				return errors.New("write keys and values in turn, like hub.keep_alive 1m")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var aside *setAside
			err := l.change(std, func(s *settings) (all []change, err error) {
				if args, aside, err = l.withoutPassword(s, args); err != nil {
					return nil, err
				}
				for i := 0; i < len(args); i += 2 {
					one, err := s.findOne(args[i])
					if err != nil {
						return nil, err
					}
					all = append(all, change{one, spellAs(one.key, args[i+1])})
				}
				return all, nil
			})
			switch {
			case aside == nil:
			case err != nil:
				err = errors.Join(err, aside.undo())
			default:
				fmt.Fprintln(std.err, aside.hint())
			}
			return err
		},
	}
	l.flags(c, textForms...)
	return c
}

func unsetKeyCommand(std streams) *cobra.Command {
	var l local
	c := &cobra.Command{
		Use:   "unset KEY...",
		Short: "Take keys out of the configuration file",
		Long: `Takes keys out of the configuration file, so that their defaults count. Nothing else
in it changes, and comments stay. The result is checked before it is written. A key
that is not set is left alone.`,
		Example: "  fieldgate config unset hub.keep_alive",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return l.change(std, func(s *settings) ([]change, error) {
				var all []change
				for _, arg := range args {
					one, err := s.findOne(arg)
					if err != nil {
						return nil, err
					}
					all = append(all, change{one, ""})
				}
				return all, nil
			})
		},
	}
	l.flags(c, textForms...)
	return c
}

// change is what is to be done with a key.
type change struct {
	*setting
	to string // in TOML; "" takes the key out
}

// change makes changes in the file in which the keys stand.
func (l *local) change(std streams, find func(*settings) ([]change, error)) error {
	return l.edit(std, func(s *settings) (string, editing, error) {
		all, err := find(s)
		if err != nil {
			return "", nil, err
		}
		return all[0].file, func(text []byte) ([]byte, error) { return applied(text, all) }, nil
	})
}

// editing makes a new text of that of a file.
type editing func(text []byte) ([]byte, error)

// edit has a file of the configuration edited that find names, checks the result,
// writes it, and says what has changed.
func (l *local) edit(std streams, find func(*settings) (file string, do editing, err error)) error {
	file, all, err := l.rewrite(find)
	if err != nil {
		return err
	}
	return l.report(std.out, file, all)
}

// rewrite is the part of edit in which nobody else may change the configuration.
func (l *local) rewrite(find func(*settings) (file string, do editing, err error)) (file string, all []differing, err error) {
	const what = "cannot change the configuration"
	unlock, err := lockFolder(filepath.Dir(l.file))
	if err != nil {
		return "", nil, &failure{exitFailed, what, err, lockHint(err)}
	}
	defer unlock()
	before, err := l.read()
	if err != nil {
		return "", nil, err
	}
	file, do, err := find(before)
	if err != nil {
		return "", nil, err
	}
	old, err := os.ReadFile(file)
	if err != nil {
		return "", nil, &failure{exitFailed, what, err, "try again"}
	}
	text, err := do(old)
	if err != nil {
		return "", nil, &failure{exitFailed, what, err, "change " + file + " with an editor, then run: fieldgate config validate " + l.file}
	}
	if err := l.write(file, old, text); err != nil {
		return "", nil, err
	}
	after, err := l.read()
	if err != nil {
		return "", nil, err
	}
	return file, difference(before, after), nil
}

// applied returns the text with the changes made.
func applied(text []byte, all []change) ([]byte, error) {
	for _, c := range all {
		var err error
		switch {
		case c.file != all[0].file:
			return nil, fmt.Errorf("%s stands in %s and %s in %s: change one after the other", all[0].name, all[0].file, c.name, c.file)
		case c.to != "":
			text, err = edit.Set(text, c.path, c.to)
		default:
			var less []byte
			if less, err = edit.Unset(text, c.path); err == nil {
				text = less
			} else if errors.Is(err, edit.ErrNotSet) {
				err = nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return text, nil
}

// write writes a file of the configuration if that is right with its new text.
func (l *local) write(file string, old, text []byte) error {
	if bytes.Equal(old, text) {
		return nil
	}
	if _, err := loadConfigWith(l.file, map[string][]byte{file: text}); err != nil {
		if _, was := loadConfig(l.file); was != nil {
			return configFailure(l.file, err, exitConfig, "nothing was written; it has mistakes without this change as well: mend them with an editor")
		}
		f := configFailure(l.file, err, exitConfig, "set the keys that go together in one command; nothing was written").(*failure)
		f.what += " with this change"
		return f
	}
	if err := replaceFile(file, text); err != nil {
		return &failure{exitFailed, "cannot write " + file, err, "the old one is untouched; look at the space and the rights there"}
	}
	return nil
}

// report says what has changed.
func (l *local) report(out io.Writer, file string, all []differing) error {
	if !l.forPeople() {
		return encode(out, l.output, struct {
			File    string      `json:"file"`
			Changes []differing `json:"changes"`
		}{file, all})
	}
	if len(all) == 0 {
		fmt.Fprintln(out, "no key has another value now")
		return nil
	}
	for _, d := range all {
		fmt.Fprintf(out, "%s = %s, was %s\n", d.Key, differingValue(d.To), differingValue(d.From))
	}
	fmt.Fprintf(out, "written to %s; %s\n", file, countsHint(all))
	return nil
}

// lockWait is how long others may take to change the configuration, and lockRetry how
// often it is looked whether they have ended.
const (
	lockWait  = 10 * time.Second
	lockRetry = 20 * time.Millisecond
)

// lockFolder keeps others from changing the configuration meanwhile. It waits for one
// who is at it for lockWait at most, for the daemon has more to do: the error wraps
// unix.EWOULDBLOCK then and says who it is. Nothing is to be written to a terminal or
// pipe, or read from one, before unlock is called, which can be done twice.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for begin := time.Now(); ; time.Sleep(lockRetry) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(begin) >= lockWait {
			who := holder(f)
			f.Close()
			return nil, fmt.Errorf("%s is locked by %s: %w", dir, who, err)
		}
	}
}

// holder says which process has locked a file (proc_locks(5)), as far as that can be
// seen.
func holder(f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return "another process"
	}
	pid, _, _ := lockedBy(info)
	if pid == "" {
		return "another process"
	}
	name, _ := os.ReadFile("/proc/" + pid + "/comm") // not everybody may
	return strings.TrimSpace("process " + pid + " " + string(name))
}

// lockedBy says whether a file is locked (proc_locks(5)), and by which process, as far
// as that can be seen.
func lockedBy(info fs.FileInfo) (pid string, locked bool, err error) {
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return "", false, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", false, fs.ErrInvalid
	}
	at := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(s.Dev)), unix.Minor(uint64(s.Dev)), s.Ino)
	for line := range strings.Lines(string(text)) {
		// 1: FLOCK  ADVISORY  WRITE 708 fe:01:1234 0 EOF
		if field := strings.Fields(line); len(field) > 5 && field[1] == "FLOCK" && field[5] == at {
			return field[4], true, nil
		}
	}
	return "", false, nil
}

// lockHint says what to do when a folder cannot be locked.
func lockHint(err error) string {
	if errors.Is(err, unix.EWOULDBLOCK) {
		return "try again when that has ended"
	}
	return "run it with sudo, or name another file with --config"
}

// replaceFile puts a text in the place of a file that is there, with the same owner
// and mode. After a power cut there is the one or the other.
func replaceFile(file string, text []byte) error {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	fresh := file + ".new" // no file of leaf.d ends so
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeSynced(fresh, text, info); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	if err := os.Rename(fresh, file); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return syncFolder(filepath.Dir(file))
}

// writeSynced writes a new file and waits until it is on the disk.
func writeSynced(name string, text []byte, like fs.FileInfo) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if owner, ok := like.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		err = f.Chown(int(owner.Uid), int(owner.Gid))
	}
	_, wrote := f.Write(text)
	return errors.Join(err, f.Chmod(like.Mode().Perm()), wrote, f.Sync(), f.Close())
}
