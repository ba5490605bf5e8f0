package suite

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// desired is a leaf that notes its desired changes.
type desired struct {
	leafEnd
	changes chan string
}

func (d *desired) Desired(_ string, patch []byte, _ int64, heard func()) {
	d.changes <- string(patch)
	go heard()
}

// TestTwinsOverMQTT: the gateway has its own twin, and leaves are told that they
// have none.
func TestTwinsOverMQTT(t *testing.T) {
	for _, transport := range []string{dial.MQTT, dial.MQTTWebSocket} {
		t.Run(transport, func(t *testing.T) {
			b := NewBench(t, transport, Leaves(1))
			own := registry.ID{Device: Gateway}
			b.Await("the connection", func() bool { return b.Uplink.State().Connected })
			end := &desired{changes: make(chan string, 10)}
			b.Twins.Attend(Gateway, end, gateway.WantsDesired)
			document, age, err := b.Twins.Twin(t.Context(), Gateway)
			if err != nil || age != 0 || !strings.Contains(string(document), `"desired"`) {
				t.Fatalf("got %s, %v, %v", document, age, err)
			}
			done := make(chan int64, 1)
			b.Twins.Report(Gateway, []byte(`{"fw":"1.2"}`), func(version int64, err error) {
				if err != nil {
					t.Error(err)
				}
				done <- version
			})
			if v := <-done; v != 2 {
				t.Errorf("version %d, want 2", v)
			}
			if got, err := b.Hub.Domain().Twins.ForDevice(own); err != nil || !strings.Contains(string(got), `"fw":"1.2"`) {
				t.Errorf("the hub has %s, %v", got, err)
			}
			if _, err := b.Hub.Domain().Twins.Update(own, []byte(`{"properties":{"desired":{"interval":6}}}`), false, ""); err != nil {
				t.Fatal(err)
			}
			select {
			case patch := <-end.changes:
				if !strings.Contains(patch, `"interval":6`) {
					t.Errorf("got %s", patch)
				}
			case <-time.After(patience):
				t.Error("the change never came")
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, _, err = b.Twins.Twin(ctx, "leaf-001")
			if refused, ok := errors.AsType[*gateway.TwinError](err); !ok || refused.Code != 400003 {
				t.Errorf("the twin of a leaf: %v", err)
			}
			b.Twins.Report("leaf-001", []byte(`{"a":1}`), func(_ int64, err error) {
				if _, ok := errors.AsType[*gateway.TwinError](err); !ok {
					t.Errorf("a leaf's report: %v", err)
				}
				done <- 0
			})
			<-done
			if s := b.Uplink.State(); s.Connects["ok"] != 1 {
				t.Errorf("state %+v", s)
			}
		})
	}
}

// TestCallsThatNameNobody: over MQTT the gateway answers for leaves that are not
// there.
func TestCallsThatNameNobody(t *testing.T) {
	b := NewBench(t, dial.MQTT, Leaves(1))
	b.Twins.Attend("leaf-001", &leafEnd{}, gateway.WantsCalls)
	for payload, status := range map[string]int32{
		`{"leaf":"leaf-001","payload":1}`: 201, `{"leaf":"stranger"}`: 404, `{"payload":1}`: 400, `17`: 400,
	} {
		answer, err := b.Hub.Domain().Methods.Invoke(t.Context(), registry.ID{Device: Gateway}, methods.Call{
			Name: "reboot", Payload: []byte(payload), ConnectTimeout: 20 * time.Second, ResponseTimeout: 20 * time.Second,
		})
		if err != nil || int32(answer.Status) != status {
			t.Errorf("%s: got %+v, %v, want %d", payload, answer, err, status)
		}
	}
	// A command for nobody, and one for a leaf that comes later.
	b.command("", "nobody")
	late := &leafEnd{}
	b.command("leaf-002", "late")
	b.Twins.Attend("leaf-001", late, gateway.WantsCommands)
	b.Await("the subscription", func() bool { return b.queued("leaf-001") == 2 })
	b.Twins.Attend("leaf-002", late, gateway.WantsCommands)
	b.Await("it is there", func() bool { return late.all() == "leaf-002:late" })
	late.say(gateway.Completed)
	b.Await("one is completed", func() bool { return b.queued("leaf-001") == 1 })
}
