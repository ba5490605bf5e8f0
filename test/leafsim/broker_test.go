package leafsim

import (
	"net"
	"slices"
	"sync"
	"testing"

	mqtt3 "github.com/eclipse/paho.mqtt.golang/packets"

	mqtt5 "github.com/eclipse/paho.golang/packets"
)

// broker is an MQTT server that takes publishes and behaves as badly as it is
// told to.
type broker struct {
	t        *testing.T
	listener net.Listener
	// answer says what to do with a publish: acknowledge it, refuse it, say
	// nothing, or break the connection. Called one at a time.
	answer func(p publish) verdict

	serving sync.WaitGroup
	mu      sync.Mutex
	taken   []publish // guarded by mu
	conns   []net.Conn
	logins  []login
}

type verdict int

const (
	accept verdict = iota
	refuse         // MQTT 5 only
	silence
	hangUp
)

type publish struct{ topic, body string }

type login struct{ client, user, password string }

func startBroker(t *testing.T, version int, answer func(publish) verdict) *broker {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{t: t, listener: l, answer: answer}
	serve := b.serve3
	if version == 5 {
		serve = b.serve5
	}
	b.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			b.mu.Unlock()
			b.serving.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		for _, c := range b.conns {
			c.Close()
		}
		b.mu.Unlock()
		b.serving.Wait()
	})
	return b
}

func (b *broker) take(p publish) verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = append(b.taken, p)
	return b.answer(p)
}

// seen returns the publishes and logins so far.
func (b *broker) seen() ([]publish, []login) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.taken), slices.Clone(b.logins)
}

func (b *broker) login(l login) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logins = append(b.logins, l)
}

// serve3 speaks MQTT 3.1.1 until the connection or the test is over.
func (b *broker) serve3(c net.Conn) {
	for {
		packet, err := mqtt3.ReadPacket(c)
		if err != nil {
			return
		}
		switch p := packet.(type) {
		case *mqtt3.ConnectPacket:
			b.login(login{p.ClientIdentifier, p.Username, string(p.Password)})
			_ = mqtt3.NewControlPacket(mqtt3.Connack).Write(c)
		case *mqtt3.PublishPacket:
			switch b.take(publish{p.TopicName, string(p.Payload)}) {
			case hangUp:
				return
			case silence:
				continue
			}
			ack := mqtt3.NewControlPacket(mqtt3.Puback).(*mqtt3.PubackPacket)
			ack.MessageID = p.MessageID
			_ = ack.Write(c)
		case *mqtt3.PingreqPacket:
			_ = mqtt3.NewControlPacket(mqtt3.Pingresp).Write(c)
		case *mqtt3.DisconnectPacket:
			return
		}
	}
}

// serve5 speaks MQTT 5 until the connection or the test is over.
func (b *broker) serve5(c net.Conn) {
	for {
		packet, err := mqtt5.ReadPacket(c)
		if err != nil {
			return
		}
		switch p := packet.Content.(type) {
		case *mqtt5.Connect:
			b.login(login{p.ClientID, p.Username, string(p.Password)})
			_, _ = mqtt5.NewControlPacket(mqtt5.CONNACK).WriteTo(c)
		case *mqtt5.Publish:
			ack := mqtt5.NewControlPacket(mqtt5.PUBACK)
			content := ack.Content.(*mqtt5.Puback)
			content.PacketID = p.PacketID
			switch b.take(publish{p.Topic, string(p.Payload)}) {
			case hangUp:
				return
			case silence:
				continue
			case refuse:
				content.ReasonCode = 0x97 // quota exceeded (MQTT 5, section 3.4.2.1)
			}
			_, _ = ack.WriteTo(c)
		case *mqtt5.Pingreq:
			_, _ = mqtt5.NewControlPacket(mqtt5.PINGRESP).WriteTo(c)
		case *mqtt5.Disconnect:
			return
		}
	}
}
