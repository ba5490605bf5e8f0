package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

const (
	// sweepEvery is how soon a token's end, or a leaf's, ends its connections.
	sweepEvery = time.Second
	// acceptPause is the wait after an accept that failed, for example for lack
	// of file descriptors.
	acceptPause = 100 * time.Millisecond
)

// Broker is the local MQTT broker. Safe for concurrent use.
type Broker struct {
	cfg        atomic.Pointer[Config]
	changed    atomic.Pointer[chan struct{}] // closed when cfg is another one
	table      *pairing.Table
	clock      gateway.Clock
	up         gateway.Handler
	attendance gateway.Attendance
	twins      gateway.Twins
	rules      atomic.Pointer[mapping.Rules]
	listening  atomic.Pointer[map[string][]string] // by login, to which leaves it may listen
	taps       atomic.Pointer[[]*Tap]              // of operators; changed with mu held
	relay      *pairing.Relay
	window     *pairing.Window
	files      Files
	visitors   *http.Server // nil: HTTP is for MQTT over WebSocket only
	log        *slog.Logger
	server     *mqtt.Server
	handshakes turnstile
	seed       maphash.Seed
	counters   counters
	notices    *notices
	ready      chan struct{}
	addrs      []net.Addr     // set before ready is closed
	running    sync.WaitGroup // what Run started
	notebook   notebook
	numbers    atomic.Uint64 // of connections
	opening    sync.Mutex    // held while listeners are opened or changed; before mu
	listeners  []listener    // guarded by opening

	mu      sync.Mutex
	closing bool              // guarded by mu
	saying  sync.Mutex        // before desk.mu and mu
	said    map[string][]byte // what the gateway says of itself, by topic; guarded by saying

	conns    map[*session]struct{}  // all connections, guarded by mu
	waiting  map[string]int         // of those, not logged in, by source, guarded by mu
	guests   int                    // of these, wanting to pair, guarded by mu
	sessions map[string]*session    // logged in, by session id, guarded by mu
	turns    map[string]*turn       // of leaves that have something to hand over, guarded by mu
	inboxes  map[string]*inbox      // by session id, guarded by mu
	wills    map[string]delayedWill // by session id, guarded by mu
	desks    map[string]*desk       // by leaf, guarded by mu
}

// Parts are what a broker works with. None may be missing, except where it says so.
type Parts struct {
	// Up takes what leaves publish.
	Up gateway.Handler
	// Attendance is told which leaves are here and what they want; the broker is
	// the Reach on which they get it.
	Attendance gateway.Attendance
	// Twins answers leaves that ask for their twin or report to it.
	Twins gateway.Twins
	// Notes keeps the subscriptions of leaves that are away.
	Notes gateway.Notes
	// Door makes what is served over HTTP beside MQTT over WebSocket. prove says
	// whether a request is that of a leaf. Nil is nothing.
	Door func(prove func(r *http.Request, leaf string) error) http.Handler
	// Files takes files that leaves send. Nil is nobody.
	Files Files
	// Relay judges tokens of leaves whose key the gateway does not have. Nil is
	// nobody.
	Relay *pairing.Relay
	// Window lets new leaves pair. Nil is never.
	Window *pairing.Window
	// Rules read the topics that no dialect knows. Nil is none.
	Rules *mapping.Rules
	// MayListen says by login to which leaves it may listen; AnyLeaf is all. Whoever
	// hands over messages of leaves hands them to Heard for that.
	MayListen map[string][]string
}

// delayedWill is a will that waits for its leaf to come back.
type delayedWill struct {
	m   *gateway.Message
	due time.Time // by the local monotonic clock
}

// New makes a broker for the leaves of the table, and reads from the notes which
// sessions are kept for them. The clock judges tokens and dates expiry. cfg must
// be valid.
func New(cfg Config, table *pairing.Table, clock gateway.Clock, parts Parts, log *slog.Logger) (*Broker, error) {
	b := &Broker{
		table:      table,
		clock:      clock,
		up:         parts.Up,
		attendance: parts.Attendance,
		twins:      parts.Twins,
		relay:      parts.Relay,
		window:     parts.Window,
		files:      parts.Files,
		log:        log,

		handshakes: newTurnstile(),

		seed:     maphash.MakeSeed(),
		notices:  newNotices(log),
		ready:    make(chan struct{}),
		said:     make(map[string][]byte),
		conns:    make(map[*session]struct{}),
		waiting:  make(map[string]int),
		sessions: make(map[string]*session),
		turns:    make(map[string]*turn),
		inboxes:  make(map[string]*inbox),
		wills:    make(map[string]delayedWill),
		desks:    make(map[string]*desk),
	}
	b.setConfig(&cfg)
	b.SetRules(parts.Rules)
	b.SetMayListen(parts.MayListen)
	b.up = b.Heard(parts.Up)
	if parts.Door != nil {
		b.visitors = b.newVisitors(parts.Door)
	}
	b.notebook.notes, b.notebook.log, b.notebook.work = parts.Notes, log, &b.running
	authority, err := readAuthority(cfg.ClientCAFile)
	if err != nil {
		return nil, err
	}
	table.SetAuthority(authority)
	if err := b.recall(); err != nil {
		return nil, err
	}
	b.counters.s.Connects = make(map[ConnectResult]uint64)
	b.counters.s.Refused = make(map[RefuseReason]uint64)
	b.counters.s.Commands = make(map[string]uint64)
	b.counters.s.Calls = make(map[CallResult]uint64)
	b.server = mqtt.New(serverOptions(cfg))
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return nil, fmt.Errorf("cannot set up MQTT server: %w", err)
	}
	return b, nil
}

// SetRules puts others in the place of the rules, nil for none. What a leaf has
// subscribed to before keeps its meaning until it subscribes again.
func (b *Broker) SetRules(rules *mapping.Rules) { b.rules.Store(rules) }

// SetMayListen says anew to which leaves logins may listen, see Parts. The map is
// the broker's from then on.
func (b *Broker) SetMayListen(allowed map[string][]string) { b.listening.Store(&allowed) }

// Configure changes the limits, the authority of leaves and the certificates of
// listeners; cfg must be valid. Connections that are there stay, under the limits
// with which they have logged in. Addresses and kinds of the listeners and
// MaxInflightMessages must be as they were. After an error nothing is changed.
func (b *Broker) Configure(cfg Config) error {
	authority, err := readAuthority(cfg.ClientCAFile)
	if err != nil {
		return err
	}
	b.opening.Lock()
	defer b.opening.Unlock()
	if err := b.showLocked(cfg.Listeners); err != nil {
		return err
	}
	b.table.SetAuthority(authority)
	b.setConfig(&cfg)
	return nil
}

// setConfig puts another configuration in the place of the one that there is, and wakes
// those who wait by that.
func (b *Broker) setConfig(cfg *Config) {
	b.cfg.Store(cfg)
	next := make(chan struct{})
	if last := b.changed.Swap(&next); last != nil {
		close(*last)
	}
}

// ReloadCertificates reads the certificates of listeners anew. Connections that are
// there stay. After an error all listeners show what they showed before. shown says by
// the address of each listener with TLS in which file its certificate is, an absolute
// path; the port is the one that was chosen for port 0.
func (b *Broker) ReloadCertificates() (shown map[string]string, err error) {
	b.opening.Lock()
	defer b.opening.Unlock()
	cfgs := b.cfg.Load().Listeners
	if err := b.showLocked(cfgs); err != nil {
		return nil, err
	}
	shown = make(map[string]string)
	for i, l := range b.listeners {
		if l.tls == nil {
			continue
		}
		file, err := filepath.Abs(cfgs[i].CertFile)
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(cfgs[i].Address)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		shown[net.JoinHostPort(host, port)] = file
	}
	return shown, nil
}

// showLocked has the listeners show what is in their files, all of them or none.
func (b *Broker) showLocked(cfgs []Listener) (err error) {
	certs := make([]*tls.Certificate, len(b.listeners))
	for i, l := range b.listeners {
		if l.tls == nil {
			continue
		}
		if certs[i], err = readCertificate(cfgs[i]); err != nil {
			return err
		}
	}
	for i, c := range certs {
		b.listeners[i].cert.Store(c)
	}
	return nil
}

// Certificate returns the certificate that a listener shows, by its place in the
// configuration; nil for a plain one, and before Run. It must not be changed.
func (b *Broker) Certificate(i int) *x509.Certificate {
	b.opening.Lock()
	defer b.opening.Unlock()
	if i >= len(b.listeners) || b.listeners[i].tls == nil {
		return nil
	}
	return b.listeners[i].cert.Load().Leaf
}

// readAuthority reads the authority in a file with which leaves may prove
// themselves; "" is none.
func readAuthority(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the authority of leaves: %w", err)
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("cannot read the authority of leaves: %s holds no certificate in PEM form", file)
	}
	return authority, nil
}

func readCertificate(cfg Listener) (*tls.Certificate, error) {
	cert, err := seal.KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot load certificate of listener %s: %w", cfg.Address, err)
	}
	return &cert, nil
}

// serverOptions keeps mochi small: per connection 5 KB of heap instead of 56.
func serverOptions(cfg Config) *mqtt.Options {
	c := mqtt.NewDefaultServerCapabilities()
	c.MaximumClientWritesPending = 64
	c.MaximumInflight = 64
	c.MaximumMessageExpiryInterval = 0 // lanes have their own time to live
	c.MaximumSessionExpiryInterval = 7 * 24 * 60 * 60
	c.MinimumProtocolVersion = version311
	c.ReceiveMaximum = uint16(cfg.MaxInflightMessages)
	c.MaximumQos = 1 // as the hub
	c.RetainAvailable = 0
	c.SharedSubAvailable = 0
	c.TopicAliasMaximum = 0
	return &mqtt.Options{
		Capabilities:             c,
		ClientNetReadBufferSize:  512,
		ClientNetWriteBufferSize: 512,
		SysTopicResendInterval:   24 * 60 * 60, // it stops the world, and nobody may read it
		// mochi logs whole packets, payload and all. What is worth knowing is
		// logged here.
		Logger: slog.New(slog.DiscardHandler),
	}
}

// Ready is closed when the broker listens.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// Addrs returns the addresses listened on, in the order of the configuration,
// with the ports that were chosen for port 0. Nil before Ready is closed.
func (b *Broker) Addrs() []net.Addr {
	select {
	case <-b.ready:
		return b.addrs
	default:
		return nil
	}
}

// State returns a snapshot.
func (b *Broker) State() State {
	s := b.counters.snapshot()
	s.Seen = make(map[string]time.Time)
	for _, d := range b.allDesks() {
		asleep, seen := d.state()
		s.Asleep += asleep
		if !seen.IsZero() {
			s.Seen[d.leaf] = seen
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Leaves = make(map[string]int, len(b.turns))
	for leaf, t := range b.turns {
		if t.sessions > 0 {
			s.Leaves[leaf] = t.sessions
		}
	}
	for _, n := range b.waiting {
		s.Connecting += n
	}
	return s
}

// Run listens and serves until ctx ends. It returns an error if it cannot
// listen. A broker runs once. At the end it waits a second for messages in
// hand-over, so the path should still be running then: leaves send again what
// they are not told about.
func (b *Broker) Run(ctx context.Context) error {
	b.opening.Lock()
	listeners, err := listen(b.cfg.Load().Listeners)
	b.listeners = listeners
	b.opening.Unlock()
	if err != nil {
		return err
	}
	if err := b.server.Serve(); err != nil {
		closeAll(listeners)
		return fmt.Errorf("cannot start MQTT server: %w", err)
	}
	for _, d := range b.allDesks() {
		d.awaken() // of a former run
	}
	for _, l := range listeners {
		b.addrs = append(b.addrs, l.Addr())
		b.running.Go(func() { b.accept(ctx, l) })
		b.log.Info("awaiting leaves", "address", l.Addr().String(), "tls", l.tls != nil)
	}
	b.running.Go(func() { b.sweep(ctx) })
	close(b.ready)
	<-ctx.Done()
	closeAll(listeners)
	b.turnAway()
	b.running.Wait()
	return b.server.Close()
}

// listener is an open listener with its TLS configuration, nil for plain text.
type listener struct {
	net.Listener
	tls       *tls.Config
	asking    *tls.Config // the same, but a client is asked for a certificate
	cert      *atomic.Pointer[tls.Certificate]
	websocket bool
}

func closeAll(listeners []listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// listen opens all listeners or none.
func listen(cfgs []Listener) (listeners []listener, err error) {
	defer func() {
		if err != nil {
			closeAll(listeners)
			listeners = nil
		}
	}()
	for _, cfg := range cfgs {
		l := listener{websocket: cfg.WebSocket, cert: new(atomic.Pointer[tls.Certificate])}
		if !cfg.Plain {
			cert, err := readCertificate(cfg)
			if err != nil {
				return listeners, err
			}
			l.cert.Store(cert)
			l.tls = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return l.cert.Load(), nil
			}}
			l.asking = l.tls.Clone()
			l.asking.ClientAuth = tls.RequestClientCert // login.go judges it, when it knows who it is to be
		}
		if l.Listener, err = net.Listen("tcp", cfg.Address); err != nil {
			return listeners, fmt.Errorf("cannot await leaves: %w", err)
		}
		listeners = append(listeners, l)
		// Names can lie: what counts is where it listens.
		if a, ok := l.Addr().(*net.TCPAddr); cfg.Plain && (!ok || !a.IP.IsLoopback()) {
			return listeners, fmt.Errorf("listener %s can be reached from outside, and has no TLS", cfg.Address)
		}
	}
	return listeners, nil
}

// accept serves the connections of a listener until it is closed.
func (b *Broker) accept(ctx context.Context, l listener) {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			b.welcome(ctx, l, c)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			b.notices.warn("accept", "cannot accept connections", slog.Any("error", err))
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
				return
			}
		}
	}
}

// welcome starts serving a connection if there is room for it.
func (b *Broker) welcome(ctx context.Context, l listener, c net.Conn) {
	s := &session{b: b, source: sourceOf(c), listener: l.Addr().String(), stopping: ctx.Done(), ready: make(chan struct{}, 1)}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithCancel(context.WithoutCancel(ctx)) // it has its own goodbye
	deadline := time.Now().Add(b.cfg.Load().ConnectTimeout.D())
	c.SetDeadline(deadline) // an error shows in the first read
	c, handshake := b.greeting(s, l, c, deadline)
	s.conn = guard(c, s, b.cfg.Load().WriteTimeout.D(), cancel)
	if !b.enter(s) {
		b.counters.connect(ConnectBusy)
		b.notices.warn(s.source+" enter", "too many connections", slog.String("source", s.source))
		c.Close()
		cancel()
		return
	}
	b.running.Go(func() { b.serve(ctx, s, handshake) })
}

// greeting wraps a connection in what the listener speaks below MQTT. handshake
// is to be called before anything is read.
func (b *Broker) greeting(s *session, l listener, c net.Conn, deadline time.Time) (_ net.Conn, handshake func() error) {
	handshake = func() error { return nil }
	if l.tls != nil {
		cfg := l.tls
		if b.table.WantsCertificates() { // else strangers need not send any
			cfg = l.asking
		}
		below := &turnstileConn{Conn: c}
		t := tls.Server(below, cfg)
		c, handshake = t, func() error {
			err := below.handshake(t, b.handshakes)
			s.certs = t.ConnectionState().PeerCertificates
			if err != nil {
				return spellHandshake(err)
			}
			return nil
		}
	}
	if !l.websocket {
		return c, handshake
	}
	below, ws := handshake, &socket{Conn: c}
	return ws, func() error {
		if err := below(); err != nil {
			return err
		}
		if b.visitors == nil {
			return ws.upgrade(deadline, nil)
		}
		return ws.upgrade(deadline, func(c net.Conn, before []byte) error { return b.receive(s, c, before) })
	}
}

func sourceOf(c net.Conn) string {
	addr := c.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// serve is the life of one connection.
func (b *Broker) serve(ctx context.Context, s *session, handshake func() error) {
	err := handshake()
	if err == nil {
		err = b.establish(s)
	}
	s.conn.Close()
	if s.desk != nil {
		s.desk.close(s)
	}
	s.writing.Wait()
	b.leave(s)
	switch {
	case errors.Is(err, errVisit):
	case s.client == nil || s.conn.fault != nil:
		b.counters.count(func(st *State) { st.Garbage++ })
		b.garbled(s, err)
	case s.leaf != "":
		b.log.Info("leaf disconnected", "event", "leaf-disconnected", "transport", "mqtt", "leaf", s.leaf, "source", s.source, "reason", s.reason(err))
	}
	if s.will != nil && s.leaf != "" && !s.conn.goodbye {
		b.sendWill(ctx, s)
	}
}

func reasonText(err error) string {
	if err == nil {
		return "goodbye"
	}
	return err.Error()
}

// establish lets mochi serve the connection. A decoder that panics costs this
// connection only; a panic within the path is a bug that must not be hidden.
func (b *Broker) establish(s *session) (err error) {
	defer func() {
		if s.handing {
			return
		}
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in MQTT server: %v", r)
			b.log.Error("MQTT server panicked", "source", s.source, "leaf", s.leaf, "panic", r, "stack", string(debug.Stack()))
		}
		b.forget(s)
	}()
	return b.server.EstablishConnection("", s.conn)
}

// forget removes what mochi leaves behind when it panics, or when CONNACK cannot be
// written any more.
func (b *Broker) forget(s *session) {
	if s.client == nil {
		return
	}
	b.server.UnsubscribeClient(s.client)
	if cl, ok := b.server.Clients.Get(s.client.ID); ok && cl == s.client {
		b.server.Clients.Delete(cl.ID)
	}
}

// turnAway closes the connections that have not logged in, and lets nobody log
// in any more. Each leaf's own session says goodbye to it.
func (b *Broker) turnAway() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closing = true
	for s := range b.conns {
		if s.leaf == "" {
			b.running.Go(func() { s.conn.Close() })
		}
	}
}
