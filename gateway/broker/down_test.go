package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

const commandsFilter = "devices/pump-1/messages/devicebound/#"

// listen subscribes with a quality of service and waits for SUBACK.
func (w *wire) listen(qos byte, filters ...string) {
	w.Helper()
	body := []byte{0, 9}
	if w.version == version5 {
		body = append(body, 0)
	}
	want := []byte{0, 9}
	if w.version == version5 {
		want = append(want, 0)
	}
	for _, f := range filters {
		body = append(append(body, text(f)...), qos)
		want = append(want, min(qos, 1))
	}
	w.send(frame(0x82, body))
	w.expect("SUBACK", 0x90, want...)
}

// delivery is a PUBLISH that a leaf has received.
type delivery struct {
	topic, body string
	qos         byte
	dup         bool
	id          uint16
	properties  string
	retained    bool
}

func (w *wire) parse(first byte, body []byte) delivery {
	w.Helper()
	if first>>4 != typePublish {
		w.Fatalf("got % x | % x instead of PUBLISH", first, body)
	}
	d := delivery{qos: first >> 1 & 3, dup: first&8 != 0, retained: first&1 != 0}
	s := scanner{rest: body}
	d.topic = string(s.text())
	if d.qos > 0 {
		d.id = s.uint16()
	}
	if w.version == version5 {
		d.properties = string(s.take(s.varint()))
	}
	d.body = string(s.rest)
	if s.err != nil {
		w.Fatalf("malformed PUBLISH % x | % x", first, body)
	}
	return d
}

func (w *wire) receive() delivery {
	w.Helper()
	return w.parse(w.packet())
}

func (w *wire) acknowledge(id uint16, reason ...byte) {
	w.send(frame(0x40, append([]byte{byte(id >> 8), byte(id)}, reason...)))
}

// verdicts collects what became of commands, in the order in which it is said.
type verdicts struct {
	mu  sync.Mutex
	all []string
}

func (v *verdicts) of(name string) func(gateway.Verdict) {
	return func(x gateway.Verdict) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.all = append(v.all, name+" "+x.String())
	}
}

func (v *verdicts) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.all, ", ")
}

func command(n int) *gateway.Command {
	return &gateway.Command{
		Leaf: "pump-1", Body: fmt.Appendf(nil, "c%d", n), Number: uint64(n), Enqueued: time.UnixMilli(1000),
		System: gateway.System{MessageID: "m"}, Properties: []gateway.Property{{Name: "a b", Value: "c&d"}},
	}
}

func (b *bench) command(v *verdicts, numbers ...int) {
	for _, n := range numbers {
		b.b.Command(command(n), v.of(fmt.Sprintf("c%d", n)))
	}
}

func (b *bench) untilSaid(v *verdicts, want string) {
	b.Helper()
	b.until(want, func() bool { return v.text() == want })
}

func (b *bench) untilWants(want gateway.Interest) {
	b.Helper()
	b.until(fmt.Sprintf("attended with %b", want), func() bool { return b.desk.of("pump-1") == want })
}

func TestCommandsWaitForTheLeafsWord(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		w := b.leaf("pump-1", version)
		var v verdicts
		b.command(&v, 1)
		b.untilSaid(&v, "c1 undelivered") // nobody listens
		w.listen(1, commandsFilter)
		b.untilWants(gateway.WantsCommands)
		b.command(&v, 2, 3)
		first, second := w.receive(), w.receive()
		topic := "devices/pump-1/messages/devicebound/%24.to=%2Fdevices%2Fpump-1%2Fmessages%2FdeviceBound&%24.mid=m&a%20b=c%26d"
		for i, got := range []delivery{first, second} {
			if want := (delivery{topic: topic, body: fmt.Sprintf("c%d", i+2), qos: 1, id: uint16(i + 1)}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		w.alive()
		w.acknowledge(second.id)
		w.acknowledge(first.id)
		b.untilSaid(&v, "c1 undelivered, c3 completed, c2 completed")

		// A leaf that publishes under the same packet id does not acknowledge.
		b.command(&v, 4)
		got := w.receive()
		w.publish(got.id, topic1, "x")
		w.puback(got.id)
		w.acknowledge(got.id)
		b.untilSaid(&v, "c1 undelivered, c3 completed, c2 completed, c4 completed")
		w.acknowledge(got.id) // nothing more to acknowledge
		w.acknowledge(999)
		w.alive()
	})
}

func TestCommandVerdicts5(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version5)
	w.listen(1, commandsFilter)
	for _, tc := range []struct {
		reason byte
		want   gateway.Verdict
	}{
		{0, gateway.Completed},
		{0x10, gateway.Completed},
		{0x80, gateway.Rejected},
		{0x87, gateway.Rejected},
		{0x93, gateway.Abandoned},
		{0x97, gateway.Abandoned},
		{0x99, gateway.Rejected},
	} {
		var v verdicts
		b.command(&v, int(tc.reason)+1)
		w.acknowledge(w.receive().id, tc.reason)
		b.untilSaid(&v, fmt.Sprintf("c%d %v", int(tc.reason)+1, tc.want))
	}
}

func TestCommandsWithQoS0AreCompletedWhenWritten(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version311)
	w.listen(0, commandsFilter)
	var v verdicts
	b.command(&v, 1)
	if got := w.receive(); got.qos != 0 || got.body != "c1" {
		t.Errorf("got %+v", got)
	}
	b.untilSaid(&v, "c1 completed")
}

// No more than a window is in flight; the rest follows as the leaf acknowledges.
func TestCommandWindow(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hello hello
		want  int
	}{
		{"ours", hello{version: version311}, window},
		{"the leaf's", hello{version: version5, props: []byte{33, 0, 3}}, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, nil)
			w := b.dial()
			h := tc.hello
			h.clientID, h.user, h.password = "pump-1", hubUser("pump-1"), b.token("pump-1")
			w.connect(h)
			w.listen(1, commandsFilter)
			var v verdicts
			const n = 40
			var want []string
			for i := range n {
				b.command(&v, i+1)
				want = append(want, fmt.Sprintf("c%d completed", i+1))
			}
			var open []delivery
			for len(open) < tc.want {
				open = append(open, w.receive())
			}
			w.alive() // and no more
			for i := range n {
				if open[i].body != fmt.Sprintf("c%d", i+1) {
					t.Fatalf("command %d is %+v", i+1, open[i])
				}
				w.acknowledge(open[i].id)
				if len(open) < n {
					open = append(open, w.receive())
				}
			}
			b.untilSaid(&v, strings.Join(want, ", "))
		})
	}
}

// What a kept session had not acknowledged comes again as a copy with its packet
// id, and not at all once it was acknowledged, be it late.
func TestRedelivery(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		connect := func() (*wire, bool) {
			w := b.dial()
			_, present := w.connect(hello{
				version: version, clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true,
				props: []byte{17, 0, 0, 1, 0},
			})
			return w, present
		}
		w, _ := connect()
		w.listen(1, commandsFilter)
		var v verdicts
		b.command(&v, 1, 2, 3)
		sent := []delivery{w.receive(), w.receive(), w.receive()}
		w.acknowledge(sent[1].id)
		b.untilSaid(&v, "c2 completed")
		w.c.Close()
		b.untilSaid(&v, "c2 completed, c1 undelivered, c3 undelivered")
		b.untilWants(gateway.WantsCommands | gateway.Asleep)

		w, present := connect()
		if !present {
			t.Fatal("session is not present")
		}
		b.untilWants(gateway.WantsCommands)
		w.acknowledge(sent[2].id) // late
		w.alive()
		b.command(&v, 1, 3, 4)
		again, fresh := w.receive(), w.receive()
		if !again.dup || again.id != sent[0].id || again.body != "c1" {
			t.Errorf("redelivered as %+v, was %+v", again, sent[0])
		}
		if fresh.dup || fresh.body != "c4" || fresh.id == again.id || fresh.id == sent[2].id && version == 0 {
			t.Errorf("a new command as %+v", fresh)
		}
		w.acknowledge(again.id)
		w.acknowledge(fresh.id)
		b.untilSaid(&v, "c2 completed, c1 undelivered, c3 undelivered, c3 completed, c1 completed, c4 completed")
	})
}

// Subscriptions of a kept session survive the gateway, without a write at each
// connection; the leaf counts as asleep meanwhile, right after the start.
func TestSessionsSurviveTheGateway(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		connect := func(keep bool) (*wire, bool) {
			w := b.dial()
			h := hello{version: version, clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: keep}
			if keep {
				h.props = []byte{17, 0, 0, 1, 0}
			}
			_, present := w.connect(h)
			return w, present
		}
		w, _ := connect(true)
		w.listen(1, commandsFilter)
		w.listen(0, "$iothub/twin/res/#", "$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#")
		w.listen(1, commandsFilter) // no news
		kept, writes := b.notes.count()
		if kept != 1 || writes != 2 {
			t.Errorf("%d sessions on flash after %d writes, want 1 after 2", kept, writes)
		}
		all := gateway.WantsCommands | gateway.WantsCalls | gateway.WantsDesired
		b.untilWants(all)
		b.end()
		b.desk.Attend("pump-1", nil, 0)
		b.start()
		b.untilWants(all | gateway.Asleep)
		if n := b.b.State().Asleep; n != 1 {
			t.Errorf("%d sessions asleep, want 1", n)
		}
		w, present := connect(true)
		if !present {
			t.Error("session is not present after a restart")
		}
		b.untilWants(all)
		var v verdicts
		b.command(&v, 1)
		if got := w.receive(); got.qos != 1 || got.body != "c1" {
			t.Errorf("got %+v", got)
		}
		b.twins.document["pump-1"] = "{}"
		w.publish(0, "$iothub/twin/GET/?$rid=7", " ")
		if got := w.receive(); got.topic != "$iothub/twin/res/200/?$rid=7" {
			t.Errorf("got %+v", got)
		}
		if _, now := b.notes.count(); now != writes {
			t.Errorf("a connection without news cost %d writes", now-writes)
		}

		// A leaf that wants a clean session has none later.
		if _, present = connect(false); present {
			t.Error("a clean session is present")
		}
		b.until("forgotten on flash", func() bool { kept, _ := b.notes.count(); return kept == 0 })
		w.expectClosed()
		b.end()
		b.start()
		if n := b.b.State().Asleep; n != 0 {
			t.Errorf("%d sessions asleep, want none", n)
		}
	})
}

// SUBACK waits for flash, and comes all the same when flash fails.
func TestSubscriptionIsOnFlashWhenGranted(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version311)
	b.notes.block = make(chan struct{})
	w.subscribe(1, "$iothub/twin/res/#")
	other := b.leaf("pump-2", version311)
	other.alive()
	if b.desk.of("pump-1") != 0 {
		t.Error("attended before it is granted")
	}
	close(b.notes.block)
	w.expect("SUBACK", 0x90, 0, 1)
	b.notes.mu.Lock()
	b.notes.fail = gateway.ErrStoreFull
	b.notes.mu.Unlock()
	w.subscribe(2, commandsFilter)
	w.expect("SUBACK", 0x90, 0, 2, 1)
	b.untilWants(gateway.WantsCommands)
}

// A session that is away longer than it may be is forgotten, in memory and on
// flash.
func TestSessionExpires(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	w.connect(hello{version: version5, clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true, props: []byte{17, 0, 0, 0, 9}})
	w.listen(1, commandsFilter)
	w.send([]byte{0xe0, 0})
	w.expectClosed()
	b.untilWants(gateway.WantsCommands | gateway.Asleep)
	b.b.expireSessions(time.Now().Add(8 * time.Second))
	if b.b.State().Asleep != 1 {
		t.Error("expired too early")
	}
	b.b.expireSessions(time.Now().Add(9 * time.Second))
	if b.b.State().Asleep != 0 {
		t.Error("not expired")
	}
	b.untilWants(0)
	b.until("forgotten on flash", func() bool { kept, _ := b.notes.count(); return kept == 0 })
}

// An MQTT 5 leaf may end its session with its goodbye, but not make one of it
// that it had not asked for.
func TestSessionExpiryInDisconnect(t *testing.T) {
	b := newBench(t, nil)
	connect := func(seconds byte) *wire {
		w := b.dial()
		w.connect(hello{version: version5, clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true, props: []byte{17, 0, 0, 0, seconds}})
		return w
	}
	w := connect(9)
	w.listen(1, commandsFilter)
	w.send(frame(0xe0, []byte{0, 5, 17, 0, 0, 0, 0}))
	w.expectClosed()
	b.untilWants(0)
	b.until("forgotten on flash", func() bool { kept, _ := b.notes.count(); return kept == 0 })
	w = connect(0)
	w.send(frame(0xe0, []byte{0, 5, 17, 0, 0, 0, 9}))
	w.expect("DISCONNECT, protocol error", 0xe0, 0x82)
	w.expectClosed()
}

// A leaf that comes back while its old connection still stands is said to have
// stopped listening in between: what was on its way may be lost.
func TestTakeoverIsAnnounced(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version311)
	w.listen(1, "$iothub/twin/PATCH/properties/desired/#")
	b.untilWants(gateway.WantsDesired)
	heard := make(chan struct{}, 1)
	b.b.Desired("pump-1", []byte(`{"a":1,"$version":5}`), 5, func() { heard <- struct{}{} })
	if got := w.receive(); got.topic != "$iothub/twin/PATCH/properties/desired/?$version=5" || got.qos != 1 {
		t.Errorf("got %+v", got)
	}
	again := b.leaf("pump-1", version311)
	w.expectClosed()
	again.alive()
	b.until("listening again", func() bool {
		return slices.Equal(b.desk.all("pump-1"), []gateway.Interest{
			gateway.WantsDesired, gateway.WantsDesired | gateway.Asleep, gateway.WantsDesired,
		})
	})
	if len(heard) > 0 {
		t.Error("heard without an acknowledgement")
	}
	b.b.Desired("pump-1", []byte(`{"a":1,"$version":5}`), 5, func() { heard <- struct{}{} })
	again.acknowledge(again.receive().id)
	select {
	case <-heard:
	case <-time.After(patience):
		t.Error("not heard after PUBACK")
	}
}

func TestTwinRequests(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		b.twins.document["pump-1"] = `{"desired":{"$version":2},"reported":{"$version":3}}`
		w := b.leaf("pump-1", version)
		w.publish(0, "$iothub/twin/GET/?$rid=1", " ") // nobody listens: no answer
		w.alive()
		w.listen(0, "$iothub/twin/res/#")
		for _, tc := range []struct {
			age   time.Duration
			err   error
			topic string
			body  string
		}{
			{0, nil, "$iothub/twin/res/200/?$rid=a-1", b.twins.document["pump-1"]},
			{1500 * time.Millisecond, nil, "$iothub/twin/res/200/?$rid=a-1&fieldgate-age=2", b.twins.document["pump-1"]},
			{-1, nil, "$iothub/twin/res/200/?$rid=a-1&fieldgate-age=unknown", b.twins.document["pump-1"]},
			{0, gateway.ErrNoTwin, "$iothub/twin/res/503/?$rid=a-1", `"errorCode":503003`},
			{0, &gateway.TwinError{Status: 404, Code: 404001, Message: "gone"}, "$iothub/twin/res/404/?$rid=a-1", `"errorCode":404001`},
		} {
			b.twins.mu.Lock()
			b.twins.age, b.twins.err = tc.age, tc.err
			b.twins.mu.Unlock()
			w.publish(0, "$iothub/twin/GET/?$rid=a-1", " ")
			if got := w.receive(); got.topic != tc.topic || !strings.Contains(got.body, tc.body) {
				t.Errorf("got %+v, want %s %s", got, tc.topic, tc.body)
			}
		}
		b.twins.mu.Lock()
		b.twins.age, b.twins.err = 0, nil
		b.twins.mu.Unlock()
		w.publish(7, "$iothub/twin/PATCH/properties/reported/?$rid=2&$version=9", `{"a":1}`)
		seen := []string{}
		for range 2 { // the acknowledgement and the answer come in any order
			first, body := w.packet()
			if first == 0x40 {
				seen = append(seen, fmt.Sprint("PUBACK ", body[1]))
				continue
			}
			seen = append(seen, w.parse(first, body).topic)
		}
		slices.Sort(seen)
		if want := []string{"$iothub/twin/res/204/?$rid=2&$version=1", "PUBACK 7"}; !slices.Equal(seen, want) {
			t.Errorf("got %q, want %q", seen, want)
		}
		b.twins.mu.Lock()
		b.twins.err = &gateway.TwinError{Status: 400, Code: 400004, Message: "bad"}
		b.twins.mu.Unlock()
		w.publish(0, "$iothub/twin/PATCH/properties/reported/?$rid=3", `{`)
		if got := w.receive(); got.topic != "$iothub/twin/res/400/?$rid=3" || !strings.Contains(got.body, `"errorCode":400004`) {
			t.Errorf("got %+v", got)
		}
		if r := b.twins.reported(); len(r) != 2 || r[0].leaf != "pump-1" || r[0].patch != `{"a":1}` {
			t.Errorf("reported %+v", r)
		}
	})
}

// A patch in custody has no version yet.
func TestReportInCustody(t *testing.T) {
	b := newBench(t, nil)
	b.twins.hold = true
	w := b.leaf("pump-1", version311)
	w.listen(0, "$iothub/twin/res/#")
	w.publish(0, "$iothub/twin/PATCH/properties/reported/?$rid=1", `{}`)
	b.until("reported", func() bool { return len(b.twins.reported()) == 1 })
	w.alive()
	b.twins.reported()[0].done(0, nil)
	if got := w.receive(); got.topic != "$iothub/twin/res/204/?$rid=1" || got.body != "" {
		t.Errorf("got %+v", got)
	}
}

// Requests beyond the bound are refused, and the leaf can go on meanwhile.
func TestTooManyRequests(t *testing.T) {
	b := newBench(t, nil)
	b.twins.block = make(chan struct{})
	w := b.leaf("pump-1", version311)
	w.listen(0, "$iothub/twin/res/#")
	for i := range maxRequests + 1 {
		w.publish(0, fmt.Sprintf("$iothub/twin/GET/?$rid=%d", i), " ")
	}
	if got := w.receive(); got.topic != fmt.Sprintf("$iothub/twin/res/429/?$rid=%d", maxRequests) || !strings.Contains(got.body, "429001") {
		t.Errorf("got %+v", got)
	}
	w.publish(1, topic1, "x")
	w.puback(1)
	close(b.twins.block)
	for range maxRequests {
		w.receive()
	}
}

func TestPlainTwin(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		b.twins.document["pump-1"] = "{}"
		w := b.leaf("pump-1", version)
		w.listen(1, "leaf/pump-1/twin/+")
		b.untilWants(gateway.WantsDesired)
		w.publish(0, "leaf/pump-1/twin/get", "")
		if got := w.receive(); got.topic != "leaf/pump-1/twin/document" || got.body != "{}" {
			t.Errorf("got %+v", got)
		}
		b.b.Desired("pump-1", []byte("{1}"), 4, func() {})
		if got := w.receive(); got.topic != "leaf/pump-1/twin/desired" || got.body != "{1}" {
			t.Errorf("got %+v", got)
		}

		// The acknowledgement says that it is in custody.
		b.twins.hold = true
		w.publish(5, "leaf/pump-1/twin/reported", "{2}")
		b.until("reported", func() bool { return len(b.twins.reported()) == 1 })
		w.alive()
		w.resend(5, "leaf/pump-1/twin/reported", "{2}")
		w.alive()
		b.twins.reported()[0].done(0, nil)
		w.puback(5)
		if n := len(b.twins.reported()); n != 1 {
			t.Errorf("reported %d times", n)
		}

		// What can never be taken is not sent for ever, and said.
		w.publish(6, "leaf/pump-1/twin/reported", "nonsense")
		b.until("reported", func() bool { return len(b.twins.reported()) == 2 })
		b.twins.reported()[1].done(0, &gateway.TwinError{Status: 400, Code: 400004, Message: "bad"})
		var seen []string
		for range 2 {
			first, body := w.packet()
			if first == 0x40 {
				seen = append(seen, fmt.Sprintf("PUBACK % x", body))
				continue
			}
			seen = append(seen, w.parse(first, body).topic)
		}
		slices.Sort(seen)
		ack := "PUBACK 00 06"
		if version == version5 {
			ack += " 83"
		}
		if want := []string{ack, "leaf/pump-1/twin/error"}; !slices.Equal(seen, want) {
			t.Errorf("got %q, want %q", seen, want)
		}
	})
}

// An MQTT 5 leaf may say where it wants the answer, among what it listens to.
func TestResponseTopic5(t *testing.T) {
	b := newBench(t, nil)
	b.twins.document["pump-1"], b.twins.age = "{}", time.Second
	w := b.leaf("pump-1", version5)
	w.listen(0, "leaf/pump-1/answers/#")
	ask := func(topic string) {
		props := slices.Concat([]byte{8}, text(topic), []byte{9}, text("c-1"))
		w.send(w.publication(0, "leaf/pump-1/twin/get", "", props...))
	}
	for _, topic := range []string{"leaf/pump-2/answers/1", "leaf/pump-1/elsewhere", "leaf/pump-1/answers/#", "devices/pump-1/x", "$iothub/twin/res/200/?$rid=1"} {
		ask(topic)
	}
	ask("leaf/pump-1/answers/1")
	got := w.receive()
	if got.topic != "leaf/pump-1/answers/1" || got.body != "{}" ||
		!strings.Contains(got.properties, "\x09\x00\x03c-1") || !strings.Contains(got.properties, "fieldgate-age\x00\x011") {
		t.Errorf("got %+v", got)
	}
}

// calls a method in the background.
func (b *bench) call(ctx context.Context, name, body string) <-chan string {
	answer := make(chan string, 1)
	go func() {
		r, err := b.b.Call(ctx, &gateway.Call{Leaf: "pump-1", Name: name, ID: "caller's", Body: []byte(body)})
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- fmt.Sprintf("%d %s", r.Status, r.Body)
	}()
	return answer
}

func (b *bench) answered(answer <-chan string, want string) {
	b.Helper()
	select {
	case got := <-answer:
		if got != want {
			b.Errorf("the caller hears %q, want %q", got, want)
		}
	case <-time.After(patience):
		b.Errorf("the caller hears nothing, want %q", want)
	}
}

func TestMethods(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		w := b.leaf("pump-1", version)
		b.answered(b.call(t.Context(), "blink", "1"), gateway.ErrAbsent.Error())
		w.listen(0, "$iothub/methods/POST/#")
		b.untilWants(gateway.WantsCalls)
		answer := b.call(t.Context(), "blink", `{"n":1}`)
		got := w.receive()
		rid, ok := strings.CutPrefix(got.topic, "$iothub/methods/POST/blink/?$rid=")
		if !ok || got.body != `{"n":1}` {
			t.Errorf("got %+v", got)
		}
		// Another connection of the leaf cannot answer, and neither can another leaf.
		intruder := b.dial()
		intruder.connect(hello{version: version, clientID: "x", user: "pump-1", password: secret})
		intruder.publish(0, "$iothub/methods/res/500/?$rid="+rid, "")
		intruder.alive()
		other := b.leaf("pump-2", version)
		other.publish(0, "$iothub/methods/res/500/?$rid="+rid, "")
		other.publish(0, "leaf/pump-2/reply/"+rid+"/500", "")
		other.alive()
		w.publish(0, "$iothub/methods/res/-7/?$rid="+rid, `{"m":2}`)
		b.answered(answer, `-7 {"m":2}`)
		w.publish(0, "$iothub/methods/res/200/?$rid="+rid, "") // twice
		w.alive()
		if n := b.b.State().LateReplies; n != 4 {
			t.Errorf("%d late replies, want 4", n)
		}

		answer = b.call(t.Context(), "a+b/c", "")
		got = w.receive()
		rid, ok = strings.CutPrefix(got.topic, "$iothub/methods/POST/a%2Bb%2Fc/?$rid=")
		if !ok {
			t.Errorf("got %+v", got)
		}
		w.publish(0, "$iothub/methods/res/200/?$rid="+rid, "no json")
		b.answered(answer, `200 "no json"`)

		// No answer in time, and none at all.
		ctx, cancel := context.WithCancel(t.Context())
		answer = b.call(ctx, "blink", "")
		w.receive()
		cancel()
		b.answered(answer, context.Canceled.Error())
		answer = b.call(t.Context(), "blink", "")
		w.receive()
		w.c.Close()
		b.answered(answer, gateway.ErrAbsent.Error())
	})
}

func TestPlainMethodsAndCommands(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		w := b.leaf("pump-1", version)
		w.listen(1, "leaf/pump%2D1/command/#")
		b.untilWants(gateway.WantsCommands | gateway.WantsCalls)
		answer := b.call(t.Context(), "re/boot", "1")
		got := w.receive()
		rid, ok := strings.CutPrefix(got.topic, "leaf/pump%2D1/command/re%2Fboot/")
		if !ok || got.body != "1" {
			t.Errorf("got %+v", got)
		}
		w.publish(1, "leaf/pump-1/reply/"+rid+"/201", "2")
		w.puback(1)
		b.answered(answer, "201 2")
		if version == version5 {
			if !strings.Contains(got.properties, "leaf/pump%2D1/reply/"+rid) {
				t.Errorf("no response topic in %q", got.properties)
			}
			answer = b.call(t.Context(), "x", "")
			rid = strings.TrimPrefix(w.receive().topic, "leaf/pump%2D1/command/x/")
			w.send(w.publication(0, "leaf/pump-1/reply/"+rid, "3", slices.Concat([]byte{38}, text("status"), text("418"))...))
			b.answered(answer, "418 3")
		}

		var v verdicts
		b.command(&v, 1)
		named := command(2)
		named.Properties = append(named.Properties, gateway.Property{Name: "command", Value: "open"})
		b.b.Command(named, v.of("c2"))
		for _, want := range []string{"leaf/pump%2D1/command/message", "leaf/pump%2D1/command/open"} {
			got := w.receive()
			if got.topic != want || version == version5 && (!strings.Contains(got.properties, "\x00\x05$.mid\x00\x01m") || !strings.Contains(got.properties, "\x00\x03a b\x00\x03c&d")) {
				t.Errorf("got %+v, want topic %s", got, want)
			}
			w.acknowledge(got.id)
		}
		b.untilSaid(&v, "c1 completed, c2 completed")
	})
}

// A leaf that has asked for commands of one name only does not hold up the hub's
// queue with others.
func TestCommandOfAnotherName(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version311)
	w.listen(0, "leaf/pump-1/command/open")
	var v verdicts
	b.command(&v, 1)
	b.untilSaid(&v, "c1 rejected")
}

// A command that the leaf's packets cannot hold is rejected: it would come for
// ever.
func TestCommandTooLargeForTheLeaf(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	w.connect(hello{version: version5, clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), props: []byte{39, 0, 0, 1, 0}})
	w.listen(1, commandsFilter)
	var v verdicts
	large := command(1)
	large.Body = make([]byte, 200)
	b.b.Command(large, v.of("c1"))
	b.command(&v, 2)
	w.acknowledge(w.receive().id)
	b.untilSaid(&v, "c1 rejected, c2 completed")
	huge := command(3)
	huge.Properties = append(huge.Properties, gateway.Property{Name: "p", Value: strings.Repeat("ü", 20000)})
	b.b.Command(huge, v.of("c3"))
	b.untilSaid(&v, "c1 rejected, c2 completed, c3 rejected")
}

// A leaf that does not read is cut off when too much waits for it, and holds
// nobody up.
func TestLeafThatDoesNotRead(t *testing.T) {
	b := newBench(t, func(c *Config) { c.WriteTimeout = gateway.Duration(time.Minute) })
	w := b.leaf("pump-1", version311)
	w.listen(0, "$iothub/twin/PATCH/properties/desired/#")
	patch := []byte(`{"a":"` + strings.Repeat("x", 64<<10) + `"}`)
	b.until("cut off", func() bool {
		b.b.Desired("pump-1", patch, 1, func() {})
		return b.desk.of("pump-1").Has(gateway.Asleep)
	})
}

// Unsubscribed is unsubscribed.
func TestUnsubscribe(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		w := b.leaf("pump-1", version)
		w.listen(1, commandsFilter, "$iothub/methods/POST/#")
		body := []byte{0, 3}
		if version == version5 {
			body = append(body, 0)
		}
		w.send(frame(0xa2, slices.Concat(body, text(commandsFilter), text("leaf/x"))))
		if version == version5 {
			w.expect("UNSUBACK", 0xb0, 0, 3, 0, 0, 0x11)
		} else {
			w.expect("UNSUBACK", 0xb0, 0, 3)
		}
		b.untilWants(gateway.WantsCalls)
		var v verdicts
		b.command(&v, 1)
		b.untilSaid(&v, "c1 undelivered")
	})
}

// Subscriptions have a bound.
func TestSubscriptionBounds(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxSubscriptions = 5 })
	w := b.leaf("pump-1", version5)
	for i := range 6 {
		w.subscribe(uint16(i+1), fmt.Sprintf("leaf/pump-1/%d", i))
		want := byte(1)
		if i == 5 {
			want = 0x97
		}
		w.expect("SUBACK", 0x90, 0, byte(i+1), 0, want)
	}
	other := b.leaf("pump-2", version311)
	other.subscribe(1, "leaf/pump-2/"+strings.Repeat("x", maxFilterBytes))
	other.expect("SUBACK", 0x90, 0, 1, 0x80)
}

// The subscription identifier of MQTT 5 comes back with what it is about.
func TestSubscriptionIdentifier(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version5)
	w.send(frame(0x82, slices.Concat([]byte{0, 1, 3, 11, 0x80, 1}, text("leaf/pump-1/twin/desired"), []byte{0})))
	w.expect("SUBACK", 0x90, 0, 1, 0, 0)
	b.untilWants(gateway.WantsDesired)
	b.b.Desired("pump-1", nil, 1, func() {})
	if got := w.receive(); got.properties != "\x0b\x80\x01" {
		t.Errorf("properties % x", got.properties)
	}
}

// Of two connections of a leaf the newer one gets its commands, and the other one
// when that is gone.
func TestTwoConnections(t *testing.T) {
	b := newBench(t, nil)
	connect := func(id string) *wire {
		w := b.dial()
		w.connect(hello{clientID: id, user: "pump-1", password: secret})
		w.listen(1, "leaf/pump-1/command/#")
		return w
	}
	first, second := connect("a"), connect("b")
	var v verdicts
	b.command(&v, 1)
	if got := second.receive(); got.body != "c1" {
		t.Errorf("got %+v", got)
	}
	second.c.Close()
	b.untilSaid(&v, "c1 undelivered")
	b.command(&v, 1)
	got := first.receive()
	if got.dup {
		t.Error("marked as a copy for a session that has never had it")
	}
	first.acknowledge(got.id)
	b.untilSaid(&v, "c1 undelivered, c1 completed")
}

// A leaf that is no longer admitted is not attended, and is again when it is back.
func TestDisabledLeafIsNotAttended(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version311)
	w.listen(1, commandsFilter)
	b.untilWants(gateway.WantsCommands)
	b.table.Remove("pump-1")
	w.expectClosed()
	b.until("not attended", func() bool { b.b.expireSessions(time.Now()); return b.desk.of("pump-1") == 0 })
	b.addLeaf("pump-1")
	b.until("asleep", func() bool {
		b.b.expireSessions(time.Now())
		return b.desk.of("pump-1") == gateway.WantsCommands|gateway.Asleep
	})
}

// A note of a session that cannot be read costs this session only.
func TestBadNote(t *testing.T) {
	b := newBench(t, nil)
	b.end()
	err := errors.Join(
		b.notes.SetNotes(sessionNote, map[string][]byte{"pump-1": []byte("nonsense")}),
		b.notes.SetNotes(sessionNote, map[string][]byte{"pump-2": []byte(`{"expiry":60,"filters":[{"filter":"leaf/pump-1/#"},{"filter":"leaf/pump-2/command/#","qos":9}]}`)}),
	)
	if err != nil {
		t.Fatal(err)
	}
	b.start()
	if n := b.b.State().Asleep; n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
	b.until("asleep", func() bool {
		return b.desk.of("pump-2") == gateway.WantsCommands|gateway.WantsCalls|gateway.Asleep
	})
}

// Many connections of one session at once: the one that is left is served.
func TestManyTakeoversAtOnce(t *testing.T) {
	b := newBench(t, nil)
	b.leaf("pump-1", version311).listen(1, commandsFilter)
	for round := range 5 {
		var arriving sync.WaitGroup
		wires := make([]*wire, 12)
		for i := range wires {
			wires[i] = b.dial()
		}
		for _, w := range wires {
			w.version = version311
			arriving.Go(func() {
				w.c.Write(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true}.packet()) // an error shows in read
			})
		}
		arriving.Wait()
		b.until("one is left", func() bool { return b.b.State().Leaves["pump-1"] == 1 && b.b.State().Connecting == 0 })
		b.untilWants(gateway.WantsCommands)
		var v verdicts
		b.command(&v, round+1)
		got := 0
		for _, w := range wires {
			for {
				first, body, err := w.read()
				if err != nil {
					break
				}
				if first>>4 == typePublish {
					got++
					w.acknowledge(w.parse(first, body).id)
					break
				}
			}
		}
		if got != 1 {
			t.Fatalf("round %d: %d connections got the command", round, got)
		}
		b.untilSaid(&v, fmt.Sprintf("c%d completed", round+1))
	}
}

// A leaf that answers late, to a gateway that has begun anew meanwhile, answers
// nobody; neither does it acknowledge what it has not seen.
func TestNothingIsAnsweredFromTheLastRun(t *testing.T) {
	b := newBench(t, nil)
	connect := func() *wire {
		w := b.dial()
		w.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true})
		return w
	}
	asked := func(w *wire) (rid string) {
		topic := w.receive().topic
		rid, ok := strings.CutPrefix(topic, "$iothub/methods/POST/blink/?$rid=")
		if !ok {
			t.Fatalf("called on %s", topic)
		}
		return rid
	}
	w := connect()
	w.listen(1, "$iothub/methods/POST/#", commandsFilter)
	b.untilWants(gateway.WantsCalls | gateway.WantsCommands)
	first := b.call(t.Context(), "blink", "1")
	old := asked(w)
	var v verdicts
	b.command(&v, 1)
	seen := w.receive()
	b.end()
	b.answered(first, gateway.ErrAbsent.Error())
	b.untilSaid(&v, "c1 undelivered")
	b.start()
	w = connect()
	b.untilWants(gateway.WantsCalls | gateway.WantsCommands)
	second := b.call(t.Context(), "blink", "2")
	rid := asked(w)
	w.publish(0, "$iothub/methods/res/200/?$rid="+old, `"old"`)
	w.publish(0, "$iothub/methods/res/200/?$rid="+rid, `"new"`)
	b.answered(second, `200 "new"`)
	b.command(&v, 2)
	now := w.receive()
	w.acknowledge(seen.id)
	w.alive()
	if text := v.text(); text != "c1 undelivered" {
		t.Errorf("%s (packet ids %d and %d)", text, seen.id, now.id)
	}
	w.acknowledge(now.id)
	b.untilSaid(&v, "c1 undelivered, c2 completed")
}

// An acknowledgement may be so late that the command waits to be sent again.
func TestLateAcknowledgementOfWhatWaits(t *testing.T) {
	b := newBench(t, nil)
	connect := func(most byte) *wire {
		w := b.dial()
		w.connect(hello{
			version: version5, clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true,
			props: []byte{17, 0, 0, 1, 0, 33, 0, most}, // receive maximum
		})
		return w
	}
	w := connect(2)
	w.listen(1, commandsFilter)
	var v verdicts
	b.command(&v, 1, 2)
	w.receive()
	second := w.receive()
	w.c.Close()
	b.untilSaid(&v, "c1 undelivered, c2 undelivered")
	w = connect(1)
	b.untilWants(gateway.WantsCommands)
	b.command(&v, 1, 2, 3)
	first := w.receive()
	w.acknowledge(second.id)
	b.untilSaid(&v, "c1 undelivered, c2 undelivered, c2 completed")
	w.acknowledge(first.id)
	third := w.receive()
	if third.body != "c3" {
		t.Errorf("got %+v: it was acknowledged", third)
	}
	w.acknowledge(third.id)
	b.untilSaid(&v, "c1 undelivered, c2 undelivered, c2 completed, c1 completed, c3 completed")
}

// A leaf that acknowledges nothing is cut off: what is for it piles up elsewhere
// than in memory.
func TestALeafThatAcknowledgesNothing(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version311)
	w.listen(1, commandsFilter)
	var v verdicts
	const most = window + maxUnsentCommands
	for n := range most {
		b.command(&v, n+1)
		if n < window {
			w.receive()
		}
	}
	if text := v.text(); text != "" {
		t.Errorf("too early: %s", text)
	}
	b.command(&v, most+1)
	w.expectClosed()
	b.until("all undelivered", func() bool { return strings.Count(v.text(), "undelivered") == most+1 })
}
