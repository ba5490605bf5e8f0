package rest_test

import (
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/rest"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// oddID is a device with the characters that addresses must escape.
const oddID = "50%#1?+x"

// deviceBench is a hub without listeners, with the device pump-1, its module
// pumping, and a device with an odd name. All have the same key.
type deviceBench struct {
	t   *testing.T
	hub *hub.Hub
	api *rest.API
}

func newDeviceBench(t *testing.T) *deviceBench {
	t.Helper()
	h := hub.New(hub.Config{Host: "hub.test", Partitions: 1, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(h.Close)
	auth := registry.Auth{Type: registry.AuthSAS, PrimaryKey: base64.StdEncoding.EncodeToString(deviceKey)}
	for _, id := range []registry.ID{{Device: "pump-1"}, {Device: "pump-1", Module: "pumping"}, {Device: oddID}} {
		if _, err := h.Registry.Create(registry.Identity{ID: id, Auth: auth}); err != nil {
			t.Fatal(err)
		}
	}
	return &deviceBench{t, h, rest.New(h)}
}

var deviceKey = []byte("0123456789abcdef0123456789abcdef")

// send sends a request of the identity; header holds names and values in turn.
func (b *deviceBench) send(id registry.ID, method, path, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, "https://hub.test"+path, strings.NewReader(body))
	resource := "hub.test/devices/" + id.Device
	if id.Module != "" {
		resource += "/modules/" + id.Module
	}
	r.Header.Set("Authorization", sas.New(resource, "", deviceKey, time.Now().Add(time.Hour)))
	for n := 0; n < len(header); n += 2 {
		r.Header.Set(header[n], header[n+1])
	}
	w := httptest.NewRecorder()
	b.api.ServeHTTP(w, r)
	return w
}

// pump sends a request of the device pump-1.
func (b *deviceBench) pump(method, path, body string, header ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.send(registry.ID{Device: "pump-1"}, method, path, body, header...)
}

// want checks status and error name of an answer.
func want(t *testing.T, w *httptest.ResponseRecorder, status int, name string) {
	t.Helper()
	if w.Code != status || w.Header().Get("iothub-errorcode") != name {
		t.Errorf("got %d %s %s, want %d %s", w.Code, w.Header().Get("iothub-errorcode"), w.Body, status, name)
	}
}

// arrived returns what the hub's events are, in order, as messages.
func (b *deviceBench) arrived() []*message.Message {
	b.t.Helper()
	var list []*message.Message
	for e := range b.hub.Events.All() {
		m, err := amqp.ParseMessage(e.Message)
		if err != nil {
			b.t.Fatal(err)
		}
		list = append(list, message.FromAMQP(m))
	}
	return list
}

func TestTelemetry(t *testing.T) {
	b := newDeviceBench(t)
	want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events?api-version=2021-04-12", `{"n":1}`,
		"iothub-messageid", "m-1", "iothub-correlationid", "c-1", "iothub-userid", "u-1", "iothub-to", "/devices/pump-1/messages/events",
		"iothub-contenttype", "application/json", "iothub-contentencoding", "utf-8", "iothub-ack", "none",
		"iothub-interface-id", "urn:x", "dt-subject", "motor", "iothub-creation-time-utc", "2026-01-02T03:04:05.678Z",
		"iothub-expiry", "2026-01-02T03:04:06Z", "iothub-app-Color", "red", "iothub-app-b", "2", "iothub-name", "hub",
	), http.StatusNoContent, "")
	got := b.arrived()
	if len(got) != 1 {
		t.Fatalf("%d messages have arrived", len(got))
	}
	m := got[0]
	for _, c := range []struct{ what, got, want string }{
		{"id", m.ID, "m-1"},
		{"correlation id", m.CorrelationID, "c-1"},
		{"user id", m.UserID, "u-1"},
		{"to", m.To, "/devices/pump-1/messages/events"},
		{"content type", m.ContentType, "application/json"},
		{"content encoding", m.ContentEncoding, "utf-8"},
		{"ack", m.Ack, "none"},
		{"interface", m.InterfaceID, "urn:x"},
		{"component", m.Component, "motor"},
		{"created", m.Created.Format(time.RFC3339Nano), "2026-01-02T03:04:05.678Z"},
		{"expiry", m.Expiry.UTC().Format(time.RFC3339Nano), "2026-01-02T03:04:06Z"},
		{"body", string(m.Body), `{"n":1}`},
	} {
		if c.got != c.want {
			t.Errorf("%s is %q, want %q", c.what, c.got, c.want)
		}
	}
	if properties := []message.Property{{Name: "b", Value: "2"}, {Name: "color", Value: "red"}}; !slices.Equal(m.Properties, properties) {
		t.Errorf("properties are %v, want %v", m.Properties, properties)
	}
}

func TestExpiryForms(t *testing.T) {
	for _, text := range []string{
		"2026-11-23T08:34:51Z", "2026-11-23T09:34:51+01:00", "Mon, 23 Nov 2026 08:34:51 GMT",
		"Mon Nov 23 2026 08:34:51 GMT+0000 (Coordinated Universal Time)", "Mon Nov 23 2026 09:34:51 GMT+0100 (CET)",
	} {
		b := newDeviceBench(t)
		want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", "x", "iothub-expiry", text), http.StatusNoContent, "")
		if got := b.arrived()[0].Expiry; !got.Equal(time.Date(2026, 11, 23, 8, 34, 51, 0, time.UTC)) {
			t.Errorf("%s reads as %v", text, got)
		}
	}
	b := newDeviceBench(t)
	want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", "x", "iothub-expiry", "soon"), http.StatusBadRequest, "ArgumentInvalid")
	if got := b.arrived(); len(got) != 0 {
		t.Errorf("refused telemetry has arrived: %v", got)
	}
}

const batchType = "application/vnd.microsoft.iothub.json; charset=utf-8"

func TestBatch(t *testing.T) {
	b := newDeviceBench(t)
	want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", `[
		{"body": "b25l"},
		{"body": "dHdv", "base64Encoded": true, "properties": {"iothub-app-Color": "red", "iothub-messageid": "m-2"}},
		{"body": "three", "base64Encoded": false}
	]`, "Content-Type", batchType), http.StatusNoContent, "")
	var bodies []string
	got := b.arrived()
	for _, m := range got {
		bodies = append(bodies, string(m.Body))
	}
	if !slices.Equal(bodies, []string{"one", "two", "three"}) {
		t.Fatalf("arrived: %q", bodies)
	}
	if color, _ := got[1].Property("Color"); color != "red" || got[1].ID != "m-2" {
		t.Errorf("the second message is %+v", got[1])
	}
}

// A batch counts whole or not at all.
func TestBadBatch(t *testing.T) {
	b := newDeviceBench(t)
	for _, body := range []string{
		``, `{}`, `[]`, `[1]`, `[{"body": 1}]`, `[{"body": "b25l"}, {"body": "%"}]`,
		`[{"body": "b25l"}, {"body": "b25l", "properties": {"iothub-expiry": "soon"}}]`,
		`[{"body": "b25l"}] x`,
	} {
		want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", body, "Content-Type", batchType), http.StatusBadRequest, "ArgumentInvalid")
	}
	if got := b.arrived(); len(got) != 0 {
		t.Errorf("%d messages of bad batches have arrived", len(got))
	}
}

func TestTooLarge(t *testing.T) {
	b := newDeviceBench(t)
	for _, size := range []int{hub.MaxTelemetry + 1, 2 << 20} {
		want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", strings.Repeat("x", size)), http.StatusRequestEntityTooLarge, "MessageTooLarge")
	}
	half := base64.StdEncoding.EncodeToString(make([]byte, hub.MaxTelemetry/2))
	batch := `[{"body":"` + half + `"},{"body":"` + half + `"},{"body":"AA=="}]`
	want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", batch, "Content-Type", batchType), http.StatusRequestEntityTooLarge, "MessageTooLarge")
	if got := b.arrived(); len(got) != 0 {
		t.Errorf("%d messages that are too large have arrived", len(got))
	}
}

// Who sends is told by the path, and must be who the token is for.
func TestSenders(t *testing.T) {
	b := newDeviceBench(t)
	module := registry.ID{Device: "pump-1", Module: "pumping"}
	want(t, b.send(module, http.MethodPost, "/devices/pump-1/modules/pumping/messages/events", "x"), http.StatusNoContent, "")
	want(t, b.send(registry.ID{Device: oddID}, http.MethodPost, "/devices/50%25%231%3F%2Bx/messages/events", "x"), http.StatusNoContent, "")
	var ids []registry.ID
	for e := range b.hub.Events.All() {
		ids = append(ids, registry.ID{Device: e.Device, Module: e.Module})
	}
	if !slices.Equal(ids, []registry.ID{module, {Device: oddID}}) {
		t.Errorf("telemetry of %v", ids)
	}

	want(t, b.pump(http.MethodPost, "/devices/pump-2/messages/events", "x"), http.StatusNotFound, "DeviceNotFound")
	want(t, b.pump(http.MethodPost, "/devices/pump-1/modules/other/messages/events", "x"), http.StatusNotFound, "ModuleNotFound")
	want(t, b.pump(http.MethodPost, "/devices/"+"50%25%231%3F%2Bx"+"/messages/events", "x"), http.StatusUnauthorized, "IotHubUnauthorizedAccess")
	want(t, b.send(module, http.MethodPost, "/devices/pump-1/messages/events", "x"), http.StatusUnauthorized, "IotHubUnauthorizedAccess")
	want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", "x", "Authorization", ""), http.StatusUnauthorized, "IotHubUnauthorized")
	b.hub.Registry.SetEnabled("pump-1", false)
	want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", "x"), http.StatusUnauthorized, "DeviceDisabled")
}

// Telemetry carries the number of its connection, which that gets once.
func TestConnectionNumbers(t *testing.T) {
	b := newDeviceBench(t)
	server := httptest.NewUnstartedServer(b.api)
	server.Config.ConnContext = b.api.ConnContext
	server.Start()
	defer server.Close()
	post := func(client *http.Client) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/devices/pump-1/messages/events", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", sas.New("hub.test/devices/pump-1", "", deviceKey, time.Now().Add(time.Hour)))
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := answer.Body.Close(); err != nil || answer.StatusCode != http.StatusNoContent {
			t.Errorf("got %s, error %v", answer.Status, err)
		}
	}
	other := &http.Client{Transport: &http.Transport{}}
	defer other.CloseIdleConnections()
	for _, client := range []*http.Client{server.Client(), server.Client(), other} {
		post(client)
	}
	var numbers []uint64
	for e := range b.hub.Events.All() {
		numbers = append(numbers, e.Connection)
	}
	if !slices.Equal(numbers, []uint64{1, 1, 2}) {
		t.Errorf("connections are %v", numbers)
	}
}
