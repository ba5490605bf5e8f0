package e2e

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// broken makes MQTT packets of all fifteen types (MQTT 5, section 2.1.2), of which most
// are wrong in one way or more.
type broken struct{ *rand.Rand }

func (r broken) text(long int) []byte {
	b := make([]byte, r.IntN(long))
	for i := range b {
		b[i] = byte(r.Uint32())
		if r.IntN(8) > 0 {
			b[i] = "abc/+#$\x00"[b[i]%8]
		}
	}
	return slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b)
}

func (r broken) packet() []byte {
	first := byte(1+r.IntN(15))<<4 | byte(r.IntN(16))
	var body []byte
	for range r.IntN(5) {
		switch r.IntN(4) {
		case 0:
			body = append(body, byte(r.Uint32()))
		case 1:
			body = append(body, byte(r.Uint32()), byte(r.Uint32()))
		case 2:
			body = append(body, r.text(40)...)
		case 3: // a list of properties (MQTT 5, section 2.2.2)
			p := append([]byte{byte(r.IntN(43))}, r.text(20)...)
			body = append(append(body, byte(len(p))), p...)
		}
	}
	length := binary.AppendUvarint(nil, uint64(len(body))) // as section 1.5.5 writes it
	p := slices.Concat([]byte{first}, length, body)
	switch r.IntN(6) {
	case 0:
		p[r.IntN(len(p))] ^= 1 << r.IntN(8)
	case 1:
		p = p[:1+r.IntN(len(p))]
	case 2:
		p = append(p, r.text(20)...)
	case 3:
		p[1] = byte(r.Uint32())
	}
	return p
}

// hello is a CONNECT that is right.
func hello(version byte, leaf string, login leafsim.Login) []byte {
	text := func(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }
	user, password := login(leaf)
	body := append(text("MQTT"), version, 0xC2, 0, 60)
	if version == 5 {
		body = append(body, 0)
	}
	body = slices.Concat(body, text(leaf), text(user), text(password))
	return slices.Concat([]byte{0x10}, binary.AppendUvarint(nil, uint64(len(body))), body)
}

// madLeaf is a leaf that logs in before it sends broken packets.
type madLeaf struct {
	id     string
	login  leafsim.Login
	logins atomic.Int64
}

// A million packets that are wrong, from strangers and from a leaf whose firmware has
// lost its mind: the gateway closes the connections on which they come, keeps its
// memory, and other leaves do not notice.
func TestBrokenPackets(t *testing.T) {
	t.Parallel()
	packets := int64(20_000)
	if os.Getenv("FIELDGATE_NIGHTLY") != "" {
		packets = 1_000_000
	}
	ctx := testContext(t, max(3*patience, time.Duration(packets)*time.Millisecond))
	list := devices(3, site.SDK, site.MQTT5, site.SDK)
	s := running(ctx, t, site.Plan{Leaves: list})
	crew := launch(ctx, t, s, list[:2], leafsim.Options{Rate: 20})
	must(t, s.Await(ctx, "all leaves to connect", func() bool { return crew.Stats().Connected }))

	mad := &madLeaf{id: list[2].ID}
	var err error
	mad.login, err = leafsim.TokenLogin(site.HubHost, connectionKey(t, s, mad.id))
	must(t, err)
	trust, err := site.Trust(s.CAFile())
	must(t, err)
	trust.ClientSessionCache = tls.NewLRUClientSessionCache(8) // handshakes are not what is tried here

	sent, warm := new(atomic.Int64), packets/10
	var before int64
	for _, until := range []int64{warm, packets} {
		var crowd sync.WaitGroup
		for i := range uint64(4) {
			crowd.Go(func() {
				r := broken{rand.New(rand.NewPCG(i, uint64(until)))}
				for sent.Load() < until && ctx.Err() == nil {
					sent.Add(int64(r.attack(ctx, t, s, trust, mad)))
				}
			})
		}
		crowd.Wait()
		if until == warm {
			before = resident(t, s)
		}
	}
	must(t, ctx.Err())
	// The bound is the one that mosquitto's own tests have for bad packets.
	if grown := resident(t, s) - before; grown > 20<<20 {
		t.Errorf("%d broken packets have cost %d KiB of memory", sent.Load(), grown>>10)
	}
	n := metric(ctx, s, "fieldgate_leaf_discarded_total")
	t.Logf("%d packets, %d logins, %v times garbage", sent.Load(), mad.logins.Load(), n)
	if n <= 0 || mad.logins.Load() == 0 {
		t.Error("nothing was garbage, or nobody logged in: the test proves nothing")
	}
	must(t, crew.Finish(ctx))
	if stats := crew.Stats(); stats.Connects != 2 || stats.Resent != 0 {
		t.Errorf("the other leaves were disturbed: %+v", stats)
	}
	must(t, s.AwaitArrival(ctx))
	report, err := site.CheckFiles(ctx, s.AckFile(), s.HubDir(), mad.id)
	must(t, err)
	must(t, report.Err())
	if said := s.Gateway().Said(); strings.Contains(said, "panic") {
		t.Errorf("something has panicked:\n%s", said)
	}
}

// attack makes one connection, sends up to sixteen packets, and waits until the gateway
// has read them or hung up. It says how many.
func (r broken) attack(ctx context.Context, t *testing.T, s *site.Site, trust *tls.Config, mad *madLeaf) int {
	c, err := (&tls.Dialer{Config: trust}).DialContext(ctx, "tcp", s.Broker())
	if err != nil {
		if ctx.Err() == nil {
			t.Errorf("no connection: %v", err)
		}
		return 1
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if r.IntN(2) == 0 {
		_, _ = c.Write(hello(byte(4+r.IntN(2)), mad.id, mad.login))
		answer := make([]byte, 4)
		if _, err := io.ReadFull(c, answer); err != nil || answer[0] != 0x20 || answer[3] != 0 {
			return 1 // another connection has just taken over
		}
		mad.logins.Add(1)
	}
	n := 1 + r.IntN(16)
	for range n {
		if _, err := c.Write(r.packet()); err != nil {
			break
		}
	}
	_ = c.(*tls.Conn).CloseWrite()
	if _, err := io.Copy(io.Discard, c); os.IsTimeout(err) {
		t.Error("a connection stays open that has sent broken packets and its end")
	}
	return n
}

// connectionKey is a leaf's key at the hub.
func connectionKey(t *testing.T, s *site.Site, leaf string) string {
	t.Helper()
	_, key, found := strings.Cut(s.ConnectionString(leaf), "SharedAccessKey=")
	if !found {
		t.Fatalf("no key in the connection string of %s", leaf)
	}
	key, _, _ = strings.Cut(key, ";")
	return key
}

// resident is the memory that the gateway has, in bytes.
func resident(t *testing.T, s *site.Site) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Gateway().PID()))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if kib, found := strings.CutPrefix(line, "VmRSS:"); found {
			n, err := strconv.ParseInt(strings.Fields(kib)[0], 10, 64)
			must(t, err)
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// Five thousand strangers from one place begin a handshake and say no more. Leaves that
// are there do not notice, others can still come, and each stranger is hung up on.
func TestHalfOpenHandshakes(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	list := devices(4, site.SDK, site.MQTT5)
	s := running(ctx, t, site.Plan{Leaves: list})
	crew := launch(ctx, t, s, list[:2], leafsim.Options{Rate: 20})
	must(t, s.Await(ctx, "all leaves to connect", func() bool { return crew.Stats().Connected }))

	const strangers = 5000
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 66)}}
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range strangers {
		c, err := d.DialContext(ctx, "tcp", s.Broker())
		must(t, err)
		_, _ = c.Write([]byte{22, 3, 1, 0, 200, 1, 0, 0}) // a ClientHello of 200 bytes (RFC 8446, 5.1), cut short
		open = append(open, c)
	}
	began := time.Now()
	late := launch(ctx, t, s, list[2:], leafsim.Options{Rate: 20})
	must(t, s.Await(ctx, "leaves that come late", func() bool { return late.Stats().Connected }))
	t.Logf("beside %d open handshakes two leaves have connected in %v", strangers, time.Since(began))
	for i, c := range open {
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		if _, err := io.Copy(io.Discard, c); os.IsTimeout(err) {
			t.Fatalf("stranger %d is still connected", i)
		}
	}
	must(t, crew.Finish(ctx))
	must(t, late.Finish(ctx))
	if a, b := crew.Stats(), late.Stats(); a.Connects != 2 || a.Resent+b.Resent != 0 {
		t.Errorf("leaves were disturbed: %+v and %+v", a, b)
	}
	allArrived(ctx, t, s)
}
