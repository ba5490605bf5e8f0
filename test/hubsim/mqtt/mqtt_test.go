package mqtt_test

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

func TestLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := routed(t, mqtt.Config{})
		p := hello(180)
		p.CleanSession = true
		p.UsernameFlag, p.Username = true, "hub/pump-1/?api-version=2021-04-12"
		p.PasswordFlag, p.Password = true, []byte("secret")
		p.WillFlag, p.WillQos, p.WillTopic, p.WillMessage = true, 1, "devices/pump-1/messages/events/", []byte("gone")
		c.send(p)
		c.next()
		got := r.login
		if got.ClientID != "pump-1" || got.User != p.Username || got.Password != "secret" || !got.CleanSession ||
			got.KeepAlive != 3*time.Minute || got.Will == nil || got.Will.Topic != p.WillTopic ||
			string(got.Will.Body) != "gone" || got.Will.QoS != 1 {
			t.Errorf("got %+v with will %+v", got, got.Will)
		}
	})
}

func TestConnackCodes(t *testing.T) {
	for code := range byte(6) {
		for _, present := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r := &routes{closed: make(chan bool, 1)}
				c := serve(t, mqtt.Config{}, func(*mqtt.Conn, mqtt.Login) (mqtt.Routes, bool, byte) { return r, present, code })
				c.send(hello(60))
				got, ok := c.next().(*packets.ConnackPacket)
				if want := present && code == 0; !ok || got.ReturnCode != code || got.SessionPresent != want {
					t.Errorf("got %v, want code %d and session present %v", got, code, want)
				}
				if code == 0 {
					return
				}
				if err := c.ended(); err == nil {
					t.Error("the connection of a refused client ended without an error")
				}
				if len(r.closed) > 0 {
					t.Error("routes of a refused client were used")
				}
			})
		}
	}
}

func TestOtherProtocolLevels(t *testing.T) {
	for name, level := range map[string]byte{"MQIsdp": 3, "MQTT": 5} {
		synctest.Test(t, func(t *testing.T) {
			c, r := routed(t, mqtt.Config{})
			p := hello(60)
			p.ProtocolName, p.ProtocolVersion = name, level
			c.send(p)
			if got, ok := c.next().(*packets.ConnackPacket); !ok || got.ReturnCode != mqtt.BadProtocol {
				t.Errorf("level %d: got %v, want CONNACK 1", level, got)
			}
			if c.ended() == nil || r.conn != nil {
				t.Errorf("level %d: let in", level)
			}
		})
	}
}

// What closes a connection, as far as the engine sees it (section 2.7).
func TestWhatClosesAConnection(t *testing.T) {
	for _, v := range []struct {
		what  string
		bytes string // after CONNECT
	}{
		{"a second CONNECT", "\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06pump-1"},
		{"QoS 2", "\x34\x05\x00\x01t\x00\x01"},
		{"QoS 3", "\x36\x05\x00\x01t\x00\x01"},
		{"a packet type that does not exist", "\xf0\x00"},
		{"a packet that only servers send", "\x20\x02\x00\x00"},
		{"a part of QoS 2", "\x62\x02\x00\x01"},
		{"wrong flags", "\x80\x06\x00\x01\x00\x01t\x00"},
		{"a length of five bytes", "\x30\xff\xff\xff\xff\x01"},
		{"a packet above the limit", "\x30\xff\xff\xff\x7f"},
		{"a topic beyond the packet", "\x30\x04\x00\x05ab"},
		{"a topic that is not UTF-8", "\x30\x03\x00\x01\xff"},
		{"a topic with NUL", "\x30\x03\x00\x01\x00"},
		{"packet id 0", "\x32\x05\x00\x01t\x00\x00"},
		{"SUBSCRIBE without filters", "\x82\x02\x00\x01"},
		{"UNSUBSCRIBE without filters", "\xa2\x02\x00\x01"},
		{"SUBSCRIBE with QoS 3", "\x82\x06\x00\x01\x00\x01t\x03"},
		{"bytes after the end", "\xc0\x01x"},
	} {
		t.Run(v.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, r := join(t, mqtt.Config{})
				c.write([]byte(v.bytes))
				if err := c.ended(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v, want an error about the packet", err)
				}
				if <-r.closed {
					t.Error("this counts as an orderly end")
				}
			})
		})
	}
}

func TestFirstPacketMustBeConnect(t *testing.T) {
	for _, first := range []string{"\xc0\x00", "\x30\x03\x00\x01t", "\xe0\x00", "GET / HTTP/1.1\r\n\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			c, r := routed(t, mqtt.Config{})
			c.write([]byte(first))
			if err := c.ended(); err == nil || r.conn != nil {
				t.Errorf("%q: got %v, want an error", first, err)
			}
		})
	}
}

func TestSilence(t *testing.T) {
	for _, v := range []struct {
		keepAlive uint16
		limit     time.Duration
	}{{10, 15 * time.Second}, {1177, 1765500 * time.Millisecond}, {1178, 1767 * time.Second}, {65535, 1767 * time.Second}, {0, 1767 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := routed(t, mqtt.Config{})
			c.send(hello(v.keepAlive))
			c.next()
			time.Sleep(v.limit - time.Second)
			c.send(packets.NewControlPacket(packets.Pingreq))
			if p, ok := c.next().(*packets.PingrespPacket); !ok {
				t.Fatalf("keep-alive %d: got %v, want PINGRESP", v.keepAlive, p)
			}
			heard := time.Now()
			err := c.ended()
			if got := time.Since(heard); got != v.limit || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("keep-alive %d: closed after %v with %v, want %v", v.keepAlive, got, err, v.limit)
			}
		})
	}
}

// A client that says nothing, or not all of its CONNECT, is not waited for.
func TestConnectTimeout(t *testing.T) {
	for _, part := range []string{"", "\x10", "\x10\x12\x00\x04MQ"} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := routed(t, mqtt.Config{})
			begin := time.Now()
			c.write([]byte(part))
			err := c.ended()
			if got := time.Since(begin); got != time.Minute || err == nil {
				t.Errorf("%q: closed after %v with %v, want one minute", part, got, err)
			}
		})
	}
}

func TestDisconnect(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c, r := join(t, mqtt.Config{})
			if orderly {
				c.send(packets.NewControlPacket(packets.Disconnect))
			} else {
				_ = c.nc.Close()
			}
			if err := c.ended(); (err == nil) != orderly {
				t.Errorf("got %v", err)
			}
			if got := <-r.closed; got != orderly {
				t.Errorf("orderly: got %v, want %v", got, orderly)
			}
			<-r.conn.Done()
		})
	}
}

// Close gives its reason to whoever serves, and everything said before arrives.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := join(t, mqtt.Config{})
		reason := errors.New("displaced")
		r.conn.Send("t", []byte("last words"), 0, nil)
		r.conn.Close(reason)
		r.conn.Close(errors.New("another"))
		r.conn.Send("t", []byte("too late"), 0, func() { t.Error("something was sent after Close") })
		if p, ok := c.next().(*packets.PublishPacket); !ok || string(p.Payload) != "last words" {
			t.Errorf("got %v, want the last words", p)
		}
		if err := c.ended(); !errors.Is(err, reason) {
			t.Errorf("got %v, want the first reason", err)
		}
	})
}
