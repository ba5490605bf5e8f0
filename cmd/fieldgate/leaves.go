package main

import (
	"errors"
	"io/fs"
	"os"
	"regexp"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// leafConfig is one table [[leaf]].
type leafConfig struct {
	// ID is the leaf's id, as the hub knows it; case counts.
	ID string `toml:"id"`
	// KeyFile holds the leaf's hub key. With it the gateway proves the leaf to
	// the hub, and checks the leaf's own token when it logs in with one.
	KeyFile string `toml:"key_file"`
	// PasswordFile holds the hash of the password that the leaf logs in with,
	// made by "fieldgate device hash-password". Without it there is no password.
	PasswordFile string `toml:"password_file"`
	// Disabled keeps the leaf out without forgetting it.
	Disabled bool `toml:"disabled"`
}

// Validate checks the table. Errors are of type *gateway.KeyError.
func (c *leafConfig) Validate() error {
	var errs []error
	if !leafID.MatchString(c.ID) {
		errs = append(errs, gateway.BadKey("id",
			"%q is not a device id: write 1 to 128 letters, digits or any of - : . %% _ * ? ! ( ) , = @ $ ' ;", c.ID))
	}
	if c.KeyFile == "" {
		errs = append(errs, gateway.BadKey("key_file", "the leaf's hub key is needed: write the path of a file that holds it"))
	}
	return errors.Join(errs...)
}

// leafID is what the hub takes for a device id (wire contract, section 5.2),
// without + and #: a topic cannot name a leaf with those.
var leafID = regexp.MustCompile(`^[A-Za-z0-9\-:.%_*?!(),=@$';]{1,128}$`)

// leaf is a leaf with its secrets.
type leaf struct {
	pairing.Leaf
	key identity.Key
}

// addLeaves reads [[leaf]] tables and the secrets that they name.
func (l *loader) addLeaves(list []strict.Table) {
	for _, t := range list {
		var c leafConfig
		t.Decode(&c)
		t.Check(c.Validate())
		if first, known := l.leafAt[c.ID]; known {
			t.Report("id", "there is a leaf %q already, at %s", c.ID, first.Where("id").Place())
			continue
		}
		l.leafAt[c.ID] = t
		one := leaf{Leaf: pairing.Leaf{ID: c.ID, Disabled: c.Disabled}}
		var err error
		if text := l.secret(t, "key_file", c.KeyFile); text != "" {
			if one.key, err = identity.ParseKey(text); err != nil {
				t.Report("key_file", "%s: %v", c.KeyFile, err)
			}
		}
		if text := l.secret(t, "password_file", c.PasswordFile); text != "" {
			if one.Password, err = pairing.ParsePasswordHash(text); err != nil {
				t.Report("password_file", "%s: %v: make one with fieldgate device hash-password", c.PasswordFile, err)
			}
		}
		l.leaves = append(l.leaves, one)
	}
}

// secret reads a file that a key names; "" when there is none or it cannot be
// read, which is then reported.
func (l *loader) secret(t strict.Table, key, file string) string {
	if file == "" {
		return ""
	}
	file = t.Resolve(file)
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t.Report(key, "there is no file %s", file)
	case err != nil:
		t.Report(key, "%v", err)
	case len(text) == 0:
		t.Report(key, "%s is empty", file)
	default:
		l.warnIfOpen(t.Where(key), file)
	}
	return string(text)
}
