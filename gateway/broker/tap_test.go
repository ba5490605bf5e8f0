package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// next reads what an operator hears next.
func (b *bench) next(t *Tap) *Tapped {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	x, err := t.Next(ctx)
	if err != nil {
		b.Fatalf("nothing is heard: %v", err)
	}
	return x
}

func (b *bench) tap(leaf string, filters ...string) *Tap {
	b.Helper()
	t, err := b.b.Tap(leaf, filters, false)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(t.Close)
	return t
}

// An operator who does not read costs no leaf anything: what has no room is dropped,
// counted, and said with the next that is read.
func TestSlowOperatorHoldsUpNobody(t *testing.T) {
	b := newBench(t, nil)
	tap := b.tap("", "leaf/+/#")
	pump := b.leaf("pump-1", version311)
	const sent = maxTapped + 100
	for i := range uint16(sent) {
		pump.publish(i+1, "leaf/pump-1/telemetry/n", fmt.Sprint(i))
		pump.puback(i + 1)
	}
	for i := range maxTapped {
		if x := b.next(tap); string(x.Payload) != fmt.Sprint(i) || x.Dropped != 0 {
			t.Fatalf("heard %q with %d dropped, want %d", x.Payload, x.Dropped, i)
		}
	}
	pump.publish(1, "leaf/pump-1/alarm", "late")
	pump.puback(1)
	if x := b.next(tap); x.Topic != "leaf/pump-1/alarm" || x.Dropped != 100 {
		t.Errorf("heard %+v, want 100 dropped before it", x)
	}
	big := strings.Repeat("x", maxTappedBytes/10)
	for i := range uint16(20) {
		pump.publish(i+1, "leaf/pump-1/telemetry", big)
		pump.puback(i + 1)
	}
	tap.mu.Lock()
	waiting, bytes := len(tap.queue), tap.bytes
	tap.mu.Unlock()
	if waiting == 0 || waiting > 9 || bytes > maxTappedBytes {
		t.Errorf("%d messages of %d bytes wait for an operator", waiting, bytes)
	}
	if n := b.b.State().TapDropped; n != uint64(100+20-waiting) {
		t.Errorf("%d are counted as dropped", n)
	}
}

// In the place of a leaf an operator settles commands by taking them; what finds no
// room comes again when there is some.
func TestOperatorStandsIn(t *testing.T) {
	b := newBench(t, nil)
	tap := b.tap("pump-1", "leaf/pump-1/command/+", "$iothub/twin/PATCH/properties/desired/#")
	if wants := b.desk.of("pump-1"); wants != gateway.WantsCommands|gateway.WantsDesired {
		t.Fatalf("attended with %b", wants)
	}
	verdicts := make(chan gateway.Verdict, maxTapped+2)
	command := func(n uint64) {
		c := &gateway.Command{
			Leaf: "pump-1", Number: n, Body: fmt.Append(nil, n), Enqueued: time.Unix(1, 0),
			Properties: []gateway.Property{{Name: "command", Value: "set"}},
		}
		tap.Command(c, func(v gateway.Verdict) { verdicts <- v })
	}
	command(1)
	if x := b.next(tap); x.Topic != "leaf/pump-1/command/set" || string(x.Payload) != "1" {
		t.Errorf("heard %+v", x)
	} else {
		x.Taken(true)
	}
	if v := <-verdicts; v != gateway.Completed {
		t.Errorf("taken is %v", v)
	}
	if _, err := tap.Call(t.Context(), &gateway.Call{Leaf: "pump-1", Name: "blink"}); !errors.Is(err, gateway.ErrAbsent) {
		t.Errorf("a call: %v", err)
	}
	heard := false
	tap.Desired("pump-1", []byte(`{"rate":5,"$version":2}`), 2, func() { heard = true })
	if x := b.next(tap); x.Topic != "$iothub/twin/PATCH/properties/desired/?$version=2" {
		t.Errorf("heard %+v", x)
	} else if x.Taken(true); !heard {
		t.Error("the change counts as missed")
	}
	for n := range uint64(maxTapped) {
		command(n + 2)
	}
	command(5000)
	if v := <-verdicts; v != gateway.Undelivered {
		t.Errorf("without room: %v", v)
	}
	before := len(b.desk.all("pump-1"))
	for range maxTapped {
		b.next(tap).Taken(true)
	}
	if again := b.desk.all("pump-1"); len(again) != before+1 || again[before] == 0 {
		t.Errorf("attended %d times more, want once", len(again)-before)
	}
	for range maxTapped {
		if v := <-verdicts; v != gateway.Completed {
			t.Fatalf("taken is %v", v)
		}
	}
	command(6000)
	tap.Close()
	if v := <-verdicts; v != gateway.Undelivered || b.desk.of("pump-1") != 0 {
		t.Errorf("left behind: %v, attended with %b", v, b.desk.of("pump-1"))
	}
	command(6001)
	if v := <-verdicts; v != gateway.Undelivered {
		t.Errorf("after its end: %v", v)
	}
}

// What is published in a leaf's place stands in line with the leaf's own, and is marked.
func TestOperatorPublishes(t *testing.T) {
	b := newBench(t, nil)
	publish := func(leaf, topic string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return b.b.Publish(ctx, leaf, Publication{Topic: topic, Payload: []byte(`{"a":1}`)})
	}
	if err := publish("pump-1", "leaf/pump-1/alarm/x"); err != nil {
		t.Fatal(err)
	}
	m := b.path.message(0)
	if m.Leaf != "pump-1" || m.Lane != gateway.LaneAlarm || m.Channel != "x" || len(m.Properties) != 1 || !gateway.LowersTrust(m.Properties[0]) {
		t.Errorf("handed over: %+v", m)
	}
	for _, topic := range []string{"leaf/pump-2/telemetry", "leaf/pump-1/command/x", "leaf/pump-1/twin/get", "leaf/pump-1/reply/1", "$iothub/twin/GET/?$rid=1", "x"} {
		if err := publish("pump-1", topic); !errors.Is(err, ErrNoTopic) {
			t.Errorf("%s: %v", topic, err)
		}
	}
	if err := publish("nobody", "leaf/nobody/telemetry"); !errors.Is(err, gateway.ErrUnknownLeaf) {
		t.Errorf("of nobody: %v", err)
	}
	if err := publish("pump-1", "leaf/pump-1/twin/reported"); err != nil || len(b.twins.reported()) != 1 {
		t.Errorf("reported: %v, %v", err, b.twins.reported())
	}
	b.path.mu.Lock()
	b.path.verdict = func(*gateway.Message) error { return gateway.ErrStoreFull }
	b.path.mu.Unlock()
	if err := publish("pump-1", "leaf/pump-1/telemetry"); !errors.Is(err, gateway.ErrStoreFull) {
		t.Errorf("a full store: %v", err)
	}
	if n := b.path.count(); n != 2 {
		t.Errorf("%d messages handed over", n)
	}
}

// However many listen, there is a bound, and all that end make room.
func TestTapsAreBounded(t *testing.T) {
	b := newBench(t, nil)
	b.b.Say("fieldgate/x", []byte("1"))
	var taps []*Tap
	for range maxTaps {
		taps = append(taps, b.tap("", "fieldgate/#"))
	}
	if _, err := b.b.Tap("", []string{"fieldgate/#"}, false); !errors.Is(err, ErrTaps) {
		t.Errorf("one too many: %v", err)
	}
	for _, tap := range taps {
		if x := b.next(tap); !x.Retained || x.Topic != "fieldgate/x" {
			t.Errorf("heard %+v", x)
		}
		tap.Close()
	}
	b.b.Say("fieldgate/x", []byte("2"))
	if x := b.next(b.tap("", "fieldgate/+")); string(x.Payload) != "2" {
		t.Errorf("heard %+v", x)
	}
}

// Whatever is asked for, an operator hears in the place of a leaf only what is that
// leaf's, and without one nothing that is for leaves.
func TestTapFilters(t *testing.T) {
	level := rapid.SampledFrom([]string{"leaf", "a", "b", "+", "#", "telemetry", "alarm", "command", "twin", "desired", "fieldgate", "devices", "messages", "devicebound", "%61", "x", ""})
	rapid.Check(t, func(t *rapid.T) {
		filter := strings.Join(rapid.SliceOfN(level, 1, 6).Draw(t, "levels"), "/")
		if sub, err := tapFilter("a", filter); err == nil && !plain.Names(sub.level, "a") && sub.kind != toDesired {
			t.Fatalf("in the place of a: %+v", sub)
		}
		if _, err := tapFilter("", filter); err == nil {
			for _, topic := range []string{"leaf/a/command/x", "leaf/a/twin/desired", "devices/a/messages/devicebound/x"} {
				if filter == topic {
					t.Fatalf("%q is listened to", topic)
				}
			}
		}
	})
}

// What a filter of an operator costs grows with its length, not with the square of it;
// and it is taken exactly if it matches something that is said, of however many levels.
func TestFilterOfManyLevels(t *testing.T) {
	said := [][]string{{"leaf", "+", "telemetry"}, {"leaf", "+", "alarm"}, {saidTopics, "+"}}
	rapid.Check(t, func(t *rapid.T) {
		levels := rapid.SliceOfN(rapid.SampledFrom([]string{"leaf", "+", "telemetry", "alarm", saidTopics, "x", ""}), 1, 7).Draw(t, "levels")
		if rapid.Bool().Draw(t, "rest") {
			levels = append(levels, "#")
		}
		filter, want := strings.Join(levels, "/"), false
		for _, topic := range said {
			for range len(levels) + 1 {
				want = want || plain.Overlap(filter, strings.Join(topic, "/"))
				topic = append(topic[:len(topic):len(topic)], "+")
			}
		}
		if _, err := tapFilter("", filter); filter != "" && (err == nil) != want {
			t.Errorf("%q: %v", filter, err)
		}
	})
	long := "leaf/+/telemetry" + strings.Repeat("/", 16000)
	if n := testing.AllocsPerRun(1, func() { _, _ = tapFilter("", long) }); n > 100 {
		t.Errorf("%v allocations for %d levels", n, strings.Count(long, "/"))
	}
	if _, err := tapFilter("", long); err != nil {
		t.Error(err)
	}
}
