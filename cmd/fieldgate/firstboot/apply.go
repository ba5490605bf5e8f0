package firstboot

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
)

// File is the name of what the operator writes, on the card or on a stick.
const File = "fieldgate.toml"

// Gateway is where things are put.
type Gateway struct {
	Config string // the gateway's configuration; secrets and notes are beside it
	// SSHKeys are the authorized_keys of whoever may log in, and WiFi the configuration
	// of wpa_supplicant: in folders that the daemon cannot write to.
	SSHKeys, WiFi string
	Data          string // the gateway's data folder, for the reset
	// Card is the folder of the machine's own boot partition, a partition of which Wipe
	// may fill all room; "" where there is none, or it is not to be wiped.
	Card string

	// Known says which keys the configuration has, like "leaf[].key_file".
	Known func(path string) bool
	// Check looks whether a text in the place of Config is right. Problems in it are
	// to be of type strict.Problem, in an error with Unwrap() []error or alone.
	Check func(text []byte) error
	// Hash makes of a leaf's password what its password_file holds.
	Hash func(password string) (string, error)
	// Sealer returns what seals secrets for a machine with the configuration config,
	// which is not in its place yet. It makes the machine's key if there is none, and
	// that is on the disk when it returns. What is sealed is left as it is.
	Sealer func(config []byte) (func(secret []byte) []byte, error)
}

// Outcome is what became of a file.
type Outcome string

const (
	Nothing Outcome = "nothing" // there is no file
	Applied Outcome = "applied"
	Before  Outcome = "before" // it was applied before
)

// note is what is kept of the file of one place that was applied last, beside the
// configuration. There is nothing secret in it.
type note struct {
	Digest string // SHA-256 of the file with stars in the place of secrets
	Size   int
	Spans  []Span // the secrets in it
	Folder string // where they are now, in the folder secrets
}

func (g *Gateway) dir() string     { return filepath.Dir(g.Config) }
func (g *Gateway) wrong() string   { return filepath.Join(g.dir(), ".first-boot.mistake") }
func (g *Gateway) secrets() string { return filepath.Join(g.dir(), "secrets") }

// noteFile is that of a place: a card and a stick may have different files, and each is
// applied once.
func (g *Gateway) noteFile(from string) string {
	return filepath.Join(g.dir(), ".first-boot."+fileName(filepath.Base(from))+".note")
}

// Apply applies File in the folder from, and what Raspberry Pi Imager has written there,
// unless that was done before. An error
// says what is wrong with it, in words for the operator; nothing is changed then.
// Apply may be killed at any moment and is then to be called again.
func (g *Gateway) Apply(from string) (outcome Outcome, err error) {
	if from == g.Card {
		_ = g.Clear() // or there is no room for the status; Wipe says what is wrong
		defer func() { err = errors.Join(err, g.hold(err)) }()
	}
	changed, wrong := g.applyImagers(from)
	outcome, err = g.apply(from)
	if changed {
		outcome = Applied
	}
	if err = errors.Join(wrong, err); err != nil {
		_ = replace(g.wrong(), []byte(err.Error()), 0o640, true) // without room there are greater worries
		return outcome, err
	}
	if outcome != Nothing {
		err = remove(g.wrong())
	}
	return outcome, err
}

// Mistake is why the last file was not applied, "" if it was.
func (g *Gateway) Mistake() string {
	text, err := os.ReadFile(g.wrong())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

func (g *Gateway) apply(from string) (Outcome, error) {
	name := filepath.Join(from, File)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Nothing, nil
	}
	if err != nil {
		return Nothing, err
	}
	last, err := readNote(g.noteFile(from))
	if err != nil {
		return Nothing, err
	}
	outcome := Before
	if !last.about(text, '*') {
		if last, err = g.install(from, text, last); err != nil {
			return Nothing, err
		}
		outcome = Applied
	}
	return outcome, errors.Join(g.overwrite(name, text, last.Spans, '*'), g.tidy())
}

// about says whether it is this file that was applied, be its secrets overwritten or
// not, or in part. Empty lines may have come behind it: see closeGap.
func (n *note) about(text []byte, mark byte) bool {
	return len(text) >= n.Size && len(bytes.Trim(text[n.Size:], "\n")) == 0 && n.Digest == digest(starred(text[:n.Size], n.Spans, mark))
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func readNote(file string) (*note, error) {
	n := new(note)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal(text, n)
	}
	return n, err
}

// install puts everything that a file says into its place.
func (g *Gateway) install(from string, text []byte, last *note) (*note, error) {
	s, err := read(File, text, g.Known)
	if err != nil {
		return nil, err
	}
	next := &note{digest(starred(text, s.spans(), '*')), len(text), s.spans(), rand.Text()[:12]}
	folder := filepath.Join(g.secrets(), next.Folder)
	config, at, extra := s.configuration(filepath.Join(filepath.Base(g.secrets()), next.Folder))
	if len(s.secrets) > 0 {
		err = g.keepSecrets(s, config, folder, filepath.Join(g.secrets(), last.Folder))
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	if err := g.Check(config); err != nil {
		return nil, errors.Join(moved(err, g.Config, at, extra), os.RemoveAll(folder))
	}
	for _, file := range []string{g.SSHKeys, g.WiFi} {
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o700)); err != nil {
			return nil, err
		}
	}
	if len(s.keys) > 0 {
		err = replace(g.SSHKeys, []byte(strings.Join(s.keys, "\n")+"\n"), 0o600, false)
	}
	if err == nil && s.wifi != nil {
		err = g.joinWiFi(s.wifi, folder)
	}
	// This is the moment in which the gateway is another one.
	if err == nil {
		err = replace(g.Config, config, 0o640, true)
	}
	if err == nil {
		var text []byte
		if text, err = json.Marshal(next); err == nil {
			err = replace(g.noteFile(from), text, 0o600, false)
		}
	}
	return next, err
}

// keepSecrets writes the secrets into files of a new folder, sealed. Those that were
// taken over before are in the folder before.
func (g *Gateway) keepSecrets(s *sheet, config []byte, folder, before string) error {
	sealed, err := g.Sealer(config)
	if err != nil {
		return fmt.Errorf("cannot seal secrets: %w", err)
	}
	if err := mkdir(g.secrets()); err != nil {
		return err
	}
	if err := mkdir(folder); err != nil {
		return err
	}
	var missing mistakes
	r := reader{name: File, sheet: *s}
	for _, one := range s.secrets {
		text := []byte(one.value)
		if one.kept() {
			var err error
			text, err = os.ReadFile(filepath.Join(before, one.name))
			if err != nil {
				missing = append(missing, r.problem(one.stars.From, "the secret that stood here is not kept any more: write it again"))
				continue
			}
		} else if one.path == "leaf[].password" {
			hash, err := g.Hash(one.value)
			if err != nil {
				missing = append(missing, r.problem(one.stars.From, "%v", err))
				continue
			}
			text = []byte(hash)
		}
		if one.hidden() {
			text = sealed(text)
		}
		if err := replace(filepath.Join(folder, one.name), text, 0o600, true); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return missing
	}
	return nil
}

// moved gives problems in the configuration the places that they have in the
// operator's file.
func moved(err error, config string, at, extra int) error {
	var all mistakes
	for _, p := range problems(err) {
		if p.File == config {
			p.File = File
			if p.Line > at {
				p.Line = max(at, p.Line-extra)
			}
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return err
	}
	return all
}

func problems(err error) (all []strict.Problem) {
	if p, ok := errors.AsType[strict.Problem](err); ok && err.Error() == p.Error() {
		return []strict.Problem{p}
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			all = append(all, problems(one)...)
		}
	}
	return all
}

// overwrite has marks in the place of secrets on the card. It writes in place, for a
// new file would leave the old one where it was; the card itself may keep it all the
// same. Where an earlier version lay the operator's editor has done so already: that is
// for Wipe.
func (g *Gateway) overwrite(name string, text []byte, spans []Span, mark byte) error {
	clean := starred(text, spans, mark)
	if bytes.Equal(clean, text) {
		return nil
	}
	if err := g.soil(filepath.Dir(name)); err != nil {
		return err
	}
	return Writable(filepath.Dir(name), func() error {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		for _, s := range spans {
			if _, wrong := f.WriteAt(clean[s.From:s.To], int64(s.From)); wrong != nil {
				err = wrong
			}
		}
		return errors.Join(err, f.Sync(), f.Close())
	})
}

// tidy removes the secrets of files that count no more.
func (g *Gateway) tidy() error {
	notes, err := filepath.Glob(filepath.Join(g.dir(), ".first-boot.*.note"))
	if err != nil {
		return err
	}
	used := make(map[string]bool)
	for _, file := range notes {
		n, err := readNote(file)
		if err != nil {
			return err
		}
		used[n.Folder] = true
	}
	// What counts although the power went before its note was written.
	config, err := os.ReadFile(g.Config)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all, err := os.ReadDir(g.secrets())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, one := range all {
		// Folders of this package only: what else is there is the operator's.
		if one.IsDir() && made.MatchString(one.Name()) && !used[one.Name()] && !bytes.Contains(config, []byte(one.Name())) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(g.secrets(), one.Name())))
		}
	}
	return err
}

// made are the names of folders that are made here.
var made = regexp.MustCompile(`^[A-Z2-7]{12}$`)

// daemon is the number of the daemon's user and of its group, -1 where there are none.
// Secrets are the user's alone: whoever is in the group may look at the gateway's
// state, and not into them.
func daemon() (uid, gid int) {
	u, err := user.Lookup("fieldgate")
	if err != nil {
		return -1, -1
	}
	uid, noUser := strconv.Atoi(u.Uid)
	gid, noGroup := strconv.Atoi(u.Gid)
	if noUser != nil || noGroup != nil {
		return -1, -1
	}
	return uid, gid
}

// GiveToDaemon makes files the daemon's where root has made them. Those that are not
// there are left out.
func GiveToDaemon(files ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var failed error
	for _, file := range files {
		uid, gid := daemon()
		if err := os.Lchown(file, uid, gid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// mkdir makes a folder that only the daemon may look into, unless it is there.
func mkdir(name string) error {
	if err := os.Mkdir(name, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	if os.Geteuid() == 0 {
		uid, gid := daemon()
		if err := os.Lchown(name, uid, gid); err != nil {
			return err
		}
	}
	return syncFolder(filepath.Dir(name))
}

// replace writes a file whole or not at all, with the mode; it is the daemon's or that of
// who runs the program. It returns when the file is on the disk.
func replace(name string, text []byte, mode fs.FileMode, daemons bool) error {
	if old, err := os.ReadFile(name); err == nil && slices.Equal(old, text) {
		return nil // less wear
	}
	fresh := name + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if daemons && os.Geteuid() == 0 {
		err = f.Chown(daemon())
	}
	_, wrote := f.Write(text)
	if err := errors.Join(err, f.Chmod(mode), wrote, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, errors.Join(err, os.Remove(fresh)))
	}
	if err := os.Rename(fresh, name); err != nil {
		return err
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
