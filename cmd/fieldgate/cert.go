package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/keypair"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/rights"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
)

func certCommand(std streams) *cobra.Command {
	return group("cert", "Look after certificates",
		createCertCommand(std), createRequestCommand(std), showCertCommand(std), renewCertCommand(std),
		needsRenewalCommand(std), importCertCommand(std), backCertCommand(std),
		group("ca", "The gateway's own authority, which signs the certificates of leaves that pair",
			showAuthorityCommand(std), rotateAuthorityCommand(std)))
}

// swapText explains what all commands do that replace a certificate.
const swapText = `
The new certificate is written beside the old one and has to prove itself: its key
fits, its chain leads to an authority that is known, it is the time for it, and a
connection with it succeeds by each of its names. Then it takes the place of the old
one in one step, key and all, and the listeners of a running gateway show it. No
leaf's connection ends. The old one is kept: fieldgate cert rollback.`

// certChange is what the commands have in common that replace a certificate.
type certChange struct {
	desk
	ca         string // file
	caText     []byte // what is in it, if one is named
	otherNames bool
}

// open reads what there is, and keeps others from changing it meanwhile.
func (c *certChange) open(args []string) (p *shownPair, done func(), err error) {
	if err := c.desk.open(); err != nil {
		return nil, nil, err
	}
	if p, err = c.one(args); err != nil {
		return nil, nil, err
	}
	if c.ca != "" {
		if c.caText, err = os.ReadFile(c.ca); err != nil {
			return nil, nil, &failure{exitNotFound, "cannot read the authority", err, "name a file with certificates in PEM form"}
		}
	}
	if err := c.mayWrite(); err != nil {
		return nil, nil, err
	}
	err = c.who.With(func() error { return cmp.Or(c.alone(p), c.unlock(p)) })
	if err != nil {
		return nil, nil, err
	}
	done, err = lockFolder(filepath.Dir(c.file))
	if err != nil {
		return nil, nil, &failure{exitFailed, "cannot change certificates", err, lockHint(err)}
	}
	return p, done, nil
}

// on opens the pair of the listener that is named by the argument behind the first ones,
// or the only pair, and does something with it. What do says is written when it has
// ended: whoever reads it must not keep others waiting.
func (c *certChange) on(std streams, first int, do func(ctx context.Context, std streams, p *shownPair, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		p, done, err := c.open(args[first:])
		if err != nil {
			return err
		}
		var out, errs bytes.Buffer
		err = c.who.With(func() error { return do(cmd.Context(), streams{nil, &out, &errs}, p, args) })
		done()
		_, told := errs.WriteTo(std.err)
		_, wrote := out.WriteTo(std.out)
		return cmp.Or(err, wrote, told)
	}
}

// use has a pair prove itself and take the place of the one that is there.
func (c *certChange) use(ctx context.Context, std streams, p *shownPair, chain, key []byte) error {
	what := "cannot replace the certificate of " + strings.Join(p.Listeners, ", ")
	roots, err := c.roots()
	if err != nil {
		return &failure{exitNotFound, what, err, "name a file with certificates in PEM form"}
	}
	if err := p.strayKey(key); err != nil {
		return &failure{exitForbidden, what, err, "have it signed (fieldgate cert create-csr), or move it away"}
	}
	candidate, err := p.Stage(chain, c.sealed(key))
	if errors.Is(err, keypair.ErrElsewhere) {
		return &failure{exitForbidden, what, err, "renew it with the program that has made the link, then: systemctl reload fieldgate"}
	}
	if err != nil {
		next := "look at the space and the rights there; the old one is untouched"
		if errors.Is(err, fs.ErrPermission) && c.who != (rights.User{}) {
			next = "name files in cert_file and key_file where user " + c.who.String() + ", who renews them later, may write"
		}
		return &failure{exitFailed, what, err, next}
	}
	proof := &proof{roots: roots, now: c.now}
	certFile, keyFile := candidate.Files()
	err = proof.of(ctx, certFile, keyFile)
	if err == nil && !c.otherNames {
		err = c.sameNames(p, proof.cert)
	}
	if err != nil {
		next := "the old one is untouched; look at the new one: openssl x509 -noout -text -in FILE"
		if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
			next = "name the authority that has signed it with --ca, and put those between it and the certificate behind the certificate"
		}
		return &failure{exitRejected, what, errors.Join(err, candidate.Drop()), next}
	}
	if err := candidate.Swap(c.sealed); err != nil {
		return &failure{exitFailed, what, err, "look at the space and the rights there; the old one or the new one is in its place, whole"}
	}
	return c.tell(ctx, std, what, p, proof)
}

// roots are the authorities that are trusted.
func (c *certChange) roots() (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a machine without any
	}
	if c.ca != "" && !roots.AppendCertsFromPEM(c.caText) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", c.ca)
	}
	return roots, nil
}

// sameNames refuses a certificate by whose names leaves do not know the gateway.
func (c *certChange) sameNames(p *shownPair, fresh *x509.Certificate) error {
	old, err := p.current()
	if err != nil {
		return nil // there is none, or none that any leaf could use
	}
	if gone := missingNames(old[0], fresh); len(gone) > 0 {
		return fmt.Errorf("it is not for %s, by which leaves know the gateway: say --other-names if that is what you want", strings.Join(gone, ", "))
	}
	return nil
}

// tell has a running gateway show what is in the files, and looks whether it does; if
// not, the former pair comes back.
func (d *desk) tell(ctx context.Context, std streams, what string, p *shownPair, proven *proof) error {
	ctx, cancel := uninterrupted(ctx) // the new one is in its place
	defer cancel()
	shown, err := d.client().ReloadCertificates(ctx)
	switch {
	case errors.Is(err, control.ErrNotRunning):
		fmt.Fprintln(std.err, "no gateway runs: it counts when one starts")
	case err == nil:
		err = lookAt(ctx, std, shown, p, proven)
	}
	if err != nil && !errors.Is(err, control.ErrNotRunning) {
		return d.goBack(ctx, what, p, err)
	}
	fmt.Fprintf(std.out, "%s is for %s, good until %s\n", p.Cert, strings.Join(namesOf(proven.cert), ", "), stamp(proven.cert.NotAfter))
	return nil
}

// tellTime bounds how long a running gateway is talked to.
const tellTime = 2 * time.Minute

// uninterrupted is for what must not stop half-way because somebody wants to leave.
func uninterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), tellTime)
}

// lookAt looks at the listeners from outside that the running gateway has with that file.
// It may have fewer of them than the configuration, which may not be applied yet.
func lookAt(ctx context.Context, std streams, shown map[string]string, p *shownPair, proven *proof) error {
	looked := false
	for address, file := range shown {
		if !sameFile(file, p.Cert) {
			continue
		}
		looked = true
		if err := proven.shownAt(ctx, address); err != nil {
			return err
		}
	}
	if !looked {
		fmt.Fprintln(std.err, "no listener of the running gateway has it yet: it counts with the configuration: fieldgate config apply")
	}
	return nil
}

// sameFile says whether two paths lead to one file.
func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// goBack undoes a change that a running gateway has not taken over.
func (d *desk) goBack(ctx context.Context, what string, p *shownPair, why error) error {
	if err := p.Back(); err != nil {
		return &failure{exitFailed, what, why, "the new one is in its place all the same; look at the log, then: systemctl restart fieldgate"}
	}
	if errors.Is(why, control.ErrForbidden) {
		return &failure{exitForbidden, what, why, "run it with sudo; the old one is back in its place"}
	}
	ctx, cancel := uninterrupted(ctx)
	defer cancel()
	// The old one was good a moment ago; if not, the daemon says so in its log.
	_, _ = d.client().ReloadCertificates(ctx)
	return &failure{exitFailed, what, why, "the old one is back in its place; look at the log: journalctl -u fieldgate"}
}

func createCertCommand(std streams) *cobra.Command {
	var c certChange
	var names []string
	var days int
	var replace bool
	cmd := &cobra.Command{
		Use:   "create [LISTENER]",
		Short: "Make a certificate and its key for listeners",
		Long: `Makes the certificate that leaves see, and its key, in the places that the
configuration names for them; a key that is there already is used. It is signed by an authority of the gateway's own, which
is made the first time and stays: leaves are given its certificate once, and trust
what is renewed.
` + swapText,
		Example: "  sudo fieldgate cert create --name gateway.local --name 192.168.7.1\n  fieldgate cert show --ca > ca.crt",
		Args:    cobra.MaximumNArgs(1),
		RunE: c.on(std, 0, func(ctx context.Context, std streams, p *shownPair, _ []string) error {
			if old, err := p.current(); !replace && !errors.Is(err, fs.ErrNotExist) {
				what := "it cannot be read"
				if err == nil {
					what = "it is for " + strings.Join(namesOf(old[0]), ", ")
				}
				return &failure{exitForbidden, "there is a certificate in " + p.Cert, errors.New(what), "fieldgate cert renew; or say --replace"}
			}
			if len(names) == 0 {
				names = c.usualNames(p)
			}
			if err := checkNames(names); err != nil {
				return err
			}
			c.otherNames = true // whoever makes one says its names
			key, text, err := newPrivateKey()
			if p.onlyKey() {
				key, err = p.key()
				if err == nil {
					text, err = keyText(key)
				}
			}
			if err != nil {
				return &failure{exitForbidden, "there is a key in " + p.Key + " and no certificate", err, "move it away; then: fieldgate cert create"}
			}
			return c.sign(ctx, std, p, key, text, names, days)
		}),
	}
	c.flags(cmd)
	cmd.Flags().StringArrayVar(&names, "name", nil, "host `NAME` or IP address by which leaves know the gateway; may be repeated")
	cmd.Flags().BoolVar(&replace, "replace", false, "put it in the place of one that is there")
	daysFlag(cmd, &days)
	return cmd
}

func daysFlag(c *cobra.Command, days *int) {
	c.Flags().IntVar(days, "days", 365, "how many `DAYS` the certificate is good for, 1 to 3650")
}

func checkNames(names []string) error {
	for _, name := range names {
		if net.ParseIP(name) == nil && (name == "" || len(name) > 253 || strings.ContainsAny(name, " /:@\t\n")) {
			return fmt.Errorf("%q is neither a host name nor an IP address", name)
		}
	}
	return nil
}

// sign makes a certificate for a key with the gateway's own authority, and uses it.
func (c *certChange) sign(ctx context.Context, std streams, p *shownPair, key crypto.Signer, text []byte, names []string, days int) error {
	if days < 1 || days > 3650 {
		return fmt.Errorf("--days %d is out of range: 1 to 3650", days)
	}
	const what = "cannot sign a certificate"
	if c.now.Year() < 2024 {
		return &failure{exitFailed, what, fmt.Errorf("the clock shows %s: the certificate would be of the wrong time", stamp(c.now)), "set the clock: timedatectl set-time; then again"}
	}
	root, err := c.root()
	if err != nil {
		return &failure{exitFailed, what, err, "run it as root, or as the user of the daemon"}
	}
	// Clocks of leaves are not always right.
	chain, err := root.SignServer(key.Public(), names, c.now.Add(-24*time.Hour), c.now.Add(time.Duration(days)*24*time.Hour))
	if err != nil {
		return &failure{exitFailed, what, err, "look at the space and the rights in " + c.dir}
	}
	return c.use(ctx, std, p, []byte(chain), text)
}

func renewCertCommand(std streams) *cobra.Command {
	var r renewal
	var all bool
	cmd := &cobra.Command{
		Use:   "renew [LISTENER]",
		Short: "Renew a certificate that the gateway has made",
		Long: `Makes a new certificate with the same names, for the same key, signed by the
gateway's own authority. Leaves that trust that need not be told. One that another
authority has signed is renewed with "cert create-csr" and "cert import".

With --all those of other authorities are passed over, and so are listeners that have
none yet. fieldgate-renew.timer runs it every hour with --all --if-needed. That does
nothing while the clock is not set, or for the first day of a machine that no time source
has told the time.
` + swapText,
		Example: "  sudo fieldgate cert renew\n  sudo fieldgate cert renew --all --if-needed",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !all {
				return r.on(std, 0, r.renew)(cmd, args)
			}
			if len(args) > 0 {
				return errors.New("--all and a listener do not go together")
			}
			return r.renewAll(cmd, std)
		},
	}
	r.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "every certificate that the gateway has made")
	cmd.Flags().BoolVar(&r.fresh, "new-key", false, "with a new key")
	cmd.Flags().BoolVar(&r.ifNeeded, "if-needed", false, "do nothing before it is due")
	daysFlag(cmd, &r.days)
	return cmd
}

// renewal is what "cert renew" does.
type renewal struct {
	certChange
	days            int
	fresh, ifNeeded bool
}

func (r *renewal) renew(ctx context.Context, std streams, p *shownPair, _ []string) error {
	chain, err := p.current()
	if err != nil {
		return &failure{exitNotFound, "there is no certificate to renew", err, "fieldgate cert create"}
	}
	if r.ifNeeded && !isDue(chain[0], r.now) {
		fmt.Fprintf(std.out, "%s is due on %s, nothing was done\n", p.Cert, stamp(renewFrom(chain[0])))
		return nil
	}
	if why := mistrust(r.clock); r.ifNeeded && why != "" {
		fmt.Fprintf(std.out, "%s is due, nothing was done: %s, it shows %s\n", p.Cert, why, stamp(r.now))
		return nil
	}
	root, err := r.root()
	if err != nil {
		return &failure{exitFailed, "cannot renew the certificate", err, "run it as root, or as the user of the daemon"}
	}
	if !root.Signed(chain[0]) {
		return &failure{exitForbidden, "cannot renew the certificate", fmt.Errorf("%s has signed it, not the gateway's own authority", chain[0].Issuer), r.nextRenewal(chain[0])}
	}
	key, err := p.key()
	if err != nil {
		return &failure{exitFailed, "cannot renew the certificate", err, "make a new one: fieldgate cert create --replace"}
	}
	text, err := keyText(key)
	if r.fresh {
		key, text, err = newPrivateKey()
	}
	if err != nil {
		return err
	}
	return r.sign(ctx, std, p, key, text, namesOf(chain[0]), r.days)
}

// renewAll renews what the gateway has made, all of it even if one fails, and returns
// the first failure.
func (r *renewal) renewAll(cmd *cobra.Command, std streams) error {
	look := r.desk
	switch err := look.open(); {
	case errors.Is(err, errNoPairs):
		_, err = fmt.Fprintln(std.out, "no listener has a certificate, nothing was done")
		return err
	case err != nil:
		return err
	}
	var failed error
	for _, p := range look.pairs {
		own := true
		err := look.who.With(func() error {
			chain, err := p.current()
			if root, rerr := look.root(); err == nil && rerr == nil {
				own = root.Signed(chain[0])
			}
			return err
		})
		if errors.Is(err, fs.ErrNotExist) || !own {
			continue
		}
		one := *r
		failed = cmp.Or(failed, one.on(std, 0, one.renew)(cmd, p.Listeners[:1]))
	}
	return failed
}

func createRequestCommand(std streams) *cobra.Command {
	var c certChange
	var names []string
	var fresh bool
	cmd := &cobra.Command{
		Use:   "create-csr [LISTENER]",
		Short: "Print a signing request for another authority",
		Long: `Prints a certificate signing request for an authority of one's own, for the names of
the certificate that is there or those given. It is for the key that is in use, or for
a new one: with --new-key, or where there is none. The new one waits, sealed like the
other, until the certificate comes: fieldgate cert import. Where there is no key in use,
further requests are for the one that waits.`,
		Example: "  sudo fieldgate cert create-csr > gateway.csr\n  sudo fieldgate cert create-csr --new-key --name gateway.local > gateway.csr",
		Args:    cobra.MaximumNArgs(1),
		RunE: c.on(std, 0, func(_ context.Context, std streams, p *shownPair, _ []string) error {
			if old, err := p.current(); len(names) == 0 && err == nil {
				names = namesOf(old[0])
			}
			if len(names) == 0 {
				names = c.usualNames(p)
			}
			if err := checkNames(names); err != nil {
				return err
			}
			key, err := p.key()
			if !fresh && errors.Is(err, fs.ErrNotExist) {
				key, err = readKey(p.RequestFile())
			}
			if fresh || errors.Is(err, fs.ErrNotExist) {
				key, err = c.keepNewKey(p)
			}
			if err != nil {
				return &failure{exitFailed, "cannot make a signing request", err, "run it as root, or make a new key: --new-key"}
			}
			request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: names[0]}}
			request.DNSNames, request.IPAddresses = identity.SplitNames(names)
			der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
			if err != nil {
				return err
			}
			fmt.Fprintln(std.err, "have it signed, then run: fieldgate cert import SIGNED.pem")
			return pem.Encode(std.out, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		}),
	}
	c.flags(cmd)
	cmd.Flags().StringArrayVar(&names, "name", nil, "host `NAME` or IP address by which leaves know the gateway; may be repeated")
	cmd.Flags().BoolVar(&fresh, "new-key", false, "for a new key")
	return cmd
}

// keepNewKey makes a key that waits for its certificate.
func (d *desk) keepNewKey(p *shownPair) (crypto.Signer, error) {
	key, text, err := newPrivateKey()
	if err != nil {
		return nil, err
	}
	file := p.RequestFile()
	if err := p.MakeFolder(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	return key, errors.Join(p.WriteFile(file, d.sealed(text), 0o600), syncFolder(filepath.Dir(file)))
}

func importCertCommand(std streams) *cobra.Command {
	const what = "cannot import the certificate"
	var c certChange
	var keyFile string
	cmd := &cobra.Command{
		Use:   "import CERTIFICATE [LISTENER]",
		Short: "Use a certificate that another authority has signed",
		Long: `Uses the certificate in a file, or on standard input for "-", in PEM form, with those
between it and its authority behind it. Its key is the one in --key, else the one that
waits for it since "cert create-csr --new-key", else the one that is in use.
` + swapText,
		Example: "  sudo fieldgate cert import signed.pem\n  sudo fieldgate cert import signed.pem --key gateway.key --ca company-ca.pem",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			chain, certs, err := readChain(std.in, args[0])
			if err != nil {
				return &failure{exitNotFound, what, err, "name a file with a certificate in PEM form"}
			}
			var given []byte
			if keyFile != "" {
				if given, err = os.ReadFile(keyFile); err != nil {
					return &failure{exitRejected, what, err, "name its key with --key, or make a request for a key that is here: fieldgate cert create-csr"}
				}
			}
			return c.on(std, 1, func(ctx context.Context, std streams, p *shownPair, _ []string) error {
				key, used, err := keyFor(certs[0], keyFile, given, p)
				if err != nil {
					return &failure{exitRejected, what, err, "name its key with --key, or make a request for a key that is here: fieldgate cert create-csr"}
				}
				if err := c.use(ctx, std, p, chain, key); err != nil {
					return err
				}
				switch {
				case sameFile(used, p.RequestFile()):
					if err := os.Remove(p.RequestFile()); err != nil {
						return &failure{exitFailed, "the key of the request stays", err, "remove it: " + p.RequestFile()}
					}
				case keyFile != "":
					fmt.Fprintf(std.err, "%s is still there, for you to keep safe or to remove\n", keyFile)
				}
				return nil
			})(cmd, args)
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&keyFile, "key", "", "the certificate's key, `FILE` in PEM form")
	cmd.Flags().StringVar(&c.ca, "ca", "", "`FILE` with the authority that leaves trust, where the machine does not know it")
	cmd.Flags().BoolVar(&c.otherNames, "other-names", false, "although it is not for all names of the one that is there")
	return cmd
}

// readChain reads a chain from a file, or from in for "-".
func readChain(in io.Reader, file string) ([]byte, []*x509.Certificate, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxChain+1))
	if err != nil {
		return nil, nil, err
	}
	return parseChain(text)
}

// keyFor finds the key of a certificate, and the file it is in: the one that somebody
// has named, with what is in it, or "" and one that is here.
func keyFor(c *x509.Certificate, named string, given []byte, p *shownPair) (text []byte, file string, err error) {
	files := []string{p.RequestFile(), p.Key}
	if named != "" {
		files = []string{named}
	}
	var failed error
	for _, file := range files {
		key, err := openKey(file, given)
		if named == "" {
			key, err = readKey(file)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if samePublic(key, c.PublicKey) {
			text, err := keyText(key)
			return text, file, err
		}
	}
	return nil, "", errors.Join(errors.New("no key here fits it"), failed)
}

func backCertCommand(std streams) *cobra.Command {
	var c certChange
	cmd := &cobra.Command{
		Use:   "rollback [LISTENER]",
		Short: "Go back to the certificate from before",
		Long: `Puts the certificate and the key from before the last change back in their place, if
they still prove themselves; once more, and it is as it was. Listeners of a running
gateway show it at once.`,
		Example: "  sudo fieldgate cert rollback",
		Args:    cobra.MaximumNArgs(1),
		RunE: c.on(std, 0, func(ctx context.Context, std streams, p *shownPair, _ []string) error {
			const what = "cannot go back"
			certFile, keyFile, err := p.Former()
			if err != nil {
				return &failure{exitNotFound, what, err, "run: fieldgate cert show"}
			}
			roots, err := c.roots()
			if err != nil {
				return &failure{exitNotFound, what, err, "name a file with certificates in PEM form"}
			}
			proof := &proof{roots: roots, now: c.now}
			if err := proof.of(ctx, certFile, keyFile); err != nil {
				return &failure{exitRejected, what, err, "make a new one: fieldgate cert renew"}
			}
			if err := p.Back(); err != nil {
				return &failure{exitFailed, what, err, "look at the space and the rights there"}
			}
			return c.tell(ctx, std, what, p, proof)
		}),
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&c.ca, "ca", "", "`FILE` with the authority that leaves trust, where the machine does not know it")
	return cmd
}

// ownCertificate is a certificate of the gateway for programs. Names are stable.
type ownCertificate struct {
	Listeners    []string  `json:"listeners"`
	CertFile     string    `json:"cert_file"`
	Names        []string  `json:"names"`
	Issuer       string    `json:"issuer"`
	Own          bool      `json:"own"` // signed by the gateway's own authority: renew can renew it
	NotBefore    time.Time `json:"not_before"`
	NotAfter     time.Time `json:"not_after"`
	RenewFrom    time.Time `json:"renew_from"`
	NeedsRenewal bool      `json:"needs_renewal"`
	SHA256       string    `json:"sha256"`
}

func (d *desk) describe(p *shownPair, c *x509.Certificate) ownCertificate {
	root, err := d.root()
	return ownCertificate{
		p.Listeners, p.Cert, namesOf(c), c.Issuer.String(), err == nil && root.Signed(c),
		c.NotBefore.UTC(), c.NotAfter.UTC(), renewFrom(c).UTC(), isDue(c, d.now), hexPrint(c),
	}
}

// look reads the certificates of a pair, and says what there is to the first of them.
func (d *desk) look(p *shownPair) (chain []*x509.Certificate, c ownCertificate, err error) {
	err = d.who.With(func() (err error) {
		if chain, err = p.current(); err == nil {
			c = d.describe(p, chain[0])
		}
		return err
	})
	return chain, c, err
}

func showCertCommand(std streams) *cobra.Command {
	var d desk
	var whole, ca bool
	cmd := &cobra.Command{
		Use:   "show [LISTENER]",
		Short: "Show the certificates that leaves see",
		Long: `Shows the certificates of listeners: for which names, by whom, until when. With --ca it
prints what leaves need to trust the gateway: the authority at the top of the chain.`,
		Example: "  fieldgate cert show\n  fieldgate cert show --ca > ca.crt\n  fieldgate cert show --output json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pairs, err := d.read(args)
			if err != nil {
				return err
			}
			all := []ownCertificate{}
			for i := range pairs {
				p := &pairs[i]
				chain, c, err := d.look(p)
				if err != nil {
					return &failure{exitNotFound, "cannot show the certificate of " + strings.Join(p.Listeners, ", "), err, "make one: fieldgate cert create"}
				}
				switch top := topOf(chain); {
				case ca && top == nil:
					return &failure{exitNotFound, "cannot show the authority", fmt.Errorf("%s does not hold it, it is %s", p.Cert, chain[len(chain)-1].Issuer), "ask those who have signed it"}
				case ca:
					chain = []*x509.Certificate{top}
					fallthrough
				case whole:
					for _, c := range chain {
						if err := pem.Encode(std.out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
							return err
						}
					}
				}
				all = append(all, c)
			}
			switch {
			case ca || whole:
				return nil
			case !d.forPeople():
				return encode(std.out, d.output, all)
			}
			for _, c := range all {
				c.print(std.out, d.now)
			}
			return nil
		},
	}
	d.flags(cmd, forms...)
	cmd.Flags().BoolVar(&whole, "pem", false, "print the certificates themselves, with those above them")
	cmd.Flags().BoolVar(&ca, "ca", false, "print the authority that leaves need to know")
	return cmd
}

// read is open for the commands that only look.
func (d *desk) read(args []string) ([]shownPair, error) {
	if err := d.open(); err != nil {
		return nil, err
	}
	return d.chosen(args)
}

func (c *ownCertificate) print(out io.Writer, now time.Time) {
	left := "expired " + short(now.Sub(c.NotAfter)) + " ago"
	if now.Before(c.NotAfter) {
		left = "expires in " + short(c.NotAfter.Sub(now))
	}
	if c.NeedsRenewal {
		left += ", to be renewed"
	}
	fmt.Fprintf(out, "listener  %s\nnames     %s\nissuer    %s\nuntil     %s, %s\nsha256    %s\nfile      %s\n",
		strings.Join(c.Listeners, ", "), cmp.Or(strings.Join(c.Names, ", "), "-"), c.Issuer, stamp(c.NotAfter), left, c.SHA256, c.CertFile)
}

func needsRenewalCommand(std streams) *cobra.Command {
	var d desk
	cmd := &cobra.Command{
		Use:   "needs-renewal [LISTENER]",
		Short: "Say by the exit code whether a certificate is due",
		Long: `Exit code 0 says that a certificate is due to be renewed: that it has no more than 30
days left, or a third of its life if that is less, or is not good yet. Exit code 1 says that none is; any
other one that it cannot be told: 3 for the configuration, 8 if there is none. "check"
goes by the same rule.`,
		Example: "  fieldgate cert needs-renewal && sudo fieldgate cert renew",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pairs, err := d.read(args)
			if err != nil {
				return err
			}
			due := false
			for i := range pairs {
				_, c, err := d.look(&pairs[i])
				if err != nil {
					return &failure{exitNotFound, "there is no certificate", err, "make one: fieldgate cert create"}
				}
				due = due || c.NeedsRenewal
				fmt.Fprintf(std.out, "%s: %s, good until %s\n", strings.Join(c.Listeners, ", "), map[bool]string{true: "due", false: "not due"}[c.NeedsRenewal], stamp(c.NotAfter))
			}
			if !due {
				return errNo
			}
			return nil
		},
	}
	d.flags(cmd)
	return cmd
}

func showAuthorityCommand(std streams) *cobra.Command {
	var r remote
	var whole bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the authority of leaves",
		Long: `Shows the certificate of the authority with which the gateway signs the certificates
of leaves that pair, and the one from before the last rotation, if there was one.`,
		Example: "  fieldgate cert ca show\n  fieldgate cert ca show --pem > leaves-ca.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := r.client().Authority(cmd.Context())
			if err != nil {
				return r.failed("cannot show the authority", err)
			}
			if whole {
				fmt.Fprint(std.out, text)
				return nil
			}
			for i, rest := 0, []byte(text); ; i++ {
				var block *pem.Block
				if block, rest = pem.Decode(rest); block == nil {
					return nil
				}
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					return r.failed("cannot read the authority", err)
				}
				fmt.Fprintf(std.out, "%-7s  %s  %s\n", []string{"current", "former"}[min(i, 1)], hexPrint(c), c.Subject.CommonName)
			}
		},
	}
	r.flags(c)
	c.Flags().BoolVar(&whole, "pem", false, "show the certificates themselves")
	return c
}

func rotateAuthorityCommand(std streams) *cobra.Command {
	return remote{}.asking(std, &cobra.Command{
		Use:   "rotate",
		Short: "Give the authority of leaves a new key",
		Long: `Gives the authority a new key, with which certificates are signed from now on. Leaves
that have paired before stay as they are: each is known by its own certificate. The
former certificate is shown beside the new one until the next rotation.`,
		Example: "  fieldgate cert ca rotate",
		Args:    cobra.NoArgs,
	}, "cannot rotate the authority", func(ctx context.Context, c *control.Client, _ []string) (string, error) {
		return "the authority of leaves has a new key", c.RotateAuthority(ctx)
	})
}

// hexPrint is the SHA-256 of a certificate in hexadecimal.
func hexPrint(c *x509.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(c.Raw)) }
