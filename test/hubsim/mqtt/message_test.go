package mqtt_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

func TestAcknowledgementsKeepTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := join(t, mqtt.Config{})
		var done []func(error)
		r.publish = func(_ mqtt.Publish, f func(error)) { done = append(done, f) }
		for id := range uint16(5) {
			c.send(publish("t", 1, 10+id))
		}
		c.send(publish("t", 0, 0))
		synctest.Wait()
		done[5](nil) // QoS 0: nothing to say
		done[1](nil)
		done[1](nil) // twice before its turn
		done[3](mqtt.ErrUnanswered)
		done[2](nil)
		synctest.Wait()
		if len(c.in) > 0 {
			t.Errorf("got %v before the first is acknowledged", c.next())
		}
		done[0](nil)
		done[4](nil)
		done[0](nil) // again after it has left
		if got, want := c.acks(6), []uint16{10, 11, 11, 12, 14, 10}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// An id is free again once it is acknowledged, and a client may send a message
// again.
func TestPacketIDReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := join(t, mqtt.Config{})
		var got []bool
		r.publish = func(p mqtt.Publish, done func(error)) {
			got = append(got, p.Duplicate)
			done(nil)
		}
		for i := range 3 {
			p := publish("t", 1, 7)
			p.Dup = i == 1
			c.send(p)
			c.acks(1)
		}
		if !slices.Equal(got, []bool{false, true, false}) {
			t.Errorf("duplicates: got %v", got)
		}
	})
}

// As many messages may wait for their acknowledgement as there are packet ids.
func TestUnansweredMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := join(t, mqtt.Config{})
		taken := 0
		r.publish = func(mqtt.Publish, func(error)) { taken++ }
		var all bytes.Buffer
		for id := range 1 << 16 {
			if err := publish("t", 1, uint16(id%0xffff)+1).Write(&all); err != nil {
				t.Fatal(err)
			}
		}
		c.write(all.Bytes())
		if err := c.ended(); err == nil || taken != 0xffff {
			t.Errorf("closed with %v after %d messages, want 65535", err, taken)
		}
	})
}

func TestRefusedMessage(t *testing.T) {
	for qos := range byte(2) {
		synctest.Test(t, func(t *testing.T) {
			c, r := join(t, mqtt.Config{})
			reason := errors.New("throttled")
			r.publish = func(_ mqtt.Publish, done func(error)) { done(reason) }
			c.send(publish("t", qos, uint16(qos)))
			if err := c.ended(); !errors.Is(err, reason) {
				t.Errorf("QoS %d: got %v, want %v", qos, err, reason)
			}
		})
	}
}

func TestSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := join(t, mqtt.Config{})
		acked := make(chan string, 100)
		for qos := range byte(2) {
			for n := range 2 {
				name := fmt.Sprintf("%d/%d", qos, n)
				r.conn.Send(name, []byte("x"), qos, func() { acked <- name })
			}
		}
		r.conn.SendAs(9, false, "as", []byte("x"), func() { acked <- "first" })
		r.conn.SendAs(9, true, "as", []byte("x"), func() { acked <- "second" })
		var got []string
		for range 6 {
			p := c.next().(*packets.PublishPacket)
			got = append(got, fmt.Sprint(p.TopicName, " ", p.Qos, " ", p.MessageID, " ", p.Dup))
		}
		want := []string{"0/0 0 0 false", "0/1 0 0 false", "1/0 1 1 false", "1/1 1 2 false", "as 1 9 false", "as 1 9 true"}
		if !slices.Equal(got, want) {
			t.Errorf("sent %v, want %v", got, want)
		}
		synctest.Wait() // those without acknowledgement are done
		c.send(puback(2), puback(77), puback(9), puback(9), puback(2))
		synctest.Wait()
		close(acked)
		var order []string
		for name := range acked {
			order = append(order, name)
		}
		if want := []string{"0/0", "0/1", "1/1", "second"}; !slices.Equal(order, want) {
			t.Errorf("acknowledged %v, want %v", order, want)
		}
	})
}

// The ids of messages in flight are not given again.
func TestPacketIDsOfSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := join(t, mqtt.Config{})
		r.conn.SendAs(1, false, "t", nil, nil)
		for range 3 {
			r.conn.Send("t", nil, 1, nil)
		}
		var ids []uint16
		for range 4 {
			ids = append(ids, c.next().(*packets.PublishPacket).MessageID)
		}
		if want := []uint16{1, 2, 3, 4}; !slices.Equal(ids, want) {
			t.Errorf("got %v, want %v", ids, want)
		}
	})
}

// What routes send while they judge a CONNECT or a SUBSCRIBE follows its answer.
func TestAnswersGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &routes{closed: make(chan bool, 1)}
		c := serve(t, mqtt.Config{}, func(conn *mqtt.Conn, _ mqtt.Login) (mqtt.Routes, bool, byte) {
			r.conn = conn
			conn.Send("early", nil, 0, nil)
			return r, true, mqtt.Accepted
		})
		r.subscribe = func(filter string, qos byte) (byte, error) {
			r.conn.Send("for "+filter, nil, 1, nil)
			if filter == "b" {
				return 0, errors.New("no")
			}
			return qos, nil
		}
		c.send(hello(60), subscribe(3, "a", "b"))
		var got []string
		for range 5 {
			got = append(got, strings.Fields(c.next().String())[0])
		}
		if want := "[CONNACK: PUBLISH: SUBACK: PUBLISH: PUBLISH:]"; fmt.Sprint(got) != want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := join(t, mqtt.Config{})
		r.subscribe = func(filter string, qos byte) (byte, error) {
			if filter == "no" {
				return 0, errors.New("no")
			}
			return min(qos, 1), nil
		}
		var gone []string
		r.unsubscribe = func(filter string) { gone = append(gone, filter) }
		p := subscribe(3, "a", "no", "b", "c")
		p.Qoss = []byte{0, 1, 2, 1}
		c.send(p)
		if got, ok := c.next().(*packets.SubackPacket); !ok || got.MessageID != 3 || !slices.Equal(got.ReturnCodes, []byte{0, 0x80, 1, 1}) {
			t.Errorf("got %v", got)
		}
		u := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
		u.MessageID, u.Topics = 4, []string{"a", "c"}
		c.send(u)
		if got, ok := c.next().(*packets.UnsubackPacket); !ok || got.MessageID != 4 || !slices.Equal(gone, u.Topics) {
			t.Errorf("got %v, and %v was unsubscribed", got, gone)
		}
	})
}

// A client that reads nothing is closed when too much waits for it.
func TestClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := join(t, mqtt.Config{})
		for range cap(c.in) + 2 { // holds the reader of the test up
			r.conn.Send("t", nil, 0, nil)
			synctest.Wait()
		}
		for range 9 {
			r.conn.Send("t", make([]byte, 512<<10), 0, nil)
		}
		if synctest.Wait(); len(r.closed) == 0 {
			t.Error("the connection is still there")
		}
	})
}
