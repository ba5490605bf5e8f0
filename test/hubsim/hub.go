package hubsim

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Config is what a hub is started with.
type Config struct {
	Dir      string            // for ca.pem, hub.json and keys; required, made when missing
	Host     string            // the hub's name in tokens and certificate; default "hub.test"
	Bind     string            // the IP address to listen on; default 127.0.0.1
	AMQPPort int               // 0 picks a free one
	Devices  map[string]string // id to primary key in Base64; "" makes one up, or takes the one of the last start

	Partitions  int           // of the event endpoint; default 4
	Keep        events.Bounds // of events in memory; default 2 million and 2 GiB
	IdleTimeout time.Duration // after which a silent AMQP client is closed; default 240s
	Credit      uint32        // of a link on which a client sends; default 1000
	Log         *slog.Logger  // default: nothing is logged
}

func (c Config) withDefaults() Config {
	c.Host = cmp.Or(c.Host, "hub.test")
	c.Bind = cmp.Or(c.Bind, "127.0.0.1")
	c.Partitions = cmp.Or(c.Partitions, 4)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Hub is a hub that serves. Its methods are safe for concurrent use.
type Hub struct {
	cfg      Config
	state    *state
	caPath   string
	listener net.Listener
	tls      *tls.Config
	gate     *gate
	routes   *routes.Hub
	parts    sync.WaitGroup
	closing  sync.Once

	mu sync.Mutex // guards state and the files made from it
}

// Start starts a hub. It serves when Start returns, and must be closed.
func Start(cfg Config) (*Hub, error) {
	h := &Hub{cfg: cfg.withDefaults(), gate: newGate()}
	if err := h.prepare(); err != nil {
		return nil, fmt.Errorf("cannot start hub: %w", err)
	}
	address := net.JoinHostPort(h.cfg.Bind, strconv.Itoa(h.cfg.AMQPPort))
	var err error
	if h.listener, err = net.Listen("tcp", address); err != nil {
		return nil, fmt.Errorf("cannot start hub: %w", err)
	}
	if err := h.save(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start hub: %w", err), h.listener.Close())
	}
	h.parts.Go(h.accept)
	return h, nil
}

// prepare reads or makes everything that lies in the hub's directory.
func (h *Hub) prepare() (err error) {
	if err = os.MkdirAll(h.cfg.Dir, 0o700); err != nil {
		return err
	}
	if h.caPath, err = filepath.Abs(filepath.Join(h.cfg.Dir, caFile)); err != nil {
		return err
	}
	ca, err := openAuthority(h.cfg.Dir)
	if err != nil {
		return err
	}
	certificate, err := ca.issue(h.cfg.Host, h.cfg.Bind)
	if err != nil {
		return err
	}
	h.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	if h.state, err = readState(h.cfg.Dir); err != nil {
		return err
	}
	h.routes = &routes.Hub{
		Registry: registry.New([]string{h.cfg.Host, h.cfg.Bind, "localhost"}, h.state.policies()),
		Events:   events.New(h.cfg.Partitions, h.cfg.Keep),
		Faults:   &routes.Faults{},
		Name:     h.cfg.Host,
		Created:  time.Now().UTC().Truncate(time.Millisecond),
		Log:      h.cfg.Log,
	}
	for id, key := range h.cfg.Devices {
		h.put(id, key)
	}
	return nil
}

// put adds a device with a key given, remembered or made up, in this order.
func (h *Hub) put(id, key string) registry.Device {
	kept := h.state.Devices[id]
	d := h.routes.Registry.Put(registry.Device{
		ID: id, Generation: kept.Generation, PrimaryKey: cmp.Or(key, kept.Primary), SecondaryKey: kept.Secondary,
	})
	h.state.Devices[id] = deviceKeys{d.Generation, d.PrimaryKey, d.SecondaryKey}
	return d
}

// save writes hub.json and the keys.
func (h *Hub) save() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.state.write(h.cfg.Dir); err != nil {
		return err
	}
	return writeJSON(filepath.Join(h.cfg.Dir, InfoFile), h.Info())
}

// AddDevice adds a device, or replaces its key. An empty key takes the one the
// directory remembers, or makes one up. It returns the device's connection
// string and brings hub.json up to date.
func (h *Hub) AddDevice(id, key string) (connectionString string, err error) {
	h.mu.Lock()
	d := h.put(id, key)
	h.mu.Unlock()
	return h.connectionString(d), h.save()
}

func (h *Hub) connectionString(d registry.Device) string {
	return "HostName=" + h.cfg.Host + ";DeviceId=" + d.ID + ";SharedAccessKey=" + d.PrimaryKey
}

// Info returns how the hub is reached.
func (h *Hub) Info() Info {
	port := h.listener.Addr().(*net.TCPAddr).Port
	owner, service := h.routes.Registry.Policy("iothubowner"), h.routes.Registry.Policy("service")
	info := Info{
		Host: h.cfg.Host, Bind: h.cfg.Bind, AMQPPort: port, CAFile: h.caPath,
		OwnerConnectionString: "HostName=" + h.cfg.Host + ";SharedAccessKeyName=" + owner.Name + ";SharedAccessKey=" + owner.Key,
		EventHubConnectionString: "Endpoint=sb://" + net.JoinHostPort(h.cfg.Bind, strconv.Itoa(port)) +
			"/;SharedAccessKeyName=" + service.Name + ";SharedAccessKey=" + service.Key + ";EntityPath=messages/events",
		Devices: make(map[string]DeviceInfo),
	}
	for _, d := range h.routes.Registry.Devices() {
		info.Devices[d.ID] = DeviceInfo{h.connectionString(d)}
	}
	return info
}

// accept takes connections until the listener is closed.
func (h *Hub) accept() {
	for {
		nc, err := h.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			h.cfg.Log.Warn("cannot accept", "error", err)
			continue
		}
		gated := h.gate.wrap(nc)
		h.parts.Go(func() { h.serve(gated) })
	}
}

// serve speaks with one client until it is gone.
func (h *Hub) serve(nc *gatedConn) {
	cfg := server.Config{IdleTimeout: h.cfg.IdleTimeout, Credit: h.cfg.Credit, Log: h.cfg.Log}
	err := server.Serve(&tlsConn{tls.Server(nc, h.tls), nc}, cfg, h.routes.Connect)
	if err != nil {
		h.cfg.Log.Debug("connection ended", "peer", nc.RemoteAddr().String(), "error", err)
	}
}

// tlsConn closes its socket without waiting for a peer that no longer reads.
type tlsConn struct {
	*tls.Conn
	socket *gatedConn
}

// Close says goodbye when that is possible at once.
func (c *tlsConn) Close() error {
	if c.socket.isDead() {
		return c.socket.Close()
	}
	return c.Conn.Close()
}

// closeTimeout is how long clients have to answer when the hub closes.
const closeTimeout = 2 * time.Second

// Close ends all connections in order, and returns when nothing of the hub runs
// any more.
func (h *Hub) Close() error {
	var err error
	h.closing.Do(func() {
		err = h.listener.Close()
		h.gate.open() // whoever is cut off would never hear
		h.routes.Close(&amqp.Error{Condition: amqp.CondConnectionForced, Description: "the hub is closing"})
		slow := time.AfterFunc(closeTimeout, func() { h.gate.reset() })
		h.parts.Wait()
		slow.Stop()
	})
	return err
}
