package hubsim

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	amqproutes "github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	mqttroutes "github.com/fieldgate/fieldgate/test/hubsim/mqtt/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/provisioning"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Config is what a hub is started with.
type Config struct {
	Dir       string            // for ca.pem, hub.json and keys; required, made when missing
	Host      string            // the hub's name in tokens and certificate; default "hub.test"
	Bind      string            // the IP address to listen on; default 127.0.0.1
	MQTTPort  int               // 0 picks a free one
	AMQPPort  int               // 0 picks a free one
	HTTPSPort int               // 0 picks a free one; also for both protocols over WebSocket
	Devices   map[string]string // id to primary key in Base64; "" makes one up, or takes the one of the last start

	// Certificate made elsewhere, PEM files: the chain, its key, and the
	// authority that clients should trust. All or none.
	CertFile, KeyFile, CAFile string

	// Blob server made elsewhere for file upload, in place of the built-in one:
	// its URL, the account and its key in Base64. All or none.
	BlobEndpoint, BlobAccount, BlobKey string

	Tier  string // "F1", "S1", "S2" or "S3" to have its limits; "" for none
	Units int    // of the tier; default 1

	SystemEvents bool          // write connection, lifecycle and twin events of the hub's own
	Partitions   int           // of the event endpoint; default 4
	Keep         events.Bounds // of events in memory; default 2 million and 2 GiB
	IdleTimeout  time.Duration // after which a silent AMQP client is closed; default 240s
	Credit       uint32        // of a link on which a client sends; default 1000
	Log          *slog.Logger  // default: nothing is logged
}

func (c Config) withDefaults() Config {
	c.Host = cmp.Or(c.Host, "hub.test")
	c.Bind = cmp.Or(c.Bind, "127.0.0.1")
	c.Partitions = cmp.Or(c.Partitions, 4)
	c.Units = cmp.Or(c.Units, 1)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Hub is a hub that serves. Its methods are safe for concurrent use.
type Hub struct {
	cfg          Config
	state        *state
	certificates *certificates
	tls          *tls.Config
	gate         *gate
	hub          *hub.Hub
	amqp         *amqproutes.Hub
	mqtt         *mqttroutes.Server
	provisioning *provisioning.Service
	https        *http.Server
	blobEndpoint string // where uploads go
	listeners    listeners
	parts        sync.WaitGroup
	closing      sync.Once

	mu sync.Mutex // guards state and the files made from it
}

// Start starts a hub. It serves when Start returns, and must be closed.
func Start(cfg Config) (*Hub, error) {
	h := &Hub{cfg: cfg.withDefaults(), gate: newGate()}
	if err := h.start(); err != nil {
		return nil, fmt.Errorf("cannot start hub: %w", err)
	}
	return h, nil
}

// check says what is wrong with a configuration.
func (c Config) check() error {
	if (c.CertFile == "") != (c.KeyFile == "") || (c.CertFile == "") != (c.CAFile == "") {
		return errors.New("a certificate made elsewhere needs its key and its authority too")
	}
	if (c.BlobEndpoint == "") != (c.BlobAccount == "") || (c.BlobEndpoint == "") != (c.BlobKey == "") {
		return errors.New("a blob server made elsewhere needs its account and key too")
	}
	return nil
}

func (h *Hub) start() (err error) {
	if err := h.cfg.check(); err != nil {
		return err
	}
	if err := h.prepare(); err != nil {
		return err
	}
	if err := h.populate(); err != nil {
		return errors.Join(err, h.abandon())
	}
	h.amqp = amqproutes.New(h.hub)
	h.mqtt = mqttroutes.New(h.hub)
	h.provisioning = provisioning.New(h.hub, provisioning.Config{
		IDScope: h.state.IDScope,
		Group:   provisioning.Group{ID: enrolmentGroup, PrimaryKey: h.state.GroupKey},
	})
	if h.listeners, err = listen(h.cfg); err != nil {
		return errors.Join(err, h.abandon())
	}
	if h.https, err = h.front(); err != nil {
		return errors.Join(err, h.abandon())
	}
	if err := h.save(); err != nil {
		return errors.Join(err, h.abandon())
	}
	h.serve()
	return nil
}

// abandon lets go of a hub that never served.
func (h *Hub) abandon() error {
	err := h.listeners.close()
	h.hub.Close()
	return err
}

// prepare reads or makes everything that lies in the hub's directory, and puts
// the hub together.
func (h *Hub) prepare() (err error) {
	if err = os.MkdirAll(h.cfg.Dir, 0o700); err != nil {
		return err
	}
	if h.certificates, err = openCertificates(h.cfg); err != nil {
		return err
	}
	h.tls = &tls.Config{
		GetCertificate: h.certificates.serve,
		MinVersion:     tls.VersionTLS12,
		ClientAuth:     tls.RequestClientCert, // the registry knows whom to believe
	}
	if h.state, err = readState(h.cfg.Dir); err != nil {
		return err
	}
	h.hub = hub.New(hub.Config{
		Host: h.cfg.Host, Names: []string{h.cfg.Bind, "localhost"}, Policies: h.state.policies(),
		Partitions: h.cfg.Partitions, Keep: h.cfg.Keep, SystemEvents: h.cfg.SystemEvents, Log: h.cfg.Log,
	})
	return nil
}

// populate brings the hub into the state that the configuration asks for.
func (h *Hub) populate() error {
	if err := h.hub.Limits.SetTier(h.cfg.Tier, h.cfg.Units); err != nil {
		return err
	}
	for id, key := range h.cfg.Devices {
		if _, err := h.put(id, key); err != nil {
			return err
		}
	}
	return nil
}

// put adds a device with a key given, remembered or made up, in this order.
func (h *Hub) put(id, key string) (registry.Identity, error) {
	kept := h.state.Devices[id]
	i, err := h.hub.Registry.Put(registry.Identity{
		ID: registry.ID{Device: id}, Generation: kept.Generation,
		Auth: registry.Auth{PrimaryKey: cmp.Or(key, kept.Primary), SecondaryKey: kept.Secondary},
	})
	if err != nil {
		return i, fmt.Errorf("device %q: %w", id, err)
	}
	h.state.Devices[id] = deviceKeys{i.Generation, i.Auth.PrimaryKey, i.Auth.SecondaryKey}
	return i, nil
}

// AddDevice adds a device, or replaces its key. An empty key takes the one the
// directory remembers, or makes one up. It returns the device's connection
// string and brings hub.json up to date.
func (h *Hub) AddDevice(id, key string) (connectionString string, err error) {
	h.mu.Lock()
	i, err := h.put(id, key)
	h.mu.Unlock()
	if err != nil {
		return "", err
	}
	return h.connectionString(i), h.save()
}

// RemoveDevice deletes a device and brings hub.json up to date.
func (h *Hub) RemoveDevice(id string) error {
	if err := h.hub.Registry.Delete(registry.ID{Device: id}, "*"); err != nil {
		return err
	}
	h.mu.Lock()
	delete(h.state.Devices, id)
	h.mu.Unlock()
	return h.save()
}

// Domain returns the hub's parts: registry, twins, commands and so on, for tests
// that look or act from inside.
func (h *Hub) Domain() *hub.Hub { return h.hub }

// Provisioning returns the provisioning service, for tests that enrol devices.
func (h *Hub) Provisioning() *provisioning.Service { return h.provisioning }

// enrolmentGroup is the id of the one group with which devices can enrol.
const enrolmentGroup = "bench"

// closeTimeout is how long clients have to answer when the hub closes.
const closeTimeout = 2 * time.Second

// Close ends all connections in order, and returns when nothing of the hub runs
// any more.
func (h *Hub) Close() error {
	var err error
	h.closing.Do(func() {
		err = h.listeners.close()
		h.gate.open() // whoever is cut off would never hear
		h.amqp.Close(&amqp.Error{Condition: amqp.CondConnectionForced, Description: "the hub is closing"})
		h.mqtt.Close(errors.New("the hub is closing"))
		h.provisioning.Close()
		_ = h.https.Close() // its listener is closed already, which it calls an error
		slow := time.AfterFunc(closeTimeout, func() { h.gate.reset() })
		h.parts.Wait()
		slow.Stop()
		h.hub.Close()
	})
	return err
}
