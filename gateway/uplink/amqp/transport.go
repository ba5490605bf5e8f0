package amqp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

// Proofs proves leaves to the hub; *identity.Proofs is one. Safe for concurrent use.
type Proofs interface {
	// Identity returns the device id under which the hub knows the leaf.
	Identity(leaf string) string

	// Token returns a token with which the hub accepts the leaf, and when it
	// expires: at until or earlier.
	Token(ctx context.Context, leaf string, now, until time.Time) (text string, expiry time.Time, err error)

	// Refused says that the hub did not accept the leaf's token.
	Refused(leaf string)
}

// Transport dials an IoT hub over AMQP 1.0, on one of its ways. It is an
// uplink.Transport.
type Transport struct {
	cfg    Config
	dialer *dial.Dialer
	proofs Proofs
	clock  gateway.Clock
	log    *slog.Logger
	*meter
	about string // what we tell the hub of ourselves: product and version
}

// subprotocol is what AMQP in a WebSocket is called (wire contract, section 3.1).
const subprotocol = "AMQPWSB10"

// New makes a transport; cfg must be valid, and ask for AMQP or let the way be
// found. It reads the files that cfg names. Errors are of type *gateway.KeyError.
func New(cfg Config, proofs Proofs, clock gateway.Clock, log *slog.Logger) (uplink.Transport, error) {
	count := new(meter)
	var ways []*Transport
	for _, way := range cfg.Ways() {
		t := &Transport{cfg: cfg, meter: count, proofs: proofs, clock: clock, log: log, about: "fieldgate/" + version()}
		t.cfg.Config = way
		var err error
		if t.dialer, err = dial.New(way, clock); err != nil {
			return nil, err
		}
		t.dialer.Watch(count.below, count.shown)
		ways = append(ways, t)
	}
	if len(ways) == 1 {
		return ways[0], nil
	}
	return &auto{uplink.NewWays(ways[0].way(), ways[1].way(), cfg.ProbeInterval.D()), count}, nil
}

// auto is both ways, counted together.
type auto struct {
	*uplink.Ways
	*meter
}

func (t *Transport) way() uplink.Way {
	return uplink.Way{Name: t.cfg.Transport, Transport: t, Probe: t.probe}
}

// Way is described at uplink.Known.
func (t *Transport) Way() (name, why string) { return t.cfg.Transport, "" }

// Dial connects, and opens the way for tokens.
func (t *Transport) Dial(ctx context.Context) (uplink.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout.D())
	defer cancel()
	stream, err := t.dialer.Dial(ctx, subprotocol)
	if err != nil {
		return nil, err
	}
	line := newGuard(&plainConn{Conn: stream, meter: t.meter}, stream.Abort, t.cfg.KeepAlive.D())
	wire, err := goamqp.NewConn(ctx, line, t.options())
	if err != nil {
		stream.Abort()
		return nil, noOpen(ctx, err)
	}
	c := newConn(t, stream, wire)
	if err := c.cbs.open(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("cannot open %w", err)
	}
	return c, nil
}

// noOpen says why AMQP was not opened. A hub that has shown its certificate and
// then falls silent is not reached: there are firewalls that let the handshake
// through and nothing after it.
func noOpen(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &uplink.Unreachable{Err: errors.New("cannot open AMQP: no answer in time")}
	}
	return faultOf(fmt.Errorf("cannot open AMQP: %w", err))
}

// protocolHeader begins SASL, as our connections do (AMQP 1.0, part 5, section
// 5.3.1).
const protocolHeader = "AMQP\x03\x01\x00\x00"

// probe looks whether the hub can be reached. It counts when the far side has
// proven with its certificate that it is the hub and has answered the protocol
// header: TCP alone is answered by many a firewall, and TLS by those that let
// handshakes through. It stops before OPEN, and is closed before it says anything:
// to the hub it is a handshake, with no identity on it.
func (t *Transport) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout.D())
	defer cancel()
	stream, err := t.dialer.Dial(ctx, subprotocol)
	if err != nil {
		return err
	}
	defer stream.Abort()
	stop := context.AfterFunc(ctx, stream.Abort)
	defer stop()
	if _, err := io.WriteString(stream, protocolHeader); err != nil {
		return err
	}
	answer := make([]byte, len(protocolHeader))
	if _, err := io.ReadFull(stream, answer); err != nil {
		return fmt.Errorf("no answer to AMQP: %w", err)
	}
	if !bytes.HasPrefix(answer, []byte("AMQP")) {
		return errors.New("the answer is not AMQP")
	}
	return nil
}

// options returns the terms of the connection. go-amqp advertises half of its
// idle timeout to the hub, so the hub shows itself within every KeepAlive.
func (t *Transport) options() *goamqp.ConnOptions {
	return &goamqp.ConnOptions{
		HostName:    t.cfg.Host,
		IdleTimeout: 2 * t.cfg.KeepAlive.D(),
		SASLType:    goamqp.SASLTypeAnonymous(),
		Properties:  map[string]any{"product": t.about},
	}
}

// version returns the version of this program from its build info.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
