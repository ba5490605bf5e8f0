package main

import (
	"errors"
	"io/fs"
	"maps"
	"regexp"
	"slices"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// leafConfig is one table [[leaf]].
type leafConfig struct {
	// ID is the leaf's id, as the hub knows it; case counts.
	ID string `toml:"id"`
	// KeyFile holds the leaf's hub key. With it the gateway proves the leaf to
	// the hub, and checks the leaf's own token when it logs in with one. A leaf
	// without one is enrolled, see [enrol].
	KeyFile string `toml:"key_file"`
	// Auth is how the leaf is proven to the hub: "key", with its key; "relay", with
	// the token that it logs in with itself, once the hub has accepted that; "gateway",
	// not at all: its messages go under the gateway's own identity, with its id in
	// the property fieldgate-leaf.
	Auth identity.Auth `toml:"auth"`
	// LoginKeyFile holds a key with which the leaf makes its token for the gateway, in
	// the place of its hub key, which it then need not have. It is made by "fieldgate
	// device add".
	LoginKeyFile string `toml:"login_key_file"`
	// PasswordFile holds the hash of the password that the leaf logs in with,
	// made by "fieldgate device hash-password". Without it there is no password.
	PasswordFile string `toml:"password_file"`
	// Thumbprint is the SHA-1 or SHA-256 of the certificate that the leaf logs in
	// with, in hexadecimal, and ThumbprintSecondary that of its next one.
	Thumbprint          string `toml:"thumbprint"`
	ThumbprintSecondary string `toml:"thumbprint_secondary"`
	// MayListen names the leaves whose messages this one may hear, as a program on the
	// site would; "*" is all. What they send comes on leaf/{leaf}/telemetry[/{channel}]
	// and leaf/{leaf}/alarm[/{channel}].
	MayListen []string `toml:"may_listen"`
	// StandIn lets operators stand in for the leaf: publish and listen as it would, with
	// "fieldgate pub --leaf" and "fieldgate sub --leaf". The hub is told of such a message
	// that it is not the leaf's: fieldgate-trust = operator.
	StandIn bool `toml:"stand_in"`
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
	if c.ID == pairing.User {
		errs = append(errs, gateway.BadKey("id", "%q is the name with which new leaves pair: write another", c.ID))
	}
	switch {
	case c.Auth != identity.AuthKey && c.Auth != identity.AuthRelay && c.Auth != identity.AuthGateway:
		errs = append(errs, gateway.BadKey("auth", "%q is unknown: write \"key\", \"relay\" or \"gateway\"", c.Auth))
	case c.Auth == identity.AuthRelay && c.LoginKeyFile != "":
		errs = append(errs, gateway.BadKey("login_key_file", "the leaf's own tokens are relayed to the hub, which does not know this key: leave it out"))
	case c.Auth == identity.AuthRelay && c.KeyFile != "":
		errs = append(errs, gateway.BadKey("key_file", "the leaf's own tokens are relayed: leave its key out, or write auth = \"key\""))
	}
	return errors.Join(errs...)
}

// leafID is what the hub takes for a device id (wire contract, section 5.2),
// without + and #: a topic cannot name a leaf with those.
var leafID = regexp.MustCompile(`^[A-Za-z0-9\-:.%_*?!(),=@$';]{1,128}$`)

// leaf is a leaf with its secrets.
type leaf struct {
	pairing.Leaf
	key       identity.Key // zero: none, or by enrolment
	keyFile   string       // where key was read, "" if it is zero
	auth      identity.Auth
	mayListen []string
	standIn   bool // operators may
}

// addLeaves reads [[leaf]] tables and the secrets that they name.
func (l *loader) addLeaves(list []strict.Table) {
	for _, t := range list {
		c := leafConfig{Auth: identity.AuthKey}
		t.Decode(&c)
		err := c.Validate()
		t.Check(errors.Join(err, l.checkAuth(&c)))
		if first, known := l.leafAt[c.ID]; known {
			t.Report("id", "there is a leaf %q already, at %s", c.ID, first.Where("id").Place())
			continue
		}
		l.leafAt[c.ID] = t
		if l.Hub.isBroker() || c.Auth == identity.AuthKey && c.KeyFile == "" && l.Enrol.By == "" && l.Hub.overMQTT() {
			c.Auth = identity.AuthGateway // its files go as its messages do
		}
		one := leaf{Leaf: pairing.Leaf{ID: c.ID, Disabled: c.Disabled}, auth: c.Auth, mayListen: c.MayListen, standIn: c.StandIn}
		if one.key = l.hubKey(t, "key_file", c.KeyFile); c.KeyFile != "" {
			one.keyFile = t.Resolve(c.KeyFile)
		}
		one.Key = l.hubKey(t, "login_key_file", c.LoginKeyFile)
		if text := l.secret(t, "password_file", c.PasswordFile); text != "" {
			if one.Password, err = pairing.ParsePasswordHash(text); err != nil {
				t.Report("password_file", "%s: %v: make one with fieldgate device hash-password", c.PasswordFile, err)
			}
		}
		for i, key := range []string{"thumbprint", "thumbprint_secondary"} {
			if text := []string{c.Thumbprint, c.ThumbprintSecondary}[i]; text != "" {
				if one.Thumbprints[i], err = pairing.ParseThumbprint(text); err != nil {
					t.Report(key, "%v", err)
				}
			}
		}
		l.leaves = append(l.leaves, one)
	}
}

// checkListening looks whether there are the leaves that others may listen to. All
// are known by now.
func (l *loader) checkListening() {
	for _, one := range l.leaves {
		for _, other := range one.mayListen {
			if _, known := l.leafAt[other]; !known && other != broker.AnyLeaf {
				l.leafAt[one.ID].Report("may_listen", "%s", unknownWord("leaf", other, slices.Sorted(maps.Keys(l.leafAt))))
			}
		}
	}
}

// checkAuth looks whether a leaf can be proven to the hub in its way.
func (l *loader) checkAuth(c *leafConfig) error {
	switch {
	case l.Hub.isBroker() && c.Auth == identity.AuthRelay:
		return gateway.BadKey("auth", "a broker judges no leaf's token: leave it out")
	case l.Hub.isBroker():
		return nil
	case c.Auth == identity.AuthRelay && l.Hub.overMQTT():
		return gateway.BadKey("auth", "over MQTT there is no way for a leaf's own token: write transport = \"amqp\" under [hub]")
	case c.Auth == identity.AuthGateway && l.Hub.Own.DeviceID == "":
		return gateway.BadKey("auth", "the gateway has no identity of its own: write its device_id and key_file under [hub]")
	case c.ID == l.Hub.Own.DeviceID && (!l.Hub.overMQTT() || len(l.Update.From) > 0):
		// Over MQTT a leaf of that id has its twin, and the calls of its methods: not where
		// there is one that the gateway answers, and whose payload is not for leaves.
		return gateway.BadKey("id", "%q is the gateway's own device at the hub: write another id, or another device_id under [hub]", c.ID)
	case c.Auth == identity.AuthKey && c.KeyFile == "":
		return l.keyMissing()
	}
	return nil
}

// hubKey reads a file that holds a key, which is zero if there is none.
func (l *loader) hubKey(t strict.Table, key, file string) (k identity.Key) {
	text := l.secret(t, key, file)
	if text == "" {
		return k
	}
	k, err := identity.ParseKey(text)
	if err != nil {
		t.Report(key, "%s: %v", file, err)
	}
	return k
}

// secret reads a file that a key names; "" when there is none or it cannot be
// read, which is then reported.
func (l *loader) secret(t strict.Table, key, file string) string {
	if file == "" {
		return ""
	}
	file = t.Resolve(file)
	text, err := seal.ReadFile(file)
	l.secrets = append(l.secrets, file)
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
