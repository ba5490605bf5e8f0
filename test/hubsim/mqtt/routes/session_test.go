package routes_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

func (c *client) unsubscribe(filters ...string) {
	c.b.t.Helper()
	p := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
	p.MessageID, p.Topics = 2, filters
	c.send(p)
	if got, ok := c.next().(*packets.UnsubackPacket); !ok {
		c.b.t.Fatalf("got %v, want UNSUBACK", got)
	}
}

// exercise has the hub send something for each subscription, and returns the
// beginnings of the topics that came.
func (c *client) exercise() (topics []string) {
	c.b.t.Helper()
	b := c.b
	c.send(publish("$iothub/twin/GET/?$rid=1", " ", 0))
	if _, err := b.hub.Twins.Update(pump, []byte(`{"properties":{"desired":{"a":1}}}`), false, ""); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	b.served.Go(func() { _, _ = b.hub.Methods.Invoke(ctx, pump, methods.Call{Name: "blink"}) })
	b.command(message.Message{Body: []byte("stop")})
	c.send(packets.NewControlPacket(packets.Pingreq))
	b.queued(b.hub.Commands.Len(pump)) // all has settled
	for len(c.in) > 0 {
		if p, ok := c.next().(*packets.PublishPacket); ok {
			topics = append(topics, strings.Join(strings.Split(p.TopicName, "/")[1:3], "/"))
			if p.Qos > 0 {
				c.puback(p.MessageID)
			}
		}
	}
	slices.Sort(topics)
	return topics
}

// Clients with clean session 0 do not subscribe again when they renew their
// token (trap 9.1).
func TestSubscriptionsOutliveConnections(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c, present := b.enter(b.hello(pump))
		if present {
			t.Error("a session is present that nobody began")
		}
		c.subscribe(1, commandFilter, answerFilter, desiredFilter, methodFilter)
		want := []string{"methods/POST", "pump-1/messages", "twin/PATCH", "twin/res"}
		if got := c.exercise(); !slices.Equal(got, want) {
			t.Fatalf("on the first connection: got %v, want %v", got, want)
		}
		c.disconnect()
		c, present = b.enter(b.hello(pump))
		if got := c.exercise(); !present || !slices.Equal(got, want) {
			t.Errorf("on the second connection: got %v and present %v, want %v", got, present, want)
		}
		c.unsubscribe(commandFilter, methodFilter)
		c.disconnect()
		c, _ = b.enter(b.hello(pump))
		if got := c.exercise(); !slices.Equal(got, want[2:]) {
			t.Errorf("after unsubscribing: got %v, want %v", got, want[2:])
		}
	})
}

// Clean session 1 forgets, and leaves nothing behind. The commands belong to the
// hub and stay.
func TestCleanSession(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		first := b.join(pump)
		first.subscribe(1, commandFilter, answerFilter)
		first.disconnect()
		b.command(message.Message{Body: []byte("stop")})
		clean := b.hello(pump)
		clean.CleanSession = true
		c, present := b.enter(clean)
		if present {
			t.Error("a clean session is present")
		}
		c.send(publish("$iothub/twin/GET/?$rid=1", "", 0))
		c.nothing()
		c.subscribe(1, commandFilter)
		if p := c.message(); p.Dup {
			t.Errorf("got %v, want it without DUP: this session has not seen it", p)
		}
		c.disconnect()
		c, present = b.enter(b.hello(pump))
		if c.nothing(); present {
			t.Error("a clean session has left something behind")
		}
	})
}

// A session ends with the registration of its identity.
func TestSessionOfDeletedDevice(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.subscribe(1, answerFilter)
		if err := b.hub.Registry.Delete(pump, "*"); err != nil {
			t.Fatal(err)
		}
		c.ended()
		b.add(registry.Identity{ID: pump})
		if _, present := b.enter(b.hello(pump)); present {
			t.Error("the new device has the session of the old one")
		}
	})
}

// Five subscriptions are the most (section 2.7).
func TestSubscriptionCap(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		device, module := registry.ID{Device: "odd%"}, registry.ID{Device: "odd%", Module: "m"}
		b.add(registry.Identity{ID: device})
		b.add(registry.Identity{ID: module})
		p := b.hello(module)
		p.Password = []byte(b.policyToken("device", hostName))
		c, _ := b.enter(p)
		got := c.subscribe(1,
			answerFilter, desiredFilter, methodFilter, "devices/odd%/modules/m/#", "devices/odd%/modules/m/inputs/#",
			"devices/odd%25/modules/m/inputs/#", answerFilter)
		if want := []byte{1, 1, 1, 1, 1, 0x80, 1}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestStats(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.join(pump)
		clean := b.hello(other)
		clean.CleanSession = true
		b.enter(clean)
		if got, want := fmt.Sprintf("%+v", b.server.Stats()), "{ConnectionsOpen:2 Sessions:1}"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestPresence(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		time.Sleep(time.Minute)
		c.publish(eventTopic, "x", 1)
		published := time.Now()
		time.Sleep(time.Minute)
		if got := b.hub.Presence.State(pump); !got.Connected || !got.LastActivity.Equal(published) {
			t.Errorf("got %+v, want activity at %v", got, published)
		}
		c.subscribe(1, commandFilter)
		if got := b.hub.Presence.State(pump); !got.LastActivity.Equal(time.Now()) {
			t.Errorf("got %+v, want activity at %v", got, time.Now())
		}
		c.disconnect()
		if got := b.hub.Presence.State(pump); got.Connected {
			t.Errorf("got %+v, want it gone", got)
		}
	})
}
