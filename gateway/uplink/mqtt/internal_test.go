package mqtt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

func TestConfig(t *testing.T) {
	for key, c := range map[string]Config{
		"":          {DeviceID: "gate", KeyFile: "gate.key"},
		"device_id": {KeyFile: "gate.key"},
		"key_file":  {DeviceID: "gate"},
	} {
		e, ok := errors.AsType[*gateway.KeyError](c.Validate())
		if ok != (key != "") || ok && e.Key != key {
			t.Errorf("%+v: got %v", c, e)
		}
	}
}

func TestRefusals(t *testing.T) {
	for code, want := range map[byte]uplink.Remedy{
		1: uplink.BackOff, 2: uplink.Refused, 3: uplink.Throttled, 4: uplink.Refused, 5: uplink.Refused, 77: uplink.BackOff,
	} {
		got := uplink.BackOff
		if f, ok := errors.AsType[*uplink.Fault](refusal(code)); ok {
			got = f.Remedy
		}
		if got != want {
			t.Errorf("code %d: %v, want %v", code, got, want)
		}
	}
}

func TestNoTokenWithoutTrustedTime(t *testing.T) {
	cfg := dial.DefaultConfig()
	cfg.Host, cfg.Transport = "hub.test", dial.MQTT
	tr, err := New(cfg, "gate-7", nil, func() gateway.Instant { return gateway.Instant{} }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Dial(t.Context()); !errors.Is(err, errNoTime) {
		t.Errorf("got %v", err)
	}
}

// poor is a hub that hangs up on one message, or for a while on every one. The
// test plays the uplink: it sends in order, a window at a time, and again what was
// not accepted.
type poor struct {
	suspects suspects
	hates    int // a message, -1 for none
	closed   int // how many more messages are hung up on, whichever they are

	accepted, shelved []int
	pauses            int
}

// flying is a message that the uplink has handed over.
type flying struct {
	message   int
	condemned bool // it was not sent: its answer was there at once
}

// connection sends from..last until the hub hangs up, and returns the first
// message that is not settled.
func (p *poor) connection(from, last, window int) int {
	if p.suspects.probeDue() && !p.probe() {
		p.pauses++
		return from
	}
	var out []flying
	for next := from; from <= last; {
		for len(out) < window && next <= last {
			alone, err := p.suspects.admit(fmt.Sprint(next))
			if alone && len(out) > 0 {
				break // it waits for its turn
			}
			out = append(out, flying{next, err != nil})
			next++
			if alone {
				break
			}
		}
		first := out[0]
		if !first.condemned && (first.message == p.hates || p.closed > 0) {
			p.hangUp(out)
			return from
		}
		if first.condemned {
			p.shelved = append(p.shelved, first.message)
		} else {
			p.accepted = append(p.accepted, first.message)
			p.suspects.accepted(fmt.Sprint(first.message))
		}
		out = out[1:]
		from++
	}
	return from
}

func (p *poor) hangUp(out []flying) {
	p.closed = max(p.closed-1, 0)
	var names []string
	for _, f := range out {
		if !f.condemned {
			names = append(names, fmt.Sprint(f.message))
		}
	}
	p.suspects.lost(names, errHungUp)
}

func (p *poor) probe() (taken bool) {
	if p.closed > 0 {
		p.closed--
		p.suspects.lost([]string{probeName}, errHungUp)
		p.suspects.probed(false)
		return false
	}
	p.suspects.accepted(probeName)
	p.suspects.probed(true)
	return true
}

// TestOnlyTheMessageOnWhichTheHubHangsUpIsCondemned: whatever the window and
// however long the hub takes nothing, messages are accepted in order, and the one
// that the hub hates is the only one that is shelved.
func TestOnlyTheMessageOnWhichTheHubHangsUpIsCondemned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := rapid.IntRange(1, 60).Draw(t, "messages")
		p := &poor{
			hates:  rapid.IntRange(-1, last).Draw(t, "hated"),
			closed: rapid.IntRange(0, 40).Draw(t, "closed for"),
		}
		window := rapid.IntRange(1, 20).Draw(t, "window")
		connections := 0
		for from := 1; from <= last; connections++ {
			if from = p.connection(from, last, window); connections > 500 {
				t.Fatalf("still at message %d", from)
			}
		}
		var shelved, accepted []int
		for m := 1; m <= last; m++ {
			if m == p.hates {
				shelved = append(shelved, m)
				continue
			}
			accepted = append(accepted, m)
		}
		if !slices.Equal(p.shelved, shelved) || !slices.Equal(p.accepted, accepted) {
			t.Errorf("shelved %v, want %v; accepted %v", p.shelved, shelved, p.accepted)
		}
	})
}

func TestALineThatBreaksCondemnsNobody(t *testing.T) {
	var s suspects
	for range 100 {
		s.lost([]string{"a"}, errors.New("connection reset by peer"))
		s.lost(nil, errHungUp)
	}
	if alone, err := s.admit("a"); alone || err != nil {
		t.Errorf("alone %v, %v", alone, err)
	}
}

func TestAcknowledgementsGoOutInTheHubsOrder(t *testing.T) {
	var a acks
	now := time.Now()
	lock := now.Add(time.Minute)
	first, second, third := a.expect(1, lock), a.expect(2, lock.Add(time.Second)), a.expect(3, lock.Add(2*time.Second))
	unwanted := a.expect(0, lock.Add(2*time.Second))
	a.answer(third, gateway.Rejected)
	a.answer(second, gateway.Completed)
	a.answer(unwanted, gateway.Completed)
	if ids := a.due(now); len(ids) > 0 {
		t.Errorf("%v before the first", ids)
	}
	a.answer(first, gateway.Completed)
	if ids := a.due(now); !slices.Equal(ids, []uint16{1, 2, 3}) {
		t.Errorf("got %v", ids)
	}
	silent, later := a.expect(4, lock), a.expect(5, lock.Add(time.Hour))
	a.answer(later, gateway.Completed)
	if ids := a.due(lock.Add(time.Second)); !slices.Equal(ids, []uint16{5}) {
		t.Errorf("behind one that nobody answers: %v", ids)
	}
	a.answer(silent, gateway.Completed) // too late: it is the hub's again
	for _, v := range []gateway.Verdict{gateway.Abandoned, gateway.Undelivered} {
		a.answer(a.expect(6, lock), v)
	}
	if ids := a.due(now); len(ids) > 0 {
		t.Errorf("acknowledged %v, which no leaf has", ids)
	}
}

// FuzzReadPacket: whatever a hub says, reading it neither panics nor takes more
// memory than a packet may have.
func FuzzReadPacket(f *testing.F) {
	for _, p := range []packets.ControlPacket{
		&packets.ConnackPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Connack}},
		&packets.PubackPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Puback}, MessageID: 7},
		&packets.PublishPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Publish, Qos: 1}, TopicName: "a/b", MessageID: 1, Payload: []byte("x")},
		&packets.SubackPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Suback}, MessageID: 1, ReturnCodes: []byte{0x80}},
	} {
		var b bytes.Buffer
		if err := p.Write(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, wire []byte) {
		in := bufio.NewReader(bytes.NewReader(wire))
		for range 100 {
			p, err := readPacket(in)
			if err != nil {
				return
			}
			if m, ok := p.(*packets.PublishPacket); ok && len(m.Payload) > len(wire) {
				t.Errorf("a payload of %d bytes out of %d", len(m.Payload), len(wire))
			}
		}
	})
}
