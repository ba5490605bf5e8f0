package amqp

import (
	"bytes"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func drawSymbol(t *rapid.T, what string) Symbol {
	return Symbol(rapid.StringMatching(`[a-z:-]{1,20}`).Draw(t, what))
}

func drawMap(t *rapid.T, what string) Map {
	var m Map
	for range rapid.IntRange(0, 3).Draw(t, what) {
		m = append(m, Pair{drawSymbol(t, "key"), drawValue(t, 0)})
	}
	return m
}

func drawError(t *rapid.T) *Error {
	if rapid.Bool().Draw(t, "no error") {
		return nil
	}
	return &Error{drawSymbol(t, "condition"), rapid.String().Draw(t, "description"), drawMap(t, "info")}
}

func drawState(t *rapid.T) *State {
	outcome := rapid.SampledFrom([]Outcome{0, Received, Accepted, Rejected, Released, Modified}).Draw(t, "outcome")
	if outcome == 0 {
		return nil
	}
	s := &State{Outcome: outcome}
	if outcome == Rejected {
		s.Error = drawError(t)
	}
	return s
}

func drawTerminus(t *rapid.T, of func(string) *Terminus) *Terminus {
	if rapid.Bool().Draw(t, "no terminus") {
		return nil
	}
	return of(rapid.StringN(1, -1, -1).Draw(t, "address"))
}

// drawPerformative draws one of every kind, within what the wire can say: some
// fields mean nothing without another.
func drawPerformative(t *rapid.T) Performative {
	u32 := func(what string) uint32 { return rapid.Uint32().Draw(t, what) }
	flag := func(what string) bool { return rapid.Bool().Draw(t, what) }
	switch rapid.IntRange(0, 8).Draw(t, "performative") {
	case 0:
		return &Open{
			ContainerID: rapid.String().Draw(t, "container"), Hostname: rapid.String().Draw(t, "hostname"),
			MaxFrameSize: u32("frame"), ChannelMax: rapid.Uint16().Draw(t, "channels"), IdleTimeout: u32("idle"),
			Properties: drawMap(t, "properties"),
		}
	case 1:
		b := &Begin{
			Remote: flag("remote"), NextOutgoingID: u32("next"), IncomingWindow: u32("in"),
			OutgoingWindow: u32("out"), HandleMax: u32("handles"),
		}
		if b.Remote {
			b.RemoteChannel = rapid.Uint16().Draw(t, "channel")
		}
		return b
	case 2:
		a := &Attach{
			Name: rapid.String().Draw(t, "name"), Handle: u32("handle"), Receiver: flag("receiver"),
			SenderMode: rapid.Uint8().Draw(t, "snd"), ReceiverMode: rapid.Uint8().Draw(t, "rcv"),
			Source: drawTerminus(t, Source), Target: drawTerminus(t, Target),
			MaxMessageSize: rapid.Uint64().Draw(t, "size"), Properties: drawMap(t, "properties"),
		}
		if !a.Receiver {
			a.InitialDeliveryCount = u32("count")
		}
		return a
	case 3:
		f := &Flow{
			HasNextIncoming: flag("answers"), IncomingWindow: u32("in"), NextOutgoingID: u32("next"),
			OutgoingWindow: u32("out"), HasHandle: flag("of a link"), Echo: flag("echo"),
		}
		if f.HasNextIncoming {
			f.NextIncomingID = u32("expected")
		}
		if f.HasHandle {
			f.Handle, f.LinkCredit, f.Available, f.Drain = u32("handle"), u32("credit"), u32("available"), flag("drain")
			if f.HasDeliveryCount = flag("counts"); f.HasDeliveryCount {
				f.DeliveryCount = u32("count")
			}
		}
		return f
	case 4:
		x := &Transfer{Handle: u32("handle"), Settled: flag("settled"), More: flag("more"), Aborted: flag("aborted")}
		if x.HasDeliveryID = flag("first frame"); x.HasDeliveryID {
			x.DeliveryID, x.Format = u32("id"), u32("format")
			x.DeliveryTag = rapid.SliceOfN(rapid.Byte(), 1, 32).Draw(t, "tag")
		}
		return x
	case 5:
		return &Disposition{Receiver: flag("receiver"), First: u32("first"), Last: u32("last"), Settled: flag("settled"), State: drawState(t)}
	case 6:
		return &Detach{Handle: u32("handle"), Closed: flag("closed"), Error: drawError(t)}
	case 7:
		return &End{Error: drawError(t)}
	default:
		return &Close{Error: drawError(t)}
	}
}

// What is put into a frame comes out of it as it was, with what followed it.
func TestPerformativesSurvive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawPerformative(t)
		channel := rapid.Uint16().Draw(t, "channel")
		payload := rapid.SliceOf(rapid.Byte()).Draw(t, "payload")
		raw := AppendFrame(nil, channel, want, payload)
		if n, err := FrameSize(raw, math.MaxUint32); n != len(raw) || err != nil {
			t.Fatalf("size: got %d, %v, want %d", n, err, len(raw))
		}
		f, err := ParseFrame(raw)
		if err != nil || f.Type != FrameAMQP || f.Channel != channel {
			t.Fatalf("frame: got %+v, %v", f, err)
		}
		got, rest, err := ParsePerformative(f.Body)
		if err != nil {
			t.Fatalf("%#v: %v", want, err)
		}
		if !bytes.Equal(rest, payload) {
			t.Fatalf("payload: got %x, want %x", rest, payload)
		}
		if reflect.TypeOf(got) != reflect.TypeOf(want) {
			t.Fatalf("got %T, want %T", got, want)
		}
		// Termini keep what they came with, so equal means that it is said
		// again in the same bytes; the fields are then equal too.
		if again := AppendFrame(nil, channel, got.(Performative), payload); !bytes.Equal(again, raw) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if a, ok := got.(*Attach); ok {
			w := want.(*Attach)
			if !sameAddress(a.Source, w.Source) || !sameAddress(a.Target, w.Target) {
				t.Fatalf("got %+v, want %+v", a, w)
			}
			return
		}
		if !equivalent(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func sameAddress(a, b *Terminus) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Address == b.Address)
}

// equivalent compares performatives without maps field by field. Those with maps
// have been compared byte by byte, which a mix-up of two fields in both
// directions would pass.
func equivalent(a, b any) bool {
	switch a.(type) {
	case *Begin, *Flow, *Transfer:
		return reflect.DeepEqual(a, b)
	}
	return true
}

func FuzzPerformative(f *testing.F) {
	for _, p := range []Performative{
		&Open{ContainerID: "c", MaxFrameSize: 512}, &Begin{IncomingWindow: 1},
		&Attach{Name: "l", Source: Source("$cbs"), Target: Target("$cbs")}, &Flow{HasHandle: true, LinkCredit: 1},
		&Transfer{HasDeliveryID: true, DeliveryTag: []byte{1}}, &Disposition{State: &State{Outcome: Rejected, Error: &Error{Condition: "a:b"}}},
		&Detach{Closed: true}, &End{}, &Close{Error: &Error{Condition: "a:b"}},
	} {
		f.Add(p.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _, err := ParsePerformative(b)
		if err != nil {
			return
		}
		said := got.(Performative).append(nil)
		again, rest, err := ParsePerformative(said)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%+v cannot be read back: %v, %d bytes left", got, err, len(rest))
		}
		if twice := again.(Performative).append(nil); !bytes.Equal(twice, said) {
			t.Fatalf("%+v became %+v", got, again)
		}
	})
}

func FuzzSASLInit(f *testing.F) {
	f.Add([]byte{0, 0x53, 0x41, 0xc0, 0x10, 2, 0xa3, 5, 'P', 'L', 'A', 'I', 'N', 0xa0, 5, 0, 'u', 0, 'p', 'w'})
	f.Add([]byte{0, 0x53, 0x41, 0x45})
	f.Fuzz(func(t *testing.T, b []byte) {
		if init, err := ParseSASLInit(b); (init == nil) == (err == nil) {
			t.Fatalf("got %+v and %v", init, err)
		}
	})
}
