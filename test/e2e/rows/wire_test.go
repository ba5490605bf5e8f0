package rows

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/fieldgate/fieldgate/gateway/identity"
)

// wire speaks MQTT packet by packet: it can say what no client library would, and
// sees what comes as it is. Writing is safe for concurrent use, reading is for one
// goroutine.
type wire struct {
	c       net.Conn
	r       *bufio.Reader
	version byte // 4 or 5

	mu sync.Mutex // one packet at a time
}

// Types of packets (MQTT 5, table 2-1).
const (
	connack    = 2
	publish    = 3
	puback     = 4
	suback     = 9
	pingresp   = 13
	disconnect = 14
)

// hello is what a leaf says of itself.
type hello struct {
	version  byte
	client   string
	user     string
	password string
	keep     bool // the session outlives the connection
	will     string
}

// packet is one that came.
type packet struct {
	first byte
	body  []byte
}

func (p packet) kind() byte { return p.first >> 4 }

// dial connects over TLS, or over a WebSocket when the address is on port 443.
func (b *bench) dial(address string) (net.Conn, error) {
	trust := b.trust()
	if strings.HasSuffix(address, ":443") {
		d := websocket.Dialer{TLSClientConfig: trust, Subprotocols: []string{"mqtt"}, HandshakeTimeout: patience}
		ws, res, err := d.DialContext(b.ctx, "wss://"+address+"/$iothub/websocket", nil)
		if res != nil && res.Body != nil {
			res.Body.Close()
		}
		if err != nil {
			return nil, err
		}
		return &stream{Conn: ws.NetConn(), ws: ws}, nil
	}
	d := tls.Dialer{Config: trust}
	return d.DialContext(b.ctx, "tcp", address)
}

// stream reads and writes the messages of a WebSocket as a stream of bytes.
type stream struct {
	net.Conn // deadlines and Close
	ws       *websocket.Conn
	rest     io.Reader
}

func (s *stream) Write(p []byte) (int, error) {
	return len(p), s.ws.WriteMessage(websocket.BinaryMessage, p)
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.rest == nil {
			var err error
			if _, s.rest, err = s.ws.NextReader(); err != nil {
				return 0, err
			}
		}
		n, err := s.rest.Read(p)
		if err == io.EOF {
			s.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// enter connects and logs in; code is that of CONNACK.
func (b *bench) enter(address string, h hello) (w *wire, code byte, present bool, err error) {
	c, err := b.dial(address)
	if err != nil {
		return nil, 0, false, err
	}
	w = &wire{c: c, r: bufio.NewReader(c), version: h.version}
	flags := byte(0xc0)
	if !h.keep {
		flags |= 2
	}
	body := append(text("MQTT"), h.version)
	if h.will != "" {
		flags |= 4 | 8 // QoS 1
	}
	body = append(body, flags)
	body = binary.BigEndian.AppendUint16(body, 1100) // seconds of keep-alive: it never pings, and the machine may be slow
	if h.version == 5 {
		if h.keep {
			body = append(body, 5, 17, 0, 0, 1, 0) // session expiry
		} else {
			body = append(body, 0)
		}
	}
	body = append(body, text(h.client)...)
	if h.will != "" {
		if h.version == 5 {
			body = append(body, 0)
		}
		body = append(append(body, text(h.will)...), text("gone")...)
	}
	body = append(append(body, text(h.user)...), text(h.password)...)
	if err := w.send(0x10, body); err != nil {
		c.Close()
		return nil, 0, false, err
	}
	p, err := w.read()
	if err != nil {
		c.Close()
		return nil, 0, false, err
	}
	if p.kind() != connack || len(p.body) < 2 {
		c.Close()
		return nil, 0, false, fmt.Errorf("packet %x in the place of CONNACK", p.first)
	}
	return w, p.body[1], p.body[0]&1 == 1, nil
}

// token is what the leaf logs in with, signed with a key in Base64.
func token(leaf, key string) string {
	k, err := identity.ParseKey(key)
	if err != nil {
		panic("rows: " + err.Error())
	}
	keys := identity.NewKeyring(hubHost)
	keys.Put(leaf, k)
	text, err := keys.DeviceToken(leaf, time.Now().Add(time.Hour))
	if err != nil {
		panic("rows: " + err.Error())
	}
	return text
}

// as is the login of a leaf by its token, with a session that is kept.
func (b *bench) as(leaf string, version byte) hello {
	return hello{version: version, client: leaf, user: hubHost + "/" + leaf + "/?api-version=2021-04-12", password: token(leaf, b.key(leaf)), keep: true}
}

func text(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

func (w *wire) send(first byte, body []byte) error {
	head := []byte{first}
	for n := len(body); ; {
		digit := byte(n & 127)
		if n >>= 7; n > 0 {
			head = append(head, digit|128)
			continue
		}
		head = append(head, digit)
		break
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.c.Write(append(head, body...))
	return err
}

// read returns the next packet; it waits for at most the test's patience.
func (w *wire) read() (packet, error) {
	if err := w.c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return packet{}, err
	}
	first, err := w.r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	size, err := binary.ReadUvarint(w.r) // the same digits as MQTT's
	if err != nil {
		return packet{}, err
	}
	p := packet{first, make([]byte, size)}
	_, err = io.ReadFull(w.r, p.body)
	return p, err
}

// until reads up to the first packet of a kind.
func (w *wire) until(kind byte) (packet, error) {
	for {
		p, err := w.read()
		if err != nil || p.kind() == kind {
			return p, err
		}
	}
}

// listen subscribes and returns what was granted.
func (w *wire) listen(filter string, qos byte) (granted byte, err error) {
	body := []byte{0, 9}
	if w.version == 5 {
		body = append(body, 0)
	}
	if err := w.send(0x82, append(append(body, text(filter)...), qos)); err != nil {
		return 0, err
	}
	p, err := w.until(suback)
	if err != nil {
		return 0, err
	}
	return p.body[len(p.body)-1], nil
}

// say publishes with QoS 1, and with 0 when the packet id is 0.
func (w *wire) say(packetID uint16, topic string, body []byte) error {
	first, rest := byte(0x30), text(topic)
	if packetID > 0 {
		first = 0x32
		rest = binary.BigEndian.AppendUint16(rest, packetID)
	}
	if w.version == 5 {
		rest = append(rest, 0)
	}
	return w.send(first, append(rest, body...))
}

// answer acknowledges with a reason, 0 for success.
func (w *wire) answer(packetID uint16, reason byte) error {
	body := binary.BigEndian.AppendUint16(nil, packetID)
	if w.version == 5 && reason != 0 {
		body = append(body, reason)
	}
	return w.send(0x40, body)
}

// publication takes a PUBLISH apart.
func (w *wire) publication(p packet) (topic string, packetID uint16, body []byte) {
	n := int(binary.BigEndian.Uint16(p.body))
	topic, body = string(p.body[2:2+n]), p.body[2+n:]
	if p.first&6 != 0 {
		packetID, body = binary.BigEndian.Uint16(body), body[2:]
	}
	if w.version == 5 {
		size, digits := binary.Uvarint(body)
		body = body[digits+int(size):]
	}
	return topic, packetID, body
}

// reason is that of a packet of MQTT 5, 0 when it has none.
func (p packet) reason() byte {
	at := 2 // behind a packet id
	if p.kind() == disconnect {
		at = 0
	}
	if len(p.body) <= at {
		return 0
	}
	return p.body[at]
}
