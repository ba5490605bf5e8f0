package routes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
)

const commandTopic = "devices/pump-1/messages/devicebound/%24.to=%2Fdevices%2Fpump-1%2Fmessages%2FdeviceBound"

// command queues a message for the pump.
func (b *bench) command(m message.Message) {
	b.t.Helper()
	if err := b.hub.Commands.Send(pump, &m); err != nil {
		b.t.Fatal(err)
	}
}

// queued checks how many commands wait or are locked.
func (b *bench) queued(want int) {
	b.t.Helper()
	synctest.Wait()
	if got := b.hub.Commands.Len(pump); got != want {
		b.t.Errorf("%d commands are queued, want %d", got, want)
	}
}

func TestCommand(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		b.command(message.Message{ID: "m-1", Ack: "full", Properties: []message.Property{{Name: "a", Value: "b c"}}, Body: []byte("stop")})
		c.nothing()
		if got := c.subscribe(2, commandFilter); !slices.Equal(got, []byte{1}) {
			t.Errorf("granted %v, want 1", got)
		}
		p := c.message()
		if want := commandTopic + "&%24.mid=m-1&iothub-ack=full&a=b%20c"; p.TopicName != want {
			t.Errorf("got  %s\nwant %s", p.TopicName, want)
		}
		if string(p.Payload) != "stop" || p.Qos != 1 || p.Dup || p.Retain {
			t.Errorf("got %v", p)
		}
		b.queued(1)
		c.puback(p.MessageID)
		b.queued(0)
		c.puback(p.MessageID) // once more, and one of nothing
		c.puback(999)
		b.command(message.Message{Body: []byte("later")})
		if p := c.message(); string(p.Payload) != "later" {
			t.Errorf("got %v", p)
		}
	})
}

// With QoS 0 a command is complete when it is sent.
func TestCommandWithoutAcknowledgement(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.subscribe(0, commandFilter)
		b.command(message.Message{Body: []byte("stop")})
		if p := c.message(); p.Qos != 0 {
			t.Errorf("got %v, want QoS 0", p)
		}
		b.queued(0)
	})
}

// What was not acknowledged comes again on the next connection of the session,
// with the packet id it had (section 4.4 of the standard) and its order.
func TestRedelivery(t *testing.T) {
	for what, leave := range map[string]func(*bench, *client){
		"disconnected": func(_ *bench, c *client) { c.disconnect() },
		"lost":         func(_ *bench, c *client) { _ = c.nc.Close() },
		"displaced":    func(*bench, *client) {},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				c := b.join(pump)
				c.subscribe(1, commandFilter)
				ids := make(map[string]uint16)
				for n := range 4 {
					b.command(message.Message{Body: fmt.Append(nil, n)})
					p := c.message()
					ids[string(p.Payload)] = p.MessageID
				}
				c.puback(ids["1"])
				leave(b, c)
				again, present := b.enter(b.hello(pump))
				if !present {
					t.Error("the session is gone")
				}
				b.command(message.Message{Body: []byte("4")})
				for _, want := range []string{"0", "2", "3", "4"} {
					p := again.message()
					if string(p.Payload) != want || p.Dup != (want != "4") || (want != "4" && p.MessageID != ids[want]) {
						t.Errorf("got %v, want %s with DUP and the packet ids %v", p, want, ids)
					}
					again.puback(p.MessageID)
				}
				b.queued(0)
			})
		})
	}
}

// Without PUBACK in a minute a command is due again, on the same connection too.
// One acknowledgement is enough then.
func TestLockExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.subscribe(1, commandFilter)
		b.command(message.Message{Body: []byte("stop")})
		first := c.message()
		begin := time.Now()
		second := c.message()
		if !second.Dup || second.MessageID != first.MessageID || time.Since(begin) != time.Minute {
			t.Errorf("got %v after %v, want %v again after a minute", second, time.Since(begin), first)
		}
		c.puback(first.MessageID)
		b.queued(0)
		time.Sleep(2 * time.Minute)
		c.nothing()
	})
}

// A subscription that ends gives back what is under way; one that is repeated
// changes nothing.
func TestCommandSubscription(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.subscribe(1, commandFilter)
		b.command(message.Message{Body: []byte("stop")})
		c.message()
		c.subscribe(1, commandFilter)
		c.nothing()
		c.unsubscribe(commandFilter)
		c.unsubscribe("never/subscribed")
		if d, ok := b.hub.Commands.Receive(pump); !ok || d.Count != 0 {
			t.Errorf("got %+v and %v, want the command unlocked and uncounted", d, ok)
		} else {
			b.hub.Commands.Unlock(pump, d.LockToken)
		}
		b.command(message.Message{Body: []byte("start")})
		c.nothing()
		c.subscribe(0, commandFilter)
		for _, want := range []string{"stop", "start"} {
			if p := c.message(); string(p.Payload) != want {
				t.Errorf("got %v, want %s", p, want)
			}
		}
	})
}

// A command that no topic can hold is refused on behalf of the device.
func TestCommandBeyondTopic(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.subscribe(1, commandFilter)
		b.command(message.Message{Properties: []message.Property{{Name: "a", Value: strings.Repeat("ü", 15000)}}})
		b.command(message.Message{Body: []byte("small")})
		if p := c.message(); string(p.Payload) != "small" {
			t.Errorf("got %v", p)
		}
		b.queued(1)
	})
}
