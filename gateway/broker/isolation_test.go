package broker

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// matchSlowly is the rule of MQTT 5.0, section 4.7, word by word.
func matchSlowly(filter, topic []string) bool {
	switch {
	case len(filter) == 1 && filter[0] == "#":
		return true // "sport/#" matches the parent as well
	case len(filter) == 0 || len(topic) == 0:
		return len(filter) == len(topic)
	case filter[0] != "+" && filter[0] != topic[0]:
		return false
	}
	return matchSlowly(filter[1:], topic[1:])
}

func TestOverlapMatches(t *testing.T) {
	filterLevel := rapid.SampledFrom([]string{"a", "b", "", "+", "ab"})
	topicLevel := rapid.SampledFrom([]string{"a", "b", "", "ab"})
	rapid.Check(t, func(t *rapid.T) {
		filter := rapid.SliceOfN(filterLevel, 1, 5).Draw(t, "filter")
		if rapid.Bool().Draw(t, "rest") {
			filter = append(filter, "#")
		}
		topic := rapid.SliceOfN(topicLevel, 1, 6).Draw(t, "topic")
		got := plain.Overlap(strings.Join(filter, "/"), strings.Join(topic, "/"))
		if want := matchSlowly(filter, topic); got != want {
			t.Fatalf("%v and %v: %v, want %v", filter, topic, got, want)
		}
	})
}

// hostileLevels are what topics and filters of an attacker are made of. Some look
// like the victim's id.
var hostileLevels = []string{
	"leaf", "devices", "$iothub", "$SYS", "$share", "g", "pump-1", "pump-2", "pump%2D2", "pump%2d2", "PUMP-2", "pump-2\ufeff", "pump-2 ",
	"рump-2", "pump-2%00", "pump-2%2Fx", "..", ".", "", "+", "#", "twin", "res", "GET", "PATCH", "properties", "desired", "reported", "get",
	"methods", "POST", "messages", "devicebound", "events", "command", "reply", "telemetry", "alarm", "document", "200", "1", "2", "?$rid=1", "?$rid=2",
	"?$rid=1&$version=1", "%24.to=%2Fdevices%2Fpump-2", "%24.cdid=pump-2",
}

// hostile makes a topic or filter: at random, or one of the real ones with a
// level replaced.
func hostile(random *rand.Rand, wild bool) string {
	real := []string{
		"leaf/pump-2/telemetry", "leaf/pump-2/command/#", "leaf/pump-2/twin/reported", "leaf/pump-2/twin/get", "leaf/pump-2/reply/1/200",
		"devices/pump-2/messages/events/a=b", "devices/pump-2/messages/devicebound/#", "$iothub/twin/res/#", "$iothub/methods/res/200/?$rid=1",
		"$iothub/twin/GET/?$rid=1", "$iothub/twin/PATCH/properties/reported/?$rid=1", "leaf/pump-1/telemetry",
	}
	var levels []string
	if random.IntN(2) == 0 {
		levels = strings.Split(real[random.IntN(len(real))], "/")
		for range random.IntN(3) {
			levels[random.IntN(len(levels))] = hostileLevels[random.IntN(len(hostileLevels))]
		}
	} else {
		for range 1 + random.IntN(6) {
			levels = append(levels, hostileLevels[random.IntN(len(hostileLevels))])
		}
	}
	topic := strings.Join(levels, "/")
	if !wild {
		topic = strings.NewReplacer("+", "x", "#", "y").Replace(topic)
	}
	return topic
}

// Whatever a leaf asks for is about itself: a million topics and filters.
func TestNoTopicIsAnothersLeafs(t *testing.T) {
	rounds := 1_000_000
	if testing.Short() {
		rounds = 50_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	taken := 0
	for range rounds {
		filter := hostile(random, true)
		if sub, ok := parseFilter("pump-1", filter); ok {
			taken++
			if sub.level != "" && sub.level != "pump-1" && sub.level != "pump%2D1" {
				t.Fatalf("filter %q is taken as of %q", filter, sub.level)
			}
			if sub.level == "" && !strings.HasPrefix(filter, "$iothub/") {
				t.Fatalf("filter %q names no leaf", filter)
			}
			for _, victims := range []string{"leaf/pump-2/command/open", "leaf/pump-2/twin/desired", "devices/pump-2/messages/devicebound/a=b"} {
				if !strings.HasPrefix(filter, "$") && matchSlowly(strings.Split(filter, "/"), strings.Split(victims, "/")) {
					t.Fatalf("filter %q matches %q", filter, victims)
				}
			}
		}
		topic := hostile(random, false)
		if m, err := parseTopic("pump-1", topic); err == nil {
			taken++
			if level := strings.Split(topic, "/")[1]; m.Leaf != "pump-1" || level != "pump-1" {
				t.Fatalf("topic %q is taken as of %q", topic, m.Leaf)
			}
		}
		if a, ok := parseAsking("pump-1", topic); ok {
			taken++
			if level := strings.Split(topic, "/")[1]; a.plain && level != "pump-1" {
				t.Fatalf("request %q is taken", topic)
			}
		}
	}
	if taken < rounds/1000 {
		t.Errorf("only %d of %d were taken: the test proves little", taken, rounds)
	}
}

// Live: a leaf that tries everything while another leaf is being served neither
// sees anything of it nor acts as it, and disturbs nothing.
func TestAttackerSeesAndDoesNothing(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		attack(t, version, 1500)
	})
}

func attack(t *testing.T, version byte, rounds int) {
	b := newBench(t, func(c *Config) { c.MaxMessagesPerSecond = 0 })
	b.twins.document["pump-1"], b.twins.document["pump-2"] = `{"of":"pump-1"}`, `{"of":"pump-2"}`
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	victim := b.leaf("pump-2", version)
	victim.listen(1, "devices/pump-2/messages/devicebound/#", "$iothub/methods/POST/#", "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "leaf/pump-2/#")
	var got []string
	var heard atomic.Int64 // len(got), while the victim reads
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for {
			first, body, err := victim.read()
			if err != nil {
				return
			}
			if first>>4 == typePublish {
				d := victim.parse(first, body)
				got = append(got, d.body)
				heard.Add(1)
				if d.qos > 0 {
					victim.acknowledge(d.id)
				}
				if rid, ok := strings.CutPrefix(d.topic, "$iothub/methods/POST/open/?$rid="); ok {
					victim.publish(0, "$iothub/methods/res/200/?$rid="+rid, `"victim"`)
				}
			}
		}
	}()
	b.until("victim listens", func() bool { return b.desk.of("pump-2") != 0 })

	var attacker *wire
	enter := func() {
		attacker = b.leaf("pump-1", version)
	}
	enter()
	intruded := make(map[string]bool)
	// drain reads what has come until the answer to a ping, and looks at it.
	drain := func() {
		attacker.c.Write([]byte{0xc0, 0}) // an error shows in read
		for {
			first, body, err := attacker.read()
			if err != nil {
				enter() // thrown out, as it should be
				return
			}
			if first>>4 == typePublish {
				if d := attacker.parse(first, body); strings.Contains(d.body, "pump-2") || strings.Contains(d.topic, "pump-2") || strings.Contains(d.body, "victim") {
					intruded[fmt.Sprintf("%+v", d)] = true
				}
			}
			if first == 0xd0 {
				return
			}
		}
	}
	var want []string
	var v verdicts
	for i := range rounds {
		if random.IntN(2) == 0 {
			attacker.c.Write(attacker.subscription(uint16(i%60000+1), hostile(random, true)))
		} else {
			attacker.c.Write(attacker.publication(uint16(i%60000+1)*uint16(random.IntN(2)), hostile(random, false), `{"of":"attacker"}`))
		}
		if i%10 == 0 {
			name := fmt.Sprintf("victim's pump-2 %d", i)
			c := &gateway.Command{Leaf: "pump-2", Body: []byte(name), Number: uint64(i), Enqueued: time.UnixMilli(1)}
			b.b.Command(c, v.of("c"))
			b.b.Desired("pump-2", []byte(name), int64(i), func() {})
			want = append(want, name, name)
		}
		if i%50 == 0 {
			r, err := b.b.Call(t.Context(), &gateway.Call{Leaf: "pump-2", Name: "open", Body: []byte(`"victim"`)})
			if err != nil || string(r.Body) != `"victim"` {
				t.Fatalf("the victim's method answered %+v, %v", r, err)
			}
			want = append(want, `"victim"`)
		}
		if i%4 == 0 {
			drain()
		}
		if i%100 == 0 { // chance alone may leave it nothing that is its own
			attacker.publish(0, "leaf/pump-1/telemetry", `{"of":"attacker"}`)
			attacker.publish(0, "leaf/pump-1/twin/reported", `{"of":"attacker"}`)
			drain()
		}
	}
	drain()
	b.until("all commands said", func() bool { return strings.Count(v.text(), "completed") == rounds/10 })
	// Desired changes go beside the commands: the last one may come after the last word on these.
	b.until("the victim has heard everything", func() bool { return heard.Load() >= int64(len(want)) })
	victim.c.Close()
	<-seen
	if b.path.count() == 0 || len(b.twins.reported()) == 0 {
		t.Error("the attacker could do nothing at all: the test proves little")
	}
	for d := range intruded {
		t.Errorf("the attacker got %s", d)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the victim got %d things, want %d", len(got), len(want))
	}
	for i := range b.path.count() {
		if m := b.path.message(i); m.Leaf != "pump-1" {
			t.Errorf("a message as %+v", m)
		}
	}
	for _, r := range b.twins.reported() {
		if r.leaf != "pump-1" {
			t.Errorf("reported as %+v", r)
		}
	}
	if strings.Contains(v.text(), "rejected") || strings.Contains(v.text(), "undelivered") {
		t.Error("the victim's commands were disturbed")
	}
}

// subscription is a SUBSCRIBE packet.
func (w *wire) subscription(id uint16, filter string) []byte {
	body := []byte{byte(id >> 8), byte(id)}
	if w.version == version5 {
		body = append(body, 0)
	}
	return frame(0x82, append(append(body, text(filter)...), 1))
}

// A session of another leaf is not to be had, whatever the client id, nor what is
// kept of it: the owner finds it as it was.
func TestKeptSessionIsItsOwners(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		hello2 := hello{version: version, clientID: "pump-2", user: hubUser("pump-2"), password: b.token("pump-2"), keep: true, props: []byte{17, 0, 0, 1, 0}}
		victim := b.dial()
		victim.connect(hello2)
		victim.listen(1, "devices/pump-2/messages/devicebound/#")
		victim.c.Close()
		asleep := gateway.WantsCommands | gateway.Asleep
		b.until("asleep", func() bool { return b.desk.of("pump-2") == asleep })
		for _, id := range []string{"pump-2", "/pump-2", "pump-2/", "pump-1/pump-2", "PUMP-2", "pump-2\ufeff", "+", "#"} {
			for _, keep := range []bool{true, false} {
				w := b.dial()
				code, present := w.connect(hello{version: version, clientID: id, user: "pump-1", password: secret, keep: keep, props: []byte{17, 0, 0, 1, 0}})
				if present {
					t.Errorf("client id %q finds a session", id)
				}
				if code == 0 {
					w.alive()
				}
				if b.desk.of("pump-2") != asleep {
					t.Fatalf("client id %q woke the victim", id)
				}
			}
		}
		var v verdicts
		b.b.Command(&gateway.Command{Leaf: "pump-2", Number: 1}, v.of("c"))
		b.untilSaid(&v, "c undelivered")
		victim = b.dial()
		if _, present := victim.connect(hello2); !present {
			t.Error("the victim's session is gone")
		}
	})
}

// What is revoked is cut within a second or so, and gets nothing any more.
func TestRevokedWhileConnected(t *testing.T) {
	b := newBench(t, nil)
	w := b.leaf("pump-1", version5)
	w.listen(1, commandsFilter, "$iothub/methods/POST/#")
	b.untilWants(gateway.WantsCommands | gateway.WantsCalls)
	answer := b.call(t.Context(), "open", "")
	w.receive()
	b.table.Remove("pump-1")
	w.expectClosed()
	b.answered(answer, gateway.ErrAbsent.Error())
	var v verdicts
	b.command(&v, 1)
	b.untilSaid(&v, "c1 undelivered")
}

// FuzzAsking: whatever the topic, a request is the leaf's own, and its id can be
// written into a topic again.
func FuzzAsking(f *testing.F) {
	for _, topic := range append(spoofed, "leaf/pump-1/reply/1/200", "$iothub/methods/res/200/?$rid=1&x", "$iothub/twin/GET/?a=b&%24rid=7", "leaf/pump%2D1/twin/get") {
		f.Add("pump-1", topic)
	}
	f.Fuzz(func(t *testing.T, leaf, topic string) {
		a, ok := parseAsking(leaf, topic)
		if !ok {
			return
		}
		if a.plain {
			if level := strings.Split(topic, "/")[1]; !plain.Names(level, leaf) {
				t.Fatalf("%q asks with %q", leaf, topic)
			}
			return
		}
		if a.rid == "" || !strings.Contains(topic, a.rid) {
			t.Fatalf("request id %q of %q", a.rid, topic)
		}
		if answer := hub.TwinAnswerTopic(200, a.rid); strings.Count(answer, "/") < 4 {
			t.Fatalf("answered on %q", answer)
		}
	})
}

// FuzzFilter: a filter that is taken is the leaf's own, and comes back the same
// from flash.
func FuzzFilter(f *testing.F) {
	for _, filter := range []string{"leaf/pump-1/#", "devices/pump-1/messages/devicebound/#", "$iothub/twin/res/#", "leaf/+/x", "leaf/pump%2D1/+"} {
		f.Add("pump-1", filter)
	}
	f.Fuzz(func(t *testing.T, leaf, filter string) {
		sub, ok := parseFilter(leaf, filter)
		if !ok {
			return
		}
		if sub.filter != filter || sub.level != "" && !plain.Names(sub.level, leaf) {
			t.Fatalf("%q subscribes to %q as %+v", leaf, filter, sub)
		}
		interest([]subscription{sub})
		if !json.Valid([]byte(`"`+filter+`"`)) || strings.ToValidUTF8(filter, "") != filter {
			return
		}
		sub.qos, sub.ident = 1, 7
		box, err := decodeSession(leaf, encodeSession(&mailbox{ttl: time.Hour, subs: []subscription{sub}}), parseFilter)
		if err != nil || box.ttl != time.Hour || !slices.Equal(box.subs, []subscription{sub}) {
			t.Fatalf("%+v came back as %+v, %v", sub, box, err)
		}
	})
}

// FuzzSessionNote: whatever stands on flash, a session has only what its leaf may
// subscribe to.
func FuzzSessionNote(f *testing.F) {
	f.Add("pump-1", []byte(`{"expiry":60,"filters":[{"filter":"leaf/pump-1/#","qos":1,"ident":3}]}`))
	f.Add("pump-1", []byte(`{"expiry":4294967295,"filters":[{"filter":"leaf/pump-2/#","qos":9,"ident":-1}]}`))
	f.Fuzz(func(t *testing.T, leaf string, note []byte) {
		box, err := decodeSession(leaf, note, parseFilter)
		if err != nil {
			return
		}
		if box.ttl < 0 || box.ttl > sessionTTL {
			t.Fatalf("kept for %v", box.ttl)
		}
		for _, s := range box.subs {
			if _, ok := parseFilter(leaf, s.filter); !ok || s.qos > 1 || s.ident < 0 {
				t.Fatalf("%q has %+v", leaf, s)
			}
		}
	})
}
