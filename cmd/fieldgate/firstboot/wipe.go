package firstboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// An editor writes a file anew and frees the clusters in which it lay: earlier versions,
// with secrets, stay in the free room of the card. Nobody can name those clusters. So
// all free room is overwritten, by a file that grows until there is none left and is
// then removed.
//
// That takes a while, and is done when the gateway runs already. What is due stands in
// a note on the data partition until it is done.

// fillFile is the file that takes all free room. Where the power went, it is in
// the way of whoever wants to write on the card; it may be deleted by anyone.
const fillFile = "fieldgate-wipe.tmp"

// maxCard bounds what is filled, in bytes: a boot partition, and nobody's disk.
const maxCard = 1 << 30

// residue is the note.
type residue struct {
	Due bool // secrets may lie in free room
	// Held says that a file has secrets in it that cannot be taken away here: one with a
	// mistake, or one that an editor has left. Once the operator has written it anew or
	// deleted it, they lie in free room.
	Held bool
	// Failed is why the last try ended without success, in the start of the machine with
	// the name Start. There is one such try per start: a card that fails is not to be worn.
	Failed, Start string
}

func (g *Gateway) residueFile() string { return filepath.Join(g.dir(), residueName) }

const residueName = ".first-boot.residue"

func (g *Gateway) residue() (residue, error) {
	var r residue
	text, err := os.ReadFile(g.residueFile())
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return residue{Due: true}, fmt.Errorf("cannot read %s: %w", g.residueFile(), err)
	}
	return r, nil
}

// note keeps what is to be known of the card's residue.
func (g *Gateway) note(change func(*residue)) error {
	r, _ := g.residue() // one that cannot be read is written anew, and is due
	change(&r)
	if !r.Due {
		r.Failed, r.Start = "", ""
	}
	if r == (residue{}) {
		return remove(g.residueFile())
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replace(g.residueFile(), text, 0o600, false)
}

// soil notes that secrets may lie in the free room of the folder, if it is the card.
func (g *Gateway) soil(folder string) error {
	if g.Card == "" || folder != g.Card {
		return nil
	}
	return g.note(func(r *residue) { r.Due = true })
}

// hold notes whether files on the card have secrets in them, now that all of them were
// looked at. wrong is why one was not applied.
func (g *Gateway) hold(wrong error) error {
	held := wrong != nil || len(g.Leftovers()) > 0
	return g.note(func(r *residue) {
		r.Due = r.Due || r.Held && !held
		r.Held = held
	})
}

// leftover are names of files that editors and desktops make of ours: backups, swap
// files, copies, what is in a trash folder.
var leftover = regexp.MustCompile(`(?i)\.toml|user-data|network-config`)

// Leftovers are files on the card, named from there, that may have secrets in them and
// are none that Apply reads. They are the operator's and are not touched.
func (g *Gateway) Leftovers() (names []string) {
	if g.Card == "" {
		return nil
	}
	// What cannot be read is passed over: this is advice.
	_ = filepath.WalkDir(g.Card, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !leftover.MatchString(d.Name()) || strings.HasPrefix(d.Name(), "._") { // of macOS, without the text
			return nil
		}
		// FAT knows no difference between large and small letters.
		if filepath.Dir(path) != g.Card || !Takes(strings.ToLower(d.Name())) {
			name, _ := filepath.Rel(g.Card, path)
			names = append(names, name)
		}
		return nil
	})
	return names
}

// Residue says in words for the operator whether earlier versions of files may still
// lie on the card, "" if not.
func (g *Gateway) Residue() string {
	if g.Card == "" {
		return ""
	}
	r, err := g.residue()
	var lines []string
	switch {
	case err != nil:
		lines = append(lines, err.Error())
	case r.Failed != "":
		lines = append(lines, "earlier versions of files may lie in its free room, with secrets: "+r.Failed+"; it is tried again at the next start")
	case r.Due:
		lines = append(lines, "its free room is being overwritten, in which earlier versions of files lie: leave the gateway on until this line is gone")
	}
	if names := g.Leftovers(); len(names) > 0 {
		const most = 5
		more := ""
		if len(names) > most {
			names, more = names[:most], " and more"
		}
		lines = append(lines, "secrets may stand in "+strings.Join(names, ", ")+more+": delete what you do not need, and start the gateway again")
	}
	return strings.Join(lines, "\n")
}

// Wipe overwrites the free room of the card, if that is due and was not tried in vain
// since the machine has started. It may be killed at any moment and is then to be
// called again. It is not to run while Apply does.
func (g *Gateway) Wipe(ctx context.Context) error {
	r, err := g.residue()
	if g.Card == "" || err == nil && !r.Due {
		return nil
	}
	start := thisStart()
	if r.Failed != "" && r.Start == start {
		return nil
	}
	if err := g.wipe(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // it was not in vain, and is due
		}
		return errors.Join(err, g.note(func(r *residue) { r.Failed, r.Start = err.Error(), start }))
	}
	return g.note(func(r *residue) { r.Due = false })
}

// thisStart is a name that every start of the machine has for itself (random(4)).
func thisStart() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // where there is none, there is one try
	return strings.TrimSpace(string(text))
}

func (g *Gateway) wipe(ctx context.Context) error {
	if err := fillable(g.Card); err != nil {
		return err
	}
	if err := g.Clear(); err != nil {
		return err
	}
	return Writable(g.Card, func() error {
		name := filepath.Join(g.Card, fillFile)
		err := fill(ctx, name)
		err = errors.Join(err, remove(name))
		all, wrong := os.ReadDir(g.Card)
		err = errors.Join(err, wrong)
		for _, one := range all {
			if one.Type().IsRegular() && Takes(strings.ToLower(one.Name())) {
				err = errors.Join(err, closeGap(filepath.Join(g.Card, one.Name())))
			}
		}
		return err
	})
}

// Clear removes what a try has left in which the power went, or that was killed: else
// there is no room for the status. It is a change of its own: Linux mounts a FAT read-only
// when it finds a chain of clusters that was half written. Without a Card it does nothing.
func (g *Gateway) Clear() error {
	if g.Card == "" {
		return nil
	}
	name := filepath.Join(g.Card, fillFile)
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return Writable(g.Card, func() error { return remove(name) })
}

// fillable says whether a folder is a file system of its own that nobody misses for a
// while.
func fillable(folder string) error {
	var in, above unix.Stat_t
	var at unix.Statfs_t
	if err := errors.Join(unix.Stat(folder, &in), unix.Stat(filepath.Join(folder, ".."), &above), unix.Statfs(folder, &at)); err != nil {
		return err
	}
	if in.Dev == above.Dev || at.Blocks*uint64(at.Bsize) > maxCard {
		return fmt.Errorf("%s is no partition of its own of at most 1 GiB", folder)
	}
	return nil
}

// fill writes zeros into a new file until there is no room left. Each piece is on the
// card before the next one begins: memory does not fill with it, and what a power cut
// leaves of clusters that belong to no file has been overwritten.
func fill(ctx context.Context, name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for size := len(zeros); size >= 512 && err == nil; { // down to the smallest cluster
		n, wrong := f.Write(zeros[:size])
		if errors.Is(wrong, unix.ENOSPC) {
			size /= 2 // a piece that fits only in part may be given back whole
			wrong = nil
		}
		if n > 0 {
			wrong = errors.Join(wrong, f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		}
		err = errors.Join(wrong, ctx.Err())
	}
	return errors.Join(err, f.Close())
}

// closeGap overwrites what lies between the end of a file and the end of its last
// cluster. Where the power goes in between, the file has empty lines at its end.
func closeGap(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	var at unix.Statfs_t
	err = errors.Join(err, unix.Fstatfs(int(f.Fd()), &at))
	if err == nil && at.Bsize > 0 {
		if over := info.Size() % int64(at.Bsize); over > 0 {
			_, err = f.WriteAt([]byte(strings.Repeat("\n", int(int64(at.Bsize)-over))), info.Size())
			err = errors.Join(err, f.Sync(), f.Truncate(info.Size()), f.Sync())
		}
	}
	return errors.Join(err, f.Close())
}
