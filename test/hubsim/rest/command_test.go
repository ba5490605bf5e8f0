package rest_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// send queues commands for the device d, which ask for full feedback.
func (b *registryBench) send(ids ...string) {
	b.t.Helper()
	for _, id := range ids {
		m := &message.Message{ID: id, Ack: "full"}
		if err := b.hub.Commands.Send(registry.ID{Device: "d"}, m); err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestPurge(t *testing.T) {
	b := newMethodBench(t)
	b.send("1", "2", "3")
	for _, want := range []string{
		`{"deviceId":"d","moduleId":null,"totalMessagesPurged":3}`,
		`{"deviceId":"d","moduleId":null,"totalMessagesPurged":0}`,
	} {
		if w := b.ask("DELETE", "/devices/d/commands?api-version=2021-04-12", "", ""); w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("%d %s, want %s", w.Code, w.Body, want)
		}
	}
	b.refused(404001, "DELETE", "/devices/other/commands", "", "")
	b.as = "registryReadWrite"
	b.refused(401002, "DELETE", "/devices/d/commands", "", "")
}

// Feedback over HTTP: received once, abandoned, received again and completed.
func TestFeedbackRequests(t *testing.T) {
	for _, path := range []string{"/messages/serviceBound/feedback", "/messages/servicebound/feedback"} {
		synctest.Test(t, func(t *testing.T) {
			b := newMethodBench(t)
			nothing := func() {
				t.Helper()
				if w := b.ask("GET", path, "", ""); w.Code != http.StatusNoContent || w.Body.Len() != 0 {
					t.Errorf("%d %s, want 204 and nothing", w.Code, w.Body)
				}
			}
			b.send("1", "2")
			b.ask("DELETE", "/devices/d/commands", "", "")
			nothing() // records are still gathered
			time.Sleep(15 * time.Second)
			lock := b.feedback(path, "0")
			nothing() // it is locked
			if w := b.ask("POST", path+"/"+lock+"/abandon", "", ""); w.Code != http.StatusNoContent {
				t.Errorf("abandon: %d %s", w.Code, w.Body)
			}
			b.refused(412002, "DELETE", path+"/"+lock, "", "")
			lock = b.feedback(path, "1")
			if w := b.ask("DELETE", path+"/"+lock, "", ""); w.Code != http.StatusNoContent {
				t.Errorf("complete: %d %s", w.Code, w.Body)
			}
			b.refused(412002, "POST", path+"/"+lock+"/abandon", "", "")
			nothing()
			b.as = "device"
			b.refused(401002, "GET", path, "", "")
		})
	}
}

// feedback receives the records of the two purged commands and returns the lock
// token.
func (b *registryBench) feedback(path, count string) string {
	b.t.Helper()
	w := b.ask("GET", path, "", "")
	var records []struct{ OriginalMessageID, StatusCode, DeviceID string }
	if err := json.Unmarshal(w.Body.Bytes(), &records); err != nil || len(records) != 2 {
		b.t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	for n, id := range []string{"1", "2"} {
		if r := records[n]; r.OriginalMessageID != id || r.StatusCode != "Purged" || r.DeviceID != "d" {
			b.t.Errorf("record %d is %+v", n, r)
		}
	}
	for name, want := range map[string]string{
		"Content-Type":          "application/vnd.microsoft.iothub.feedback.json",
		"iothub-deliverycount":  count,
		"iothub-sequencenumber": "1",
		"iothub-userid":         "hub.test",
	} {
		if got := header(w, name); got != want {
			b.t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	etag := w.Header().Get("ETag")
	if len(etag) != 38 || etag[0] != '"' || etag[37] != '"' {
		b.t.Fatalf("ETag %s, want a lock token in quotes", etag)
	}
	return etag[1:37]
}
