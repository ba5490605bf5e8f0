package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/gateway/seal"
)

// URLs of proxies are handed around with their passwords in them. A configuration may not
// have one: it is kept, shown and compared. So "config set" puts it where passwords are,
// and writes the rest.

// proxyPasswordFile is where, if the configuration does not name a file for it.
const proxyPasswordFile = "proxy.password"

// setAside is a password that was put into its file.
type setAside struct {
	file   string
	before []byte // nil: there was no file
	sealed bool
}

// withoutPassword takes the password out of the URL of a proxy among keys and values that
// are to be set, and puts it into its file. aside is nil if there is none in it, or if
// another file is to be named for it at the same time. The folder must be locked.
func (l *local) withoutPassword(s *settings, args []string) (rest []string, aside *setAside, err error) {
	at := -1
	for i := 0; i < len(args); i += 2 {
		switch args[i] {
		case "hub.proxy":
			at = i + 1
		case "hub.proxy_password_file":
			return args, nil, nil
		}
	}
	if at < 0 {
		return args, nil, nil
	}
	u, err := url.Parse(strings.Trim(args[at], `"'`))
	if err != nil || u.User == nil { // what is wrong with it is said by who checks it
		return args, nil, nil
	}
	password, _ := u.User.Password()
	if password == "" {
		return args, nil, nil
	}
	u.User = url.User(u.User.Username())
	named, _ := s.byName()["hub.proxy_password_file"].value.(string)
	name := cmp.Or(named, proxyPasswordFile)
	file := (&config{file: l.file}).resolve(name)
	if aside, err = l.putAside(file, password); err != nil {
		return nil, nil, &failure{exitFailed, "cannot write " + file, err, "write the password into a file of your own, and set hub.proxy_password_file"}
	}
	rest = slices.Clone(args)
	rest[at] = u.String()
	return append(rest, "hub.proxy_password_file", name), aside, nil
}

// putAside writes the password: whoever may read the configuration may read that, but no
// stranger.
func (l *local) putAside(file, password string) (*setAside, error) {
	like, err := os.Stat(l.file)
	if err != nil {
		return nil, err
	}
	text := password
	if cfg, err := loadConfig(l.file); err == nil {
		text = cfg.sealed(password)
	}
	aside := &setAside{file: file, sealed: seal.Sealed([]byte(text))}
	if aside.before, err = os.ReadFile(file); err == nil {
		return aside, replaceFile(file, []byte(text))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = writeSynced(file, []byte(text), private{like})
	return aside, errors.Join(err, syncFolder(filepath.Dir(file)))
}

// private is a file like another one, that strangers cannot read.
type private struct{ fs.FileInfo }

func (p private) Mode() fs.FileMode { return p.FileInfo.Mode() &^ 0o137 }

// undo makes the file what it was.
func (p *setAside) undo() error {
	if p.before == nil {
		return os.Remove(p.file)
	}
	return replaceFile(p.file, p.before)
}

// hint says where the password is now.
func (p *setAside) hint() string {
	where := "sealed"
	if !p.sealed {
		where = "in the clear: fieldgate secrets seal"
	}
	return fmt.Sprintf("the proxy's password is not in the configuration, but in %s, %s; your shell may have kept what you typed", p.file, where)
}
