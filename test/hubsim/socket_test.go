package hubsim_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"
	"github.com/eclipse/paho.mqtt.golang/packets"
	gorilla "github.com/gorilla/websocket"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/provisioning"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// socket is a client's TLS connection to one of the hub's ports.
func socket(t *testing.T, hub *hubsim.Hub, port int) net.Conn {
	t.Helper()
	info := hub.Info()
	d := tls.Dialer{Config: clientTLS(t, info)}
	nc, err := d.DialContext(within(t), "tcp", net.JoinHostPort(info.Bind, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// webSocket is the stream inside a client's WebSocket.
type webSocket struct {
	*gorilla.Conn
	rest io.Reader
}

func dialWebSocket(t *testing.T, hub *hubsim.Hub, protocol string) *webSocket {
	t.Helper()
	info := hub.Info()
	d := gorilla.Dialer{Subprotocols: []string{protocol}, TLSClientConfig: clientTLS(t, info)}
	ws, _, err := d.DialContext(within(t), fmt.Sprintf("wss://%s:%d/$iothub/websocket", info.Bind, info.HTTPSPort), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &webSocket{ws, bytes.NewReader(nil)}
}

func (s *webSocket) Write(b []byte) (int, error) {
	return len(b), s.WriteMessage(gorilla.BinaryMessage, b)
}

func (s *webSocket) Read(b []byte) (int, error) {
	for {
		if n, err := s.rest.Read(b); n > 0 || (err != nil && !errors.Is(err, io.EOF)) {
			return n, err
		}
		_, m, err := s.NextReader()
		if err != nil {
			return 0, err
		}
		s.rest = m
	}
}

// sayMQTT sends a packet and returns the hub's answer.
func sayMQTT(t *testing.T, nc io.ReadWriter, p packets.ControlPacket) packets.ControlPacket {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	answer, err := packets.ReadPacket(nc)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// joinMQTT connects with a client id, a user name and a password.
func joinMQTT(t *testing.T, nc io.ReadWriter, id, user, password string) {
	t.Helper()
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.Keepalive = "MQTT", 4, 60
	p.ClientIdentifier = id
	p.UsernameFlag, p.Username = true, user
	p.PasswordFlag, p.Password = true, []byte(password)
	if got, ok := sayMQTT(t, nc, p).(*packets.ConnackPacket); !ok || got.ReturnCode != 0 {
		t.Fatalf("got %v, want CONNACK with code 0", got)
	}
}

// joinDevice connects a device over MQTT, with all its subscriptions.
func joinDevice(t *testing.T, hub *hubsim.Hub, nc io.ReadWriter, device string) {
	t.Helper()
	user := hub.Info().Host + "/" + device + "/?api-version=2021-04-12"
	joinMQTT(t, nc, device, user, token(t, hub, device, time.Now().Add(time.Hour)))
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID, p.Qoss = 1, []byte{1, 1, 1, 1}
	p.Topics = []string{
		"devices/" + device + "/messages/devicebound/#", "$iothub/twin/res/#",
		"$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#",
	}
	if got, ok := sayMQTT(t, nc, p).(*packets.SubackPacket); !ok || !bytes.Equal(got.ReturnCodes, p.Qoss) {
		t.Fatalf("got %v, want every subscription", got)
	}
}

// joinRegistrant connects somebody to provisioning, over MQTT.
func joinRegistrant(t *testing.T, hub *hubsim.Hub, nc io.ReadWriter) {
	t.Helper()
	dps := hub.Info().DPS
	resource := dps.IDScope + "/registrations/new-1"
	key, err := provisioning.DeriveKey(dps.GroupKey, "new-1")
	if err != nil {
		t.Fatal(err)
	}
	joinMQTT(t, nc, "new-1", resource+"/api-version=2019-03-31", sas.New(resource, "registration", decode(t, key), time.Now().Add(time.Hour)))
}

// everyDoor opens a connection of each kind that the hub has, and returns what
// the client hears of its end.
func everyDoor(t *testing.T, hub *hubsim.Hub) map[string]io.Reader {
	t.Helper()
	info := hub.Info()
	for _, device := range []string{"door-mqtt", "door-socket"} {
		if _, err := hub.AddDevice(device, ""); err != nil {
			t.Fatal(err)
		}
	}
	mqtt, inSocket := socket(t, hub, info.MQTTPort), dialWebSocket(t, hub, "mqtt")
	joinDevice(t, hub, mqtt, "door-mqtt")
	joinDevice(t, hub, inSocket, "door-socket")
	registrant := socket(t, hub, info.MQTTPort)
	joinRegistrant(t, hub, registrant)
	amqpSocket := dialWebSocket(t, hub, "AMQPWSB10")
	said := append(open(0), begin()...)
	if _, err := amqpSocket.Write(said); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(amqpSocket, make([]byte, len(amqp.HeaderAMQP)+1)); err != nil {
		t.Fatal(err)
	}
	plain := rawPeer(t, hub)
	plain.say(said)
	plain.header()
	https := socket(t, hub, info.HTTPSPort)
	if _, err := https.Write([]byte("GET /devices?api-version=2021-04-12 HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(https, make([]byte, 12)); err != nil { // refused, and kept alive
		t.Fatal(err)
	}
	return map[string]io.Reader{
		"MQTT": mqtt, "MQTT in WebSocket": inSocket, "provisioning": registrant,
		"AMQP": plain.nc, "AMQP in WebSocket": amqpSocket, "HTTPS": https,
	}
}

// A reset is an RST on every socket there is, with no goodbye of any layer.
func TestResetOfEveryDoor(t *testing.T) {
	hub := start(t, hubsim.Config{})
	doors := everyDoor(t, hub)
	if got := hub.Reset(); got != len(doors) {
		t.Errorf("connections reset: got %d, want %d", got, len(doors))
	}
	for what, door := range doors {
		if _, err := io.Copy(io.Discard, door); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %v, want a reset", what, err)
		}
	}
}

// During a cut no door says anything or closes; afterwards all are closed.
func TestCutOfEveryDoor(t *testing.T) {
	hub := start(t, hubsim.Config{})
	doors := everyDoor(t, hub)
	hub.Cut()
	ended := make(chan string, len(doors))
	for what, door := range doors {
		go func() {
			_, _ = io.Copy(io.Discard, door) // the deadline bounds it
			ended <- what
		}()
	}
	hub.SetEnabled("door-mqtt", false) // who would have to be told
	hub.SetEnabled("door-socket", false)
	select {
	case what := <-ended:
		t.Errorf("%s ended during the cut", what)
	case <-time.After(200 * time.Millisecond):
	}
	hub.Restore()
	for range doors {
		<-ended
	}
}

// heardLast is a client's connection that remembers how reading ended.
type heardLast struct {
	net.Conn
	ended chan error
}

func (c *heardLast) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		select {
		case c.ended <- err:
		default: // the first one counts
		}
	}
	return n, err
}

// A device that orders KillTcp (section 10.3) loses its socket without a word,
// over every protocol that keeps one.
func TestKillTcp(t *testing.T) {
	const name = "AzIoTHub_FaultOperationType"
	hub, _, _ := pump(t)
	info := hub.Info()
	overMQTT := func(t *testing.T, nc io.ReadWriter) error {
		joinDevice(t, hub, nc, "pump-2")
		p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		p.TopicName, p.Qos, p.MessageID = "devices/pump-2/messages/events/"+name+"=KillTcp", 1, 7
		if err := p.Write(nc); err != nil {
			t.Fatal(err)
		}
		_, err := io.Copy(io.Discard, nc)
		return err
	}
	for what, kill := range map[string]func(t *testing.T) error{
		"MQTT":              func(t *testing.T) error { return overMQTT(t, socket(t, hub, info.MQTTPort)) },
		"MQTT in WebSocket": func(t *testing.T) error { return overMQTT(t, dialWebSocket(t, hub, "mqtt")) },
		"HTTPS": func(t *testing.T) error {
			nc := socket(t, hub, info.HTTPSPort)
			_, err := fmt.Fprintf(nc, "POST /devices/pump-1/messages/events?api-version=2021-04-12 HTTP/1.1\r\nHost: %s\r\n"+
				"Authorization: %s\r\niothub-app-%s: KillTcp\r\nContent-Length: 1\r\n\r\nx",
				info.Host, token(t, hub, "pump-1", time.Now().Add(time.Hour)), name)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, nc)
			return err
		},
		"AMQP": func(t *testing.T) error {
			nc := &heardLast{socket(t, hub, info.AMQPPort), make(chan error, 1)}
			conn, err := goamqp.NewConn(within(t), nc, nil)
			if err != nil {
				t.Fatal(err)
			}
			c := &client{t: t, hub: hub, conn: conn}
			c.session = c.begin()
			c.login("pump-1")
			m := goamqp.NewMessage(nil)
			m.ApplicationProperties = map[string]any{name: "KillTcp"}
			_ = c.sender("pump-1").Send(within(t), m, nil) // its settlement may be lost
			return <-nc.ended
		},
	} {
		t.Run(what, func(t *testing.T) {
			if err := kill(t); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
		})
	}
}

// The switch reaches a device whatever it speaks.
func TestMalformOverMQTT(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	nc := socket(t, hub, hub.Info().MQTTPort)
	joinDevice(t, hub, nc, "pump-1")
	if got := hub.Malform("pump-1"); got != 1 {
		t.Errorf("connections: got %d, want 1", got)
	}
	if p, err := packets.ReadPacket(nc); err == nil {
		t.Errorf("got %v, want what is no packet", p)
	}
}
