// Package bluez speaks to BlueZ, the Bluetooth daemon of Linux, over D-Bus
// (org.bluez, BlueZ 5.56 or newer). It mirrors what the daemon shows and calls what
// it offers; what to do with that is for package ble.
//
// A Client is good for one life of the daemon: when that ends, or the bus does, the
// client is lost and another one must be opened. Nothing survives in the daemon:
// agents, monitors and notifications have to be set up again.
package bluez

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the bus (bluez, doc/org.bluez.*.rst).
const (
	service      = "org.bluez"
	adapterIface = "org.bluez.Adapter1"
	deviceIface  = "org.bluez.Device1"
	charIface    = "org.bluez.GattCharacteristic1"
	serviceIface = "org.bluez.GattService1"

	propertiesIface = "org.freedesktop.DBus.Properties"
	managerIface    = "org.freedesktop.DBus.ObjectManager"
)

// Why a client is lost.
var (
	ErrBus    = errors.New("the connection to the system bus is lost")
	ErrDaemon = errors.New("bluetoothd has gone")
)

// callTimeout bounds calls that need no radio. BlueZ answers them at once; a daemon
// that hangs must not hang us.
const callTimeout = 5 * time.Second

// Client is a connection to one life of the daemon. Safe for concurrent use.
type Client struct {
	conn  *dbus.Conn
	owner string // the daemon's unique name
	queue *queue
	heard func(Sighting)

	over chan struct{} // closed when the client is lost

	mu sync.Mutex
	// guarded by mu:
	err     error // why it is lost
	objects map[dbus.ObjectPath]object
	seen    map[dbus.ObjectPath]time.Time     // when a device was last heard
	words   map[dbus.ObjectPath]dbus.Sequence // when the daemon has last said whether a device is connected
	news    chan struct{}                     // closed and made anew when objects have changed
	values  map[dbus.ObjectPath]func([]byte)
	resyncs int64
}

// object is what the daemon shows at one path: properties by interface.
type object map[string]properties

type properties map[string]dbus.Variant

// Open connects to the bus at an address, "" for the system bus
// (DBUS_SYSTEM_BUS_ADDRESS names another), waits until the daemon is there and loads
// what it shows. absent is called when there is
// no daemon yet. heard is called for each advertisement, one after the other, and
// must not block.
func Open(ctx context.Context, address string, absent func(), heard func(Sighting)) (*Client, error) {
	q := newQueue()
	conn, err := connect(ctx, address, q)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the system bus: %w", err)
	}
	c := &Client{
		conn: conn, queue: q, heard: heard, over: make(chan struct{}), news: make(chan struct{}),
		seen: make(map[dbus.ObjectPath]time.Time), words: make(map[dbus.ObjectPath]dbus.Sequence), values: make(map[dbus.ObjectPath]func([]byte)),
	}
	if err := c.begin(ctx, absent); err != nil {
		_ = conn.Close() // what matters is why
		return nil, err
	}
	return c, nil
}

// busTimeout is how long the bus may take to let anybody in.
const busTimeout = 30 * time.Second

// connect gives up when ctx ends: a bus may take a connection and never say a word.
func connect(ctx context.Context, address string, q *queue) (conn *dbus.Conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	living, end := context.WithCancel(context.Background()) // with which the connection ends
	hold := context.AfterFunc(ctx, end)
	if address == "" {
		conn, err = dbus.ConnectSystemBus(dbus.WithSignalHandler(q), dbus.WithContext(living))
	} else {
		conn, err = dbus.Connect(address, dbus.WithSignalHandler(q), dbus.WithContext(living))
	}
	hold()
	if ended := ctx.Err(); ended != nil {
		err = fmt.Errorf("it does not answer: %w", ended)
	}
	if err != nil {
		end()
		if conn != nil {
			_ = conn.Close()
		}
		return nil, err
	}
	return conn, nil
}

func (c *Client) begin(ctx context.Context, absent func()) error {
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)},
		{dbus.WithMatchSender(service)},
	} {
		if err := c.conn.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("cannot listen on the system bus: %w", err)
		}
	}
	err := c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, service).Store(&c.owner)
	if err != nil && !is(err, "org.freedesktop.DBus.Error.NameHasNoOwner") {
		return fmt.Errorf("cannot ask for bluetoothd: %w", err)
	}
	if c.owner == "" {
		absent()
		if err := c.awaitOwner(ctx); err != nil {
			return err
		}
	}
	return c.load(ctx)
}

// awaitOwner waits for the daemon.
func (c *Client) awaitOwner(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.conn.Context().Done():
			return ErrBus
		case <-c.queue.ready:
			signals, _ := c.queue.take()
			for _, s := range signals {
				if owner, changed := newOwner(s); changed && owner != "" {
					c.owner = owner
					return nil
				}
			}
		}
	}
}

// newOwner says who owns the daemon's name from now on.
func newOwner(s *dbus.Signal) (owner string, changed bool) {
	if s.Name != "org.freedesktop.DBus.NameOwnerChanged" || s.Sender != "org.freedesktop.DBus" || len(s.Body) != 3 || s.Body[0] != service {
		return "", false
	}
	owner, _ = s.Body[2].(string)
	return owner, true
}

// load replaces the mirror by what the daemon shows now.
func (c *Client) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var all map[dbus.ObjectPath]map[string]map[string]dbus.Variant
	call := c.conn.Object(c.owner, "/").CallWithContext(ctx, managerIface+".GetManagedObjects", 0)
	if err := call.Store(&all); err != nil {
		return fmt.Errorf("cannot read what bluetoothd shows: %w", err)
	}
	objects := make(map[dbus.ObjectPath]object, len(all))
	for path, ifaces := range all {
		o := make(object, len(ifaces))
		for name, values := range ifaces {
			o[name] = values
		}
		objects[path] = o
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects = objects
	c.broadcastLocked()
	return nil
}

// Run keeps the mirror until ctx ends or the client is lost, and returns why: nil at
// the end of ctx. It must be called once.
func (c *Client) Run(ctx context.Context) error {
	err := c.follow(ctx)
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	close(c.over)
	_ = c.conn.Close() // nothing is lost with it that is not lost already
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *Client) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.conn.Context().Done():
			return ErrBus
		case <-c.queue.ready:
		}
		signals, lost := c.queue.take()
		for _, s := range signals {
			if _, changed := newOwner(s); changed {
				return ErrDaemon
			}
			if s.Sender == c.owner {
				c.apply(s)
			}
		}
		if lost {
			c.mu.Lock()
			c.resyncs++
			c.mu.Unlock()
			if err := c.load(ctx); err != nil {
				return err
			}
		}
	}
}

// Lost is closed when the client is of no more use.
func (c *Client) Lost() <-chan struct{} { return c.over }

// Resyncs is how often signals came faster than they were read, so that the mirror
// was loaded anew. What was advertised meanwhile is lost.
func (c *Client) Resyncs() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resyncs
}

// call calls a method of the daemon.
func (c *Client) call(ctx context.Context, limit time.Duration, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.conn.Object(c.owner, path).CallWithContext(ctx, method, 0, args...)
}

// is says that an error has the name on the bus.
func is(err error, name string) bool {
	bad, ok := errors.AsType[dbus.Error](err)
	return ok && bad.Name == name
}

// IsError says that the daemon has answered with this error, like "Failed" or
// "NotPermitted".
func IsError(err error, name string) bool { return is(err, "org.bluez.Error."+name) }

// Hung says that the daemon has not answered in time.
func Hung(err error) bool { return errors.Is(err, context.DeadlineExceeded) }

// queue keeps signals between the reader of the bus, which must not wait, and Run.
// It implements dbus.SignalHandler.
type queue struct {
	ready chan struct{} // capacity 1: there is something

	mu sync.Mutex
	// guarded by mu:
	signals []*dbus.Signal
	lost    bool
}

// maxSignals bounds the queue: ten seconds of a busy place. At the bound what was
// queued is dropped and the mirror is loaded anew.
const maxSignals = 2000

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// DeliverSignal takes a signal over.
func (q *queue) DeliverSignal(_, _ string, s *dbus.Signal) {
	q.mu.Lock()
	if _, owner := newOwner(s); len(q.signals) < maxSignals || owner {
		q.signals = append(q.signals, s)
	} else {
		q.lost = true
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *queue) take() (signals []*dbus.Signal, lost bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	signals, lost = q.signals, q.lost
	q.signals, q.lost = nil, false
	return signals, lost
}
