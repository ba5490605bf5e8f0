package leafsim

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// mqtt5Conn is a connection by MQTT 5.
type mqtt5Conn struct {
	network net.Conn
	client  *paho.Client
	session *answers
	dialect Dialect
	flights *flights
	watcher sync.WaitGroup
}

// answers is the client library's session with one addition: it keeps the
// channel on which the answer to the latest packet will come. The library
// either blocks on each publish or tells nothing of its answer; a leaf with a
// window needs both, order of sending and answers.
type answers struct {
	session.SessionManager
	latest chan packets.ControlPacket // of the last AddToSession; used by send only
}

// AddToSession takes the channel of answers away from the library, which does
// not wait on it for an asynchronous publish. One answer comes, or a zero
// packet when the session ends.
func (a *answers) AddToSession(ctx context.Context, p session.Packet, _ chan<- packets.ControlPacket) error {
	a.latest = make(chan packets.ControlPacket, 1)
	return a.SessionManager.AddToSession(ctx, p, a.latest)
}

func dialMQTT5(ctx context.Context, q *MQTT, leaf string, window int) (conn, error) {
	network, err := dialNetwork(ctx, q)
	if err != nil {
		return nil, err
	}
	c := &mqtt5Conn{network: network, session: &answers{SessionManager: state.NewInMemory()}, dialect: q.Dialect}
	c.client = paho.NewClient(paho.ClientConfig{
		ClientID:      leaf,
		Conn:          packets.NewThreadSafeConn(network),
		Session:       c.session,
		PacketTimeout: writeTimeout,
	})
	user, password := q.Login(leaf)
	if _, err := c.client.Connect(ctx, &paho.Connect{
		ClientID: leaf, CleanStart: true, KeepAlive: uint16(keepAlive.Seconds()),
		Username: user, UsernameFlag: true,
		Password: []byte(password), PasswordFlag: true,
	}); err != nil {
		return nil, err
	}
	c.flights = newFlights(window, c.client.Done())
	c.watcher.Go(c.flights.watch)
	return c, nil
}

func dialNetwork(ctx context.Context, q *MQTT) (net.Conn, error) {
	if q.TLS == nil {
		return new(net.Dialer).DialContext(ctx, "tcp", q.Address)
	}
	d := tls.Dialer{Config: q.TLS}
	return d.DialContext(ctx, "tcp", q.Address)
}

func (c *mqtt5Conn) send(ctx context.Context, m *Message) error {
	// A gateway at its bound stops reading: only closing ends the wait then.
	defer context.AfterFunc(ctx, func() { c.network.Close() })()
	p := &paho.Publish{Topic: c.dialect.topic(m), QoS: 1, Payload: m.Body}
	if c.dialect == Plain {
		p.Properties = &paho.PublishProperties{ContentType: "application/json"}
		p.Properties.User.Add("origin", "leafsim")
	}
	options := paho.PublishOptions{Method: paho.PublishMethod_AsyncSend}
	if _, err := c.client.PublishWithOptions(ctx, p, options); err != nil {
		return err
	}
	answer := c.session.latest
	c.flights.add(m, func(lost <-chan struct{}) bool {
		select {
		case p := <-answer:
			return accepted(p)
		case <-lost:
		}
		select {
		case p := <-answer:
			return accepted(p)
		default:
			return false
		}
	})
	return nil
}

// accepted says whether a packet acknowledges a publish. Reason codes from 0x80
// refuse it (MQTT 5, section 2.4).
func accepted(p packets.ControlPacket) bool {
	ack, ok := p.Content.(*packets.Puback)
	return ok && ack.ReasonCode < 0x80
}

func (c *mqtt5Conn) acks() <-chan *Message { return c.flights.out }

func (c *mqtt5Conn) close() {
	c.network.SetWriteDeadline(time.Now().Add(quiesceMilliseconds * time.Millisecond))
	// An error only says that the connection is gone already.
	_ = c.client.Disconnect(&paho.Disconnect{ReasonCode: 0})
	<-c.client.Done()
	c.watcher.Wait()
	_ = c.session.Close()
}
