// Package revision keeps the configurations that a gateway has run with: the last of
// them, and whether one of them is on trial. It knows nothing of what is in them.
//
// All of it is one file, replaced as a whole and synced: after a power cut there is
// what was before a call, or what is after it.
package revision

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Kept is how many revisions are kept.
const Kept = 10

// fileName is the file in the folder of a Book.
const fileName = "revisions.json"

// Files are the texts of a configuration, by path as seen from its folder.
type Files map[string]string

// State says what became of a revision.
type State string

// The states.
const (
	OnTrial State = "trial"  // it runs, and is undone if the hub is not back with it
	Good    State = "kept"   // it ran, or runs
	Undone  State = "undone" // it did not stand its trial
)

// Revision is one configuration.
type Revision struct {
	Number int       `json:"number"` // from 1, growing
	Time   time.Time `json:"time"`   // when it came
	By     string    `json:"by"`     // who or what brought it
	State  State     `json:"state"`
	Why    string    `json:"why,omitempty"` // it was undone
	Files  Files     `json:"files"`
}

// Book is the revisions of a gateway, the oldest first. Not safe for concurrent use.
type Book struct {
	dir  string
	list []Revision
	lost string // why the revision on trial is not on trial any more, see Lose
}

// ErrDamaged says that the file with the revisions cannot be made sense of. It is
// left where it is under another name.
var ErrDamaged = errors.New("the kept revisions of the configuration are damaged")

// Open reads what is kept in a folder, which need not be there. With an error, like
// ErrDamaged, the Book is empty and can be used.
func Open(dir string) (*Book, error) {
	b := &Book{dir: dir}
	name := filepath.Join(dir, fileName)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	if b.list, err = parse(text); err != nil {
		return b, fmt.Errorf("%w: %w", ErrDamaged, errors.Join(err, os.Rename(name, name+".damaged")))
	}
	return b, nil
}

// parse reads the file's text.
func parse(text []byte) ([]Revision, error) {
	var list []Revision
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	for i, r := range list {
		switch {
		case r.Number < 1 || i > 0 && r.Number <= list[i-1].Number:
			return nil, fmt.Errorf("revision %d is out of order", r.Number)
		case r.State == OnTrial && i < len(list)-1:
			return nil, fmt.Errorf("revision %d is on trial, and there are later ones", r.Number)
		case r.State != OnTrial && r.State != Good && r.State != Undone:
			return nil, fmt.Errorf("revision %d has the state %q", r.Number, r.State)
		}
		for name := range r.Files {
			if !filepath.IsLocal(name) || filepath.Ext(name) != ".toml" {
				return nil, fmt.Errorf("revision %d has a file %q", r.Number, name)
			}
		}
	}
	return list, nil
}

// List returns the revisions, the oldest first.
func (b *Book) List() []Revision {
	list := slices.Clone(b.list)
	b.settle(list)
	return list
}

// settle writes into a list what Lose has said.
func (b *Book) settle(list []Revision) {
	if b.lost != "" {
		last := &list[len(list)-1]
		last.State, last.Why = Undone, b.lost
	}
}

// Lose says why the revision on trial, which must be there, did not stand it, although
// its files are still in place: the trial is over, but whoever opens the book anew finds
// it on trial, until there is another revision or End is called.
func (b *Book) Lose(why string) { b.lost = why }

// Lost says whether the last revision is one that was lost in that way.
func (b *Book) Lost() bool { return b.lost != "" }

// Find returns a revision by its number.
func (b *Book) Find(number int) (r Revision, known bool) {
	for _, r := range b.List() {
		if r.Number == number {
			return r, true
		}
	}
	return r, false
}

// Good returns the last good revision.
func (b *Book) Good() (r Revision, known bool) {
	for _, r := range slices.Backward(b.list) {
		if r.State == Good {
			return r, true
		}
	}
	return r, false
}

// Trial returns the revision that is on trial.
func (b *Book) Trial() (r Revision, known bool) {
	if n := len(b.list); n > 0 && !b.Lost() && b.list[n-1].State == OnTrial {
		return b.list[n-1], true
	}
	return r, false
}

// ErrTrial says that another revision is on trial.
var ErrTrial = errors.New("another revision is on trial")

// Add adds a revision, good or on trial, and returns its number. Files that are those of
// the last good one are no new revision, unless on trial.
func (b *Book) Add(files Files, by string, s State, now time.Time) (int, error) {
	if _, busy := b.Trial(); busy {
		return 0, ErrTrial
	}
	if good, known := b.Good(); known && s == Good && maps.Equal(good.Files, files) {
		return good.Number, nil
	}
	number := 1
	if n := len(b.list); n > 0 {
		number = b.list[n-1].Number + 1
	}
	return number, b.end(append(b.List(), Revision{number, now.UTC(), by, s, "", maps.Clone(files)}))
}

// End ends the trial that there is, if there is one: good, or undone and why.
func (b *Book) End(s State, why string) error {
	if _, known := b.Trial(); !known && !b.Lost() {
		return nil
	}
	list := slices.Clone(b.list)
	last := &list[len(list)-1]
	last.State, last.Why = s, why
	return b.end(list)
}

// end writes a list in which nothing is lost.
func (b *Book) end(list []Revision) error {
	err := b.write(list)
	if err == nil {
		b.lost = ""
	}
	return err
}

// Amend changes the files of all revisions, whatever became of them: change is called
// with those of each and changes them in place.
func (b *Book) Amend(change func(Files)) error {
	list, amended := slices.Clone(b.list), false
	for i := range list {
		files := make(Files)
		maps.Copy(files, list[i].Files)
		change(files)
		amended = amended || !maps.Equal(files, list[i].Files)
		list[i].Files = files
	}
	if !amended {
		return nil
	}
	return b.write(list)
}

// write keeps the last revisions, the last good one among them whatever has been tried
// since.
func (b *Book) write(list []Revision) error {
	for len(list) > Kept {
		good := slices.IndexFunc(list, func(r Revision) bool { return r.State == Good })
		later := slices.ContainsFunc(list[good+1:], func(r Revision) bool { return r.State == Good })
		oldest := 0
		if good == 0 && !later {
			oldest = 1
		}
		list = slices.Delete(slices.Clone(list), oldest, oldest+1)
	}
	text, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	if err := replace(filepath.Join(b.dir, fileName), text); err != nil {
		return err
	}
	b.list = list
	return nil
}

// replace puts a file in place, synced.
func replace(name string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "new-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
