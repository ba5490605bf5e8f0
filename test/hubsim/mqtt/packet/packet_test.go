package packet_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt/packet"
)

const limit = 1 << 20

func read(b []byte) (any, error) { return packet.Read(bufio.NewReader(bytes.NewReader(b)), limit) }

// encode writes a packet with another codec than ours.
func encode(t testing.TB, kind byte, fill func(packets.ControlPacket)) []byte {
	t.Helper()
	p := packets.NewControlPacket(kind)
	fill(p)
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func connect(t testing.TB) []byte {
	return encode(t, packets.Connect, func(p packets.ControlPacket) {
		c := p.(*packets.ConnectPacket)
		c.ProtocolName, c.ProtocolVersion, c.ClientIdentifier, c.Keepalive = "MQTT", 4, "pump-1", 300
		c.UsernameFlag, c.Username, c.PasswordFlag, c.Password = true, "grün", true, []byte{0xff, 0}
		c.WillFlag, c.WillQos, c.WillRetain, c.WillTopic, c.WillMessage = true, 1, true, "will", []byte("gone")
	})
}

func publish(t testing.TB, size int) []byte {
	return encode(t, packets.Publish, func(p packets.ControlPacket) {
		c := p.(*packets.PublishPacket)
		c.TopicName, c.MessageID, c.Qos, c.Dup, c.Retain, c.Payload = "a/b", 500, 1, true, true, make([]byte, size)
	})
}

func subscribe(t testing.TB) []byte {
	return encode(t, packets.Subscribe, func(p packets.ControlPacket) {
		c := p.(*packets.SubscribePacket)
		c.MessageID, c.Topics, c.Qoss = 5, []string{"a/#", "b"}, []byte{0, 2}
	})
}

func unsubscribe(t testing.TB) []byte {
	return encode(t, packets.Unsubscribe, func(p packets.ControlPacket) {
		c := p.(*packets.UnsubscribePacket)
		c.MessageID, c.Topics = 6, []string{"a/#", "b"}
	})
}

func TestRead(t *testing.T) {
	for _, v := range []struct {
		bytes []byte
		want  any
	}{
		{connect(t), &packet.Connect{
			Level: 4, KeepAlive: 300, ClientID: "pump-1", HasUser: true, User: "grün", Password: []byte{0xff, 0},
			Will: &packet.Publish{Topic: "will", QoS: 1, Retain: true, Body: []byte("gone")},
		}},
		{publish(t, 200), &packet.Publish{Topic: "a/b", ID: 500, QoS: 1, Duplicate: true, Retain: true, Body: make([]byte, 200)}},
		{publish(t, 20000), &packet.Publish{Topic: "a/b", ID: 500, QoS: 1, Duplicate: true, Retain: true, Body: make([]byte, 20000)}},
		{subscribe(t), &packet.Subscribe{ID: 5, Filters: []packet.Filter{{"a/#", 0}, {"b", 2}}}},
		{unsubscribe(t), &packet.Unsubscribe{ID: 6, Topics: []string{"a/#", "b"}}},
		{[]byte{0x40, 2, 1, 2}, &packet.Puback{ID: 258}},
		{[]byte{0xc0, 0}, &packet.Pingreq{}},
		{[]byte{0xe0, 0}, &packet.Disconnect{}},
	} {
		got, err := read(v.bytes)
		if err != nil || !reflect.DeepEqual(got, v.want) {
			t.Errorf("got %+v and %v, want %+v", got, err, v.want)
		}
		for n := range min(len(v.bytes), 100) { // no beginning of a packet is one
			_, err := read(v.bytes[:n])
			if want := io.ErrUnexpectedEOF; n > 0 && !errors.Is(err, want) || n == 0 && err != io.EOF {
				t.Errorf("%d bytes of %T: got %v, want %v", n, v.want, err, want)
			}
		}
	}
}

// A packet whose parts do not fill it, or do not fit, is malformed.
func TestReadIsStrict(t *testing.T) {
	for _, whole := range [][]byte{connect(t), subscribe(t), unsubscribe(t), {0x40, 2, 1, 2}} {
		for n := 2; n < len(whole); n++ {
			short := bytes.Clone(whole[:n])
			short[1] = byte(n - 2)
			p, err := read(short)
			if betweenFilters(p) {
				continue
			}
			if !errors.Is(err, packet.ErrMalformed) {
				t.Errorf("%d of %d bytes of packet %x: got %+v and %v, want malformed", n, len(whole), whole[0], p, err)
			}
		}
		long := append(bytes.Clone(whole), 0)
		long[1]++
		if p, err := read(long); !errors.Is(err, packet.ErrMalformed) {
			t.Errorf("one byte more of packet %x: got %+v and %v, want malformed", whole[0], p, err)
		}
	}
}

// betweenFilters says whether a packet was cut where it might have ended.
func betweenFilters(p any) bool {
	switch p := p.(type) {
	case *packet.Subscribe:
		return len(p.Filters) == 1
	case *packet.Unsubscribe:
		return len(p.Topics) == 1
	}
	return false
}

func TestConnectFlags(t *testing.T) {
	for flags, ok := range map[byte]bool{
		0x00: true, 0x02: true,
		0x01: false, // reserved
		0x40: false, // password without user
		0x08: false, // QoS of no will
		0x20: false, // retain of no will
		0x1c: false, // will with QoS 3
	} {
		_, err := read([]byte("\x10\x12\x00\x04MQTT\x04" + string(rune(flags)) + "\x00\x3c\x00\x06pump-1"))
		if (err == nil) != ok {
			t.Errorf("flags %#x: got %v", flags, err)
		}
	}
}

func TestTooLarge(t *testing.T) {
	b := publish(t, 1000)
	if _, err := packet.Read(bufio.NewReader(bytes.NewReader(b)), 1006); err == nil {
		t.Error("a packet above the limit was read")
	}
	_, err := packet.Read(bufio.NewReader(strings.NewReader("\x30\xff\xff\xff\x7f")), limit)
	if !errors.Is(err, packet.ErrTooLarge) {
		t.Errorf("got %v, want too large", err)
	}
}

// What we write, another codec reads.
func TestAppend(t *testing.T) {
	for _, v := range []struct {
		bytes []byte
		want  string
	}{
		{packet.AppendConnack(nil, true, 0), "*packets.ConnackPacket true 0"},
		{packet.AppendConnack(nil, false, 5), "*packets.ConnackPacket false 5"},
		{packet.AppendPuback(nil, 258), "*packets.PubackPacket 258"},
		{packet.AppendSuback(nil, 258, []byte{0, 1, packet.Refused}), "*packets.SubackPacket 258 [0 1 128]"},
		{packet.AppendUnsuback(nil, 258), "*packets.UnsubackPacket 258"},
		{packet.AppendPingresp(nil), "*packets.PingrespPacket"},
	} {
		p, err := packets.ReadPacket(bytes.NewReader(v.bytes))
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%T", p)
		switch p := p.(type) {
		case *packets.ConnackPacket:
			got += fmt.Sprint(" ", p.SessionPresent, " ", p.ReturnCode)
		case *packets.PubackPacket:
			got += fmt.Sprint(" ", p.MessageID)
		case *packets.SubackPacket:
			got += fmt.Sprint(" ", p.MessageID, " ", p.ReturnCodes)
		case *packets.UnsubackPacket:
			got += fmt.Sprint(" ", p.MessageID)
		}
		if got != v.want {
			t.Errorf("got %s, want %s", got, v.want)
		}
	}
}

func TestAppendPublish(t *testing.T) {
	for _, size := range []int{0, 1, 120, 130, 20000, 3 << 20} {
		for qos := range byte(2) {
			want := packet.Publish{Topic: "a/b", QoS: qos, ID: uint16(qos) * 9, Duplicate: qos > 0, Retain: true, Body: make([]byte, size)}
			b := packet.AppendPublish([]byte("before"), &want)
			p, err := packets.ReadPacket(bytes.NewReader(b[len("before"):]))
			if err != nil {
				t.Fatal(err)
			}
			got := p.(*packets.PublishPacket)
			if got.TopicName != want.Topic || got.Qos != qos || got.MessageID != want.ID || got.Dup != want.Duplicate ||
				!got.Retain || len(got.Payload) != size {
				t.Errorf("got %v, want %d bytes with QoS %d", got.FixedHeader, size, qos)
			}
		}
	}
}

// FuzzRead reads anything. What is read as a PUBLISH is written as it was.
func FuzzRead(f *testing.F) {
	for _, b := range [][]byte{connect(f), publish(f, 10), subscribe(f), unsubscribe(f), {0x40, 2, 1, 2}, {0xc0, 0}, {0x10, 0xff, 0xff, 0x7f}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := read(b)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v and %v", p, err)
		}
		published, ok := p.(*packet.Publish)
		if !ok {
			return
		}
		again, err := read(packet.AppendPublish(nil, published))
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("got %+v and %v, want %+v", again, err, p)
		}
	})
}
