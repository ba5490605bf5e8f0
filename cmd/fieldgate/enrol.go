package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/identity/enrol"
)

// enrolConfig is the table [enrol]: how leaves without a key become known to the
// hub.
type enrolConfig struct {
	// By is "dps" for the device provisioning service, "registry" for the hub's
	// own registry, or "" for not at all: every leaf then needs a key_file.
	By string `toml:"by"`
	// Host is the provisioning service, with a port if it is not 443.
	Host string `toml:"host"`
	// IDScope is the provisioning service's, "0ne…".
	IDScope string `toml:"id_scope"`
	// GroupKeyFile holds the primary or secondary key of the enrolment group.
	GroupKeyFile string `toml:"group_key_file"`
	// Policy is the shared access policy of the hub, with the right to write its
	// registry; PolicyKeyFile holds its key.
	Policy        string `toml:"policy"`
	PolicyKeyFile string `toml:"policy_key_file"`
	// Address is where the registry is, "host:port"; empty means port 443 of the
	// hub.
	Address string `toml:"address"`
}

func defaultEnrol() enrolConfig {
	return enrolConfig{Host: "global.azure-devices-provisioning.net", Policy: "registryReadWrite"}
}

// Validate checks the table. Errors are of type *gateway.KeyError.
func (c *enrolConfig) Validate() error {
	switch c.By {
	case "":
		return nil
	case "dps":
		switch {
		case c.IDScope == "":
			return gateway.BadKey("id_scope", "is missing: write the id scope of the provisioning service, like \"0ne00012345\"")
		case c.GroupKeyFile == "":
			return gateway.BadKey("group_key_file", "is missing: write the path of a file that holds the key of the enrolment group")
		}
		return nil
	case "registry":
		if c.PolicyKeyFile == "" {
			return gateway.BadKey("policy_key_file", "is missing: write the path of a file that holds the key of the policy %q", c.Policy)
		}
		return nil
	}
	return gateway.BadKey("by", "%q is unknown: write \"dps\" or \"registry\", or \"\" for no enrolment", c.By)
}

// addEnrolment reads the secret that [enrol] names.
func (l *loader) addEnrolment(root strict.Table) {
	at := root.Sub("enrol")
	if l.Enrol.By != "" && l.Hub.isBroker() {
		at.Report("by", "a broker enrols nobody: leave [enrol] out")
	}
	for _, k := range []struct{ by, key, file string }{
		{"dps", "group_key_file", l.Enrol.GroupKeyFile},
		{"registry", "policy_key_file", l.Enrol.PolicyKeyFile},
	} {
		if k.by != l.Enrol.By {
			continue
		}
		text := l.secret(at, k.key, k.file)
		if text == "" {
			continue
		}
		var err error
		if l.enrolKey, err = identity.ParseKey(text); err != nil {
			at.Report(k.key, "%s: %v", k.file, err)
		}
	}
}

// enrolledNote is the kind of note that says which leaves the hub knows by
// enrolment.
const enrolledNote = "enrolled"

// newProofs makes the proofs of leaves; the roster fills them.
func newProofs(cfg *config, keys *identity.Keyring, notes gateway.Notes, clock gateway.Clock) (*identity.Proofs, error) {
	e, err := newEnroller(cfg, clock)
	if err != nil {
		return nil, err
	}
	own := cfg.Hub.Own.DeviceID
	if own != "" {
		keys.Put(own, cfg.ownKey)
	}
	p := identity.NewProofs(keys, own, e, func(leaf string) error {
		return notes.SetNotes(enrolledNote, map[string][]byte{leaf: []byte(cfg.Enrol.By)})
	})
	return p, nil
}

// addEnrolled gives a leaf without a key_file the key that it has by enrolment. A
// derived key is good before the hub knows the leaf: the leaf can log in with it
// while the hub is away.
func addEnrolled(cfg *config, keys *identity.Keyring, notes gateway.Notes, p *identity.Proofs, leaf string) error {
	by, err := notes.Note(enrolledNote, leaf)
	if err != nil {
		return fmt.Errorf("cannot read which leaves are enrolled: %w", err)
	}
	done := string(by) == cfg.Enrol.By
	if cfg.Enrol.By == "dps" {
		keys.Put(leaf, cfg.enrolKey.Derive(leaf))
	} else {
		key, err := identity.ReadKeyFile(keptKey(cfg, leaf))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			done = false
		case err != nil:
			return err
		}
		keys.Put(leaf, key)
	}
	p.Enrol(leaf, done)
	return nil
}

func newEnroller(cfg *config, clock gateway.Clock) (identity.Enroller, error) {
	if cfg.Enrol.By == "" {
		return nil, nil
	}
	client, err := httpClient(&cfg.tables, clock, nil)
	if err != nil {
		return nil, err
	}
	now := func() time.Time { return clock().Wall }
	if cfg.Enrol.By == "dps" {
		return &enrol.Provisioning{
			Host: cfg.Enrol.Host, IDScope: cfg.Enrol.IDScope, Group: cfg.enrolKey, Hub: cfg.Hub.Host, Client: client, Now: now,
		}, nil
	}
	address := cfg.Enrol.Address
	if address == "" {
		address = cfg.Hub.Host
	}
	return &enrol.Registry{
		Address: address, Hub: cfg.Hub.Host, Policy: cfg.Enrol.Policy, Key: cfg.enrolKey, Client: client, Now: now,
		Keep: func(leaf, text string) error { return keepKey(cfg, leaf, text) },
	}, nil
}

// httpClient goes the way of [hub], through its proxy, for addresses that begin with
// https. It trusts the system's authorities and those of its file. elsewhere says
// for some addresses, "host:port", where to dial; the certificate must be for their
// own names all the same.
func httpClient(cfg *tables, clock gateway.Clock, elsewhere map[string]string) (*http.Client, error) {
	hub := &cfg.Hub
	dialTCP, err := hub.DialTCP(cfg.Uplink.AuthBackoffMin.D())
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a minimal image may have none
	}
	if hub.CAFile != "" {
		pem, err := os.ReadFile(hub.CAFile)
		if err != nil {
			return nil, err
		}
		roots.AppendCertsFromPEM(pem)
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, hub.Timeout.D())
			defer cancel()
			return dialTCP(ctx, network, cmp.Or(elsewhere[address], address))
		},
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Time: func() time.Time { return clock().Wall }},
		MaxConnsPerHost:     2,
		IdleConnTimeout:     30 * time.Second,
		TLSHandshakeTimeout: 30 * time.Second,
	}}, nil
}

// keptKey is where a key that the registry gave is kept.
func keptKey(cfg *config, leaf string) string {
	return filepath.Join(cfg.Gateway.DataDir, "keys", hex.EncodeToString([]byte(leaf))+".key")
}

// keepKey writes a key that must survive a power cut.
func keepKey(cfg *config, leaf, text string) error {
	name := keptKey(cfg, leaf)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return writeNew(name, cfg.sealed(text), 0o600)
}
