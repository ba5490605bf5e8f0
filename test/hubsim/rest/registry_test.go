package rest_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/rest"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// registryBench asks a hub over HTTPS requests as services do.
type registryBench struct {
	t   testing.TB
	hub *hub.Hub
	api *rest.API
	as  string // the policy that signs
}

// newRegistryBench starts an empty hub without listeners.
func newRegistryBench(t testing.TB) *registryBench {
	t.Helper()
	var policies []registry.Policy
	for name, rights := range registry.PolicyRights {
		policies = append(policies, registry.Policy{Name: name, PrimaryKey: registry.NewKey(), Rights: rights})
	}
	h := hub.New(hub.Config{Host: "hub.test", Policies: policies, Partitions: 1, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(h.Close)
	return &registryBench{t, h, rest.New(h), "iothubowner"}
}

// token is what the policy signs for the hub.
func (b *registryBench) token() string {
	key, err := base64.StdEncoding.DecodeString(b.hub.Registry.Policy(b.as).PrimaryKey)
	if err != nil {
		b.t.Fatal(err)
	}
	return sas.New("hub.test", b.as, key, time.Now().Add(time.Hour))
}

// ask sends a request; ifMatch "" sends no such header.
func (b *registryBench) ask(method, path, ifMatch, body string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, "https://hub.test"+path, io.NopCloser(strings.NewReader(body)))
	r.Header.Set("Authorization", b.token())
	if ifMatch != "" {
		r.Header.Set("If-Match", ifMatch)
	}
	w := httptest.NewRecorder()
	b.api.ServeHTTP(w, r)
	return w
}

// object sends a request and returns the JSON object of a good answer.
func (b *registryBench) object(method, path, ifMatch, body string) map[string]any {
	b.t.Helper()
	w := b.ask(method, path, ifMatch, body)
	var object map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &object); err != nil || w.Code != http.StatusOK {
		b.t.Fatalf("%s %s: %d %s (%v)", method, path, w.Code, w.Body, err)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
		b.t.Errorf("%s %s: content type %q", method, path, got)
	}
	if got, has := w.Header().Get("ETag"), object["etag"]; has != nil && got != fmt.Sprintf("%q", has) {
		b.t.Errorf("%s %s: ETag header %s for %v", method, path, got, has)
	}
	return object
}

// refused sends a request that must fail with the code, in the form of section
// 5.3.
func (b *registryBench) refused(code int, method, path, ifMatch, body string) {
	b.t.Helper()
	w := b.ask(method, path, ifMatch, body)
	var e struct{ Message, ExceptionMessage string }
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		b.t.Errorf("%s %s: %d %s: %v", method, path, w.Code, w.Body, err)
		return
	}
	want := refusal.New(code, "")
	if w.Code != want.Status() || !strings.HasPrefix(e.Message, "ErrorCode:"+want.Name+";") ||
		!strings.HasPrefix(e.ExceptionMessage, "Tracking ID:") || w.Header().Get("iothub-errorcode") != want.Name {
		b.t.Errorf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, code)
	}
}

// A device as the hub tells of it: every field of section 5.2, with keys made up
// for the empty texts that Node sends, and times that never were.
func TestNewDevice(t *testing.T) {
	b := newRegistryBench(t)
	d := b.object("PUT", "/devices/pump-1?api-version=2021-04-12", "",
		`{"deviceId":"pump-1","authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`)
	auth := d["authentication"].(map[string]any)
	keys := auth["symmetricKey"].(map[string]any)
	for _, name := range []string{"primaryKey", "secondaryKey"} {
		if key, err := base64.StdEncoding.DecodeString(keys[name].(string)); err != nil || len(key) != 32 {
			t.Errorf("%s: %v, %v", name, keys[name], err)
		}
	}
	const never = "0001-01-01T00:00:00Z"
	i, err := b.hub.Registry.Find(registry.ID{Device: "pump-1"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"deviceId": "pump-1", "generationId": i.Generation, "etag": i.ETag,
		"connectionState": "Disconnected", "connectionStateUpdatedTime": never, "lastActivityTime": never,
		"cloudToDeviceMessageCount": 0.0, "status": "enabled", "statusReason": nil, "statusUpdatedTime": never,
		"capabilities": map[string]any{"iotEdge": false},
		"authentication": map[string]any{
			"type":           "sas",
			"symmetricKey":   map[string]any{"primaryKey": i.Auth.PrimaryKey, "secondaryKey": i.Auth.SecondaryKey},
			"x509Thumbprint": map[string]any{"primaryThumbprint": nil, "secondaryThumbprint": nil},
		},
	}
	if fmt.Sprint(d) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", d, want)
	}
	if again := b.object("GET", "/devices/pump-1", "", ""); fmt.Sprint(again) != fmt.Sprint(d) {
		t.Errorf("read %v after %v", again, d)
	}
}

// What others know of a device is in its description.
func TestConnectedDevice(t *testing.T) {
	b := newRegistryBench(t)
	first := b.object("PUT", "/devices/d", "", `{}`)
	id := registry.ID{Device: "d"}
	if err := b.hub.Commands.Send(id, &message.Message{Body: []byte("start")}); err != nil {
		t.Fatal(err)
	}
	session := b.hub.Presence.Enter(id, func(*refusal.Error) {})
	defer session.Leave()
	d := b.object("GET", "/devices/d", "", "")
	if d["connectionState"] != "Connected" || d["cloudToDeviceMessageCount"] != 1.0 ||
		d["connectionStateUpdatedTime"] == first["connectionStateUpdatedTime"] || d["lastActivityTime"] == first["lastActivityTime"] {
		t.Errorf("got %v", d)
	}
	if got := b.object("GET", "/statistics/service", "", ""); got["connectedDeviceCount"] != 1.0 {
		t.Errorf("statistics: %v", got)
	}
}

// Replacing needs an If-Match that fits, quoted or bare; keys that are left out
// or empty stay.
func TestReplaceDevice(t *testing.T) {
	b := newRegistryBench(t)
	first := b.object("PUT", "/devices/d", "", `{"deviceId":"d"}`)
	b.refused(409001, "PUT", "/devices/d", "", `{"deviceId":"d"}`)
	b.refused(412001, "PUT", "/devices/d", `"AAAA"`, `{}`)
	b.refused(404001, "PUT", "/devices/ghost", "*", `{}`)

	second := b.object("PUT", "/devices/d", fmt.Sprintf("%q", first["etag"]), `{
		"status":"disabled","statusReason":"in repair","capabilities":{"iotEdge":true},
		"deviceScope":"scope://d","parentScopes":["scope://p"],"cloudToDeviceMessageCount":"0",
		"authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`)
	if second["status"] != "disabled" || second["statusReason"] != "in repair" || second["deviceScope"] != "scope://d" ||
		fmt.Sprint(second["parentScopes"]) != "[scope://p]" || fmt.Sprint(second["capabilities"]) != "map[iotEdge:true]" ||
		second["statusUpdatedTime"] == first["statusUpdatedTime"] ||
		fmt.Sprint(second["authentication"]) != fmt.Sprint(first["authentication"]) {
		t.Errorf("got %v after %v", second, first)
	}
	third := b.object("PUT", "/devices/d", second["etag"].(string), `{"authentication":null}`)
	fourth := b.object("PUT", "/devices/d", `"*"`, `{"authentication":{"symmetricKey":{"primaryKey":"`+registry.NewKey()+`"}}}`)
	if fourth["etag"] == third["etag"] || fmt.Sprint(fourth["authentication"]) == fmt.Sprint(third["authentication"]) {
		t.Errorf("got %v after %v", fourth, third)
	}

	b.refused(412001, "DELETE", "/devices/d", first["etag"].(string), "")
	b.refused(412001, "DELETE", "/devices/d", `""`, "")
	if w := b.ask("DELETE", "/devices/d", `"*"`, ""); w.Code != http.StatusNoContent || w.Body.Len() > 0 {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	b.refused(404001, "GET", "/devices/d", "", "")
	b.refused(404001, "DELETE", "/devices/d", "", "")
}

// Identities with certificates have no keys.
func TestCertificateDevices(t *testing.T) {
	b := newRegistryBench(t)
	thumbprint := strings.Repeat("0A", 20)
	d := b.object("PUT", "/devices/d", "", `{"authentication":{"type":"selfSigned","symmetricKey":{"primaryKey":null,"secondaryKey":null},
		"x509Thumbprint":{"primaryThumbprint":"`+thumbprint+`","secondaryThumbprint":null}}}`)
	want := map[string]any{
		"type":           "selfSigned",
		"symmetricKey":   map[string]any{"primaryKey": nil, "secondaryKey": nil},
		"x509Thumbprint": map[string]any{"primaryThumbprint": thumbprint, "secondaryThumbprint": nil},
	}
	if fmt.Sprint(d["authentication"]) != fmt.Sprint(want) {
		t.Errorf("got %v", d["authentication"])
	}
	d = b.object("PUT", "/devices/e", "", `{"authentication":{"type":"certificateAuthority"}}`)
	if auth := d["authentication"].(map[string]any); auth["type"] != "certificateAuthority" {
		t.Errorf("got %v", auth)
	}
}

func TestListDevices(t *testing.T) {
	b := newRegistryBench(t)
	list := func(path string) string {
		t.Helper()
		w := b.ask("GET", path, "", "")
		var list []struct{ DeviceID string }
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s: %v", path, w.Code, w.Body, err)
		}
		return fmt.Sprint(list)
	}
	if w := b.ask("GET", "/devices", "", ""); w.Body.String() != "[]" {
		t.Errorf("an empty hub lists %s", w.Body)
	}
	for _, id := range []string{"b", "c", "a"} {
		b.object("PUT", "/devices/"+id, "", `{}`)
	}
	b.ask("PUT", "/devices/a/modules/m", "", `{}`)
	for path, want := range map[string]string{
		"/devices": "[{a} {b} {c}]", "/devices/?api-version=2021-04-12": "[{a} {b} {c}]", "/devices?top=2": "[{a} {b}]",
	} {
		if got := list(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	for _, top := range []string{"0", "-1", "1001", "all"} {
		b.refused(400004, "GET", "/devices?top="+top, "", "")
	}
	b.object("PUT", "/devices/c", "*", `{"status":"disabled"}`)
	if got := b.object("GET", "/statistics/devices", "", ""); fmt.Sprint(got) != "map[disabledDeviceCount:1 enabledDeviceCount:2 totalDeviceCount:3]" {
		t.Errorf("statistics: %v", got)
	}
}

// Modules live with their device.
func TestModules(t *testing.T) {
	b := newRegistryBench(t)
	b.refused(404001, "PUT", "/devices/d/modules/m", "", `{}`)
	b.refused(404001, "GET", "/devices/d/modules", "", "")
	b.object("PUT", "/devices/d", "", `{}`)
	if w := b.ask("GET", "/devices/d/modules", "", ""); w.Body.String() != "[]" {
		t.Errorf("no modules: %s", w.Body)
	}
	m := b.object("PUT", "/devices/d/modules/m", "", `{"deviceId":"d","moduleId":"m","managedBy":"operator"}`)
	if m["deviceId"] != "d" || m["moduleId"] != "m" || m["managedBy"] != "operator" || m["generationId"] == "" ||
		m["connectionState"] != "Disconnected" || m["cloudToDeviceMessageCount"] != 0.0 || m["status"] != nil {
		t.Errorf("got %v", m)
	}
	b.refused(409301, "PUT", "/devices/d/modules/m", "", `{}`)
	b.refused(412001, "PUT", "/devices/d/modules/m", "AAAA", `{}`)
	if changed := b.object("PUT", "/devices/d/modules/m", m["etag"].(string), `{}`); changed["managedBy"] != nil {
		t.Errorf("got %v", changed)
	}
	b.object("GET", "/devices/d/modules/m", "", "")
	b.refused(404010, "GET", "/devices/d/modules/n", "", "")
	b.refused(404010, "DELETE", "/devices/d/modules/n", "", "")
	if w := b.ask("GET", "/devices/d/modules", "", ""); !strings.HasPrefix(w.Body.String(), `[{"deviceId":"d",`) {
		t.Errorf("one module: %s", w.Body)
	}
	if w := b.ask("DELETE", "/devices/d/modules/m", `"*"`, ""); w.Code != http.StatusNoContent {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	b.ask("PUT", "/devices/d/modules/m", "", `{}`)
	b.ask("DELETE", "/devices/d", "", "")
	b.refused(404010, "GET", "/devices/d/modules/m", "", "")
}

// Ids are taken from the path once decoded, whatever they hold.
func TestStrangeIDs(t *testing.T) {
	b := newRegistryBench(t)
	for _, id := range []string{"a#b", "50%", "50%25", "a%b", "a%25b", "a;b=c", "what?", "a+b", "x*y", "{d}", "(;=,'$!)"} {
		path := "/devices/" + url.PathEscape(id)
		if id == "{d}" {
			b.refused(400004, "PUT", path, "", `{}`)
			continue
		}
		body, _ := json.Marshal(map[string]string{"deviceId": id})
		if d := b.object("PUT", path, "", string(body)); d["deviceId"] != id {
			t.Errorf("%s: got %v", id, d["deviceId"])
		}
		b.object("GET", path, "", "")
	}
}

func TestBadBodies(t *testing.T) {
	b := newRegistryBench(t)
	for _, body := range []string{"", "{", "[]", `"d"`, `{"deviceId":7}`, `{"deviceId":"e"}`, `{"status":"asleep"}`, `{"authentication":{"type":"password"}}`, `{} {}`} {
		b.refused(400004, "PUT", "/devices/d", "", body)
	}
	b.object("PUT", "/devices/d", "", `{}`)
	b.refused(400004, "PUT", "/devices/d/modules/m", "", `{"moduleId":"n"}`)
	b.refused(413001, "PUT", "/devices/d", "*", `{"statusReason":"`+strings.Repeat("x", 1<<20)+`"}`)
	many, _ := json.Marshal(make([]struct{}, 101))
	for _, body := range []string{"{}", "[]", "[7]", string(many)} {
		b.refused(400004, "POST", "/devices", "", body)
	}
}

// A list of changes is carried out item by item, and the answer has the same
// form whether all went well or not.
func TestBulk(t *testing.T) {
	b := newRegistryBench(t)
	done := b.object("POST", "/devices", "", `[{"id":"a","importMode":"create"},{"id":"a","moduleId":"m","importMode":"create"}]`)
	if fmt.Sprint(done) != "map[errors:[] isSuccessful:true warnings:[]]" {
		t.Errorf("got %v", done)
	}
	w := b.ask("POST", "/devices", "", `[{"id":"a","importMode":"create"},{"id":"b","importMode":"create"},{"id":"b","importMode":"Delete"}]`)
	if w.Code != http.StatusBadRequest || w.Header().Get("iothub-errorcode") != "BulkRegistryOperationFailure" ||
		w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
	const want = `{"isSuccessful":false,"errors":[` +
		`{"deviceId":"a","errorCode":"DeviceAlreadyExists","errorStatus":"a exists","operation":"create"},` +
		`{"deviceId":"b","errorCode":"DeviceDefinedMultipleTimes","errorStatus":"b is in the list already","operation":"Delete"}],"warnings":[]}`
	if w.Body.String() != want {
		t.Errorf("got  %s\nwant %s", w.Body, want)
	}
}

// Each policy may do what its rights are for, and a device may do nothing here.
func TestRegistryRights(t *testing.T) {
	reads := []string{"GET /devices", "GET /devices/d", "GET /devices/d/modules", "GET /devices/d/modules/m", "GET /statistics/devices", "GET /statistics/service", "GET /jobs", "GET /jobs/j"}
	writes := []string{"PUT /devices/d", "DELETE /devices/d", "POST /devices", "PUT /devices/d/modules/m", "DELETE /devices/d/modules/m", "POST /jobs/create", "DELETE /jobs/j"}
	b := newRegistryBench(t)
	for policy, rights := range registry.PolicyRights {
		b.as = policy
		for _, c := range []struct {
			requests []string
			right    registry.Rights
		}{{reads, registry.RegistryRead}, {writes, registry.RegistryWrite}} {
			for _, request := range c.requests {
				method, path, _ := strings.Cut(request, " ")
				w := b.ask(method, path, "", "")
				if refused := w.Code == http.StatusUnauthorized; refused != (rights&c.right == 0) {
					t.Errorf("%s as %s: %d %s", request, policy, w.Code, w.Body)
				}
			}
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), "GET", "https://hub.test/devices", nil)
	w := httptest.NewRecorder()
	if b.api.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("without a token: %d", w.Code)
	}
}

// The registry has a rate when a tier is switched on.
func TestRegistryRate(t *testing.T) {
	b := newRegistryBench(t)
	if err := b.hub.Limits.SetTier("S1", 1); err != nil {
		t.Fatal(err)
	}
	codes := make(map[int]int)
	for range 300 { // three times what a minute allows
		codes[b.ask("GET", "/devices", "", "").Code]++
	}
	if codes[http.StatusOK] == 0 || codes[http.StatusTooManyRequests] == 0 || len(codes) != 2 {
		t.Errorf("answers by status: %v", codes)
	}
}

// The jobs of the first version over HTTP; what they do is tested where it is
// done.
func TestTransferRequests(t *testing.T) {
	b := newRegistryBench(t)
	b.hub.Transfers.SetClient(&http.Client{Transport: stuckStorage{}})
	if w := b.ask("GET", "/jobs", "", ""); w.Body.String() != "[]" {
		t.Errorf("no jobs: %s", w.Body)
	}
	b.refused(400004, "POST", "/jobs/create", "", `{"type":"backup","outputBlobContainerUri":"https://store.test/box?sig=x"}`)
	b.refused(400005, "POST", "/jobs/create", "", `{"type":"export"}`)
	b.refused(404002, "GET", "/jobs/nothing", "", "")
	b.refused(404002, "DELETE", "/jobs/nothing", "", "")

	job := b.object("POST", "/jobs/create", "", `{"type":"export","outputBlobContainerUri":"https://store.test/box?sig=x","excludeKeysInExport":true}`)
	path := "/jobs/" + job["jobId"].(string)
	fields := []string{
		"endTimeUtc", "excludeKeysInExport", "failureReason", "inputBlobContainerUri", "inputBlobName", "jobId",
		"outputBlobContainerUri", "outputBlobName", "progress", "startTimeUtc", "status", "storageAuthenticationType", "type",
	}
	if got := slices.Sorted(maps.Keys(job)); !slices.Equal(got, fields) {
		t.Errorf("got %q, want %q", got, fields)
	}
	if job["status"] != "enqueued" || job["outputBlobName"] != "devices.txt" || job["endTimeUtc"] != "0001-01-01T00:00:00Z" {
		t.Errorf("got %v", job)
	}
	if w := b.ask("DELETE", path, "", ""); w.Code != http.StatusNoContent {
		t.Errorf("cancel: %d %s", w.Code, w.Body)
	}
	if got := b.object("GET", path, "", ""); got["status"] != "cancelled" {
		t.Errorf("got %v", got)
	}
}

// stuckStorage never answers.
type stuckStorage struct{}

func (stuckStorage) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// Whatever a service sends, it gets an answer in the service's form.
func FuzzRegistryBodies(f *testing.F) {
	f.Add("PUT", "*", `{"deviceId":"d","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"ab"}}}`)
	f.Add("PUT", `"`, `{"status":"disabled","capabilities":{"iotEdge":true},"parentScopes":[""]}`)
	f.Add("POST", "", `[{"id":"d","importMode":"updateTwin","tags":{"a":1}}]`)
	f.Add("POST", "", `{"type":"import","inputBlobContainerUri":"https://store.test/box"}`)
	f.Fuzz(func(t *testing.T, method, ifMatch, body string) {
		b := newRegistryBench(t)
		b.hub.Transfers.SetClient(&http.Client{Transport: stuckStorage{}})
		if method != "POST" {
			method = "PUT"
		}
		for _, path := range []string{"/devices/d", "/devices/d/modules/m", "/devices", "/jobs/create"} {
			w := b.ask(method, path, ifMatch, body)
			if w.Code == http.StatusInternalServerError || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s %s %q: %d %s", method, path, body, w.Code, w.Body)
			}
		}
	})
}
