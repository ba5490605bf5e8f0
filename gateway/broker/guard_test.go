package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
)

// decode lets mochi decode a packet as its server does.
func decode(version, first byte, body []byte) error {
	pk := packets.Packet{ProtocolVersion: version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return err
	}
	pk.FixedHeader.Remaining = len(body)
	body = bytes.Clone(body)
	switch pk.FixedHeader.Type {
	case packets.Connect:
		return pk.ConnectDecode(body)
	case packets.Publish:
		if err := pk.PublishDecode(body); err != nil {
			return err
		}
		if code := pk.PublishValidate(0); code != packets.CodeSuccess {
			return code
		}
		return nil
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		return pk.PubackDecode(body)
	case packets.Subscribe:
		return pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		return pk.UnsubscribeDecode(body)
	case packets.Disconnect:
		return pk.DisconnectDecode(body)
	case packets.Pingreq:
		return nil
	}
	return errors.New("unexpected type")
}

// stream is a connection that delivers given bytes, a few at a time.
type stream struct {
	net.Conn
	r     io.Reader
	chunk int
	sent  bytes.Buffer
}

func (s *stream) Read(p []byte) (int, error)       { return s.r.Read(p[:min(len(p), s.chunk)]) }
func (s *stream) Write(p []byte) (int, error)      { return s.sent.Write(p) }
func (s *stream) Close() error                     { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

func guardStream(data []byte, chunk int) (*guardedConn, *stream) {
	s := &stream{r: bytes.NewReader(data), chunk: chunk}
	return guard(s, &session{}, time.Second, func() {}), s
}

// FuzzGuard feeds arbitrary bytes to the guard. Whatever it passes on is whole
// packets that mochi decodes without complaint, and is what came in.
func FuzzGuard(f *testing.F) {
	for _, version := range []byte{version311, version5} {
		w := &wire{version: version}
		connect := hello{
			version: version, clientID: "pump-1", user: "pump-1", password: "x", keepalive: 60,
			will: &will{topic: "leaf/pump-1/telemetry", payload: "gone", qos: 1},
		}.packet()
		f.Add(slices.Concat(connect, w.publication(1, "leaf/pump-1/telemetry", "a"), []byte{0xc0, 0, 0xe0, 0}))
		filter := []byte{0x82, 8, 0, 1, 0, 3, 'a', '/', 'b', 1}
		if version == version5 {
			filter = []byte{0x82, 9, 0, 1, 0, 0, 3, 'a', '/', 'b', 1}
		}
		f.Add(slices.Concat(connect, filter, []byte{0x40, 2, 0, 1, 0x62, 2, 0, 1}))
	}
	v5 := hello{version: version5, clientID: "a", user: "b", props: []byte{17, 0, 0, 0, 9, 33, 0, 9, 38, 0, 1, 'k', 0, 1, 'v'}}.packet()
	f.Add(slices.Concat(v5, []byte{0x82, 6, 0, 1, 0, 0, 1, 'a'}))
	f.Add(slices.Concat(v5, (&wire{version: version5}).publication(3, "t", "p", 1, 1, 2, 0, 0, 0, 7, 3, 0, 1, 'c', 9, 0, 1, 'd')))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, _ := guardStream(data, 3)
		passed := 0
		for {
			header, err := g.next()
			if err != nil {
				break
			}
			if err := decode(g.version, g.packet[0], g.packet[header:]); err != nil {
				t.Fatalf("mochi does not take % x: %v", g.packet, err)
			}
			if g.packet[0]>>4 == typePublish {
				compareDecoders(t, g.version, g.packet[0], g.packet[header:])
			}
			if !bytes.HasPrefix(data[passed:], g.packet) {
				t.Fatalf("passed on % x, came % x", g.packet, data[passed:])
			}
			passed += len(g.packet)
		}
	})
}

// compareDecoders holds what we read in a PUBLISH against what mochi does.
func compareDecoders(t *testing.T, version, first byte, body []byte) {
	t.Helper()
	p, err := readPublication(version, first, bytes.Clone(body))
	if err != nil {
		t.Fatalf("not read: % x | % x: %v", first, body, err)
	}
	want := packets.Packet{ProtocolVersion: version}
	if err := errors.Join(want.FixedHeader.Decode(first), want.PublishDecode(bytes.Clone(body))); err != nil {
		t.Fatal(err)
	}
	h := want.FixedHeader
	got := publication{want.TopicName, want.Payload, &want.Properties, h.Qos, h.Retain, h.Dup, want.PacketID}
	if !reflect.DeepEqual(*p, got) {
		t.Fatalf("% x | % x: read %+v, mochi reads %+v", first, body, *p, got)
	}
}

func TestCheckPacket(t *testing.T) {
	long := strings.Repeat("f", 200)
	manyFilters := []byte{0, 1}
	for range maxFilters + 1 {
		manyFilters = append(manyFilters, 0, 1, 'a', 0)
	}
	for _, tc := range []struct {
		name    string
		version byte
		first   byte
		body    []byte
		want    error
	}{
		{"ping", 4, 0xc0, nil, nil},
		{"ping with flags", 4, 0xc1, nil, errMalformed},
		{"ping with body", 4, 0xc0, []byte{0}, errMalformed},
		{"ping first", 0, 0xc0, nil, errFirstConnect},
		{"second connect", 4, 0x10, nil, errFirstConnect},
		{"connack", 4, 0x20, []byte{0, 0}, errProtocol},
		{"auth", 5, 0xf0, nil, errProtocol},
		{"type 0", 4, 0x00, nil, errProtocol},
		{"publish QoS 3", 4, 0x36, []byte{0, 1, 'a', 0, 1}, errMalformed},
		{"publish QoS 0 DUP", 4, 0x38, []byte{0, 1, 'a'}, errMalformed},
		{"publish without topic", 4, 0x30, []byte{0, 0}, errProtocol},
		{"publish with wildcard", 4, 0x30, []byte{0, 1, '#'}, errProtocol},
		{"publish with NUL", 4, 0x30, []byte{0, 1, 0}, errMalformed},
		{"publish not UTF-8", 4, 0x30, []byte{0, 1, 0xff}, errMalformed},
		{"publish packet id 0", 4, 0x32, []byte{0, 1, 'a', 0, 0}, errProtocol},
		{"publish short packet id", 4, 0x32, []byte{0, 1, 'a', 0}, errMalformed},
		{"publish topic beyond end", 4, 0x30, []byte{0, 9, 'a'}, errMalformed},
		{"publish", 5, 0x30, append(append([]byte{0, 200}, long...), 0), nil},
		{"publish with alias", 5, 0x30, []byte{0, 1, 'a', 3, 35, 0, 1}, errTopicAlias},
		{"publish with subscription id", 5, 0x30, []byte{0, 1, 'a', 2, 11, 1}, errProtocol},
		{"publish with two content types", 5, 0x30, []byte{0, 1, 'a', 8, 3, 0, 1, 'x', 3, 0, 1, 'y'}, errProtocol},
		{"publish with format 2", 5, 0x30, []byte{0, 1, 'a', 2, 1, 2}, errProtocol},
		{"publish with properties beyond end", 5, 0x30, []byte{0, 1, 'a', 9, 1}, errMalformed},
		{"publish with unknown property", 5, 0x30, []byte{0, 1, 'a', 2, 99, 0}, errProtocol},
		{"subscribe without options", 5, 0x82, []byte{0, 1, 0, 0, 1, 'a'}, errMalformed},
		{"subscribe", 5, 0x82, []byte{0, 1, 0, 0, 1, 'a', 0x2d}, nil},
		{"subscribe reserved options", 5, 0x82, []byte{0, 1, 0, 0, 1, 'a', 0x40}, errMalformed},
		{"subscribe retain handling 3", 5, 0x82, []byte{0, 1, 0, 0, 1, 'a', 0x30}, errMalformed},
		{"subscribe QoS 3", 4, 0x82, []byte{0, 1, 0, 1, 'a', 3}, errMalformed},
		{"subscribe MQTT 5 options", 4, 0x82, []byte{0, 1, 0, 1, 'a', 4}, errMalformed},
		{"subscribe without filter", 4, 0x82, []byte{0, 1}, errProtocol},
		{"subscribe flags", 4, 0x80, []byte{0, 1, 0, 1, 'a', 0}, errMalformed},
		{"subscribe bad filter", 4, 0x82, []byte{0, 1, 0, 2, 'a', '#', 0}, errProtocol},
		{"subscribe filter goes on", 4, 0x82, []byte{0, 1, 0, 3, '#', '/', 'a', 0}, errProtocol},
		{"subscribe id property 0", 5, 0x82, []byte{0, 1, 2, 11, 0, 0, 1, 'a', 0}, errProtocol},
		{"subscribe too many", 4, 0x82, manyFilters, errProtocol},
		{"unsubscribe", 4, 0xa2, []byte{0, 1, 0, 1, '+'}, nil},
		{"puback", 4, 0x40, []byte{0, 1}, nil},
		{"puback with reason", 5, 0x40, []byte{0, 1, 0x10}, nil},
		{"puback with reason in 3.1.1", 4, 0x40, []byte{0, 1, 0}, errMalformed},
		{"disconnect with properties", 5, 0xe0, []byte{0, 5, 17, 0, 0, 0, 1}, nil},
		{"disconnect with body in 3.1.1", 4, 0xe0, []byte{0}, errMalformed},
		{"connect MQTT 3.1", 0, 0x10, append(text("MQIsdp"), 3, 2, 0, 0, 0, 0), errVersion},
		{"connect MQTT 6", 0, 0x10, append(text("MQTT"), 6, 2, 0, 0, 0, 0), errVersion},
		{"connect reserved flag", 0, 0x10, append(text("MQTT"), 4, 3, 0, 0, 0, 0), errMalformed},
		{"connect will QoS without will", 0, 0x10, append(text("MQTT"), 4, 8, 0, 0, 0, 0), errMalformed},
		{"connect password without user", 0, 0x10, append(text("MQTT"), 4, 0x40, 0, 0, 0, 0, 0, 0), errMalformed},
		{"connect receive maximum 0", 0, 0x10, append(text("MQTT"), 5, 2, 0, 0, 3, 33, 0, 0, 0, 0), errProtocol},
		{"connect cut short", 0, 0x10, append(text("MQTT"), 4, 0x80, 0, 0, 0, 0), errMalformed},
		{"connect with trailing bytes", 0, 0x10, append(text("MQTT"), 4, 2, 0, 0, 0, 0, 0), errMalformed},
	} {
		_, _, err := checkPacket(tc.version, tc.first, tc.body)
		if err != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
		if tc.want == nil {
			if err := decode(tc.version, tc.first, tc.body); err != nil {
				t.Errorf("%s: mochi says %v", tc.name, err)
			}
		}
	}
}

// The guard takes packets of any size up to its limit, in pieces of any size.
func TestGuardSizes(t *testing.T) {
	connect := hello{clientID: "a"}.packet()
	for _, size := range []int{0, 1, smallPacket, smallPacket + 1, 3*smallPacket + 7, 200 << 10} {
		publish := (&wire{version: version311}).publication(1, "t", strings.Repeat("x", size))
		for _, chunk := range []int{1, 7, 64 << 10} {
			g, _ := guardStream(slices.Concat(connect, publish, connect), chunk)
			g.admit(max(len(publish), len(connect)), time.Minute)
			var taken []byte
			g.publish = func(first byte, body []byte) error {
				taken = append(taken, body...)
				return nil
			}
			got := make([]byte, len(connect))
			if _, err := io.ReadFull(g, got); err != nil || !bytes.Equal(got, connect) {
				t.Fatalf("size %d in pieces of %d: %v", size, chunk, err)
			}
			if _, err := g.Read(got); err != errFirstConnect {
				t.Errorf("second CONNECT: %v", err)
			}
			if len(taken) < size || !bytes.HasSuffix(publish, taken) {
				t.Errorf("size %d in pieces of %d: took %d bytes", size, chunk, len(taken))
			}
			g, _ = guardStream(slices.Concat(connect, publish), chunk)
			g.admit(len(publish)-1, time.Minute)
			if _, err := io.Copy(io.Discard, g); size > 100 && err != errPacketSize {
				t.Errorf("one byte too large: %v", err)
			}
		}
	}
}

func TestGuardLengths(t *testing.T) {
	for _, data := range []string{"\x10\x80\x00", "\x10\xff\xff\xff\xff\x01", "\x10\xff\xff\xff\x7f"} {
		g, _ := guardStream([]byte(data), 1)
		if _, err := g.next(); err != errMalformed && err != errPacketSize {
			t.Errorf("% x: %v", data, err)
		}
	}
}

func TestWords311(t *testing.T) {
	g, s := guardStream(nil, 1)
	g.version = version311
	for _, tc := range []struct{ in, want string }{
		{"\x20\x02\x00\x00", "\x20\x02\x00\x00"},
		{"\x20\x02\x00\x05", "\x20\x02\x00\x05"},
		{"\x20\x02\x00\x84", "\x20\x02\x00\x01"},
		{"\x20\x02\x00\x85", "\x20\x02\x00\x02"},
		{"\x20\x02\x00\x89", "\x20\x02\x00\x03"},
		{"\x20\x02\x00\x82", "\x20\x02\x00\x04"},
		{"\x20\x02\x00\x87", "\x20\x02\x00\x05"},
		{"\xe0\x00", ""},
		{"\xd0\x00", "\xd0\x00"},
	} {
		s.sent.Reset()
		if n, err := g.Write([]byte(tc.in)); n != len(tc.in) || err != nil {
			t.Errorf("% x: %d, %v", tc.in, n, err)
		}
		if got := s.sent.String(); got != tc.want {
			t.Errorf("% x: sent % x, want % x", tc.in, got, tc.want)
		}
	}
}

// The eight bytes that kill a bare mochi: a topic filter without its options.
func TestMalformedSubscribe(t *testing.T) {
	b := newBench(t, nil)
	other := b.leaf("pump-2", version5)
	w := b.leaf("pump-1", version5)
	w.send([]byte{0x82, 0x06, 0, 1, 0, 0, 1, 'a'})
	w.expect("DISCONNECT, malformed packet", 0xe0, 0x81)
	w.expectClosed()
	other.alive()
	b.until("counted", func() bool { return b.b.State().Garbage == 1 })
}

// A panic within mochi costs one connection. No packet that the guard passes
// causes one, so the connection itself does here.
func TestPanicInServer(t *testing.T) {
	b := newBench(t, nil)
	other := b.leaf("pump-2", version5)
	w := b.leaf("pump-1", version5)
	err := b.b.establish(panicking(b.b))
	if err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("got %v, want the panic", err)
	}
	w.alive()
	other.alive()
}

// panicking returns a session whose connection panics when mochi reads it.
func panicking(b *Broker) *session {
	s := &session{b: b, ctx: context.Background(), ready: make(chan struct{}, 1)}
	s.conn = guard(panicConn{}, s, time.Second, func() {})
	return s
}

type panicConn struct{ net.Conn }

func (panicConn) RemoteAddr() net.Addr            { return &net.TCPAddr{} }
func (panicConn) Read([]byte) (int, error)        { panic("decoder") }
func (panicConn) SetReadDeadline(time.Time) error { return nil }
func (panicConn) Close() error                    { return nil }

func TestStrangers(t *testing.T) {
	b := newBench(t, func(c *Config) { c.ConnectTimeout = gateway.Duration(300 * time.Millisecond) })
	connect := hello{clientID: "pump-1", user: "pump-1", password: secret}.packet()
	for name, start := range map[string][]byte{
		"silent":          nil,
		"half a CONNECT":  connect[:len(connect)/2],
		"not MQTT":        []byte("GET / HTTP/1.1\r\n\r\n"),
		"256 MB CONNECT":  {0x10, 0xff, 0xff, 0xff, 0x7f},
		"CONNECT too big": {0x10, 0xff, 0x7f},
		"PINGREQ first":   {0xc0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := b.dial()
			w.send(start)
			if got := w.expectClosed(); len(got) > 0 {
				t.Errorf("got % x", got)
			}
		})
	}
	t.Run("no TLS handshake", func(t *testing.T) {
		c, err := net.Dial("tcp", b.tls)
		if err != nil {
			t.Fatal(err)
		}
		b.wire(c).expectClosed()
	})
	t.Run("plain text on the TLS port", func(t *testing.T) {
		c, err := net.Dial("tcp", b.tls)
		if err != nil {
			t.Fatal(err)
		}
		w := b.wire(c)
		w.send(connect)
		io.Copy(io.Discard, w.c) // until closed: TLS answers with an alert
	})
	b.until("all counted", func() bool { return b.b.State().Garbage == 8 })
	b.leaf("pump-1", version311).alive()
}

func TestOldTLS(t *testing.T) {
	b := newBench(t, nil)
	c, err := tls.Dial("tcp", b.tls, &tls.Config{RootCAs: b.roots, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil {
		c.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

func TestUnsupportedVersion(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	w.send(frame(0x10, append(text("MQTT"), 6, 2, 0, 0, 0, 0)))
	w.expect("CONNACK, unacceptable protocol version", 0x20, 0, 1)
	w.expectClosed()
}

// Strangers of one address get a quarter of the connections, all leaves
// together the whole.
func TestConnectionBounds(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxConnections, c.MaxConnectionsPerLeaf = 4, 2 })
	dial := func() *wire {
		c, err := net.Dial("tcp", b.plain)
		if err != nil {
			t.Fatal(err)
		}
		return b.wire(c)
	}
	stranger := dial()
	b.until("stranger in", func() bool { return b.b.State().Connecting == 1 })
	dial().expectClosed()
	stranger.c.Close()
	b.until("stranger gone", func() bool { return b.b.State().Connecting == 0 })

	for i, leaf := range []string{"pump-1", "pump-1", "pump-2"} {
		if code, _ := dial().connect(hello{clientID: "c" + string(rune('0'+i)), user: leaf, password: secret}); code != 0 {
			t.Fatalf("connection %d: code %d", i, code)
		}
	}
	if code, _ := dial().connect(hello{clientID: "c9", user: "pump-1", password: secret}); code != 3 {
		t.Errorf("third connection of one leaf: code %d, want 3", code)
	}
	b.until("refused one gone", func() bool { return b.b.State().Connecting == 0 })
	if code, _ := dial().connect(hello{clientID: "c3", user: "pump-2", password: secret}); code != 0 {
		t.Errorf("fourth connection: code %d", code)
	}
	dial().expectClosed()
}

func TestSubscriptionBound(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxSubscriptions = 5 })
	w := b.leaf("pump-1", version311)
	for i := range uint16(7) {
		w.subscribe(i+1, "leaf/pump-1/a/"+string(rune('a'+i)))
		want := byte(1)
		if i >= 5 {
			want = 0x80
		}
		w.expect("SUBACK", 0x90, 0, byte(i+1), want)
	}
	w.subscribe(9, "leaf/pump-1/a/a") // one it has
	w.expect("SUBACK", 0x90, 0, 9, 1)
}

// patientConn has no deadlines until it stalls: how long a reader that does read takes
// is the machine's.
type patientConn struct {
	net.Conn
	stalls atomic.Bool
}

func (c *patientConn) SetWriteDeadline(t time.Time) error {
	if !c.stalls.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// A leaf that does not read what is sent to it loses its connection; nobody
// else notices.
func TestStalledReader(t *testing.T) {
	b := newBench(t, func(c *Config) { c.WriteTimeout = gateway.Duration(200 * time.Millisecond) })
	gate, far := net.Pipe() // holds nothing: each write waits for its reader
	leaf := &patientConn{Conn: gate}
	b.b.welcome(t.Context(), b.b.listeners[1], leaf)
	w := b.wire(far)
	if code, _ := w.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1")}); code != 0 {
		t.Fatalf("code %d", code)
	}
	leaf.stalls.Store(true)
	w.publish(1, topic1, "a")
	b.untilHanded(1)
	other := b.leaf("pump-2", version311)
	other.publish(1, "leaf/pump-2/telemetry", "b")
	other.puback(1)
	b.until("stalled leaf cut off", func() bool { return b.b.State().Leaves["pump-1"] == 0 })
	other.alive()
}

// Silence for one and a half keep-alives ends a connection.
func TestKeepalive(t *testing.T) {
	for _, tc := range []struct {
		asked   uint16
		longest time.Duration
		seconds uint16
		idle    time.Duration
	}{
		{60, 1178 * time.Second, 60, 90 * time.Second},
		{1, 1178 * time.Second, 1, 1500 * time.Millisecond},
		{0, 1178 * time.Second, 1178, 1767 * time.Second},
		{65535, 1178 * time.Second, 1178, 1767 * time.Second},
		{65535, 12 * time.Hour, 43200, 18 * time.Hour},
	} {
		if seconds, idle := keepalive(tc.asked, tc.longest); seconds != tc.seconds || idle != tc.idle {
			t.Errorf("%d: got %d, %v, want %d, %v", tc.asked, seconds, idle, tc.seconds, tc.idle)
		}
	}
	b := newBench(t, nil)
	w := b.dial()
	if code, _ := w.connect(hello{clientID: "pump-1", user: "pump-1", password: secret, keepalive: 1}); code != 0 {
		t.Fatalf("code %d", code)
	}
	w.expectClosed()
}

// A gateway that stops takes no more messages, and acknowledges those in
// hand-over before it says goodbye.
func TestGoodbye(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		b.path.hold = true
		w := b.leaf("pump-1", version)
		idle := b.leaf("pump-2", version)
		w.publish(1, topic1, "a")
		b.untilHanded(1)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			b.end()
		}()
		for _, p := range idle.expectClosed() {
			if version == version311 || !bytes.HasPrefix(p, []byte{0xe0, 0x8b}) {
				t.Errorf("idle leaf is told % x", p)
			}
		}
		b.b.mu.Lock()
		in := b.b.inboxes["pump-1"]
		b.b.mu.Unlock()
		b.until("nothing more taken", func() bool {
			in.mu.Lock()
			defer in.mu.Unlock()
			return in.draining
		})
		w.publish(2, topic1, "b")
		b.path.settle(0)
		w.puback(1)
		w.expectClosed()
		<-ended
		if n := b.path.count(); n != 1 {
			t.Errorf("%d handed over, want 1", n)
		}
	})
}

// When Run has returned, nothing that it started is left.
func TestNothingLeftRunning(t *testing.T) {
	before := runtime.NumGoroutine()
	b := newBench(t, nil)
	b.path.hold = true
	var leaves []*wire
	for i := range 3 { // each takes over from the last
		w := b.leaf("pump-1", version5)
		w.publish(1, topic1, "a")
		b.untilHanded(i + 1)
		leaves = append(leaves, w, b.dial())
	}
	b.end()
	leaves[4].expectClosed()
	b.until("all goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
}

// left says what is still known of connections.
func (b *bench) left() string {
	b.b.mu.Lock()
	defer b.b.mu.Unlock()
	return fmt.Sprintf("%d connections, %d sessions, %d turns, %d clients of mochi", len(b.b.conns), len(b.b.sessions), len(b.b.turns), b.b.server.Clients.Len())
}

// Nothing stays of connections that have ended, however they did.
func TestNothingIsLeftOfConnections(t *testing.T) {
	b := newBench(t, nil)
	nothing := b.left()
	b.leaf("pump-2", version5).c.Close()
	b.until("the first one to be gone", func() bool { return b.left() == nothing })

	// Gone before its CONNACK could be written, as leaves on a bad link are.
	connect := hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1")}.packet()
	for range 100 {
		c, err := net.Dial("tcp", b.plain)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(connect)
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	b.until("all to be gone", func() bool { return b.left() == nothing })

	// A second CONNECT, that of another leaf.
	for _, version := range []byte{version311, version5} {
		w := b.leaf("pump-1", version)
		w.send(hello{version: version, clientID: "pump-2", user: hubUser("pump-2"), password: b.token("pump-2")}.packet())
		w.expectClosed()
	}
	b.until("all to be gone", func() bool { return b.left() == nothing })
}
