package e2e

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// snLeaf is a leaf over MQTT-SN that listens for everything and answers methods.
type snLeaf struct {
	*leafsim.SN
	ctx context.Context
	t   *testing.T

	work  sync.WaitGroup
	mu    sync.Mutex
	heard map[string][]string // payloads by topic, guarded by mu
}

// hear takes what the gateway publishes.
func (l *snLeaf) hear(topic string, payload []byte) {
	l.mu.Lock()
	if list := l.heard[topic]; len(list) == 0 || list[len(list)-1] != string(payload) { // no copy
		l.heard[topic] = append(list, string(payload))
	}
	l.mu.Unlock()
	if rid, ok := strings.CutPrefix(topic, "command/blink/"); ok {
		l.work.Go(func() {
			if err := l.Publish(l.ctx, "reply/"+rid+"/202", []byte(`{"blinked":`+string(payload)+`}`)); err != nil {
				l.t.Errorf("the leaf cannot answer: %v", err)
			}
		})
	}
}

func (l *snLeaf) on(topic string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.heard[topic])
}

// MQTT-SN over a serial line, through the real programs: telemetry is kept while the
// hub is away and the gateway is killed, commands, methods and the twin come over
// the same line, and a kept session is found again after the kill.
func TestMQTTSN(t *testing.T) { mqttsnStory(t, site.MQTTSN) }

// The same over the Nordic UART Service of a device over BLE whose packets are as small
// as they may be: and every message says that nothing proves the device.
func TestMQTTSNOverBLE(t *testing.T) {
	s := mqttsnStory(t, site.NUS)
	for _, e := range s.Events() {
		if e.Properties["fieldgate-trust"] != "unpaired" {
			t.Errorf("from %s came %s with %v", e.Device, e.Body, e.Properties)
		}
	}
}

func mqttsnStory(t *testing.T, kind site.Kind) *site.Site {
	ctx := testContext(t, 3*time.Minute)
	node := site.Device{ID: "node-1", Kind: kind}
	s := running(ctx, t, site.Plan{Leaves: []site.Device{node}})
	l := &snLeaf{ctx: ctx, t: t, heard: make(map[string][]string)}
	l.SN = &leafsim.SN{Filters: []string{"command/#", "twin/#"}, Heard: l.hear}
	leaf, err := s.Leaf(node, leafsim.Options{Line: l.SN, Rate: 40, AlarmEvery: 10})
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- leaf.Run(ctx) }()
	await := func(what string, met func() bool) {
		t.Helper()
		bounded, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		must(t, s.Await(bounded, what, met))
	}
	await("acknowledgements", func() bool { return leaf.Stats().Acked > 20 })

	must(t, s.Hub().Send(ctx, "node-1", "open"))
	await("the command", func() bool { return slices.Equal(l.on("command/message"), []string{"open"}) })
	await("its completion at the hub", func() bool { return queued(ctx, t, s, "node-1") == 0 })
	answer, err := s.Hub().Call(ctx, "node-1", "blink", `{"times":3}`)
	must(t, err)
	if !strings.Contains(answer, "202") || !strings.Contains(answer, `{"blinked":{"times":3}}`) {
		t.Errorf("the method answers %s", answer)
	}
	_, err = s.Hub().Twin(ctx, "node-1", `{"properties":{"desired":{"period":5}}}`)
	must(t, err)
	await("the desired change", func() bool {
		list := l.on("twin/desired")
		return len(list) > 0 && strings.Contains(list[len(list)-1], `"period":5`)
	})
	must(t, l.Publish(ctx, "twin/reported", []byte(`{"period":5}`)))
	must(t, l.Publish(ctx, "twin/get", nil))
	await("the twin", func() bool {
		list := l.on("twin/document")
		if len(list) == 0 {
			return false
		}
		var twin struct{ Desired, Reported map[string]any }
		must(t, json.Unmarshal([]byte(list[0]), &twin))
		return twin.Desired["period"] == 5.0 && twin.Reported["period"] == 5.0
	})

	must(t, s.Cut(ctx))
	acked := leaf.Stats().Acked
	await("acknowledgements without the hub", func() bool { return leaf.Stats().Acked > acked+20 })
	if r := s.Radio(); r != nil {
		r.Device("node-1").Drop()
		acked = leaf.Stats().Acked
		await("acknowledgements over another connection", func() bool { return r.Device("node-1").Connects() == 2 && leaf.Stats().Acked > acked+20 })
	}
	must(t, s.Hub().Send(ctx, "node-1", "shut"))
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	acked = leaf.Stats().Acked
	await("acknowledgements after the kill", func() bool { return leaf.Stats().Acked > acked+20 })
	must(t, s.Restore(ctx))
	await("the command that came meanwhile", func() bool { return slices.Contains(l.on("command/message"), "shut") })
	leaf.Stop()
	select {
	case err := <-ended:
		must(t, err)
	case <-ctx.Done():
		t.Fatal("the leaf does not end")
	}
	l.work.Wait()
	allArrived(ctx, t, s)
	return s
}
