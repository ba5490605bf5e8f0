package server_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
)

// welcome lets everyone in, with links that use all there is.
type welcome struct {
	links  []*server.Link // attached and not gone
	closed bool
}

func (w *welcome) Plain(_, password string) error {
	if password != "good" {
		return errors.New("a bad password")
	}
	return nil
}

// Attach gives the addresses their meaning: "refuse" refuses, "detach" goes with
// the first message, "end" takes its session along, "never" does not settle. A
// link on which the client receives gets what other links bring.
func (w *welcome) Attach(l *server.Link) (server.Endpoint, *amqp.Error) {
	if l.Address() == "refuse" {
		return server.Endpoint{}, &amqp.Error{Condition: amqp.CondNotFound}
	}
	w.links = append(w.links, l)
	e := server.Endpoint{Gone: func() { l.Send([]byte("too late"), false) }}
	if l.Receives {
		e.Pump = func() {
			for n := byte(0); n < 3 && l.Ready(); n++ {
				l.Deliver([]byte("delivered"), []byte{n}, func(amqp.State) { l.Send([]byte("again"), true) })
			}
			l.Idle()
		}
		return e, nil
	}
	e.Take = func(d server.Delivery) {
		for _, other := range w.links {
			if other.Receives {
				other.Send(d.Payload, d.Settled)
			}
		}
		switch l.Address() {
		case "detach":
			l.Detach(nil)
		case "end":
			l.EndSession(nil)
		case "never":
			return
		}
		d.Settle(amqp.State{Outcome: amqp.Accepted})
		d.Repeat(amqp.State{Outcome: amqp.Released})
	}
	return e, nil
}

func (w *welcome) Closed() { w.closed = true }

// conversation is what a client says after the header.
func conversation(said ...amqp.Performative) []byte {
	b := append([]byte(nil), amqp.HeaderAMQP[:]...)
	b = amqp.AppendFrame(b, 0, &amqp.Open{ContainerID: "fuzz", MaxFrameSize: 512, ChannelMax: 3}, nil)
	for _, p := range said {
		var payload []byte
		if _, ok := p.(*amqp.Transfer); ok {
			payload = (&amqp.Message{Data: [][]byte{make([]byte, 600)}}).Append(nil)
		}
		b = amqp.AppendFrame(b, 0, p, payload)
	}
	return b
}

// FuzzServe lets clients say anything. The server must neither panic nor stay,
// and must tell the routes of the end.
func FuzzServe(f *testing.F) {
	begin := &amqp.Begin{IncomingWindow: 2, OutgoingWindow: 9, HandleMax: 9}
	sender := func(handle uint32, address string) *amqp.Attach {
		return &amqp.Attach{Name: address, Handle: handle, Target: amqp.Target(address)}
	}
	receiver := &amqp.Attach{Name: "in", Handle: 7, Receiver: true, Source: amqp.Target("in")}
	credit := &amqp.Flow{
		HasNextIncoming: true, IncomingWindow: 9, HasHandle: true, Handle: 7,
		HasDeliveryCount: true, LinkCredit: 5, Drain: true, Echo: true,
	}
	settle := &amqp.Disposition{Receiver: true, First: 0, Last: 1 << 31, State: &amqp.State{Outcome: amqp.Accepted}}
	for _, said := range [][]amqp.Performative{
		{begin, receiver, credit, sender(1, "out"), &amqp.Transfer{Handle: 1, More: true}, &amqp.Transfer{Handle: 1}, settle, &amqp.Close{}},
		{begin, sender(1, "detach"), &amqp.Transfer{Handle: 1}, &amqp.Transfer{Handle: 1}, &amqp.Detach{Handle: 1, Closed: true}, sender(1, "never"), &amqp.Transfer{Handle: 1, Settled: true}},
		{begin, receiver, sender(1, "end"), &amqp.Transfer{Handle: 1, Aborted: true}, &amqp.Transfer{Handle: 1}, &amqp.End{}, begin, sender(1, "refuse")},
		{begin, sender(1, "twice"), sender(2, "twice"), sender(1, "handle")},
	} {
		f.Add(conversation(said...))
	}
	f.Add(append(amqp.HeaderSASL[:], "\x00\x00\x00\x20\x02\x01\x00\x00\x00\x53\x41\xc0\x13\x02\xa3\x05PLAIN\xa0\x07\x00u\x00good"...))
	f.Fuzz(func(t *testing.T, said []byte) {
		near, far := net.Pipe()
		// A server that stays must be found with what was said, and with stacks.
		stays := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("the server stays after %q", said)) })
		defer stays.Stop()
		w := &welcome{}
		var parts sync.WaitGroup
		parts.Go(func() {
			_ = server.Serve(far, server.Config{Credit: 4, Window: 6}, func(*server.Conn) server.Routes { return w })
		})
		parts.Go(func() { _, _ = io.Copy(io.Discard, near) })
		_, _ = near.Write(said)
		_ = near.Close()
		parts.Wait()
		if !w.closed {
			t.Error("the routes have not heard of the end")
		}
	})
}
