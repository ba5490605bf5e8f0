package rest_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

const devicebound = "/devices/pump-1/messages/devicebound"

// queue queues a command for pump-1.
func (b *deviceBench) queue(m *message.Message) {
	b.t.Helper()
	if err := b.hub.Commands.Send(registry.ID{Device: "pump-1"}, m); err != nil {
		b.t.Fatal(err)
	}
}

// receive fetches the next command and returns its lock token.
func (b *deviceBench) receive() (w *httptest.ResponseRecorder, lock string) {
	b.t.Helper()
	w = b.pump(http.MethodGet, devicebound+"?api-version=2021-04-12", "")
	want(b.t, w, http.StatusOK, "")
	etag := w.Header().Get("ETag")
	lock = strings.Trim(etag, `"`)
	if etag != `"`+lock+`"` || lock == "" {
		b.t.Errorf("ETag is %s, want it quoted", etag)
	}
	return w, lock
}

// empty checks that no command is to be had.
func (b *deviceBench) empty() {
	b.t.Helper()
	want(b.t, b.pump(http.MethodGet, devicebound, ""), http.StatusNoContent, "")
}

func TestReceive(t *testing.T) {
	b := newDeviceBench(t)
	b.empty()
	expiry := time.Now().Add(time.Hour).UTC()
	b.queue(&message.Message{
		ID: "m-1", CorrelationID: "c-1", UserID: "u-1", To: "/devices/pump-1/messages/devicebound", Ack: "full",
		ContentType: "application/json", ContentEncoding: "utf-8", Expiry: expiry, Body: []byte(`{"speed":3}`),
		Properties: []message.Property{{Name: "color", Value: "red"}},
	})
	w, _ := b.receive()
	if w.Body.String() != `{"speed":3}` {
		t.Errorf("the body is %s", w.Body)
	}
	for name, value := range map[string]string{
		"iothub-messageid": "m-1", "iothub-correlationid": "c-1", "iothub-userid": "u-1", "iothub-ack": "full",
		"iothub-to": devicebound, "iothub-contenttype": "application/json", "iothub-contentencoding": "utf-8",
		"iothub-sequencenumber": "1", "iothub-deliverycount": "0", "iothub-app-color": "red",
	} {
		if got := header(w, name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	for _, name := range []string{"iothub-enqueuedtime", "iothub-expiry"} {
		if _, err := time.Parse(time.RFC3339, header(w, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.empty() // it is locked
}

// header returns a header whatever its case: the hub writes its own in lower
// case.
func header(w *httptest.ResponseRecorder, name string) string {
	for key, values := range w.Result().Header {
		if strings.EqualFold(key, name) {
			return values[0]
		}
	}
	return ""
}

func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newDeviceBench(t)
		for _, id := range []string{"m-1", "m-2"} {
			b.queue(&message.Message{ID: id, Ack: "full"})
		}

		_, lock := b.receive()
		want(t, b.pump(http.MethodPost, devicebound+"/"+lock+"/abandon?api-version=2021-04-12", ""), http.StatusNoContent, "")
		counts := make(map[string]string)
		for range 2 {
			w, lock := b.receive()
			id := header(w, "iothub-messageid")
			counts[id] = header(w, "iothub-deliverycount")
			query := "?api-version=2021-04-12"
			if id == "m-2" {
				query += "&reject"
			}
			want(t, b.pump(http.MethodDelete, devicebound+"/"+lock+query, ""), http.StatusNoContent, "")
			want(t, b.pump(http.MethodDelete, devicebound+"/"+lock+query, ""), http.StatusPreconditionFailed, "DeviceMessageLockLost")
		}
		if counts["m-1"] != "1" || counts["m-2"] != "0" {
			t.Errorf("deliveries are counted %v", counts)
		}
		b.empty()
		time.Sleep(time.Minute) // until feedback is gathered and sent
		feedback, ok := b.hub.Feedback.Receive()
		if !ok {
			t.Fatal("there is no feedback")
		}
		text := string(feedback.Message.Body)
		for id, status := range map[string]string{"m-1": "Success", "m-2": "Rejected"} {
			_, record, _ := strings.Cut(text, `"originalMessageId":"`+id+`"`)
			record, _, _ = strings.Cut(record, "}")
			if !strings.Contains(record, `"statusCode":"`+status+`"`) {
				t.Errorf("feedback is %s, want %s of %s", text, status, id)
			}
		}
	})
}

func TestSettleUnknown(t *testing.T) {
	b := newDeviceBench(t)
	b.queue(&message.Message{})
	_, lock := b.receive()
	for _, path := range []string{"/no-such-lock", "/" + lock + "x"} {
		want(t, b.pump(http.MethodDelete, devicebound+path, ""), http.StatusPreconditionFailed, "DeviceMessageLockLost")
		want(t, b.pump(http.MethodPost, devicebound+path+"/abandon", ""), http.StatusPreconditionFailed, "DeviceMessageLockLost")
	}
	other := registry.ID{Device: oddID}
	want(t, b.send(other, http.MethodDelete, "/devices/50%25%231%3F%2Bx/messages/devicebound/"+lock, ""), http.StatusPreconditionFailed, "DeviceMessageLockLost")
	want(t, b.pump(http.MethodDelete, devicebound+"/"+lock, ""), http.StatusNoContent, "")
}

// Receiving has a rate of its own.
func TestReceiveLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newDeviceBench(t)
		if err := b.hub.Limits.SetTier("S1", 1); err != nil {
			t.Fatal(err)
		}
		status := http.StatusNoContent
		for range 2000 { // more than a minute's worth
			if status = b.pump(http.MethodGet, devicebound, "").Code; status != http.StatusNoContent {
				break
			}
		}
		if status != http.StatusTooManyRequests {
			t.Errorf("in the end the hub answers %d", status)
		}
	})
}
