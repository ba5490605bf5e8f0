package routes_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

var errClosing = errors.New("closing")

func TestTelemetry(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.publish(eventTopic+"%24.mid=m-1&%24.ct=application%2Fjson&%24.sub=thermostat&color=gr%C3%BCn%20%26%20blue", `{"n":1}`, 1)
		retained := publish("devices/pump-1/messages/events", "", 0)
		retained.Retain = true
		c.send(retained)
		repeated := publish(eventTopic+"?a=b", "x", 1)
		repeated.Dup = true
		c.send(repeated)
		c.next()
		m := b.join(valve)
		m.publish("devices/pump-1/modules/valve/messages/events/%24.on=out/", "m", 1)

		want := []message.Message{
			{
				ID: "m-1", ContentType: "application/json", Component: "thermostat", Body: []byte(`{"n":1}`),
				Properties: []message.Property{{Name: "color", Value: "grün & blue"}},
			},
			{Properties: []message.Property{{Name: "mqtt-retain", Value: "true"}}, Body: []byte{}},
			{Properties: []message.Property{{Name: "a", Value: "b"}, {Name: "mqtt-dup", Value: "true"}}, Body: []byte("x")},
			{Output: "out", Body: []byte("m")},
		}
		got := b.events()
		if len(got) != len(want) {
			t.Fatalf("got %d events, want %d", len(got), len(want))
		}
		for i := range got {
			if !reflect.DeepEqual(*got[i].message, want[i]) {
				t.Errorf("event %d: got %+v, want %+v", i, *got[i].message, want[i])
			}
		}
		first, last := got[0], got[3]
		identity, _ := b.hub.Registry.Get(pump)
		if first.Device != "pump-1" || first.Module != "" || first.Generation != identity.Generation || first.Connection != 1 ||
			first.Auth != `{"scope":"device","type":"sas","issuer":"iothub"}` {
			t.Errorf("the first event comes from %+v", first.Event)
		}
		if last.Device != "pump-1" || last.Module != "valve" || last.Connection != 2 {
			t.Errorf("the module's event comes from %+v", last.Event)
		}
	})
}

func TestLargestMessage(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.publish(eventTopic+"a=b", string(make([]byte, 255<<10)), 1)
		if got := b.events(); len(got) != 1 || len(got[0].message.Body) != 255<<10 {
			t.Errorf("got %d events", len(got))
		}
	})
}

func TestWill(t *testing.T) {
	for _, v := range []struct {
		what  string
		topic string
		end   func(*bench, *client)
		want  int
	}{
		{"lost", eventTopic + "a=b", func(_ *bench, c *client) { _ = c.nc.Close() }, 1},
		{"closed by the hub", eventTopic + "a=b", func(_ *bench, c *client) { c.send(publish("elsewhere", "", 0)) }, 1},
		{"displaced", eventTopic + "a=b", func(b *bench, _ *client) { b.join(pump) }, 1},
		{"disconnected", eventTopic + "a=b", func(_ *bench, c *client) { c.disconnect() }, 0},
		{"for another", "devices/pump-2/messages/events/a=b", func(_ *bench, c *client) { _ = c.nc.Close() }, 0},
		{"bad bag", eventTopic + "a=%", func(_ *bench, c *client) { _ = c.nc.Close() }, 0},
	} {
		t.Run(v.what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				p := b.hello(pump)
				p.WillFlag, p.WillTopic, p.WillMessage, p.WillQos, p.WillRetain = true, v.topic, []byte("gone"), 1, true
				c, _ := b.enter(p)
				v.end(b, c)
				c.ended()
				list := b.events()
				if len(list) != v.want {
					t.Fatalf("got %d events, want %d", len(list), v.want)
				}
				if v.want == 0 {
					return
				}
				want := []message.Property{{Name: "a", Value: "b"}, {Name: "mqtt-retain", Value: "true"}, {Name: "iothub-MessageType", Value: "Will"}}
				if got := list[0].message; string(got.Body) != "gone" || !slices.Equal(got.Properties, want) {
					t.Errorf("got %+v", got)
				}
			})
		})
	}
}

// PUBACKs come as the faults want them, always in order.
func TestSettling(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		send := func(id uint16) {
			p := publish(eventTopic, "x", 1)
			p.MessageID = id
			c.send(p)
			synctest.Wait()
		}
		begin := time.Now()
		b.hub.Faults.SettleNever(true)
		send(1)
		b.hub.Faults.SettleNever(false)
		b.hub.Faults.SlowSettle(time.Minute)
		send(2)
		b.hub.Faults.SlowSettle(time.Second)
		send(3)
		b.hub.Faults.SlowSettle(0)
		b.hub.Faults.SettleTwice(true)
		send(4)
		if got := len(b.events()); got != 4 {
			t.Errorf("%d messages are stored, want 4", got)
		}
		var ids []uint16
		for range 4 {
			ids = append(ids, c.next().(*packets.PubackPacket).MessageID)
		}
		if want := []uint16{2, 3, 4, 4}; !slices.Equal(ids, want) || time.Since(begin) != time.Minute {
			t.Errorf("got %v after %v, want %v after a minute", ids, time.Since(begin), want)
		}
		b.hub.Faults.SlowSettle(time.Hour)
		send(5)
		c.disconnect() // does not wait for the hour
		if got := time.Since(begin); got != time.Minute {
			t.Errorf("the end came after %v", got)
		}
	})
}

// order makes a message that orders the hub to misbehave.
func order(operation, more string) *packets.PublishPacket {
	return publish(eventTopic+"AzIoTHub_FaultOperationType="+operation+"&AzIoTHub_FaultOperationCloseReason=boom"+more, "", 1)
}

func TestOrders(t *testing.T) {
	const later = "&AzIoTHub_FaultOperationDelayInSecs=10&AzIoTHub_FaultOperationDurationInSecs=60"
	for _, v := range []struct {
		operation string
		closes    bool // the connection, at once
		telemetry bool // is refused meanwhile
		connect   byte // meanwhile
	}{
		{"KillTcp", true, false, mqtt.Accepted},
		{"ShutDownMqtt", true, false, mqtt.Accepted},
		{"InvokeThrottling", false, true, mqtt.ServerUnavailable},
		{"InvokeMaxMessageQuota", false, true, mqtt.Accepted},
		{"InvokeAuthError", true, true, mqtt.NotAuthorized},
		{"KillAmqpSession", false, false, mqtt.Accepted},
	} {
		t.Run(v.operation, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				c := b.join(pump)
				begin := time.Now()
				c.send(order(v.operation, later))
				if p, ok := c.next().(*packets.PubackPacket); !ok {
					t.Fatalf("got %v, want PUBACK", p)
				}
				time.Sleep(10 * time.Second) // the other timer is older
				synctest.Wait()
				if v.closes {
					if c.ended(); time.Since(begin) != 10*time.Second {
						t.Errorf("closed after %v, want 10s", time.Since(begin))
					}
				} else if c.send(publish(eventTopic, "x", 1)); v.telemetry {
					c.ended()
				} else {
					c.next()
				}
				b.checkCode(v.connect)
				time.Sleep(time.Minute)
				b.checkCode(mqtt.Accepted)
				want := 1 // the last one
				if !v.closes && !v.telemetry {
					want++
				}
				b.join(pump).publish(eventTopic, "x", 1)
				if got := len(b.events()); got != want {
					t.Errorf("%d messages are stored, want %d: orders are not telemetry", got, want)
				}
			})
		})
	}
}

// An order whose time has not come ends with its connection.
func TestOrderOfGoneDevice(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.send(order("InvokeThrottling", "&AzIoTHub_FaultOperationDelayInSecs=10&AzIoTHub_FaultOperationDurationInSecs=60"))
		c.next()
		c.disconnect()
		time.Sleep(20 * time.Second)
		b.checkCode(mqtt.Accepted)
	})
}

// checkCode connects and checks the answer.
func (b *bench) checkCode(want byte) {
	b.t.Helper()
	c := b.dial()
	c.send(b.hello(pump))
	if got, ok := c.next().(*packets.ConnackPacket); !ok || got.ReturnCode != want {
		b.t.Errorf("got %v, want code %d", got, want)
	}
}

// Ids may hold what MQTT has a meaning for (trap 9.40).
func TestOddIDs(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := registry.ID{Device: "a%2F#+?b"}
		b.add(registry.Identity{ID: id})
		p := b.hello(id)
		p.Password = []byte(b.policyToken("device", hostName))
		c, _ := b.enter(p)
		c.publish("devices/a%2F#+?b/messages/events/a=b", "x", 1)
		if got := b.events(); len(got) != 1 || got[0].Device != id.Device {
			t.Errorf("got %+v", got)
		}
	})
}
