package firstboot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// requestFile is what asks for a reset at the next start, beside the configuration.
const requestFile = ".factory-reset"

// Request has the next start of the machine begin with a reset.
func (g *Gateway) Request() error {
	return replace(filepath.Join(g.dir(), requestFile), []byte("reset\n"), 0o600, false)
}

// Reset takes configuration, keys and data away if that was asked for: by Request, or
// by a file RESET in one of the folders. The daemon must not run. It returns whether
// it did. What asked for it goes last, so that Reset is done whole, however often it
// is killed.
func (g *Gateway) Reset(folders ...string) (done bool, err error) {
	var asked []string
	for _, folder := range folders {
		for _, name := range []string{"RESET", "reset", "RESET.txt", "reset.txt"} { // as editors name files
			asked = append(asked, filepath.Join(folder, name))
		}
	}
	asked = append(asked, filepath.Join(g.dir(), requestFile))
	asked = slices.DeleteFunc(asked, func(name string) bool {
		_, err := os.Lstat(name)
		return err != nil
	})
	if len(asked) == 0 {
		return false, nil
	}
	err = errors.Join(
		empty(g.Data), empty(g.dir(), requestFile, residueName), remove(g.SSHKeys), remove(g.WiFi),
	)
	if err == nil {
		err = g.soil(g.Card) // the operator has deleted files on it, or will
	}
	if err != nil {
		return false, err // it is asked for still
	}
	for _, name := range asked {
		err = errors.Join(err, Writable(filepath.Dir(name), func() error { return remove(name) }))
	}
	return true, err
}

// empty takes away everything in a folder. Where files are to be kept, so are the folders
// beside them, which are there from the start, with owners of their own.
func empty(dir string, keep ...string) error {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, one := range all {
		name := filepath.Join(dir, one.Name())
		switch {
		case slices.Contains(keep, one.Name()):
		case one.IsDir() && len(keep) > 0 && !strings.HasPrefix(one.Name(), "."):
			err = errors.Join(err, empty(name))
		default:
			err = errors.Join(err, os.RemoveAll(name))
		}
	}
	return errors.Join(err, syncFolder(dir))
}

func remove(name string) error {
	if name == "" {
		return nil
	}
	if err := os.Remove(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncFolder(filepath.Dir(name))
}
