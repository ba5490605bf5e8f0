// Package keypair replaces a certificate and its key, which are two files, in one step:
// whenever the process ends, also by kill -9 or a power cut, the two that are found fit
// each other.
//
// Beside gateway.crt there is a folder gateway.crt.d, in which each pair has a folder of
// its own. gateway.crt and gateway.key are links that lead through the link "current" to
// one of them, so that one rename swaps both files:
//
//	gateway.crt         -> gateway.crt.d/current/cert.pem
//	gateway.key         -> gateway.crt.d/current/key.pem
//	gateway.crt.d/current -> 2
//	gateway.crt.d/former  -> 1
//
// Files that somebody has put in the places of the links are first copied into such a
// folder; while the links are made, both sides have the same content. What is in the
// files, and whether a pair is any good, is for the caller to know.
package keypair

import (
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrElsewhere says that a file is a link that was not made here: whoever has made it
// replaces what it leads to.
var ErrElsewhere = errors.New("is a link that somebody else has made")

// ErrNoFormer says that there is no pair to go back to.
var ErrNoFormer = errors.New("there is no former one")

// Place is where whoever uses a pair looks for it. It must not be used by two processes
// or goroutines at once.
type Place struct {
	Cert, Key string // files
}

// pass is called between any two steps. A test has the process killed there.
var pass = func() {}

func (p Place) dir() string     { return p.Cert + ".d" }
func (p Place) current() string { return filepath.Join(p.dir(), "current") }
func (p Place) former() string  { return filepath.Join(p.dir(), "former") }

func certIn(dir string) string { return filepath.Join(dir, "cert.pem") }
func keyIn(dir string) string  { return filepath.Join(dir, "key.pem") }

// Keys returns the files with keys that are not in their place: of former pairs, of one
// whose change was cut short, and the one that waits for its certificate.
func (p Place) Keys() []string {
	now, _ := os.Readlink(p.current())
	list, _ := os.ReadDir(p.dir())
	files := []string{p.RequestFile()}
	for _, e := range list {
		if _, number := strconv.Atoi(e.Name()); number == nil && e.Name() != now {
			files = append(files, keyIn(filepath.Join(p.dir(), e.Name())))
		}
	}
	return slices.DeleteFunc(files, func(name string) bool {
		_, err := os.Lstat(name)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// RequestFile is where a key waits for its certificate. Nothing here reads it.
func (p Place) RequestFile() string { return filepath.Join(p.dir(), "request.key") }

// Former returns the files of the pair that Back would bring back. The error wraps
// ErrNoFormer where there is none.
func (p Place) Former() (cert, key string, err error) {
	now, _ := os.Readlink(p.current())
	old, err := os.Readlink(p.former())
	if err != nil || old == now {
		return "", "", ErrNoFormer
	}
	dir := filepath.Join(p.dir(), old)
	return certIn(dir), keyIn(dir), nil
}

// Candidate is a pair that is on flash and not yet in its place.
type Candidate struct {
	place Place
	name  string
}

// Stage puts a pair on flash beside the one that is in use. The key is written as it
// is, so it should be sealed. The error wraps ErrElsewhere if the pair is not this
// package's to replace.
func (p Place) Stage(cert, key []byte) (*Candidate, error) {
	for _, file := range []string{p.Cert, p.Key} {
		if err := p.ours(file); err != nil {
			return nil, err
		}
	}
	if err := p.MakeFolder(p.dir(), 0o755); err != nil {
		return nil, err
	}
	name, err := p.free()
	if err != nil {
		return nil, err
	}
	c := &Candidate{p, name}
	dir := filepath.Join(p.dir(), name)
	pass()
	err = p.MakeFolder(dir, 0o755)
	if err == nil {
		pass()
		err = p.WriteFile(keyIn(dir), key, 0o600)
	}
	if err == nil {
		pass()
		err = p.WriteFile(certIn(dir), cert, 0o644)
	}
	if err == nil {
		err = errors.Join(syncFolder(dir), syncFolder(p.dir()))
	}
	if err != nil {
		return nil, errors.Join(err, c.Drop())
	}
	pass()
	return c, nil
}

// ours looks whether a file is the link that leads to the current pair, or a file, or
// not there.
func (p Place) ours(file string) error {
	target, err := os.Readlink(file)
	if err != nil {
		return nil // no link: it can be replaced, or it is not there
	}
	if target == p.target(file) {
		return nil
	}
	return fmt.Errorf("%s %w, to %s", file, ErrElsewhere, target)
}

// target is where a link at that place leads.
func (p Place) target(file string) string {
	inside := certIn(p.current())
	if file == p.Key {
		inside = keyIn(p.current())
	}
	if filepath.Dir(file) != filepath.Dir(p.Cert) {
		if abs, err := filepath.Abs(inside); err == nil {
			return abs
		}
	}
	short, err := filepath.Rel(filepath.Dir(file), inside)
	if err != nil {
		return inside
	}
	return short
}

// free is the name of the next pair's folder: numbers that go up.
func (p Place) free() (string, error) {
	list, err := os.ReadDir(p.dir())
	most := 0
	for _, e := range list {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			most = max(most, n)
		}
	}
	return strconv.Itoa(most + 1), err
}

// Files returns the candidate's files.
func (c *Candidate) Files() (cert, key string) {
	dir := filepath.Join(c.place.dir(), c.name)
	return certIn(dir), keyIn(dir)
}

// Drop removes a candidate that is not to be used.
func (c *Candidate) Drop() error { return c.place.remove(c.name) }

// Swap puts the candidate in its place. The pair that was there is kept for Back, those
// from before are removed. Of files that somebody has put there what sealed makes of the
// key is kept, and of the certificate's file no more than certificates: everybody can
// read it. It is on flash when Swap returns; after an error the old pair is in its
// place, or the new one.
func (c *Candidate) Swap(sealed func(key []byte) []byte) error {
	p := c.place
	if err := p.adopt(sealed); err != nil {
		return err
	}
	if old, err := os.Readlink(p.current()); err == nil {
		if err := p.link(old, p.former()); err != nil {
			return err
		}
	}
	if err := p.link(c.name, p.current()); err != nil {
		return err
	}
	if err := p.linkFiles(); err != nil {
		return err
	}
	return p.prune()
}

// Back swaps the current pair with the former one.
func (p Place) Back() error {
	if _, _, err := p.Former(); err != nil {
		return err
	}
	now, err := os.Readlink(p.current())
	if err != nil {
		return err
	}
	old, err := os.Readlink(p.former())
	if err != nil {
		return err
	}
	if err := p.link(old, p.current()); err != nil {
		return err
	}
	return p.link(now, p.former())
}

// adopt makes of files that somebody has put there a pair, and links to it of them.
func (p Place) adopt(sealed func(key []byte) []byte) error {
	cert, err := plainFile(p.Cert)
	if err != nil {
		return err
	}
	key, err := plainFile(p.Key)
	if err != nil {
		return err
	}
	if !cert && !key {
		return nil
	}
	var texts [2][]byte
	for i, file := range []string{p.Cert, p.Key} {
		pass()
		if texts[i], err = p.read(file); errors.Is(err, fs.ErrNotExist) {
			return nil // half a pair is none
		} else if err != nil {
			return err
		}
	}
	c, err := p.Stage(certificates(texts[0]), sealed(texts[1]))
	if err != nil {
		return err
	}
	if err := p.link(c.name, p.current()); err != nil {
		return err
	}
	return p.linkFiles()
}

// maxFile bounds what is read of a file that somebody has put there.
const maxFile = 1 << 20

// read reads a file of the pair, also where the link that was made here leads, and
// nothing but a file: what lies there may have been swapped for a link or a pipe since it
// was looked at.
func (p Place) read(file string) ([]byte, error) {
	at := file
	if target, err := os.Readlink(file); err == nil && target == p.target(file) {
		now, err := os.Readlink(p.current())
		if err != nil {
			return nil, err
		}
		if _, err := strconv.Atoi(now); err != nil {
			return nil, fmt.Errorf("%s %w, to %s", p.current(), ErrElsewhere, now)
		}
		at = filepath.Join(p.dir(), now, filepath.Base(target))
	}
	dir, err := p.open(filepath.Dir(at))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(at), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: at, Err: err}
	}
	f := os.NewFile(uintptr(fd), at)
	defer f.Close()
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		err = &fs.PathError{Op: "read", Path: at, Err: fs.ErrInvalid}
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// certificates are those in a text in PEM form, without all else.
func certificates(text []byte) (all []byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all
		}
		if block.Type == "CERTIFICATE" {
			all = append(all, pem.EncodeToMemory(block)...)
		}
	}
}

// plainFile says whether something is there that is no link.
func plainFile(file string) (bool, error) {
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return info.Mode().Type() != fs.ModeSymlink, nil
}

// linkFiles makes the links of the pair's files, the key's first: without a certificate
// there is no pair.
func (p Place) linkFiles() error {
	for _, file := range []string{p.Key, p.Cert} {
		if err := p.link(p.target(file), file); err != nil {
			return err
		}
	}
	return nil
}

// link makes a link, or puts it in the place of what is there, in one step.
func (p Place) link(target, name string) error {
	pass()
	if old, err := os.Readlink(name); err == nil && old == target {
		return nil
	}
	dir, err := p.open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	at, fresh := int(dir.Fd()), freshName()
	if err := unix.Symlinkat(target, at, fresh); err != nil {
		return &fs.PathError{Op: "symlink", Path: name, Err: err}
	}
	pass()
	if err := unix.Renameat(at, fresh, at, filepath.Base(name)); err != nil {
		return errors.Join(&fs.PathError{Op: "rename", Path: name, Err: err}, unix.Unlinkat(at, fresh, 0))
	}
	pass()
	return dir.Sync()
}

// prune removes pairs that are neither the current one nor the former.
func (p Place) prune() error {
	now, err := os.Readlink(p.current())
	if err != nil {
		return err
	}
	old, _ := os.Readlink(p.former())
	list, err := os.ReadDir(p.dir())
	for _, e := range list {
		if _, number := strconv.Atoi(e.Name()); number == nil && e.Name() != now && e.Name() != old {
			pass()
			err = errors.Join(err, p.remove(e.Name()))
		}
	}
	return errors.Join(err, syncFolder(p.dir()))
}

// MakeFolder makes a folder where there is none. It must be
// beneath the folder of the certificate, and is reached from there through no link.
func (p Place) MakeFolder(dir string, mode fs.FileMode) error {
	parent, err := p.open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	made := unix.Mkdirat(int(parent.Fd()), filepath.Base(dir), uint32(mode.Perm()))
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: made}
	}
	pass()
	f, err := openIn(parent, filepath.Base(dir))
	if err != nil {
		return err
	}
	defer f.Close()
	if made != nil {
		return nil
	}
	return f.Chmod(mode)
}

// WriteFile writes a file in a folder as MakeFolder makes them: after a power cut it is there whole or not at all, once its folder is synced.
func (p Place) WriteFile(name string, text []byte, mode fs.FileMode) error {
	dir, err := p.open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	at, fresh := int(dir.Fd()), freshName()
	fd, err := unix.Openat(at, fresh, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat(at, fresh, at, filepath.Base(name))
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(at, fresh, 0))
	}
	return nil
}

// freshName is one that nobody else has given a file.
func freshName() string { return ".new-" + rand.Text() }

// open opens a folder. From that of the certificate downwards it goes through no link:
// the daemon's user may own the folders there, and would lead root, who writes into
// them, anywhere.
func (p Place) open(dir string) (*os.File, error) {
	base := filepath.Dir(p.Cert)
	rest, err := filepath.Rel(base, dir)
	if err != nil || !filepath.IsLocal(rest) {
		return os.Open(dir)
	}
	f, err := os.Open(base)
	if err != nil || rest == "." {
		return f, err
	}
	for name := range strings.SplitSeq(rest, string(filepath.Separator)) {
		next, err := openIn(f, name)
		f.Close()
		if err != nil {
			return nil, err
		}
		f = next
	}
	return f, nil
}

// openIn opens a folder in another one, not a link to one.
func openIn(parent *os.File, name string) (*os.File, error) {
	full := filepath.Join(parent.Name(), name)
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: full, Err: err}
	}
	return os.NewFile(uintptr(fd), full), nil
}

// remove removes a pair. It cannot be led out of the folder of the certificate.
func (p Place) remove(name string) error {
	base, err := os.OpenRoot(filepath.Dir(p.Cert))
	if err != nil {
		return err
	}
	return errors.Join(base.RemoveAll(filepath.Join(filepath.Base(p.dir()), name)), base.Close())
}

func syncFolder(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
