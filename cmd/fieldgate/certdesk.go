package main

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/keypair"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/rights"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// renewBefore is how long before its end a certificate is due, if that is not more than
// a third of its life: some authorities sign for days only.
const renewBefore = 30 * 24 * time.Hour

// renewFrom is when a certificate is due to be renewed.
func renewFrom(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-min(renewBefore, c.NotAfter.Sub(c.NotBefore)/3))
}

// isDue says whether a certificate is to be renewed. One that is not good yet is: it was
// signed by a clock that was ahead.
func isDue(c *x509.Certificate, now time.Time) bool {
	return now.Before(c.NotBefore) || !now.Before(renewFrom(c))
}

// timeForSource is how long a machine must be up before a clock counts that no time
// source has set: by then one would have, were there any.
const timeForSource = 24 * time.Hour

// mistrust says why nothing is signed by a clock unless somebody asks for it, "" if it is
// good for that. A battery-backed clock that is ahead makes certificates that leaves
// refuse; a gateway without any time source has no better one, and must not be left
// without a certificate.
func mistrust(now gateway.Instant) string {
	switch {
	case now.Quality == gateway.Unsynced:
		return "the clock is not set"
	case now.Quality == gateway.Estimated && now.Uptime < timeForSource:
		return "no time source has set the clock yet"
	}
	return ""
}

// errNoPairs says that there is nothing for commands about certificates to work on.
var errNoPairs = errors.New("no [[broker.listener]] has a cert_file and a key_file")

// shownPair is a certificate and its key, which listeners show.
type shownPair struct {
	keypair.Place
	Listeners []string // their addresses, as the configuration has them
}

// desk is what the commands about the gateway's own certificates work with.
type desk struct {
	remote
	file string // of the configuration

	who   rights.User // with which the files below are worked with
	pairs []shownPair
	dir   string // the data folder
	name  string // of the gateway
	now   time.Time
	clock gateway.Instant // where now comes from
	place seal.Place

	credential *seal.Machine // the machine key, if systemd has handed it to this process
}

func (d *desk) flags(c *cobra.Command, formats ...string) {
	d.remote.flags(c, formats...)
	c.Flags().StringVarP(&d.file, "config", "c", defaultConfig(), "configuration `FILE`")
}

// open reads what the configuration says of certificates. What is wrong elsewhere in it
// does not matter, nor that files are missing: how else could they be made.
func (d *desk) open() error {
	s, err := readSettings(d.file, false)
	if err != nil {
		return configFailure(d.file, err, exitConfig, "mend it, then check it: fieldgate config validate "+d.file)
	}
	texts, here := s.byName(), &config{file: d.file}
	text := func(key string) string {
		word, _ := texts[key].value.(string)
		return word
	}
	d.dir, d.name = here.resolve(text("gateway.data_dir")), text("gateway.name")
	here.Gateway = gatewayConfig{DataDir: d.dir, TPM: text("gateway.tpm")}
	d.place = here.place()
	if d.credential, err = seal.Find(seal.Place{Credentials: d.place.Credentials}); err == nil {
		d.place.Credentials = "" // it is for whoever runs this, and nobody else
	}
	if d.socket == control.DefaultSocket && text("control.socket") != "" {
		d.socket = here.resolve(text("control.socket"))
	}
	d.now = time.Now()
	if clock, err := startClock(filepath.Join(d.dir, "clock")); err == nil {
		d.clock = clock()
		d.now = d.clock.Wall
	} else if !errors.Is(err, fs.ErrPermission) { // whoever may only look goes by the machine's clock
		return &failure{exitFailed, "cannot read the clock", err, "look at /proc, which must be mounted"}
	}
	if d.who, err = rights.Lend(d.file, d.dir); err != nil {
		return &failure{exitForbidden, "cannot tell whose certificates they are", err, "run it as the user of the daemon, with sudo -u"}
	}
	for _, l := range listenersOf(s) {
		if l["plain"] == true {
			continue
		}
		cert, _ := l["cert_file"].(string)
		key, _ := l["key_file"].(string)
		address, _ := l["address"].(string)
		if cert == "" || key == "" {
			continue
		}
		one := keypair.Place{Cert: here.resolve(cert), Key: here.resolve(key)}
		i := slices.IndexFunc(d.pairs, func(p shownPair) bool { return p.Place == one })
		if i < 0 {
			i, d.pairs = len(d.pairs), append(d.pairs, shownPair{Place: one})
		}
		d.pairs[i].Listeners = append(d.pairs[i].Listeners, address)
	}
	if len(d.pairs) == 0 {
		return &failure{
			exitNotFound, "there is no certificate to look after", errNoPairs,
			"write one into " + d.file + ", then: fieldgate cert create",
		}
	}
	return nil
}

// listenersOf returns the tables of listeners, as they stand in the file.
func listenersOf(s *settings) []map[string]any {
	var all []map[string]any
	for _, one := range s.all {
		if e := one.steps[min(1, len(one.steps)-1)].element; e != nil && one.key != nil && one.key.path == "broker.listener[].address" {
			all = append(all, e.values)
		}
	}
	return all
}

// mayWrite refuses whoever would write keys that the daemon cannot read.
func (d *desk) mayWrite() error {
	info, err := os.Stat(d.dir)
	if err != nil || os.Geteuid() == 0 {
		return nil // it is made when the daemon starts, by whoever that is
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return &failure{exitForbidden, "cannot write a key that the daemon can read", errors.New("this user is neither root nor that of the daemon"), "run it with sudo"}
	}
	return nil
}

// one is the pair that a command is about: that of the listener named, or the only one.
func (d *desk) one(args []string) (*shownPair, error) {
	all, err := d.chosen(args)
	if err != nil {
		return nil, err
	}
	if len(all) > 1 {
		return nil, &failure{
			exitUsage, "there is more than one certificate", fmt.Errorf("listeners %s do not share one", d.addresses()),
			"name the listener: fieldgate cert show " + all[0].Listeners[0],
		}
	}
	return &all[0], nil
}

// chosen are the pairs of the listener named, or all.
func (d *desk) chosen(args []string) ([]shownPair, error) {
	if len(args) == 0 {
		return d.pairs, nil
	}
	i := slices.IndexFunc(d.pairs, func(p shownPair) bool { return slices.Contains(p.Listeners, args[0]) })
	if i < 0 {
		return nil, &failure{exitNotFound, "there is no listener " + args[0] + " with a certificate", fmt.Errorf("there is %s", d.addresses()), "run: fieldgate cert show"}
	}
	return d.pairs[i : i+1], nil
}

func (d *desk) addresses() string {
	var all []string
	for _, p := range d.pairs {
		all = append(all, p.Listeners...)
	}
	return strings.Join(all, ", ")
}

// alone looks whether other listeners have one half of a pair only: they would be left
// with halves that do not fit. Nor can one file with both halves become two.
func (d *desk) alone(p *shownPair) error {
	if p.oneFile() {
		return &failure{
			exitForbidden, "cannot replace the certificate of " + strings.Join(p.Listeners, ", "),
			fmt.Errorf("%s is its certificate and its key, in one file", p.Cert),
			"give the key a file of its own: write it there with openssl pkey, name it as key_file, then: systemctl restart fieldgate",
		}
	}
	for _, o := range d.pairs {
		if o.Place != p.Place && (o.Cert == p.Cert || o.Key == p.Key) {
			return &failure{
				exitForbidden, "cannot replace the certificate of " + strings.Join(p.Listeners, ", "),
				fmt.Errorf("listener %s shares one of the files %s and %s, not both", strings.Join(o.Listeners, ", "), p.Cert, p.Key),
				"give them files of their own, or the same two: fieldgate config set",
			}
		}
	}
	return nil
}

// oneFile says whether the certificate and the key are in the same file.
func (p *shownPair) oneFile() bool {
	if p.Cert == p.Key {
		return true
	}
	cert, err := os.Lstat(p.Cert)
	if err != nil {
		return false
	}
	key, err := os.Lstat(p.Key)
	return err == nil && os.SameFile(cert, key)
}

// root is the authority that signs what create and renew make. It is made when it is
// needed, and stays for good: leaves have its certificate.
func (d *desk) root() (*identity.Authority, error) {
	_, _ = d.machine() // it may be sealed
	file := filepath.Join(d.dir, "keys", "root.pem")
	text, err := seal.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	a, err := identity.OpenAuthority("Fieldgate "+d.name, string(text), func(text string) error {
		if err := os.MkdirAll(d.dir, 0o700); err != nil {
			return err
		}
		keys := filepath.Dir(file)
		p := keypair.Place{Cert: keys} // which is in the data folder
		return errors.Join(p.MakeFolder(keys, 0o700), p.WriteFile(file, d.sealed([]byte(text)), 0o600), syncFolder(keys), syncFolder(d.dir))
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return a, nil
}

// machine is the key to seal with. A credential was read before, where it can be.
func (d *desk) machine() (*seal.Machine, error) {
	m, err := seal.Find(d.place)
	if d.credential != nil {
		return d.credential, nil
	}
	return m, err
}

// sealed is what is written of a secret: itself where there is no machine key, or where
// it is sealed already.
func (d *desk) sealed(secret []byte) []byte {
	m, err := d.machine()
	if err != nil || seal.Sealed(secret) {
		return secret
	}
	return m.Seal(secret)
}

// unlock makes sealed secrets readable. Where the current key of a pair is sealed, the
// next one must be, too.
func (d *desk) unlock(p *shownPair) error {
	_, err := d.machine()
	if errors.Is(err, fs.ErrNotExist) {
		if text, failed := os.ReadFile(p.Key); failed != nil || !seal.Sealed(text) {
			return nil
		}
	}
	if err != nil {
		return &failure{
			exitFailed, "there is no machine key to seal with", err,
			"run it as root; with a key that is a credential of the service: systemd-run --pipe --wait -p LoadCredentialEncrypted=" + seal.CredentialName + " fieldgate cert …",
		}
	}
	return nil
}

// current returns the chain that a pair has now.
func (p *shownPair) current() ([]*x509.Certificate, error) {
	text, err := os.ReadFile(p.Cert)
	if err != nil {
		return nil, err
	}
	_, chain, err := parseChain(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Cert, err)
	}
	return chain, nil
}

// key returns the pair's key as it is now.
func (p *shownPair) key() (crypto.Signer, error) { return readKey(p.Key) }

// onlyKey says whether somebody has put a key there, and no certificate.
func (p *shownPair) onlyKey() bool {
	if _, err := os.Lstat(p.Cert); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	info, err := os.Lstat(p.Key)
	return err == nil && info.Mode().IsRegular()
}

// strayKey refuses to put another key in the place of one that has no certificate yet:
// it is nowhere else.
func (p *shownPair) strayKey(text []byte) error {
	if !p.onlyKey() {
		return nil
	}
	there, err := p.key()
	if err != nil {
		return fmt.Errorf("there is a key without a certificate: %w", err)
	}
	if key, err := parseKeyText(text); err != nil || !samePublic(there, key.Public()) {
		return fmt.Errorf("%s holds another key, without a certificate", p.Key)
	}
	return nil
}

// samePublic says whether a key is the one of a public key.
func samePublic(key crypto.Signer, public crypto.PublicKey) bool {
	own, comparable := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return comparable && own.Equal(public)
}

// readKey reads a private key in PEM form, sealed or in the clear.
func readKey(file string) (crypto.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return openKey(file, text)
}

// openKey makes a private key of what was read of a file.
func openKey(file string, text []byte) (crypto.Signer, error) {
	text, err := seal.Open(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	key, err := parseKeyText(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", file, err)
	}
	return key, nil
}

// parseKeyText returns the first private key in a text.
func parseKeyText(text []byte) (crypto.Signer, error) {
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("holds no private key in PEM form")
		}
		if key := parseKey(block); key != nil {
			return key, nil
		}
	}
}

// parseKey reads a key of one of the forms that there are, nil if it is none.
func parseKey(block *pem.Block) crypto.Signer {
	if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil
	}
	var key any
	var err error
	if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		}
	}
	if signer, ok := key.(crypto.Signer); err == nil && ok {
		return signer
	}
	return nil
}

// newPrivateKey makes a private key, and its PEM form.
func newPrivateKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	text, err := keyText(key)
	return key, text, err
}

func keyText(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// namesOf are the names for which a certificate is good.
func namesOf(c *x509.Certificate) []string {
	all := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// usualNames are those of a new certificate if nobody says any: that of the gateway,
// the same as it is found without a name server, and addresses on which leaves are
// awaited.
func (d *desk) usualNames(p *shownPair) []string {
	name := cmp.Or(d.name, "fieldgate")
	all := []string{name}
	if !strings.Contains(name, ".") {
		all = append(all, name+".local")
	}
	for _, address := range p.Listeners {
		host, _, _ := net.SplitHostPort(address)
		if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() && !slices.Contains(all, ip.String()) {
			all = append(all, ip.String())
		}
	}
	return all
}

// nextRenewal is the command that renews a certificate.
func (d *desk) nextRenewal(c *x509.Certificate) string {
	if root, err := d.root(); err == nil && root.Signed(c) {
		return "fieldgate cert renew"
	}
	return "have it signed anew: fieldgate cert create-csr > gateway.csr; then: fieldgate cert import SIGNED.pem"
}
