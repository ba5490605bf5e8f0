package hubsim_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// peer is a client that says exactly what a test wants it to say.
type peer struct {
	t  testing.TB
	nc *tls.Conn
}

func rawPeer(t *testing.T, hub *hubsim.Hub) *peer {
	t.Helper()
	info := hub.Info()
	var d net.Dialer
	nc, err := d.DialContext(within(t), "tcp", net.JoinHostPort(info.Bind, strconv.Itoa(info.AMQPPort)))
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t, tls.Client(nc, clientTLS(t, info))}
	t.Cleanup(func() { _ = p.nc.Close() })
	if err := p.nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) say(pieces ...[]byte) {
	p.t.Helper()
	for _, b := range pieces {
		if _, err := p.nc.Write(b); err != nil {
			p.t.Fatal(err)
		}
	}
}

// header reads the hub's protocol header.
func (p *peer) header() {
	p.t.Helper()
	var h amqp.ProtocolHeader
	if _, err := io.ReadFull(p.nc, h[:]); err != nil {
		p.t.Fatal(err)
	}
	if h != amqp.HeaderAMQP {
		p.t.Fatalf("header: got %x, want %x", h, amqp.HeaderAMQP)
	}
}

// hear reads the next frame; a heartbeat has no performative.
func (p *peer) hear() (performative any, err error) {
	p.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(p.nc, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < amqp.FrameHeader || n > 65536 {
		return nil, fmt.Errorf("frame of %d bytes", n)
	}
	raw := make([]byte, n)
	copy(raw, size[:])
	if _, err := io.ReadFull(p.nc, raw[4:]); err != nil {
		return nil, err
	}
	f, err := amqp.ParseFrame(raw)
	if err != nil || len(f.Body) == 0 {
		return nil, err
	}
	performative, _, err = amqp.ParsePerformative(f.Body)
	return performative, err
}

// verdict reads until the hub closes the connection and returns its reason; ""
// when it gave none.
func (p *peer) verdict() string {
	p.t.Helper()
	for {
		heard, err := p.hear()
		if errors.Is(err, io.EOF) {
			return ""
		}
		if err != nil {
			p.t.Fatalf("the hub has not closed the connection in order: %v", err)
		}
		if c, ok := heard.(*amqp.Close); ok {
			if c.Error == nil {
				return ""
			}
			return string(c.Error.Condition)
		}
	}
}

// open is how every conversation begins. idle is in milliseconds.
func open(idle uint32) []byte {
	return amqp.AppendFrame(amqp.HeaderAMQP[:], 0, &amqp.Open{
		ContainerID: "raw", MaxFrameSize: 65536, ChannelMax: 10, IdleTimeout: idle,
	}, nil)
}

func begin() []byte {
	return amqp.AppendFrame(nil, 0, &amqp.Begin{IncomingWindow: 100, OutgoingWindow: 100, HandleMax: 10}, nil)
}

// A client that says nothing is closed; one that sends heartbeats is not.
func TestIdleTimeout(t *testing.T) {
	const idle = time.Second
	hub := start(t, hubsim.Config{IdleTimeout: idle, Devices: map[string]string{"pump-1": ""}})
	lively := dial(t, hub, nil) // go-amqp keeps the time-out that the hub announces
	silent := rawPeer(t, hub)
	silent.say(open(0))
	silent.header()
	heard, err := silent.hear()
	if o, ok := heard.(*amqp.Open); !ok || o.IdleTimeout != uint32(idle.Milliseconds()) {
		t.Fatalf("got %+v, %v, want OPEN with an idle time-out of %v", heard, err, idle)
	}
	if got := silent.verdict(); got != "amqp:resource-limit-exceeded" {
		t.Errorf("silent client: got %q, want amqp:resource-limit-exceeded", got)
	}
	lively.login("pump-1")
	lively.send(lively.sender("pump-1"), "alive")
}

// The hub keeps a client's idle time-out with empty frames.
func TestHeartbeats(t *testing.T) {
	hub := start(t, hubsim.Config{})
	p := rawPeer(t, hub)
	p.say(open(200))
	p.header()
	if _, err := p.hear(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if heard, err := p.hear(); heard != nil || err != nil {
			t.Fatalf("got %+v, %v, want a heartbeat", heard, err)
		}
	}
}

// Whatever a client sends, only its own connection ends, and it is told why
// where there is a way to say it.
func TestGarbage(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	bystander := dial(t, hub, nil)
	bystander.login("pump-1")
	s := bystander.sender("pump-1")
	frame := func(body ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(amqp.FrameHeader+len(body)))
		return append(append(b, 2, amqp.FrameAMQP, 0, 0), body...)
	}
	for _, c := range []struct {
		what string
		said []byte
		want string // "" for a socket that closes after the header
	}{
		{"another protocol", []byte("GET / HTTP/1.1\r\n\r\n"), ""},
		{"another version", []byte{'A', 'M', 'Q', 'P', 0, 0, 9, 1}, ""},
		{"garbage in place of OPEN", append(amqp.HeaderAMQP[:], frame(0xff)...), "amqp:decode-error"},
		{"no frame in place of OPEN", append(amqp.HeaderAMQP[:], 0, 0, 0, 7, 2, 0, 0, 0), "amqp:connection:framing-error"},
		{"another frame type in place of OPEN", append(amqp.HeaderAMQP[:], 0, 0, 0, 8, 2, 7, 0, 0), "amqp:connection:framing-error"},
		{"BEGIN in place of OPEN", append(amqp.HeaderAMQP[:], begin()...), "amqp:not-allowed"},
		{"a frame too small", append(open(0), 0, 0, 0, 7, 2, 0, 0, 0), "amqp:connection:framing-error"},
		{"a frame too large", append(open(0), 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0), "amqp:connection:framing-error"},
		{"an offset beyond the frame", append(open(0), 0, 0, 0, 8, 9, 0, 0, 0), "amqp:connection:framing-error"},
		{"garbage in a frame", append(open(0), frame(0xff)...), "amqp:decode-error"},
		{"an unknown performative", append(open(0), frame(0, 0x53, 0x99, 0x45)...), "amqp:decode-error"},
		{"a list longer than its frame", append(open(0), frame(0, 0x53, 0x11, 0xd0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1)...), "amqp:decode-error"},
		{"a second OPEN", append(open(0), open(0)[len(amqp.HeaderAMQP):]...), "amqp:not-allowed"},
		{"a flow without session", amqp.AppendFrame(open(0), 0, &amqp.Flow{}, nil), "amqp:connection:framing-error"},
		{"a transfer without session", amqp.AppendFrame(open(0), 3, &amqp.Transfer{}, nil), "amqp:connection:framing-error"},
		{"a channel twice", append(append(open(0), begin()...), begin()...), "amqp:connection:framing-error"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := rawPeer(t, hub)
			p.say(c.said)
			p.header()
			if got := p.verdict(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			bystander.t = t
			bystander.send(s, "undisturbed")
		})
	}
}

// A mistake within a session costs the session and nothing more.
func TestGarbageInSession(t *testing.T) {
	hub := start(t, hubsim.Config{})
	target := amqp.Target("$cbs")
	attach := func(handle uint32) []byte {
		return amqp.AppendFrame(nil, 0, &amqp.Attach{Name: "l", Handle: handle, Target: target}, nil)
	}
	for _, c := range []struct {
		what string
		said [][]byte
		want string
	}{
		{"an unknown handle", [][]byte{amqp.AppendFrame(nil, 0, &amqp.Transfer{Handle: 5}, nil)}, "amqp:session:unattached-handle"},
		{"a handle twice", [][]byte{attach(0), attach(0)}, "amqp:session:handle-in-use"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := rawPeer(t, hub)
			p.say(append([][]byte{open(0), begin()}, c.said...)...)
			p.header()
			for {
				heard, err := p.hear()
				if err != nil {
					t.Fatal(err)
				}
				if end, ok := heard.(*amqp.End); ok {
					if end.Error == nil || string(end.Error.Condition) != c.want {
						t.Errorf("got %+v, want %s", end.Error, c.want)
					}
					break
				}
			}
			p.say(amqp.AppendFrame(nil, 0, &amqp.End{}, nil), begin())
			if heard, err := p.hear(); err != nil {
				t.Errorf("a new session: got %+v, %v", heard, err)
			} else if _, ok := heard.(*amqp.Begin); !ok {
				t.Errorf("a new session: got %+v, want BEGIN", heard)
			}
		})
	}
}

// SASL PLAIN is a token under another name, and a wrong one ends the
// connection.
func TestPlain(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	info := hub.Info()
	good := token(t, hub, "pump-1", time.Now().Add(time.Hour))
	c := dial(t, hub, &goamqp.ConnOptions{SASLType: goamqp.SASLTypePlain("pump-1@sas."+info.Host, good)})
	c.send(c.sender("pump-1"), "without put-token")
	for what, option := range map[string]goamqp.SASLType{
		"another user":  goamqp.SASLTypePlain("pump-2@sas."+info.Host, good),
		"another token": goamqp.SASLTypePlain("pump-1@sas."+info.Host, "SharedAccessSignature sr=x&sig=eA%3D%3D&se=9"),
	} {
		conn, err := goamqp.Dial(within(t), address(hub), &goamqp.ConnOptions{TLSConfig: clientTLS(t, info), SASLType: option})
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s was let in", what)
		}
	}
}
