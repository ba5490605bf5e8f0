package rows

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// enterAs logs a leaf in by its token.
func (b *bench) enterAs(leaf string, version byte) *wire {
	b.t.Helper()
	w, code, _, err := b.enter(b.broker, b.as(leaf, version))
	must(b.t, err)
	if code != 0 {
		b.t.Fatalf("CONNACK %d", code)
	}
	return w
}

// listening subscribes to everything that the hub has for a leaf.
func (b *bench) listening(leaf string, version byte) *wire {
	b.t.Helper()
	w := b.enterAs(leaf, version)
	for _, filter := range []string{
		"devices/" + leaf + "/messages/devicebound/#", "$iothub/methods/POST/#", "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#",
	} {
		granted, err := w.listen(filter, 1)
		must(b.t, err)
		if granted > 1 {
			b.t.Fatalf("%s: %#x", filter, granted)
		}
	}
	return w
}

// next returns the next publication on a topic that begins so; it acknowledges all
// that come.
func (w *wire) next(t *testing.T, topic string) (full string, body []byte) {
	t.Helper()
	for {
		p, err := w.until(publish)
		must(t, err)
		full, packetID, body := w.publication(p)
		if packetID > 0 {
			must(t, w.answer(packetID, 0))
		}
		if strings.HasPrefix(full, topic) {
			return full, body
		}
	}
}

func codeOf(err error) int {
	if r, ok := errors.AsType[*refusal.Error](err); ok {
		return r.Code
	}
	return 0
}

func (b *bench) arrivedFrom(leaf string) (bodies [][]byte) {
	for a := range b.hub.Arrivals() {
		if a.Device == leaf {
			bodies = append(bodies, a.Body)
		}
	}
	return bodies
}

// The hub's sizes (wire contract, section 6.2), as a leaf of either version of MQTT
// and a back end meet them.
func TestSizes(t *testing.T) {
	t.Parallel()
	const leaf = "pump"
	b := newBench(t, plan{leaves: []string{leaf}})
	b.start()
	b.await("the connection", b.connected)
	for _, play := range []struct {
		name string
		f    func(*testing.T, *bench, string)
	}{
		{"telemetry", telemetrySizes}, {"commands", commandSizes}, {"the hub's queue", queueDepth}, {"methods", methodSizes}, {"twins", twinSizes},
	} {
		t.Run(play.name, func(t *testing.T) { play.f(t, b, leaf) })
	}
	b.oneConnection()
}

func telemetrySizes(t *testing.T, b *bench, leaf string) {
	topic := "devices/" + leaf + "/messages/events/"
	large := bytes.Repeat([]byte("x"), 256<<10-1024)
	w := b.enterAs(leaf, 5)
	for packetID, body := range [][]byte{1: make([]byte, 256<<10+1), 2: large, 3: []byte("after")} {
		if body == nil {
			continue
		}
		must(t, w.say(uint16(packetID), topic, body))
		p, err := w.until(puback)
		must(t, err)
		if want := map[int]byte{1: 0x95}[packetID]; p.reason() != want {
			t.Errorf("message %d of %d bytes: reason %#x, want %#x", packetID, len(body), p.reason(), want)
		}
	}
	_ = w.say(4, topic, make([]byte, 400<<10)) // the gateway need not read all of it
	if p, err := w.until(disconnect); err != nil || p.reason() != 0x95 {
		t.Errorf("a packet that is too large: %v, reason %#x, want DISCONNECT with 0x95", err, p.reason())
	}
	// MQTT 3.1.1 has no reasons: as at the hub, the connection ends.
	w = b.enterAs(leaf, 4)
	must(t, w.say(1, topic, make([]byte, 256<<10+1)))
	if p, err := w.until(puback); err == nil {
		t.Errorf("MQTT 3.1.1: acknowledged: %x", p.body)
	}
	w = b.enterAs(leaf, 4)
	must(t, w.say(1, topic, []byte("after")))
	_, err := w.until(puback)
	must(t, err)
	b.await("what was taken to arrive", func() bool { return len(b.arrivedFrom(leaf)) == 3 })
	for i, want := range [][]byte{large, []byte("after"), []byte("after")} {
		if got := b.arrivedFrom(leaf)[i]; !bytes.Equal(got, want) {
			t.Errorf("message %d arrived with %d bytes, want %d", i, len(got), len(want))
		}
	}
}

func (b *bench) send(leaf, messageID string, body []byte) error {
	return b.domain().Commands.Send(id(leaf), &message.Message{
		To: "/devices/" + leaf + "/messages/devicebound", ID: messageID, Ack: "full", Body: body,
	})
}

func commandSizes(t *testing.T, b *bench, leaf string) {
	w := b.listening(leaf, 4)
	large := bytes.Repeat([]byte("c"), 64<<10-512)
	must(t, b.send(leaf, "large", large))
	if _, body := w.next(t, "devices/"); !bytes.Equal(body, large) {
		t.Errorf("a command of %d bytes came with %d", len(large), len(body))
	}
	if code := codeOf(b.send(leaf, "too large", make([]byte, 64<<10+1))); code != 413001 {
		t.Errorf("a command that is too large: %d", code)
	}
	b.await("it is completed", func() bool { return b.domain().Commands.Len(id(leaf)) == 0 })
}

// The hub keeps 50 commands for a leaf that sleeps; it gets them when it wakes.
func queueDepth(t *testing.T, b *bench, leaf string) {
	w := b.listening(leaf, 4)
	w.c.Close()
	for n := range 50 {
		must(t, b.send(leaf, fmt.Sprint("q", n), fmt.Append(nil, n)))
	}
	if code := codeOf(b.send(leaf, "one more", nil)); code != 403004 {
		t.Errorf("one command more than the queue holds: %d, want 403004", code)
	}
	w = b.enterAs(leaf, 4)
	for n := range 50 {
		if _, body := w.next(t, "devices/"); string(body) != fmt.Sprint(n) {
			t.Errorf("command %s came in the place of %d", body, n)
		}
	}
	b.await("all are completed", func() bool { return b.domain().Commands.Len(id(leaf)) == 0 })
}

func methodSizes(t *testing.T, b *bench, leaf string) {
	w := b.listening(leaf, 4)
	call := func(size int, answer []byte) (methods.Answer, error) {
		payload := fmt.Appendf(nil, "%q", strings.Repeat("p", size))
		done := make(chan struct{})
		go func() {
			defer close(done)
			p, err := w.until(publish)
			if err != nil {
				t.Error(err)
				return
			}
			topic, _, body := w.publication(p)
			if !bytes.Equal(body, payload) {
				t.Errorf("a payload of %d bytes came with %d", len(payload), len(body))
			}
			if err := w.say(0, "$iothub/methods/res/200/"+topic[strings.Index(topic, "?"):], answer); err != nil {
				t.Error(err)
			}
		}()
		a, err := b.domain().Methods.Invoke(b.ctx, id(leaf), methods.Call{
			Name: "m", Payload: payload, ConnectTimeout: time.Minute, ResponseTimeout: time.Minute,
		})
		<-done
		return a, err
	}
	large := fmt.Appendf(nil, "%q", strings.Repeat("a", 128<<10-64))
	if a, err := call(128<<10-64, large); err != nil || !bytes.Equal(a.Payload, large) {
		t.Errorf("an answer of %d bytes came with %d, %v", len(large), len(a.Payload), err)
	}
	if _, err := call(1, fmt.Appendf(nil, "%q", strings.Repeat("a", 128<<10))); codeOf(err) != 502000 {
		t.Errorf("an answer that is too large: %v, want 502000", err)
	}
	if a, err := call(1, []byte(`"after"`)); err != nil || string(a.Payload) != `"after"` {
		t.Errorf("the next: %s, %v", a.Payload, err)
	}
}

func twinSizes(t *testing.T, b *bench, leaf string) {
	w := b.listening(leaf, 4)
	// Strings have 4 KiB at most each.
	document := func(strs int) []byte {
		m := make(map[string]string)
		for i := range strs {
			m[fmt.Sprintf("k%02d", i)] = strings.Repeat("v", 4000)
		}
		text, err := json.Marshal(m)
		must(t, err)
		return text
	}
	// A leaf that has read its twin is told what it has missed: the change below may come
	// before the gateway listens again.
	must(t, w.say(0, "$iothub/twin/GET/?$rid=first", nil))
	w.next(t, "$iothub/twin/res/200/?$rid=first")
	rid := 0
	report := func(patch []byte, want, online string) {
		t.Helper()
		rid++
		must(t, w.say(0, fmt.Sprintf("$iothub/twin/PATCH/properties/reported/?$rid=%d", rid), patch))
		topic, body := w.next(t, "$iothub/twin/res/")
		var refused struct{ ErrorCode int }
		_ = json.Unmarshal(body, &refused)
		taken := strings.HasPrefix(topic, fmt.Sprintf("$iothub/twin/res/204/?$rid=%d", rid))
		if got := map[bool]string{true: "taken", false: "refused"}[taken]; got != want || taken == (refused.ErrorCode > 0) {
			t.Errorf("%s, a patch of %d bytes: %s %s, want it %s", online, len(patch), topic, body, want)
		}
	}
	report(document(9), "refused", "online")
	report(document(7), "taken", "online")
	report([]byte(`{"a b":1}`), "refused", "online")
	report(fmt.Appendf(nil, `{"k":%q}`, strings.Repeat("v", 4097)), "refused", "online")
	b.hole(true)
	b.await("the gateway to notice", func() bool { return b.metric("fieldgate_uplink_up") == 0 })
	report(document(9), "refused", "away")
	report([]byte(`{"a b":1}`), "refused", "away")
	report([]byte(`{"last":1}`), "taken", "away")
	b.hole(false)
	b.await("what was taken to be at the hub", func() bool { return b.hubTwin(leaf).Properties.Reported["last"] == 1.0 })
	if got := b.hubTwin(leaf).Properties.Reported; len(got["k06"].(string)) != 4000 || got["k08"] != nil {
		t.Errorf("the hub has %v", maps.Keys(got))
	}
	// Desired properties of the largest size reach the leaf whole.
	_, err := b.domain().Twins.Update(id(leaf), fmt.Appendf(nil, `{"properties":{"desired":%s}}`, document(8)), false, "")
	must(t, err)
	_, body := w.next(t, "$iothub/twin/PATCH/properties/desired/")
	var change map[string]any
	must(t, json.Unmarshal(body, &change))
	if len(change) != 9 || len(change["k07"].(string)) != 4000 {
		t.Errorf("a change of %d bytes came with %d properties", len(body), len(change))
	}
}

// The hub's rates: more than a tier takes is not lost, nothing is
// dropped, and the leaf is acknowledged all the time.
func TestTier(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	t.Parallel()
	// So large that no more than two of them go together: rates count transfers.
	const leaf, part, size = "pump", 50, 100 << 10
	b := newBench(t, plan{leaves: []string{leaf}})
	must(t, b.hub.SetTier("S1", 1)) // 100 transfers a second
	b.start()
	w := b.enterAs(leaf, 4)
	count := 0
	for throttled := false; count < 3*part || !throttled; throttled = b.metric("fieldgate_uplink_throttled_total") > 0 {
		if !throttled {
			// Others of the hub use up two seconds of its rate: a slow machine
			// would never come near it.
			b.hub.SpendTelemetry(200)
		}
		acked := make(chan error, 1)
		go func() {
			for range part {
				if _, err := w.until(puback); err != nil {
					acked <- err
					return
				}
			}
			acked <- nil
		}()
		for range part {
			count++
			must(t, w.say(uint16(count), "devices/"+leaf+"/messages/events/", fmt.Appendf(nil, "%-*d", size, count)))
		}
		must(t, <-acked)
		if count > 50*part {
			t.Fatal("the hub refused nothing")
		}
	}
	b.await("all to arrive, and to be settled", func() bool {
		return len(b.arrivedFrom(leaf)) >= count && b.metric("fieldgate_messages_sent_total") == float64(count)
	})
	// Some of what was behind the first that is refused may have got through: the
	// gateway sends all from there again, so the last of each come in order.
	last := make(map[int]int)
	for i, body := range b.arrivedFrom(leaf) {
		var n int
		if _, err := fmt.Sscan(string(body), &n); err != nil || len(body) != size {
			t.Fatalf("%d bytes arrived: %v", len(body), err)
		}
		last[n] = i
	}
	for n := 2; n <= count; n++ {
		if last[n] < last[n-1] {
			t.Errorf("the last of %d came at %d, that of %d at %d", n-1, last[n-1], n, last[n])
		}
	}
	if n := b.metric("fieldgate_messages_dropped_total"); n != 0 {
		t.Errorf("%v messages were dropped", n)
	}
	b.oneConnection()
}
