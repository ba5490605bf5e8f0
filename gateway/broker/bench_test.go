package broker

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

const (
	hubHost = "hub.example"
	secret  = "open sesame"
	// patience is how long a test waits for what must come.
	patience = 20 * time.Second
)

var secretHash = sync.OnceValue(func() pairing.PasswordHash {
	text, err := pairing.HashPassword(secret)
	if err != nil {
		panic(err)
	}
	hash, err := pairing.ParsePasswordHash(text)
	if err != nil {
		panic(err)
	}
	return hash
})

// fakePath stands where the path is: it keeps what it is handed and settles it
// when and how the test says.
type fakePath struct {
	mu       sync.Mutex
	messages []*gateway.Message
	dones    []gateway.Done
	hold     bool                         // settle only when told
	verdict  func(*gateway.Message) error // nil: all are taken
	block    chan struct{}                // not nil: Handle waits for it
	open     int                          // handed over and not settled
	mostOpen int
	inside   map[string]bool // leaves of which Handle has a message right now
	overlaps int             // how often it had two
}

func (f *fakePath) Handle(ctx context.Context, m *gateway.Message, done gateway.Done) {
	f.enter(m.Leaf)
	defer f.exit(m.Leaf)
	f.mu.Lock()
	block := f.block
	f.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			done(ctx.Err())
			return
		}
	}
	f.mu.Lock()
	f.messages = append(f.messages, m)
	f.dones = append(f.dones, done)
	f.open++
	f.mostOpen = max(f.mostOpen, f.open)
	hold := f.hold
	n := len(f.messages)
	f.mu.Unlock()
	if !hold {
		f.settle(n - 1)
	}
}

func (f *fakePath) enter(leaf string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inside == nil {
		f.inside = make(map[string]bool)
	}
	if f.inside[leaf] {
		f.overlaps++
	}
	f.inside[leaf] = true
}

func (f *fakePath) exit(leaf string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inside[leaf] = false
}

// settle settles the i-th message, which must not have been settled.
func (f *fakePath) settle(i int) {
	f.mu.Lock()
	done, m := f.dones[i], f.messages[i]
	f.dones[i] = nil
	f.open--
	var err error
	if f.verdict != nil {
		err = f.verdict(m)
	}
	f.mu.Unlock()
	done(err)
}

func (f *fakePath) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.messages)
}

func (f *fakePath) message(i int) *gateway.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.messages[i]
}

// bench is a running broker with leaves in its table.
type bench struct {
	rules     *mapping.Rules
	mayListen map[string][]string
	files     Files
	window    *pairing.Window
	door      func(func(*http.Request, string) error) http.Handler
	*testing.T
	b     *Broker
	path  *fakePath
	desk  *fakeDown // where the way down is
	twins *fakeTwins
	notes *notes
	table *pairing.Table
	keys  *identity.Keyring
	roots *x509.CertPool
	ca    string // file
	cfg   Config
	tls   string       // address
	plain string       // address
	end   func()       // stops the broker and waits
	log   slog.Handler // nil: nobody reads it

	mu  sync.Mutex
	now gateway.Instant // guarded by mu
}

func (b *bench) clock() gateway.Instant {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) setClock(now gateway.Instant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = now
}

// newBench starts a broker with the leaves pump-1 and pump-2. change may alter
// the configuration.
func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	b := &bench{T: t, path: &fakePath{}, desk: newFakeDown(), twins: newFakeTwins(), notes: newNotes(), keys: identity.NewKeyring(hubHost)}
	b.now = gateway.Instant{Wall: time.Now(), Quality: gateway.Synced}
	b.table = pairing.NewTable(hubHost, []string{"gw.local"}, b.keys)
	for _, id := range []string{"pump-1", "pump-2"} {
		b.addLeaf(id)
	}
	cert, key := b.certificate(t.TempDir())
	cfg := DefaultConfig()
	cfg.Listeners = []Listener{
		{Address: "127.0.0.1:0", CertFile: cert, KeyFile: key},
		{Address: "127.0.0.1:0", Plain: true},
	}
	cfg.RefuseDelay = 0
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	b.cfg = cfg
	b.start()
	return b
}

// start makes a broker, as a gateway that starts does, and runs it. Notes, table
// and the way down are those of before.
func (b *bench) start() {
	b.Helper()
	parts := Parts{Up: b.path, Attendance: b.desk, Twins: b.twins, Notes: b.notes, Rules: b.rules, MayListen: b.mayListen, Files: b.files, Door: b.door, Window: b.window}
	broker, err := New(b.cfg, b.table, b.clock, parts, slog.New(cmp.Or[slog.Handler](b.log, slog.DiscardHandler)))
	if err != nil {
		b.Fatal(err)
	}
	b.b = broker
	b.run()
}

func (b *bench) run() {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.b.Run(ctx) }()
	b.end = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				b.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			b.Error("Run does not return")
		}
	})
	b.Cleanup(b.end)
	select {
	case <-b.b.Ready():
	case err := <-ended:
		b.Fatalf("Run: %v", err)
	}
	addrs := b.b.Addrs()
	b.tls, b.plain = addrs[0].String(), addrs[1].String()
}

func (b *bench) addLeaf(id string) {
	key := make([]byte, 32)
	rand.Read(key)
	k, err := identity.ParseKey(base64.StdEncoding.EncodeToString(key))
	if err != nil {
		b.Fatal(err)
	}
	b.keys.Put(id, k)
	b.table.Put(pairing.Leaf{ID: id, Password: secretHash()})
}

// token returns a token of the leaf that is valid for an hour.
func (b *bench) token(leaf string) string {
	return b.keys.Key(leaf).Token(hubHost+"/devices/"+leaf, time.Now().Add(time.Hour))
}

func hubUser(leaf string) string { return hubHost + "/" + leaf + "/?api-version=2021-04-12" }

// certificate makes a CA and a server certificate in dir.
func (b *bench) certificate(dir string) (certFile, keyFile string) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "gw.local"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"gw.local"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, server, ca, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			b.Fatal(err)
		}
		return file
	}
	b.ca = write("ca.pem", "CERTIFICATE", caDER)
	b.roots = x509.NewCertPool()
	if parsed, err := x509.ParseCertificate(caDER); err == nil {
		b.roots.AddCert(parsed)
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
}

// until waits for a condition.
func (b *bench) until(what string, condition func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("%s: still not after %v", what, patience)
		}
	}
}

func (b *bench) untilHanded(n int) {
	b.Helper()
	b.until(fmt.Sprintf("%d messages handed over", n), func() bool { return b.path.count() >= n })
}

// wire is a leaf that speaks MQTT byte by byte.
type wire struct {
	*bench
	c       net.Conn
	r       *bufio.Reader
	version byte
}

// dial connects over TLS without a word of MQTT.
func (b *bench) dial() *wire {
	b.Helper()
	c, err := tls.Dial("tcp", b.tls, &tls.Config{RootCAs: b.roots})
	if err != nil {
		b.Fatal(err)
	}
	return b.wire(c)
}

func (b *bench) wire(c net.Conn) *wire {
	b.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &wire{bench: b, c: c, r: bufio.NewReader(c)}
}

func (w *wire) send(packet []byte) {
	w.Helper()
	if _, err := w.c.Write(packet); err != nil {
		w.Fatalf("send: %v", err)
	}
}

// packet reads one packet: its first byte and what follows the length.
func (w *wire) packet() (byte, []byte) {
	w.Helper()
	first, body, err := w.read()
	if err != nil {
		w.Fatalf("no packet: %v", err)
	}
	return first, body
}

func (w *wire) read() (byte, []byte, error) {
	first, err := w.r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(w.r) // the same encoding
	if err != nil {
		return 0, nil, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(w.r, body)
	return first, body, err
}

// expect reads one packet that must begin with these bytes, length left out.
func (w *wire) expect(what string, first byte, body ...byte) {
	w.Helper()
	gotFirst, got := w.packet()
	if gotFirst != first || !bytes.HasPrefix(got, body) {
		w.Fatalf("%s: got % x | % x, want % x | % x…", what, gotFirst, got, first, body)
	}
}

// expectClosed reads until the broker closes, and returns what came before.
func (w *wire) expectClosed() (packets [][]byte) {
	w.Helper()
	for {
		first, body, err := w.read()
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			w.Fatal("connection is still open")
		}
		if err != nil {
			return packets
		}
		packets = append(packets, append([]byte{first}, body...))
	}
}

func (w *wire) puback(id uint16) {
	w.Helper()
	w.expect(fmt.Sprintf("PUBACK %d", id), 0x40, byte(id>>8), byte(id))
}

// alive proves that the connection is read from and written to, and that
// nothing else was on its way.
func (w *wire) alive() {
	w.Helper()
	w.send([]byte{0xc0, 0})
	w.expect("PINGRESP", 0xd0)
}

// hello is a CONNECT.
type hello struct {
	version   byte // 4 by default
	clientID  string
	user      string
	password  string
	keep      bool // clean session 0
	keepalive uint16
	will      *will
	props     []byte // MQTT 5, without length
}

type will struct {
	topic, payload string
	qos            byte
	retain         bool
	props          []byte
}

func (h hello) packet() []byte {
	version := max(h.version, version311)
	var flags byte
	if !h.keep {
		flags |= 2
	}
	var tail []byte
	if h.will != nil {
		flags |= 4 | h.will.qos<<3
		if h.will.retain {
			flags |= 0x20
		}
		if version == version5 {
			tail = append(tail, withLength(h.will.props)...)
		}
		tail = append(tail, text(h.will.topic)...)
		tail = append(tail, text(h.will.payload)...)
	}
	if h.user != "" {
		flags |= 0x80
		tail = append(tail, text(h.user)...)
	}
	if h.password != "" {
		flags |= 0x40
		tail = append(tail, text(h.password)...)
	}
	body := slices.Concat(text("MQTT"), []byte{version, flags, byte(h.keepalive >> 8), byte(h.keepalive)})
	if version == version5 {
		body = append(body, withLength(h.props)...)
	}
	return frame(0x10, slices.Concat(body, text(h.clientID), tail))
}

// connect sends a CONNECT and reads the CONNACK code.
func (w *wire) connect(h hello) (code byte, present bool) {
	w.Helper()
	w.version = max(h.version, version311)
	w.send(h.packet())
	first, body := w.packet()
	if first != 0x20 || len(body) < 2 {
		w.Fatalf("got % x | % x instead of CONNACK", first, body)
	}
	return body[1], body[0] == 1
}

// leaf connects over TLS with a token, and must succeed.
func (b *bench) leaf(id string, version byte) *wire {
	b.Helper()
	w := b.dial()
	if code, _ := w.connect(hello{version: version, clientID: id, user: hubUser(id), password: b.token(id), keep: true}); code != 0 {
		b.Fatalf("CONNACK code %#x", code)
	}
	return w
}

// publish sends a PUBLISH; id 0 is QoS 0.
func (w *wire) publish(id uint16, topic, payload string) { w.send(w.publication(id, topic, payload)) }

// resend sends a PUBLISH again.
func (w *wire) resend(id uint16, topic, payload string) {
	p := w.publication(id, topic, payload)
	p[0] |= 0x08
	w.send(p)
}

func (w *wire) publication(id uint16, topic, payload string, props ...byte) []byte {
	first := byte(0x30)
	body := text(topic)
	if id > 0 {
		first |= 2
		body = append(body, byte(id>>8), byte(id))
	}
	if w.version == version5 {
		body = append(body, withLength(props)...)
	}
	return frame(first, append(body, payload...))
}

func (w *wire) subscribe(id uint16, filter string) {
	body := []byte{byte(id >> 8), byte(id)}
	if w.version == version5 {
		body = append(body, 0)
	}
	w.send(frame(0x82, append(append(body, text(filter)...), 1)))
}

func text(s string) []byte {
	return append([]byte{byte(len(s) >> 8), byte(len(s))}, s...)
}

func withLength(b []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(b))), b...) }

func frame(first byte, body []byte) []byte { return append([]byte{first}, withLength(body)...) }
