package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// Tokens signs for leaves; *identity.Keyring is one. Safe for concurrent use.
type Tokens interface {
	// DeviceToken returns a token with which the hub accepts the leaf until expiry.
	DeviceToken(leaf string, expiry time.Time) (string, error)
}

// Transport dials an IoT hub over AMQP 1.0. It is an uplink.Transport.
type Transport struct {
	cfg    Config
	tokens Tokens
	clock  gateway.Clock
	log    *slog.Logger
	roots  *x509.CertPool // nil means those of the system
	about  string         // what we tell the hub of ourselves: product and version
}

// New makes a transport; cfg must be valid. It reads the CA file and fails when
// there is no certificate in it.
func New(cfg Config, tokens Tokens, clock gateway.Clock, log *slog.Logger) (*Transport, error) {
	t := &Transport{cfg: cfg, tokens: tokens, clock: clock, log: log, about: "fieldgate/" + version()}
	if cfg.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, gateway.BadKey("ca_file", "cannot be read: %w", err)
	}
	if t.roots, err = x509.SystemCertPool(); err != nil {
		t.roots = x509.NewCertPool() // a minimal image may have none
	}
	if !t.roots.AppendCertsFromPEM(pem) {
		return nil, gateway.BadKey("ca_file", "%s holds no certificate: it must be in PEM form", cfg.CAFile)
	}
	return t, nil
}

// Dial connects, and opens the way for tokens.
func (t *Transport) Dial(ctx context.Context) (uplink.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout.D())
	defer cancel()
	line, err := t.dialTLS(ctx)
	if err != nil {
		return nil, err
	}
	wire, err := goamqp.NewConn(ctx, line, t.options())
	if err != nil {
		line.Close()
		return nil, faultOf(fmt.Errorf("cannot open AMQP: %w", err))
	}
	c := newConn(t, line, wire)
	if err := c.cbs.open(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot open %w", err)
	}
	return c, nil
}

// dialTLS returns a TLS connection whose handshake is done.
func (t *Transport) dialTLS(ctx context.Context) (*guard, error) {
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", t.cfg.target())
	if err != nil {
		return nil, err
	}
	c := tls.Client(tcp, &tls.Config{
		MinVersion: tls.VersionTLS12, // wire contract, section 1.11
		RootCAs:    t.roots,
		ServerName: t.cfg.serverName(),
		Time:       func() time.Time { return t.clock().Wall },
	})
	if err := c.HandshakeContext(ctx); err != nil {
		tcp.Close()
		return nil, fmt.Errorf("cannot secure the connection: %w", err)
	}
	return newGuard(c, tcp), nil
}

// options returns the terms of the connection. go-amqp advertises half of its
// idle timeout to the hub, so the hub shows itself within every KeepAlive.
func (t *Transport) options() *goamqp.ConnOptions {
	return &goamqp.ConnOptions{
		HostName:     t.cfg.Host,
		IdleTimeout:  2 * t.cfg.KeepAlive.D(),
		WriteTimeout: t.cfg.KeepAlive.D(),
		SASLType:     goamqp.SASLTypeAnonymous(),
		Properties:   map[string]any{"product": t.about},
	}
}

// version returns the version of this program from its build info.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
