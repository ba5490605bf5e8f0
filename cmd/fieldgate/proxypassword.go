package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/gateway/seal"
)

// URLs of proxies are handed around with their passwords in them. A configuration may not
// have one: it is kept, shown and compared. So "config set" puts it where passwords are,
// and writes the rest.

// proxyPasswordFile is where, with a number behind it if there is one already.
const proxyPasswordFile = "proxy.password"

// setAside is a password that was put into a file.
type setAside struct {
	file   string
	sealed bool
}

// withoutPassword takes the password out of the URL of a proxy among keys and values that
// are to be set, and puts it into a file of its own: a former configuration, to which the
// gateway may go back by itself, names another one. aside is nil if there is none in it, or if
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
	name, aside, err := l.putAside(password)
	if err != nil {
		return nil, nil, &failure{exitFailed, "cannot keep the proxy's password", err, "write the password into a file of your own, and set hub.proxy_password_file"}
	}
	rest = slices.Clone(args)
	rest[at] = u.String()
	return append(rest, "hub.proxy_password_file", name), aside, nil
}

// putAside writes the password into a file that was not there, and returns its name as it
// is written in the configuration: whoever may read the configuration may read that, but
// no stranger.
func (l *local) putAside(password string) (name string, aside *setAside, err error) {
	like, err := os.Stat(l.file)
	if err != nil {
		return "", nil, err
	}
	text := password
	if cfg, err := loadConfig(l.file); err == nil {
		text = cfg.sealed(password)
	}
	for n := 1; ; n++ {
		if name = proxyPasswordFile; n > 1 {
			name += "." + strconv.Itoa(n)
		}
		file := (&config{file: l.file}).resolve(name)
		if _, err := os.Lstat(file); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
		err := errors.Join(writeSynced(file, []byte(text), private{like}), syncFolder(filepath.Dir(file)))
		return name, &setAside{file, seal.Sealed([]byte(text))}, err
	}
}

// private is a file like another one, that strangers cannot read.
type private struct{ fs.FileInfo }

func (p private) Mode() fs.FileMode { return p.FileInfo.Mode() &^ 0o137 }

// undo removes the file.
func (p *setAside) undo() error { return os.Remove(p.file) }

// hint says where the password is now.
func (p *setAside) hint() string {
	where := "sealed"
	if !p.sealed {
		where = "in the clear: fieldgate secrets seal"
	}
	return fmt.Sprintf("the proxy's password is not in the configuration, but in %s, %s; your shell may have kept what you typed", p.file, where)
}
