package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway/seal"
)

// maxChain bounds the text of a certificate with those above it, in bytes.
const maxChain = 1 << 20

// parseChain returns the certificates of a text, and the text without all else: what
// somebody imports may have its key in it.
func parseChain(text []byte) (clean []byte, chain []*x509.Certificate, err error) {
	if len(text) > maxChain {
		return nil, nil, fmt.Errorf("it is larger than %d bytes", maxChain)
	}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %d in it cannot be read: %w", len(chain)+1, err)
		}
		chain = append(chain, c)
		clean = append(clean, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if len(chain) == 0 {
		return nil, nil, errors.New("it holds no certificate in PEM form")
	}
	return clean, chain, nil
}

// topOf is the certificate that leaves need to trust a chain, nil if it is not in it.
func topOf(chain []*x509.Certificate) *x509.Certificate {
	last := chain[len(chain)-1]
	if bytes.Equal(last.RawIssuer, last.RawSubject) {
		return last
	}
	return nil
}

// proof is what a pair has to stand before it is used.
type proof struct {
	roots *x509.CertPool // what is trusted; the top of the pair's own chain is added
	now   time.Time
	cert  *x509.Certificate // of the pair, when it has proven itself
}

// of looks whether the key fits, whether it is the time for the certificate, whether
// its chain leads to something that is trusted, and connects with it, as a leaf would, by
// each of its names.
func (p *proof) of(ctx context.Context, certFile, keyFile string) error {
	pair, err := seal.KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	chain := make([]*x509.Certificate, len(pair.Certificate))
	for i, der := range pair.Certificate {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	c := chain[0]
	names := namesOf(c)
	switch {
	case p.now.Before(c.NotBefore):
		return fmt.Errorf("it is good from %s on, and now is %s", stamp(c.NotBefore), stamp(p.now))
	case p.now.After(c.NotAfter):
		return fmt.Errorf("it was good until %s", stamp(c.NotAfter))
	case len(names) == 0:
		return errors.New("it has no subject alternative names, which leaves look for")
	}
	if top := topOf(chain); top != nil {
		p.roots.AddCert(top)
	}
	for _, name := range names {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			if err := shakeHands(ctx, &pair, p.client(name, version, version)); err != nil {
				return fmt.Errorf("a connection as %s: %w", name, err)
			}
		}
	}
	p.cert = c
	return nil
}

// client is a leaf that knows the gateway by a name.
func (p *proof) client(name string, oldest, newest uint16) *tls.Config {
	return &tls.Config{RootCAs: p.roots, ServerName: dialable(name), MinVersion: oldest, MaxVersion: newest, Time: func() time.Time { return p.now }}
}

// dialable is a host of a name that may begin with a wildcard.
func dialable(name string) string {
	if len(name) > 2 && name[:2] == "*." {
		return "leaf" + name[1:]
	}
	return name
}

// handshakeTime bounds one connection to ourselves.
const handshakeTime = 30 * time.Second

// shakeHands has a listener on the loopback interface show the pair, and connects.
func shakeHands(ctx context.Context, pair *tls.Certificate, client *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	var binding net.ListenConfig
	l, err := binding.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(handshakeTime))
		server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12})
		_, err = server.Write([]byte{1})
		served <- err
	}()
	err = func() error {
		c, err := (&tls.Dialer{Config: client}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(handshakeTime))
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}()
	l.Close()
	if failed := <-served; err == nil {
		err = failed
	}
	return err
}

// missingNames are those of the old certificate for which the new one is not good.
func missingNames(old, fresh *x509.Certificate) []string {
	return slices.DeleteFunc(namesOf(old), func(name string) bool { return fresh.VerifyHostname(dialable(name)) == nil })
}

// shownAt looks whether a listener shows the certificate.
func (p *proof) shownAt(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	d := tls.Dialer{Config: p.client(namesOf(p.cert)[0], tls.VersionTLS12, tls.VersionTLS13)}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return fmt.Errorf("listener %s: %w", address, err)
	}
	defer c.Close()
	if got := c.(*tls.Conn).ConnectionState().PeerCertificates[0]; !got.Equal(p.cert) {
		return fmt.Errorf("listener %s shows another certificate: another program may have its port", address)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
