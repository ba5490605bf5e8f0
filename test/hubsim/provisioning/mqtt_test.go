package provisioning

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

// client speaks MQTT with another codec than ours.
type client struct {
	t  *testing.T
	nc net.Conn
	in chan packets.ControlPacket // closed when the connection ends
}

// dial connects to the service through a pipe, and returns the code of CONNACK.
func dial(t *testing.T, s *Service, id, user, password string) (*client, byte) {
	t.Helper()
	near, far := net.Pipe()
	c := &client{t: t, nc: near, in: make(chan packets.ControlPacket, 100)}
	var parts sync.WaitGroup
	parts.Go(func() { _ = mqtt.Serve(far, mqtt.Config{}, s.ConnectMQTT) })
	parts.Go(func() {
		defer close(c.in)
		for {
			p, err := packets.ReadPacket(near)
			if err != nil {
				return
			}
			c.in <- p
		}
	})
	t.Cleanup(func() {
		_ = near.Close()
		parts.Wait()
	})
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.CleanSession, p.Keepalive = "MQTT", 4, true, 180
	p.ClientIdentifier, p.UsernameFlag, p.Username = id, true, user
	p.PasswordFlag, p.Password = true, []byte(password)
	c.send(p)
	ack, ok := (<-c.in).(*packets.ConnackPacket)
	if !ok {
		t.Fatalf("got %v, want CONNACK", ack)
	}
	return c, ack.ReturnCode
}

func (c *client) send(p packets.ControlPacket) {
	c.t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.nc.Write(b.Bytes()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) subscribe(filter string) byte {
	c.t.Helper()
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = 1, []string{filter}, []byte{1}
	c.send(p)
	ack, ok := (<-c.in).(*packets.SubackPacket)
	if !ok {
		c.t.Fatalf("got %v, want SUBACK", ack)
	}
	return ack.ReturnCodes[0]
}

// publish sends a request, and returns the next packet that is no
// acknowledgement; nil when the connection has ended.
func (c *client) publish(topic string) *packets.PublishPacket {
	c.t.Helper()
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Qos, p.MessageID, p.Payload = topic, 1, 2, []byte(" ")
	c.send(p)
	for p := range c.in {
		if answer, ok := p.(*packets.PublishPacket); ok {
			return answer
		}
	}
	return nil
}

const user = scope + "/registrations/" + device + "/api-version=2019-03-31&ClientVersion=x"

func TestMQTT(t *testing.T) {
	s, h := bench(t, Config{})
	c, code := dial(t, s, device, user, derived(t, s, device))
	if code != mqtt.Accepted || c.subscribe(answers) != 1 {
		t.Fatalf("CONNACK %d", code)
	}
	p := c.publish("$dps/registrations/PUT/iotdps-register/?$rid=7")
	if want := "$dps/registrations/res/202/?$rid=7&retry-after=1"; p == nil || p.TopicName != want || p.Qos != 1 {
		t.Fatalf("got %v, want topic %s", p, want)
	}
	begun := read(t, Answer{Status: 202, Body: p.Payload}, 202)
	p = c.publish("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=8&operationId=" + begun.OperationID)
	if want := "$dps/registrations/res/200/?$rid=8"; p == nil || p.TopicName != want {
		t.Fatalf("got %v, want topic %s", p, want)
	}
	if got := read(t, Answer{Status: 200, Body: p.Payload}, 200); got.State.AssignedHub != h.Name {
		t.Errorf("got %s", p.Payload)
	}
	p = c.publish("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=9&operationId=x")
	if want := "$dps/registrations/res/404/?$rid=9"; p == nil || p.TopicName != want || !strings.Contains(string(p.Payload), "404201") {
		t.Fatalf("got %v, want topic %s", p, want)
	}
}

func TestMQTTLogin(t *testing.T) {
	s, _ := bench(t, Config{})
	good := derived(t, s, device)
	for _, c := range []struct {
		what, id, user, password string
		code                     byte
	}{
		{"good", device, user, good, mqtt.Accepted},
		{"another client id", "pump-2", user, good, mqtt.BadIdentifier},
		{"another device's token", device, user, derived(t, s, "pump-2"), mqtt.NotAuthorized},
		{"no token", device, user, "", mqtt.NotAuthorized},
		{"no user name of a registrant", device, "hub.test/pump-1/?api-version=1", good, mqtt.BadUserOrPassword},
		{"another scope", device, strings.Replace(user, scope, "0ne0", 1), good, mqtt.NotAuthorized},
	} {
		if _, code := dial(t, s, c.id, c.user, c.password); code != c.code {
			t.Errorf("%s: got CONNACK %d, want %d", c.what, code, c.code)
		}
	}
}

// What is not a request, and what is not the one subscription, ends the
// connection or is refused.
func TestMQTTStrangers(t *testing.T) {
	s, _ := bench(t, Config{})
	c, _ := dial(t, s, device, user, derived(t, s, device))
	if p := c.publish("devices/pump-1/messages/events/"); p != nil {
		t.Errorf("got %v", p)
	}
	c, _ = dial(t, s, device, user, derived(t, s, device))
	if code := c.subscribe("$dps/#"); code != 0x80 {
		t.Errorf("got SUBACK %#x", code)
	}
}

// Close ends the connections of registrants, and no more are let in.
func TestClose(t *testing.T) {
	s, _ := bench(t, Config{})
	c, _ := dial(t, s, device, user, derived(t, s, device))
	s.Close()
	for p := range c.in {
		t.Errorf("got %v", p)
	}
	if _, code := dial(t, s, device, user, derived(t, s, device)); code != mqtt.ServerUnavailable {
		t.Errorf("got CONNACK %d", code)
	}
}
