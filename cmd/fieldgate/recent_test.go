package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
)

type knownLeaves []string

func (k knownLeaves) Known(id string) bool {
	return strings.Contains(strings.Join(k, " "), id)
}

func TestLastMessagesOfALeaf(t *testing.T) {
	var waiting []gateway.Done
	r := newRecent(knownLeaves{"pump-1", "pump-2"})
	up := r.watch(gateway.HandlerFunc(func(_ context.Context, m *gateway.Message, done gateway.Done) {
		switch {
		case m.Channel == "held":
			waiting = append(waiting, done)
			return
		case m.Channel == "bad":
			done(gateway.ErrTooLarge)
			return
		}
		m.System.MessageID = "id-" + m.Channel
		done(nil)
	}))
	send := func(leaf, channel, body string) {
		up.Handle(t.Context(), &gateway.Message{Leaf: leaf, Channel: channel, Lane: gateway.LaneTelemetry, Body: []byte(body)}, func(error) {})
	}
	send("pump-1", "held", "first")
	for i := range maxRecent - 2 {
		send("pump-1", fmt.Sprint(i), "x")
	}
	send("pump-1", "bad", strings.Repeat("y", 1000))
	send("stranger", "a", "b")
	list := r.of("pump-1")
	if len(list) != maxRecent || list[0].Fate != control.FateWaiting || string(list[0].Excerpt) != "first" {
		t.Fatalf("%d messages, the first %+v", len(list), list[0])
	}
	if m := list[1]; m.Fate != control.FateTaken || m.MessageID != "id-0" || m.Lane != "telemetry" {
		t.Errorf("the second is %+v", m)
	}
	if m := list[maxRecent-1]; m.Fate != control.FateRefused || m.Why == "" || m.Bytes != 1000 || len(m.Excerpt) != maxExcerpt {
		t.Errorf("the last is %+v", m)
	}
	if got := r.of("stranger"); got != nil || r.of("pump-2") != nil {
		t.Errorf("of a stranger is remembered %+v", got)
	}
	if list[0].Direction != control.FromLeaf {
		t.Errorf("it came %s the leaf", list[0].Direction)
	}
	send("pump-1", "new", "z")
	waiting[0](nil) // the first is forgotten by now
	if list = r.of("pump-1"); list[0].MessageID != "id-0" || list[maxRecent-1].Channel != "new" || len(list) != maxRecent {
		t.Errorf("then %+v", list)
	}
}

// replies is a way to a leaf that answers by the name of what is sent.
type replies struct{ heard []func() }

func (*replies) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	if len(c.Properties) > 0 {
		answer(gateway.Rejected)
		return
	}
	answer(gateway.Completed)
}

func (*replies) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	if c.Name == "slow" {
		return nil, context.DeadlineExceeded
	}
	return &gateway.Reply{Status: 200}, nil
}

func (r *replies) Desired(_ string, _ []byte, _ int64, heard func()) {
	r.heard = append(r.heard, heard)
}

// What is sent to a leaf is remembered with its direction, beside what it sends, within a
// bound of its own: one does not drive out the other.
func TestLastMessagesToALeaf(t *testing.T) {
	r := newRecent(knownLeaves{"pump-1", "pump-2"})
	up := r.watch(gateway.HandlerFunc(func(_ context.Context, _ *gateway.Message, done gateway.Done) { done(nil) }))
	leaf, ways := new(replies), []gateway.Reach{}
	attend := r.attendance(attended(func(_ string, way gateway.Reach, _ gateway.Interest) { ways = append(ways, way) }))
	attend.Attend("pump-1", leaf, gateway.WantsCommands)
	attend.Attend("pump-1", leaf, 0)
	if ways[0] != ways[1] {
		t.Fatal("one way is two: it could not be taken back")
	}
	way := ways[0]
	command := func(properties ...gateway.Property) {
		way.Command(&gateway.Command{Leaf: "pump-1", Body: []byte("5"), Properties: properties}, func(gateway.Verdict) {})
	}
	command()
	command(gateway.Property{Name: "command", Value: strings.Repeat("s", 1000)})
	for _, name := range []string{"blink", "slow"} {
		_, _ = way.Call(t.Context(), &gateway.Call{Leaf: "pump-1", Name: name, Body: []byte(`{"times": 3}`)})
	}
	way.Desired("pump-1", []byte(`{"a": 1}`), 2, func() {})
	for range 3 * maxRecent {
		up.Handle(t.Context(), &gateway.Message{Leaf: "pump-1", Body: []byte("x")}, func(error) {})
	}
	var got []string
	for _, m := range r.of("pump-1") {
		if m.Direction == control.ToLeaf {
			got = append(got, fmt.Sprintf("%s/%.5s %s %s %s", m.Lane, m.Channel, m.Fate, m.Why, m.Excerpt))
		}
	}
	want := []string{
		"command/ taken  5", "command/sssss refused rejected 5", `method/blink taken status 200 {"times": 3}`,
		`method/slow refused no answer in time {"times": 3}`, `twin/desir waiting  {"a": 1}`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	leaf.heard[0]()
	leaf.heard[0]() // it may be told more than once
	if list := r.of("pump-1"); len(list) != maxRecent+5 || list[4].Fate != control.FateTaken || len(list[1].Channel) > maxSentName {
		t.Errorf("%d messages, the change is %+v", len(list), list[4])
	}
	for range 3 * maxSent {
		command()
	}
	leaf.heard[0]() // it is forgotten by now
	if n := len(r.of("pump-1")); n != maxRecent+maxSent {
		t.Errorf("%d are remembered, want %d", n, maxRecent+maxSent)
	}
	way.Command(&gateway.Command{Leaf: "stranger"}, func(gateway.Verdict) {})
	r.forget("pump-1")
	leaf.heard[0]()
	if r.of("pump-1") != nil || r.of("stranger") != nil {
		t.Errorf("of who is gone, or a stranger, there is %+v %+v", r.of("pump-1"), r.of("stranger"))
	}
}
