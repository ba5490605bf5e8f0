package mqttsn_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
)

// field is many leaves behind a concentrator, on a line that loses frames both ways
// and adds noise.
type field struct {
	b    *bench
	loss float64

	mu     sync.Mutex
	random *rand.Rand // guarded by mu, like the writing end of the line
	leaves map[string]*fieldLeaf
}

// fieldLeaf is a simple client: one message at a time, each sent again until it is
// answered.
type fieldLeaf struct {
	f     *field
	id    string
	node  byte
	in    chan *mqttsn.Message
	acked []string
	heard []string // bodies of commands
}

func (f *field) chance(p float64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.Float64() < p
}

// send writes a message, or loses it.
func (x *fieldLeaf) send(m *mqttsn.Message) {
	if x.f.chance(x.f.loss) {
		return
	}
	frame := hdlc.Append(nil, append([]byte{4, 0xFE, 0, x.node}, m.Append(nil)...), false)
	x.f.mu.Lock()
	defer x.f.mu.Unlock()
	if x.f.random.Float64() < x.f.loss {
		frame[x.f.random.IntN(len(frame))] ^= 1 << x.f.random.IntN(8)
	}
	if x.f.random.Float64() < x.f.loss {
		noise := make([]byte, x.f.random.IntN(40))
		for i := range noise {
			noise[i] = byte(x.f.random.Uint32())
		}
		frame = append(frame, noise...)
	}
	if _, err := x.f.b.line.end.Write(frame); err != nil {
		panic(err)
	}
}

// listen passes on what the gateway sends.
func (f *field) listen(frame []byte) {
	if f.chance(f.loss) || len(frame) < 4 || frame[1] != 0xFE {
		return
	}
	m, err := mqttsn.Parse(slices.Clone(frame[4:]))
	if err != nil {
		panic(err)
	}
	for _, x := range f.leaves {
		if x.node == frame[3] {
			x.in <- m
		}
	}
}

// ask sends a message until it is answered, false when it gives up or is told that
// it is not connected.
func (x *fieldLeaf) ask(m *mqttsn.Message, answered func(*mqttsn.Message) bool) bool {
	for range 6 {
		x.send(m)
		m.Flags.DUP = m.Type == mqttsn.Publish
		timer := time.NewTimer(3 * time.Second)
		for waiting := true; waiting; {
			select {
			case <-timer.C:
				waiting = false
			case in := <-x.in:
				if answered(in) {
					timer.Stop()
					return true
				}
				if in.Type == mqttsn.Disconnect {
					timer.Stop()
					return false
				}
				x.serve(in)
			}
		}
	}
	return false
}

// serve answers what the gateway asks.
func (x *fieldLeaf) serve(m *mqttsn.Message) {
	switch m.Type {
	case mqttsn.Register:
		x.send(&mqttsn.Message{Type: mqttsn.RegAck, TopicID: m.TopicID, MessageID: m.MessageID})
	case mqttsn.Publish:
		x.heard = append(x.heard, string(m.Data))
		x.send(&mqttsn.Message{Type: mqttsn.PubAck, TopicID: m.TopicID, MessageID: m.MessageID})
	}
}

// run connects, subscribes and publishes so many messages, then listens until stop
// is closed. The gateway gives up a leaf whose acknowledgements it does not hear, so
// the leaf asks now and then whether it still counts, as the specification wants of
// it, and comes again when it does not.
func (x *fieldLeaf) run(count int, stop <-chan struct{}) {
	id := uint16(0)
	for n := 0; n < count; {
		if !x.join(&id) {
			continue
		}
		for ; n < count; n++ {
			id++
			body := fmt.Sprintf("%s %d", x.id, n)
			if !x.ask(&mqttsn.Message{
				Type: mqttsn.Publish, MessageID: id, TopicID: 1, Data: []byte(body),
				Flags: mqttsn.Flags{QoS: 1, Topic: mqttsn.Predefined},
			}, func(m *mqttsn.Message) bool {
				return m.Type == mqttsn.PubAck && m.MessageID == id && m.Code == mqttsn.Accepted
			}) {
				break
			}
			x.acked = append(x.acked, body)
		}
	}
	ping := time.NewTicker(time.Minute)
	defer ping.Stop()
	for joined := true; ; {
		select {
		case m := <-x.in:
			x.serve(m)
			joined = joined && m.Type != mqttsn.Disconnect
		case <-ping.C:
			joined = joined && x.ask(&mqttsn.Message{Type: mqttsn.PingReq}, func(m *mqttsn.Message) bool { return m.Type == mqttsn.PingResp })
			joined = joined || x.join(&id)
		case <-stop:
			return
		}
	}
}

// join connects and subscribes, false when that is not answered.
func (x *fieldLeaf) join(id *uint16) bool {
	if !x.ask(&mqttsn.Message{Type: mqttsn.Connect, Protocol: mqttsn.Protocol, Duration: 600, Text: []byte(x.id)},
		func(m *mqttsn.Message) bool { return m.Type == mqttsn.ConnAck && m.Code == mqttsn.Accepted }) {
		return false
	}
	*id++
	return x.ask(&mqttsn.Message{Type: mqttsn.Subscribe, MessageID: *id, Flags: mqttsn.Flags{QoS: 1}, Named: true, Text: []byte("leaf/" + x.id + "/command/+")},
		func(m *mqttsn.Message) bool { return m.Type == mqttsn.SubAck && m.MessageID == *id })
}

// A hundred leaves on one line that loses one frame in seven, both ways, garbles as
// many and is noisy: all that was acknowledged is in custody, in order; each command
// arrives and is complete.
func TestHundredLeavesOnALossyLine(t *testing.T) {
	const leaves, messages, commands = 100, 20, 3
	seed := time.Now().UnixNano() // in the bubble it would always be the same
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		var ids []string
		for i := range leaves {
			ids = append(ids, fmt.Sprintf("leaf-%03d", i))
		}
		b := newBench(t, nil, ids...)
		f := &field{b: b, loss: 0.15, random: rand.New(rand.NewPCG(uint64(seed), 1)), leaves: make(map[string]*fieldLeaf)}
		for i, id := range ids {
			f.leaves[id] = &fieldLeaf{f: f, id: id, node: byte(i + 1), in: make(chan *mqttsn.Message, 1000)}
		}
		b.line.tap(f.listen)
		b.set(func(c *custody) {
			c.fate = func(*gateway.Message) error {
				if f.chance(0.05) {
					return gateway.ErrStoreFull
				}
				return nil
			}
		})
		stop := make(chan struct{})
		var running sync.WaitGroup
		for _, x := range f.leaves {
			running.Go(func() { x.run(messages, stop) })
		}
		var heard []<-chan gateway.Verdict
		for n := range commands {
			for _, id := range ids {
				heard = append(heard, b.command(id, "", uint64(n+1), fmt.Sprintf("command %d", n)))
			}
		}
		time.Sleep(20 * time.Minute)
		b.down.LinkDown() // what the hub has back is left as copies
		time.Sleep(20 * time.Minute)
		close(stop)
		running.Wait()
		f.check(t, messages, commands)
		b.stop()
		completed := 0
		for _, h := range heard {
			for len(h) > 0 {
				if v := <-h; v == gateway.Completed {
					completed++
				} else if v != gateway.Undelivered {
					t.Errorf("a command is %v", v)
				}
			}
		}
		t.Logf("%d of %d commands were complete while the hub's lock lasted; counts %v", completed, leaves*commands, b.state().Counts)
		if completed < leaves {
			t.Errorf("only %d commands were complete in time", completed)
		}
	})
}

func (f *field) check(t *testing.T, messages, commands int) {
	first := make(map[string]int)
	for i, text := range f.b.texts() {
		if _, seen := first[text]; !seen {
			first[text] = i
		}
	}
	for _, x := range f.leaves {
		if len(x.acked) != messages {
			t.Errorf("%s: %d of %d acknowledged", x.id, len(x.acked), messages)
		}
		last := -1
		for _, text := range x.acked {
			at, taken := first[text]
			if !taken || at < last {
				t.Errorf("%q was acknowledged: in custody %v, in order %v", text, taken, at >= last)
			}
			last = at
		}
		for n := range commands {
			if want := fmt.Sprintf("command %d", n); !slices.Contains(x.heard, want) {
				t.Errorf("%s has not heard %q: %q", x.id, want, x.heard)
			}
		}
	}
}
