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
	send("pump-1", "new", "z")
	waiting[0](nil) // the first is forgotten by now
	if list = r.of("pump-1"); list[0].MessageID != "id-0" || list[maxRecent-1].Channel != "new" || len(list) != maxRecent {
		t.Errorf("then %+v", list)
	}
}
