package routes_test

import (
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// What closes a connection (section 2.7). The client sees the end of the stream
// and nothing else; the log says why, and other connections do not notice.
func TestWhatClosesAConnection(t *testing.T) {
	say := func(list ...packets.ControlPacket) func(*bench, *client) {
		return func(_ *bench, c *client) { c.send(list...) }
	}
	raw := func(text string) func(*bench, *client) {
		return func(b *bench, c *client) {
			if _, err := c.nc.Write([]byte(text)); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	subscribe := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	subscribe.MessageID, subscribe.Topics, subscribe.Qoss = 1, []string{"devices/pump-2/messages/devicebound/#"}, []byte{1}
	for what, v := range map[string]struct {
		do  func(*bench, *client)
		why string // in the log
	}{
		"bad packet":         {raw("\xff\x00"), "malformed packet"},
		"second CONNECT":     {func(b *bench, c *client) { c.send(b.hello(pump)) }, "second CONNECT"},
		"QoS 2":              {say(publish(eventTopic, "x", 2)), "QoS 2"},
		"unknown topic":      {say(publish("devices/pump-1/messages/elsewhere/", "x", 1)), "nothing may be published"},
		"hub's topic":        {say(publish("$iothub/methods/POST/x/?$rid=1", "x", 0)), "nothing may be published"},
		"another's topic":    {say(publish("devices/pump-2/messages/events/", "x", 1)), "nothing may be published"},
		"module's topic":     {say(publish("devices/pump-1/modules/valve/messages/events/", "x", 1)), "nothing may be published"},
		"bad bag":            {say(publish(eventTopic+"a=%zz", "x", 1)), "not percent-encoded"},
		"request without id": {say(publish("$iothub/twin/GET/", "", 0)), "no $rid"},
		"unlisted filter":    {say(subscribe), "means nothing"},
		"large message":      {say(publish(eventTopic, strings.Repeat("x", 256<<10+1), 1)), "MessageTooLarge"},
		"huge packet":        {raw("\x30\xff\xff\xff\x7f"), "packet too large"},
		"silence":            {func(*bench, *client) { time.Sleep(1500 * time.Second) }, "nothing was heard for 25m0s"},
		"expired token": {func(_ *bench, c *client) {
			for range 24 {
				time.Sleep(time.Hour / 4)
				c.send(packets.NewControlPacket(packets.Pingreq))
				for range 3 {
					time.Sleep(time.Hour / 4)
					c.send(packets.NewControlPacket(packets.Pingreq))
				}
			}
		}, "the token has expired"},
		"disabled":  {func(b *bench, _ *client) { b.hub.Registry.SetEnabled("pump-1", false) }, "disabled"},
		"deleted":   {func(b *bench, _ *client) { _ = b.hub.Registry.Delete(pump, "") }, "deleted"},
		"displaced": {func(b *bench, _ *client) { b.join(pump) }, "ConnectionForcefullyClosedOnNewConnection"},
		"throttled": {func(b *bench, c *client) {
			b.hub.Faults.Throttle(true)
			c.send(publish(eventTopic, "x", 1))
		}, "ThrottlingException"},
		"no quota": {func(b *bench, c *client) {
			b.hub.Faults.Quota(true)
			c.send(publish(eventTopic, "x", 0))
		}, "IotHubQuotaExceeded"},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				hello := b.hello(other)
				hello.Keepalive = 0
				bystander, _ := b.enter(hello)
				c := b.join(pump)
				v.do(b, c)
				for p := range c.in {
					if _, pong := p.(*packets.PingrespPacket); !pong {
						t.Errorf("got %v before the end", p)
					}
				}
				if !strings.Contains(b.log.String(), v.why) {
					t.Errorf("the log does not say %q:\n%s", v.why, b.log)
				}
				if what == "expired token" {
					return // the other one's too
				}
				b.hub.Faults.Throttle(false)
				b.hub.Faults.Quota(false)
				bystander.publish("devices/pump-2/messages/events/", "still here", 1)
				list := b.events()
				if len(list) != 1 || string(list[0].message.Body) != "still here" {
					t.Errorf("%d events are stored, want the other one's only", len(list))
				}
			})
		})
	}
}

// Before CONNECT is accepted there is no time to waste, and no identity either.
func TestNoConnect(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		begin := time.Now()
		c := b.dial()
		c.ended()
		if got := time.Since(begin); got != time.Minute {
			t.Errorf("closed after %v, want one minute", got)
		}
		first := b.dial()
		first.send(publish(eventTopic, "x", 1))
		first.ended()
		if list := b.events(); len(list) > 0 {
			t.Errorf("got %+v", list)
		}
	})
}

// Close ends connections, and their Serve ends with them.
func TestServerClose(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		one, two := b.join(pump), b.join(other)
		b.server.Close(errClosing)
		one.ended()
		two.ended()
		if got := b.server.Stats(); got.ConnectionsOpen != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// A broken packet from the hub goes to the device's connections only.
func TestMalform(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		device, module, bystander := b.join(pump), b.join(valve), b.join(other)
		if got := b.server.Malform("pump-1"); got != 2 {
			t.Errorf("got %d connections, want 2", got)
		}
		for _, c := range []*client{device, module} {
			if p := c.next(); p != nil { // the client's codec gives up
				t.Errorf("got %v", p)
			}
		}
		bystander.nothing()
		bystander.publish("devices/pump-2/messages/events/", "still here", 1)
	})
}
