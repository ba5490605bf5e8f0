package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	paho311 "github.com/eclipse/paho.mqtt.golang"
	"github.com/gorilla/websocket"

	"github.com/fieldgate/fieldgate/gateway"
)

// socketBench is a bench whose TLS listener awaits WebSockets.
func socketBench(t *testing.T, change func(*Config)) *bench {
	return newBench(t, func(c *Config) {
		c.Listeners[0].WebSocket = true
		if change != nil {
			change(c)
		}
	})
}

func (b *bench) dialSocket(path string, protocols ...string) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{Subprotocols: protocols, TLSClientConfig: &tls.Config{RootCAs: b.roots}, EnableCompression: true}
	ws, answer, err := d.DialContext(b.Context(), "wss://"+b.tls+path, nil)
	if ws != nil {
		b.Cleanup(func() { ws.Close() })
	}
	return ws, answer, err
}

// singleBytes is a WebSocket as a stream of bytes, with a frame for each of them.
type singleBytes struct {
	net.Conn
	ws   *websocket.Conn
	left []byte
}

func (s *singleBytes) Write(p []byte) (int, error) {
	for i := range p {
		if err := s.ws.WriteMessage(websocket.BinaryMessage, p[i:i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func (s *singleBytes) Read(p []byte) (int, error) {
	for len(s.left) == 0 {
		_, message, err := s.ws.ReadMessage()
		if err != nil {
			return 0, io.EOF
		}
		s.left = message
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

// Frames do not line up with packets.
func TestSocket(t *testing.T) {
	b := socketBench(t, nil)
	ws, _, err := b.dialSocket("/$iothub/websocket?iothub-no-client-cert=true", "other", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	if ws.Subprotocol() != "mqtt" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	w := b.wire(&singleBytes{Conn: ws.NetConn(), ws: ws})
	if code, _ := w.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true}); code != 0 {
		t.Fatalf("code %d", code)
	}
	w.listen(1, commandsFilter)
	w.publish(1, topic1, strings.Repeat("x", 3000))
	w.puback(1)
	if err := ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)); err != nil {
		t.Error(err)
	}
	var v verdicts
	large := command(1)
	large.Body = bytes.Repeat([]byte("y"), 64<<10)
	b.b.Command(large, v.of("c1"))
	got := w.receive()
	w.acknowledge(got.id)
	b.untilSaid(&v, "c1 completed")
	if len(got.body) != 64<<10 || len(b.path.message(0).Body) != 3000 {
		t.Error("bodies were changed")
	}
	if err := ws.WriteMessage(websocket.TextMessage, []byte{0xc0, 0}); err != nil {
		t.Error(err)
	}
	w.expectClosed() // text is no MQTT
}

// Eclipse Paho over a WebSocket.
func TestPahoSocket(t *testing.T) {
	b := socketBench(t, nil)
	got := make(chan paho311.Message, 10)
	opts := paho311.NewClientOptions().AddBroker("wss://" + b.tls + "/$iothub/websocket").SetTLSConfig(&tls.Config{RootCAs: b.roots}).
		SetClientID("pump-1").SetUsername(hubUser("pump-1")).SetPassword(b.token("pump-1")).SetAutoReconnect(false)
	client := paho311.NewClient(opts)
	for _, token := range []func() paho311.Token{
		client.Connect,
		func() paho311.Token {
			return client.Subscribe(commandsFilter, 1, func(_ paho311.Client, m paho311.Message) { got <- m })
		},
	} {
		if tok := token(); !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatal(tok.Error())
		}
	}
	defer client.Disconnect(100)
	b.untilWants(gateway.WantsCommands)
	var v verdicts
	b.command(&v, 1, 2, 3)
	b.untilSaid(&v, "c1 completed, c2 completed, c3 completed")
	for i := range 3 {
		if m := <-got; string(m.Payload()) != fmt.Sprintf("c%d", i+1) {
			t.Errorf("got %s", m.Payload())
		}
	}
}

func TestSocketRefusals(t *testing.T) {
	b := socketBench(t, func(c *Config) { c.ConnectTimeout = gateway.Duration(2 * time.Second) })
	for _, tc := range []struct {
		path, protocol string
		want           int
	}{
		{"/$iothub/websocket", "amqp", 400},
		{"/", "mqtt", 404},
		{"/$iothub/websocket/x", "mqtt", 404},
	} {
		_, answer, err := b.dialSocket(tc.path, tc.protocol)
		if err == nil || answer == nil || answer.StatusCode != tc.want {
			t.Errorf("%s %s: %v, %v, want %d", tc.path, tc.protocol, answer, err, tc.want)
		}
	}
	dial := func() *tls.Conn {
		c, err := tls.Dial("tcp", b.tls, &tls.Config{RootCAs: b.roots})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	for name, request := range map[string]string{
		"no upgrade":        "GET /$iothub/websocket HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
		"MQTT at once":      string(hello{clientID: "pump-1", user: "pump-1", password: secret}.packet()),
		"endless header":    "GET /$iothub/websocket HTTP/1.1\r\nX: " + strings.Repeat("x", 2*maxUpgrade),
		"another origin":    "GET /$iothub/websocket HTTP/1.1\r\nHost: gw\r\nOrigin: https://evil\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
		"too early":         "GET /$iothub/websocket HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n\x82\x00",
		"silence":           "",
		"silence, upgraded": "GET /$iothub/websocket HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
	} {
		c := dial()
		if _, err := io.WriteString(c, request); err != nil && name != "endless header" {
			t.Errorf("%s: %v", name, err)
		}
		answer, err := io.ReadAll(c)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%s: still open, answer %q", name, answer)
		}
		if upgraded := strings.HasPrefix(string(answer), "HTTP/1.1 101"); upgraded != (name == "silence, upgraded") {
			t.Errorf("%s: answer %q", name, answer)
		}
	}
	b.until("all gone", func() bool { return b.b.State().Connecting == 0 })
}

// FuzzUpgrade sends anything to a listener that awaits WebSockets, and frames
// behind an upgrade: whatever comes, the connection ends, and nothing is read
// beyond what may be.
func FuzzUpgrade(f *testing.F) {
	upgrade := "GET /$iothub/websocket HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	f.Add([]byte(upgrade), []byte("\x82\x82\x00\x00\x00\x00\xc0\x00"))
	f.Add([]byte(upgrade), []byte("\x02\x81\x01\x02\x03\x04\x11\x80\x81\x01\x02\x03\x04\x11\x88\x80\x00\x00\x00\x00"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), []byte{})
	f.Fuzz(func(t *testing.T, request, frames []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		var sent sent
		done := make(chan struct{})
		go func() {
			defer close(done)
			go io.Copy(&sent, theirs)
			theirs.Write(request)
			if bytes.HasSuffix(request, []byte("\r\n\r\n")) {
				for !sent.contains("\r\n\r\n") && !sent.closed() {
					time.Sleep(100 * time.Microsecond)
				}
				theirs.Write(frames)
			}
			theirs.Close()
		}()
		s := &socket{Conn: ours}
		if err := s.upgrade(time.Now().Add(time.Minute), nil); err == nil {
			answer, err := http.ReadResponse(bufio.NewReader(strings.NewReader(sent.text())), nil)
			if err == nil && answer.StatusCode != http.StatusSwitchingProtocols {
				t.Errorf("upgraded with %v", answer)
			}
			n, _ := io.Copy(io.Discard, s) // whatever comes
			if n > int64(len(frames)) {
				t.Errorf("%d bytes of %d", n, len(frames))
			}
		}
		ours.Close()
		sent.close()
		<-done
	})
}

// sent collects what a peer is sent, until it is over.
type sent struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	ended bool
}

func (s *sent) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *sent) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *sent) contains(t string) bool { return strings.Contains(s.text(), t) }

func (s *sent) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *sent) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}
