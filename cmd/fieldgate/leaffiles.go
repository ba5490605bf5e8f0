package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/revision"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// leafSuffix ends the names of the files in leaf.d that the gateway writes itself,
// one for each leaf. What else is in leaf.d belongs to the operator.
const leafSuffix = ".leaf.toml"

// removedSuffix is in its place when the leaf is removed, or has another id or no table
// any more, until what it has left in custody is with the hub: its key there is needed
// till then.
const removedSuffix = ".leaf.removed"

// What the names of a leaf's other files end in: its key at the hub, what it logs in
// with, and the key with which it answers HELLO.
const (
	hubKeySuffix   = ".hub.key"
	loginKeySuffix = ".login.key"
	hashSuffix     = ".hash"
	lineKeySuffix  = ".line.key"
)

// newLeaf is a leaf that is to get a file of its own.
type newLeaf struct {
	id         string
	auth       string // "" is the default
	thumbprint string
	more       string // tables behind that of the leaf, in TOML
	// Secrets, each for a file of its own; "" is none.
	hubKey, loginKey, passwordHash string
	lineKey                        string // named by the last table in more
}

// leafFiles is the configuration on flash, as far as leaves are concerned.
type leafFiles struct {
	config string
	seal   func(secret string) string // makes of a secret what is written
}

// dir is where they are.
func (f leafFiles) dir() string { return filepath.Join(filepath.Dir(f.config), "leaf.d") }

// fits is an error where the gateway could not go back with the text of one file changed;
// nil removes it. With the files that are there it was checked. The folder must be locked.
func (f leafFiles) fits(back *wayBack, file string, text []byte) error {
	if back == nil {
		return nil
	}
	if now, err := filesOf(f.config); err == nil && maps.Equal(now, back.files) {
		return nil
	}
	texts, err := textsOf(f.config, back.files)
	if err != nil {
		return err
	}
	texts[file] = text
	if _, err := loadConfigWith(f.config, texts); err != nil {
		return fmt.Errorf("%w: %s, and with that the gateway could not go back to the one before: %w", control.ErrConflict, back.differs, err)
	}
	return nil
}

// add writes the files of a leaf and returns the configuration that has it. Its secrets
// are on flash before it is, and it is there whole or not at all.
func (f leafFiles) add(n *newLeaf, back *wayBack) (*config, error) {
	unlock, err := f.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if place, err := f.find(n.id); err != nil {
		return nil, err
	} else if place != nil {
		return nil, fmt.Errorf("%w: there is a leaf %q already, in %s", control.ErrConflict, n.id, place.file)
	}
	if err := os.MkdirAll(f.dir(), 0o755); err != nil {
		return nil, err
	}
	stem := filepath.Join(f.dir(), freeStem(f.dir(), n.id))
	var text strings.Builder
	fmt.Fprintf(&text, "# The gateway wrote this; fieldgate device changes it.\n[[leaf]]\nid = %s\n", edit.Quote(n.id))
	written := []string{}
	undo := func(err error) (*config, error) {
		for _, name := range slices.Backward(written) { // the leaf first: without its secrets the gateway would not start
			if left := removeAny(name); left != nil {
				return nil, errors.Join(err, left)
			}
		}
		return nil, err
	}
	var more strings.Builder
	more.WriteString(n.more)
	for _, s := range []struct{ key, value, suffix string }{
		{"key_file", n.hubKey, hubKeySuffix},
		{"login_key_file", n.loginKey, loginKeySuffix},
		{"password_file", n.passwordHash, hashSuffix},
		{"key_file", n.lineKey, lineKeySuffix},
	} {
		if s.value == "" {
			continue
		}
		name := stem + s.suffix
		written = append(written, name)
		if err := writeNew(name, f.seal(s.value+"\n"), 0o600); err != nil {
			return undo(err)
		}
		line := fmt.Sprintf("%s = %s\n", s.key, edit.Quote(filepath.Base(name)))
		if s.suffix == lineKeySuffix {
			more.WriteString(line)
			continue
		}
		text.WriteString(line)
	}
	for _, s := range []struct{ key, value string }{{"auth", n.auth}, {"thumbprint", n.thumbprint}} {
		if s.value != "" {
			fmt.Fprintf(&text, "%s = %s\n", s.key, edit.Quote(s.value))
		}
	}
	text.WriteString(more.String())
	file := stem + leafSuffix
	cfg, err := loadConfigWith(f.config, map[string][]byte{file: []byte(text.String())})
	if err == nil {
		err = f.fits(back, file, []byte(text.String()))
	}
	if err != nil {
		return undo(err)
	}
	written = append(written, file)
	if err := writeNew(file, text.String(), 0o644); err != nil {
		return undo(err)
	}
	return cfg, nil
}

// usable says whether a leaf could be added that has no key of its own at the hub and
// is proven to it in that way.
func (f leafFiles) usable(auth string) error {
	text := "[[leaf]]\nid = \"pairing-window\"\n"
	if auth != "" {
		text += "auth = " + edit.Quote(auth) + "\n"
	}
	_, err := loadConfigWith(f.config, map[string][]byte{filepath.Join(f.dir(), "pairing-window.leaf.toml"): []byte(text)})
	return err
}

// set changes a key of a leaf in whatever file it stands; "" takes the key out. It
// returns the leaf called id as the configuration now has it.
func (f leafFiles) set(leafID, key, value, id string) (leaf, error) {
	unlock, err := f.lock()
	if err != nil {
		return leaf{}, err
	}
	defer unlock()
	at, err := f.find(leafID)
	if err != nil {
		return leaf{}, err
	} else if at == nil {
		return leaf{}, fmt.Errorf("%w: no file of the configuration has a leaf %q", control.ErrNotFound, leafID)
	}
	old, err := os.ReadFile(at.file)
	if err != nil {
		return leaf{}, err
	}
	text, err := at.beside(old, key, value)
	if err != nil {
		return leaf{}, err
	}
	cfg, err := loadConfigWith(f.config, map[string][]byte{at.file: text})
	if err != nil {
		return leaf{}, err
	}
	fresh, err := cfg.leaf(id)
	if err != nil {
		return leaf{}, err
	}
	if id != leafID { // the hub knows what it has handed over under the old one
		former := fresh
		former.ID = leafID
		if err := f.keepProof(cfg, &former); err != nil {
			return leaf{}, err
		}
	}
	if !bytes.Equal(old, text) {
		if err := replaceFile(at.file, text); err != nil {
			return leaf{}, err
		}
	}
	return fresh, nil
}

// keepProof writes down how a leaf is proven that a configuration has no more, for what
// it has left in custody. The folder must be locked. Where the leaf stays after all, its
// table counts and the file does no harm.
func (f leafFiles) keepProof(next *config, l *leaf) error {
	all, _ := f.removed(&next.tables)
	for _, kept := range all {
		if kept.ID == l.ID && kept.auth == l.auth && kept.key.Equal(l.key) {
			return nil
		}
	}
	var secret []byte
	if l.keyFile != "" {
		var err error
		if secret, err = seal.ReadFile(l.keyFile); err != nil {
			return err
		}
	}
	if err := errors.Join(os.MkdirAll(f.dir(), 0o755), f.forget(next, l.ID)); err != nil {
		return err
	}
	stem := filepath.Join(f.dir(), freeStem(f.dir(), l.ID))
	name, keyFile := "", stem+hubKeySuffix
	if l.keyFile != "" {
		name = filepath.Base(keyFile)
		if err := writeNew(keyFile, f.seal(string(secret)), 0o600); err != nil {
			return errors.Join(err, removeAny(keyFile))
		}
	}
	text := "# The gateway wrote this; it goes when nothing is left to be sent.\n" + provenText(l.ID, string(l.auth), name)
	if err := writeNew(stem+removedSuffix, text, 0o644); err != nil {
		return errors.Join(err, removeAny(stem+removedSuffix, keyFile))
	}
	return nil
}

// keepProofs does that for all leaves that a revision has and a configuration has not.
// Those of which it cannot be done are in the error.
func (f leafFiles) keepProofs(r revision.Files, next *config) error {
	texts, err := textsOf(f.config, r)
	if err != nil {
		return err
	}
	s, err := readSettingsWith(f.config, true, texts)
	if err != nil {
		return err
	}
	stays := make(map[string]bool)
	for _, l := range next.leaves {
		stays[l.ID] = true
	}
	var failed error
	for _, one := range s.all {
		id, _ := one.value.(string)
		if one.key == nil || one.key.path != "leaf[].id" || stays[id] {
			continue
		}
		values := one.steps[len(one.steps)-2].element.values
		auth, _ := values["auth"].(string)
		key, _ := values["key_file"].(string)
		gone, err := provenIn(&next.tables, one.file, provenText(id, cmp.Or(auth, string(identity.AuthKey)), key))
		for _, l := range gone {
			err = errors.Join(err, f.keepProof(next, &l))
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("leaf %q: %w", id, err))
		}
	}
	return failed
}

// provenText is the table of a leaf as far as its proof to the hub goes.
func provenText(id, auth, keyFile string) string {
	text := fmt.Sprintf("[[leaf]]\nid = %s\nauth = %s\n", edit.Quote(id), edit.Quote(auth))
	if keyFile != "" {
		text += fmt.Sprintf("key_file = %s\n", edit.Quote(keyFile))
	}
	return text
}

// provenIn reads the leaves in the text of a file as far as their proof to the hub goes.
func provenIn(t *tables, file, text string) ([]leaf, error) {
	l := loader{config: config{tables: *t}, texts: map[string][]byte{file: []byte(text)}, leafAt: make(map[string]strict.Table)}
	doc, err := l.open(file)
	if err != nil {
		return nil, err
	}
	var one leafTables
	doc.Decode(&one)
	for i := range one.Leaves {
		delete(one.Leaves[i].Values(), "login_key_file")
		delete(one.Leaves[i].Values(), "password_file")
	}
	l.addLeaves(one.Leaves)
	read, err := l.done()
	if err != nil {
		return nil, err
	}
	return read.leaves, nil
}

// remove removes the file of a leaf. One that the operator has written is the
// operator's to change. runs is the leaf as it runs, nil if it does not: where somebody has
// removed its file by hand, nothing else says how it is proven. What it returns is the
// configuration that has the leaf no more, whatever the error, or nil if it still has.
func (f leafFiles) remove(id string, runs *leaf, back *wayBack) (rest *config, err error) {
	unlock, err := f.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	at, err := f.find(id)
	if err != nil {
		return nil, err
	}
	if at == nil {
		if back != nil && back.has(id) {
			return nil, fmt.Errorf("%w: %s, and the one before has %q in a file that the gateway has not written", control.ErrConflict, back.differs, id)
		}
		if rest, err = loadConfigWith(f.config, nil); err == nil && runs != nil {
			err = f.keepProof(rest, runs)
		}
		return rest, err
	}
	stem, ours := strings.CutSuffix(at.file, leafSuffix)
	if !ours {
		return nil, fmt.Errorf("%w: %q stands in %s, which the gateway has not written: take its table out there; fieldgate device disable keeps it out till then", control.ErrConflict, id, at.file)
	}
	// Somebody may have named it in another file.
	if rest, err = loadConfigWith(f.config, map[string][]byte{at.file: nil}); err != nil {
		return nil, err
	}
	if err := f.fits(back, at.file, nil); err != nil {
		return nil, err
	}
	if err := f.forget(rest, id); err != nil {
		return nil, err
	}
	if err := os.Rename(at.file, stem+removedSuffix); err != nil {
		return nil, err
	}
	return rest, errors.Join(syncFolder(f.dir()), removeAny(stem+loginKeySuffix, stem+hashSuffix, stem+lineKeySuffix))
}

// removedLeaf is a leaf that is removed and still has to be proven to the hub.
type removedLeaf struct {
	leaf
	file string
}

// removed returns them, those removed last behind the others. One that cannot be read has
// lost nothing but that; the error says which.
func (f leafFiles) removed(t *tables) (all []removedLeaf, unread error) {
	times := make(map[string]time.Time)
	names := f.removedFiles()
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			times[name] = info.ModTime()
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return times[a].Compare(times[b]) })
	for _, name := range names {
		text, err := os.ReadFile(name)
		var leaves []leaf
		if err == nil {
			leaves, err = provenIn(t, name, string(text))
		}
		if err != nil {
			unread = errors.Join(unread, fmt.Errorf("%s: %w", name, err))
		}
		for _, l := range leaves {
			all = append(all, removedLeaf{l, name})
		}
	}
	return all, unread
}

func (f leafFiles) removedFiles() []string {
	names, _ := filepath.Glob(filepath.Join(f.dir(), "*"+removedSuffix)) // the pattern is right
	return names
}

// forget removes what is kept of a removed leaf: there is to be another one of its name.
func (f leafFiles) forget(next *config, id string) (err error) {
	all, _ := f.removed(&next.tables)
	for _, kept := range all {
		if kept.ID == id {
			err = errors.Join(err, forgetFile(next, kept.file))
		}
	}
	return err
}

// forgetRemoved removes the last of leaves that are removed.
func (f leafFiles) forgetRemoved(cfg *config) (err error) {
	for _, name := range f.removedFiles() {
		err = errors.Join(err, forgetFile(cfg, name))
	}
	return err
}

// forgetFile removes the file of a removed leaf, and its key unless the configuration
// names that by now.
func forgetFile(cfg *config, name string) error {
	key := strings.TrimSuffix(name, removedSuffix) + hubKeySuffix
	if cfg.keepsSecret(key) {
		return removeAny(name)
	}
	return removeAny(key, name)
}

// removeAny removes files that may be there.
func removeAny(names ...string) (err error) {
	for _, name := range names {
		if gone := os.Remove(name); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

func (f leafFiles) lock() (unlock func(), err error) { return lockFolder(filepath.Dir(f.config)) }

// find returns the setting that is a leaf's id, nil if there is none.
func (f leafFiles) find(id string) (*setting, error) {
	s, err := readSettings(f.config, true)
	if err != nil {
		return nil, err
	}
	return s.leaf(id), nil
}

// leaf returns the setting that is a leaf's id, nil if there is none.
func (s *settings) leaf(id string) *setting {
	for _, one := range s.all {
		if one.key != nil && one.key.path == "leaf[].id" && one.value == any(id) {
			return one
		}
	}
	return nil
}

// beside returns the text of the setting's file with a key of its table changed; ""
// takes the key out.
func (s *setting) beside(old []byte, key, value string) ([]byte, error) {
	path := append(s.path[:len(s.path)-1:len(s.path)-1], edit.Key(key)...)
	if value != "" {
		return edit.Set(old, path, value)
	}
	text, err := edit.Unset(old, path)
	if errors.Is(err, edit.ErrNotSet) {
		return old, nil
	}
	return text, err
}

// leaf returns a leaf that must be there.
func (c *config) leaf(id string) (leaf, error) {
	for _, l := range c.leaves {
		if l.ID == id {
			return l, nil
		}
	}
	return leaf{}, fmt.Errorf("%w: the configuration has no leaf %q", control.ErrNotFound, id)
}

// freeStem makes a name for the files of a leaf, without a suffix. A leaf that was
// renamed keeps its files.
func freeStem(dir, id string) string {
	const most = 100 // far below what file systems take
	stem := strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '_'
	}, id[:min(len(id), most)])
	name := stem
	for i := 2; ; i++ {
		// It may be the operator's. It may also be of a leaf whose adding a power cut has
		// ended: nothing tells, so it stays.
		free := true
		for _, suffix := range []string{leafSuffix, removedSuffix, hubKeySuffix, loginKeySuffix, hashSuffix, lineKeySuffix} {
			_, err := os.Lstat(filepath.Join(dir, name+suffix))
			free = free && errors.Is(err, fs.ErrNotExist)
		}
		if free {
			return name
		}
		name = stem + "." + strconv.Itoa(i)
	}
}

// writeNew writes a file that after a power cut is there whole or not at all. One
// that was left behind is replaced.
func writeNew(name, text string, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(filepath.Dir(name))
}

func syncFolder(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
