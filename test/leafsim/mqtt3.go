package leafsim

import (
	"context"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// mqtt3Conn is a connection by MQTT 3.1.1. The client library's own reconnect
// is off: what is sent again, and in which order, is the leaf's business.
type mqtt3Conn struct {
	client  mqtt.Client
	dialect Dialect
	flights *flights
	lost    chan struct{} // closed by end
	once    sync.Once
	watcher sync.WaitGroup
}

// publishTimeout bounds Publish. The library waits so long when the connection
// is lost at the wrong moment.
const publishTimeout = 2 * time.Second

func dialMQTT3(ctx context.Context, q *MQTT, leaf string, window int) (conn, error) {
	c := &mqtt3Conn{dialect: q.Dialect, lost: make(chan struct{})}
	c.flights = newFlights(window, c.lost)
	c.client = mqtt.NewClient(c.options(q, leaf))
	t := c.client.Connect()
	select {
	case <-t.Done():
	case <-ctx.Done():
		c.client.Disconnect(0)
		return nil, ctx.Err()
	}
	if err := t.Error(); err != nil {
		return nil, err
	}
	c.watcher.Go(c.flights.watch)
	return c, nil
}

func (c *mqtt3Conn) options(q *MQTT, leaf string) *mqtt.ClientOptions {
	user, password := q.Login(leaf)
	scheme := "tcp"
	if q.TLS != nil {
		scheme = "ssl"
	}
	return mqtt.NewClientOptions().
		AddBroker(scheme + "://" + q.Address).
		SetTLSConfig(q.TLS).
		SetProtocolVersion(4).
		SetClientID(leaf).SetUsername(user).SetPassword(password).
		SetCleanSession(true).SetAutoReconnect(false).
		SetConnectTimeout(connectTimeout).SetWriteTimeout(publishTimeout).
		SetKeepAlive(keepAlive).
		SetConnectionLostHandler(func(mqtt.Client, error) { c.end() })
}

// end says once that the connection is over.
func (c *mqtt3Conn) end() { c.once.Do(func() { close(c.lost) }) }

func (c *mqtt3Conn) send(_ context.Context, m *Message) error {
	select {
	case <-c.lost:
		return errLost
	default:
	}
	t := c.client.Publish(c.dialect.topic(m), 1, false, m.Body)
	select {
	case <-t.Done():
		// One that did not go out must not be overtaken by the next: the leaf
		// begins again with it on another connection.
		if err := t.Error(); err != nil {
			return err
		}
	default:
	}
	c.flights.add(m, func(lost <-chan struct{}) bool {
		select {
		case <-t.Done():
		case <-lost:
		}
		select {
		case <-t.Done():
			return t.Error() == nil
		default:
			return false
		}
	})
	return nil
}

func (c *mqtt3Conn) acks() <-chan *Message { return c.flights.out }

// quiesceMilliseconds is how long the DISCONNECT packet may take to go out.
const quiesceMilliseconds = 100

func (c *mqtt3Conn) close() {
	c.client.Disconnect(quiesceMilliseconds)
	c.end()
	c.watcher.Wait()
}
