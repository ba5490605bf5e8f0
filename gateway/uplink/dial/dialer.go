package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// Dialer makes streams to the hub. Safe for concurrent use.
type Dialer struct {
	cfg   Config
	clock gateway.Clock
	roots *x509.CertPool // nil means those of the system
	proxy proxyChoice
	wrap  func(net.Conn) net.Conn // nil for none
	shown func(*x509.Certificate) // nil for nobody
}

// Watch has each new socket wrapped, below TLS, and tells which certificate the hub
// has shown after each handshake. It is called before the first Dial.
func (d *Dialer) Watch(wrap func(net.Conn) net.Conn, shown func(*x509.Certificate)) {
	d.wrap, d.shown = wrap, shown
}

// New makes a dialer; cfg must be valid. It reads the files that cfg names.
// Errors are of type *gateway.KeyError.
func New(cfg Config, clock gateway.Clock) (*Dialer, error) {
	d := &Dialer{cfg: cfg, clock: clock}
	var err error
	if d.proxy, err = chooseProxy(&cfg); err != nil {
		return nil, err
	}
	if cfg.CAFile == "" {
		return d, nil
	}
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, gateway.BadKey("ca_file", "cannot be read: %w", err)
	}
	if d.roots, err = x509.SystemCertPool(); err != nil {
		d.roots = x509.NewCertPool() // a minimal image may have none
	}
	if !d.roots.AppendCertsFromPEM(pem) {
		return nil, gateway.BadKey("ca_file", "%s holds no certificate: it must be in PEM form", cfg.CAFile)
	}
	return d, nil
}

// Stream is a stream to the hub. It is a net.Conn, whose Close says goodbye where
// that is possible.
type Stream struct {
	net.Conn
	socket net.Conn // below everything
}

// Abort closes the socket under the stream; it never waits.
func (s *Stream) Abort() { s.socket.Close() }

// Dial returns a stream to the hub as Config.Transport has it: TLS, its handshake
// done and the hub's certificate checked, and inside it a WebSocket with the
// subprotocol where the transport asks for one.
func (d *Dialer) Dial(ctx context.Context, subprotocol string) (*Stream, error) {
	s, err := d.dialTLS(ctx)
	if err != nil {
		return nil, err
	}
	if d.cfg.Transport != AMQPWebSocket && d.cfg.Transport != MQTTWebSocket {
		return s, nil
	}
	ws, err := d.upgrade(ctx, s, subprotocol)
	if err != nil {
		s.Abort()
		return nil, &uplink.Unreachable{Err: fmt.Errorf("cannot open the WebSocket: %w", overdue(ctx, err))}
	}
	return &Stream{ws, s.socket}, nil
}

func (d *Dialer) dialTLS(ctx context.Context) (*Stream, error) {
	socket, err := dialTCP(ctx, d.cfg.network(), d.proxy, d.cfg.Target())
	if err != nil {
		return nil, err
	}
	below := socket
	if d.wrap != nil {
		below = d.wrap(socket)
	}
	c := tls.Client(below, &tls.Config{
		MinVersion: tls.VersionTLS12, // wire contract, section 1.11
		RootCAs:    d.roots,
		ServerName: d.cfg.serverName(),
		Time:       func() time.Time { return d.clock().Wall },
	})
	if err := c.HandshakeContext(ctx); err != nil {
		socket.Close()
		return nil, &uplink.Unreachable{Err: fmt.Errorf("cannot secure the connection: %w", overdue(ctx, err))}
	}
	if chain := c.ConnectionState().PeerCertificates; d.shown != nil && len(chain) > 0 {
		d.shown(chain[0])
	}
	return &Stream{c, socket}, nil
}

// dialTCP returns a connection to an address, through the proxy if there is one.
func dialTCP(ctx context.Context, network *net.Dialer, choose proxyChoice, target string) (net.Conn, error) {
	p, err := choose(target)
	if err != nil {
		return nil, err
	}
	if p != nil {
		return p.connect(ctx, network, target)
	}
	c, err := network.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, &uplink.Unreachable{Err: err}
	}
	return c, nil
}

// overdue says in our words that an answer did not come in time.
func overdue(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return err
}
