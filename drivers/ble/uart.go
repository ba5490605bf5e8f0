package ble

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/gateway"
)

// Protocol is what is spoken with one device over a stream of bytes, which is its
// connection. It outlives connections. Safe for concurrent use.
type Protocol interface {
	// Run joins the protocol to the gateway and calls line, until ctx ends and line has
	// returned. It is called once.
	Run(ctx context.Context, ways gateway.Ways, line func(ctx context.Context))
	// Serve speaks on one connection until reading fails, closes it and returns the
	// error. It is called while line is, for one connection at a time. A write that
	// fails loses what it wrote.
	Serve(connection io.ReadWriteCloser) error
	// Fill writes what the protocol counts into the state of a driver that has but this
	// leaf: see there.
	Fill(s *gateway.DriverState)
}

// The Nordic UART Service (Zephyr, include/bluetooth/services/nus.h). Old documents have
// the numbers of its two characteristics the other way round, so that they are told
// apart by what can be done with them.
const uartService = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"

const (
	// minMTU is what every device can take (Core Specification, volume 3, part G,
	// section 5.2.1).
	minMTU = 23
	// headMTU is how much of it a write or a notification needs for itself (part F,
	// sections 3.4.5.3 and 3.4.7.1).
	headMTU = 3
	// maxUnread bounds what waits to be read of a connection, in octets. What comes
	// beyond is lost, and counted: the protocol finds that out, as on a wire.
	maxUnread = 64 << 10
)

// errStalled says that a device was disconnected because it takes nothing any more.
var errStalled = errors.New("it does not take what is written to it")

// newNode makes a device that speaks a protocol.
func newNode(c NodeConfig, d *Driver) *peripheral {
	return &peripheral{DeviceConfig: DeviceConfig{Peer: c.Peer, Format: c.Format}, driver: d, protocol: c.Protocol, stays: true}
}

// marked is the way up for messages of a device, which say what it has not proven.
func (p *peripheral) marked(up gateway.Handler) gateway.Handler {
	if p.mark() == "" {
		return up
	}
	return marker{up, trusted(p.mark())}
}

type marker struct {
	up   gateway.Handler
	mark []gateway.Property
}

// Handle is described at gateway.Handler.
func (h marker) Handle(ctx context.Context, m *gateway.Message, done gateway.Done) {
	one := *m
	one.Properties = slices.Concat(m.Properties, h.mark)
	h.up.Handle(ctx, &one, done)
}

// fill adds what the protocol knows to the state of the driver. A leaf is there when it is
// connected and the protocol says so.
func (p *peripheral) fill(s *gateway.DriverState) {
	if p.protocol == nil {
		return
	}
	var x gateway.DriverState
	p.protocol.Fill(&x)
	s.Count(&x)
	for i := range s.Peers {
		peer := &s.Peers[i]
		if peer.Leaf != p.Leaf || !peer.Up || len(x.Peers) == 0 || x.Peers[0].Up {
			continue
		}
		peer.Up, peer.Err = false, "connected, but speaks no "+p.Format+" yet"
		if why := x.Peers[0].Err; why != "" {
			peer.Err = p.Format + ": " + why
		}
		if since := x.Peers[0].Since; since.After(peer.Since) {
			peer.Since = since
		}
	}
}

// serve has the protocol spoken on a connection, until that is lost or another device has
// its turn.
func (p *peripheral) serve(ctx context.Context, s *session, device dbus.ObjectPath) error {
	u, err := p.openUART(ctx, s, device)
	if err != nil {
		return err
	}
	p.driver.tally.peer(p.Leaf, "")
	var served sync.WaitGroup
	served.Go(func() { _ = p.protocol.Serve(u) }) // it fails when we close it
	err = p.stay(u.ctx, s, nil, device)
	stalled := u.stalled()
	u.Close()
	served.Wait()
	if stalled {
		return errStalled
	}
	return err
}

// uart is a connection of a device as a stream of bytes. It implements
// io.ReadWriteCloser; one goroutine may read and another one write.
type uart struct {
	ctx      context.Context // ends with the connection
	end      context.CancelCauseFunc
	client   *bluez.Client
	out, in  dbus.ObjectPath // the characteristics
	response bool            // the device has to answer what is written
	most     int             // octets in one write
	lost     func(octets int)
	news     chan struct{} // capacity 1: there is something unread

	mu     sync.Mutex
	unread []byte // guarded by mu
}

// openUART listens to the device's UART.
func (p *peripheral) openUART(ctx context.Context, s *session, device dbus.ObjectPath) (*uart, error) {
	u := &uart{client: s.client, news: make(chan struct{}, 1), response: true}
	for _, c := range s.client.Characteristics(device) {
		can := func(what string) bool { return slices.Contains(c.Flags, what) }
		switch {
		case c.Service != uartService:
		case can("notify"):
			u.in = c.Path
		case can("write"), can("write-without-response"):
			u.out, u.response = c.Path, !can("write-without-response")
		}
	}
	if u.in == "" || u.out == "" {
		return nil, errors.New("it has no Nordic UART Service")
	}
	u.most = min(max(s.client.MTU(ctx, u.out), minMTU)-headMTU, maxOctets)
	u.lost = func(octets int) {
		p.driver.tally.add(func(s *gateway.DriverState) { s.Discarded[discardUnheard] += int64(octets) })
	}
	u.ctx, u.end = context.WithCancelCause(ctx)
	if err := s.client.Notify(ctx, u.in, u.heard); err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

// heard takes a notification. It does not block.
func (u *uart) heard(b []byte) {
	u.mu.Lock()
	full := len(u.unread)+len(b) > maxUnread
	if !full {
		u.unread = append(u.unread, b...)
	}
	u.mu.Unlock()
	if full {
		u.lost(len(b))
		return
	}
	select {
	case u.news <- struct{}{}:
	default:
	}
}

// Read waits for something to read, or the end of the connection.
func (u *uart) Read(b []byte) (int, error) {
	for {
		u.mu.Lock()
		n := copy(b, u.unread)
		u.unread = slices.Delete(u.unread, 0, n)
		u.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-u.news:
		case <-u.ctx.Done():
			return 0, io.EOF
		}
	}
}

// Write writes piece by piece. A device that takes nothing any more has its connection
// ended: what it has of a message could not be gone on with.
func (u *uart) Write(b []byte) (n int, err error) {
	for n < len(b) {
		piece := b[n:min(n+u.most, len(b))]
		if err := u.client.Write(u.ctx, u.out, piece, u.response); err != nil {
			if bluez.Hung(err) {
				u.end(errStalled)
			}
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

func (u *uart) stalled() bool { return errors.Is(context.Cause(u.ctx), errStalled) }

// Close ends reading and writing.
func (u *uart) Close() error {
	u.end(nil)
	u.client.Deaf(u.in)
	return nil
}
