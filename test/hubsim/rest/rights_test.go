package rest_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// policyToken is what a policy of the bench signs about a resource.
func (b *registryBench) policyToken(policy, resource string, life time.Duration) string {
	b.t.Helper()
	key, err := base64.StdEncoding.DecodeString(b.hub.Registry.Policy(policy).PrimaryKey)
	if err != nil {
		b.t.Fatal(err)
	}
	return sas.New(resource, policy, key, time.Now().Add(life))
}

// with sends a request with that Authorization header; "" sends none.
func (b *registryBench) with(authorization, method, path, body string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.typed(authorization, method, path, "", strings.NewReader(body))
}

// typed is with for a body of a content type; "" says nothing of it.
func (b *registryBench) typed(authorization, method, path, contentType string, body io.Reader) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, "https://hub.test"+path, body)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	b.api.ServeHTTP(w, r)
	return w
}

// serviceEndpoints are all requests of services with the right that each needs
// (section 1.3).
var serviceEndpoints = []struct {
	method, path string
	right        registry.Rights
}{
	{"GET", "/devices", registry.RegistryRead},
	{"GET", "/devices/", registry.RegistryRead},
	{"POST", "/devices", registry.RegistryWrite},
	{"GET", "/devices/d", registry.RegistryRead},
	{"PUT", "/devices/d", registry.RegistryWrite},
	{"DELETE", "/devices/d", registry.RegistryWrite},
	{"GET", "/devices/d/modules", registry.RegistryRead},
	{"GET", "/devices/d/modules/m", registry.RegistryRead},
	{"PUT", "/devices/d/modules/m", registry.RegistryWrite},
	{"DELETE", "/devices/d/modules/m", registry.RegistryWrite},
	{"GET", "/statistics/devices", registry.RegistryRead},
	{"GET", "/statistics/service", registry.RegistryRead},
	{"POST", "/jobs/create", registry.RegistryWrite},
	{"GET", "/jobs", registry.RegistryRead},
	{"GET", "/jobs/j", registry.RegistryRead},
	{"DELETE", "/jobs/j", registry.RegistryWrite},
	{"GET", "/twins/d", registry.ServiceConnect},
	{"PUT", "/twins/d", registry.ServiceConnect},
	{"PATCH", "/twins/d", registry.ServiceConnect},
	{"GET", "/twins/d/modules/m", registry.ServiceConnect},
	{"PUT", "/twins/d/modules/m", registry.ServiceConnect},
	{"PATCH", "/twins/d/modules/m", registry.ServiceConnect},
	{"POST", "/twins/d/methods", registry.ServiceConnect},
	{"POST", "/twins/d/modules/m/methods", registry.ServiceConnect},
	{"POST", "/devices/query", registry.ServiceConnect},
	{"PUT", "/jobs/v2/j", registry.ServiceConnect},
	{"GET", "/jobs/v2/j", registry.ServiceConnect},
	{"POST", "/jobs/v2/j/cancel", registry.ServiceConnect},
	{"GET", "/jobs/v2/query", registry.ServiceConnect},
	{"DELETE", "/devices/d/commands", registry.ServiceConnect},
	{"GET", "/messages/serviceBound/feedback", registry.ServiceConnect},
	{"DELETE", "/messages/serviceBound/feedback/l", registry.ServiceConnect},
	{"POST", "/messages/serviceBound/feedback/l/abandon", registry.ServiceConnect},
}

// deviceEndpoints are all requests of the device d.
var deviceEndpoints = []struct{ method, path string }{
	{"POST", "/devices/d/messages/events"},
	{"GET", "/devices/d/messages/devicebound"},
	{"DELETE", "/devices/d/messages/devicebound/l"},
	{"DELETE", "/devices/d/messages/devicebound/l?reject"},
	{"POST", "/devices/d/messages/devicebound/l/abandon"},
	{"POST", "/devices/d/files"},
	{"POST", "/devices/d/files/notifications"},
	{"POST", "/devices/d/files/notifications/c"},
}

// newRightsBench is a hub with the devices d, with a module m, and e.
func newRightsBench(t *testing.T) *registryBench {
	b := newRegistryBench(t)
	for _, id := range []registry.ID{{Device: "d"}, {Device: "d", Module: "m"}, {Device: "e"}} {
		if _, err := b.hub.Registry.Create(registry.Identity{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// own is a token that the key of an identity signs about itself.
func (b *registryBench) own(id registry.ID, life time.Duration) string {
	b.t.Helper()
	i, err := b.hub.Registry.Find(id)
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(i.Auth.PrimaryKey)
	if err != nil {
		b.t.Fatal(err)
	}
	return sas.New("hub.test/"+id.Path(), "", key, time.Now().Add(life))
}

// No service endpoint lets anyone in without the right, and none keeps out who
// has it.
func TestServiceRights(t *testing.T) {
	b := newRightsBench(t)
	for _, e := range serviceEndpoints {
		outsiders := map[string]string{
			"nobody": "", "nonsense": "hello", "another scheme": "Bearer x", "half a token": "SharedAccessSignature sr=hub.test",
			"the device itself":     b.own(registry.ID{Device: "d"}, time.Hour),
			"its module":            b.own(registry.ID{Device: "d", Module: "m"}, time.Hour),
			"yesterday's owner":     b.policyToken("iothubowner", "hub.test", -time.Hour),
			"the owner of another":  b.policyToken("iothubowner", "evil.test", time.Hour),
			"the owner as device d": b.policyToken("iothubowner", "hub.test/devices/d", time.Hour),
			"the owner as reader":   b.policyToken("iothubowner", "hub.test/messages/events", time.Hour),
		}
		for name, rights := range registry.PolicyRights {
			token := b.policyToken(name, "hub.test", time.Hour)
			if rights&e.right == 0 {
				outsiders[name] = token
				continue
			}
			if w := b.with(token, e.method, e.path, "nonsense"); w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden {
				t.Errorf("%s %s: %s gets %d %s", e.method, e.path, name, w.Code, w.Body)
			}
			for _, id := range []registry.ID{{Device: "d"}, {Device: "d", Module: "m"}} {
				_, _ = b.hub.Registry.Create(registry.Identity{ID: id}) // one request deletes them
			}
		}
		for name, token := range outsiders {
			w := b.with(token, e.method, e.path, "{}")
			if w.Code != http.StatusUnauthorized || !bytes.HasPrefix(w.Body.Bytes(), []byte(`{"Message":"ErrorCode:IotHubUnauthorized`)) {
				t.Errorf("%s %s: %s gets %d %s", e.method, e.path, name, w.Code, w.Body)
			}
		}
	}
}

// Nobody acts for a device but itself and policies that may.
func TestDeviceRights(t *testing.T) {
	b := newRightsBench(t)
	for _, e := range deviceEndpoints {
		for name, token := range map[string]string{
			"itself":       b.own(registry.ID{Device: "d"}, time.Hour),
			"device":       b.policyToken("device", "hub.test", time.Hour),
			"device for d": b.policyToken("device", "hub.test/devices/d", time.Hour),
			"iothubowner":  b.policyToken("iothubowner", "hub.test/devices", time.Hour),
		} {
			if w := b.with(token, e.method, e.path, "nonsense"); w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden {
				t.Errorf("%s %s: %s gets %d %s", e.method, e.path, name, w.Code, w.Body)
			}
		}
		for name, token := range map[string]string{
			"nobody": "", "nonsense": "hello",
			"another device":        b.own(registry.ID{Device: "e"}, time.Hour),
			"a module of it":        b.own(registry.ID{Device: "d", Module: "m"}, time.Hour),
			"itself yesterday":      b.own(registry.ID{Device: "d"}, -time.Hour),
			"service":               b.policyToken("service", "hub.test", time.Hour),
			"registryReadWrite":     b.policyToken("registryReadWrite", "hub.test", time.Hour),
			"device for another":    b.policyToken("device", "hub.test/devices/e", time.Hour),
			"device for its module": b.policyToken("device", "hub.test/devices/d/modules/m", time.Hour),
			"device for events":     b.policyToken("device", "hub.test/messages/events", time.Hour),
		} {
			if w := b.with(token, e.method, e.path, "{}"); w.Code != http.StatusUnauthorized {
				t.Errorf("%s %s: %s gets %d %s", e.method, e.path, name, w.Code, w.Body)
			}
		}
	}
	if !b.hub.Registry.SetEnabled("d", false) {
		t.Fatal("there is no device d")
	}
	for _, e := range append(deviceEndpoints, struct{ method, path string }{"POST", "/devices/d/modules/m/messages/events"}) {
		for _, resource := range []string{"hub.test", "hub.test/devices"} {
			if w := b.with(b.policyToken("device", resource, time.Hour), e.method, e.path, "{}"); w.Code != http.StatusUnauthorized {
				t.Errorf("%s %s: a policy for a disabled device gets %d %s", e.method, e.path, w.Code, w.Body)
			}
		}
	}
}

// A token for all devices opens what is below that word and nothing else (section
// 1.2).
func TestDevicesToken(t *testing.T) {
	b := newRightsBench(t)
	owner := b.policyToken("iothubowner", "hub.test/devices", time.Hour)
	for _, e := range serviceEndpoints {
		w := b.with(owner, e.method, e.path, "nonsense")
		if inside := strings.HasPrefix(e.path, "/devices"); inside == (w.Code == http.StatusUnauthorized) {
			t.Errorf("%s %s: %d %s", e.method, e.path, w.Code, w.Body)
		}
	}
}

// Bodies that are not what they should be get the error that says so.
func TestWrongBodies(t *testing.T) {
	b := newRightsBench(t)
	owner := b.policyToken("iothubowner", "hub.test", time.Hour)
	own := b.own(registry.ID{Device: "d"}, time.Hour)
	deep := strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000)
	eleven := strings.Repeat(`{"a":`, 12) + "1" + strings.Repeat("}", 12) // below the section
	for _, e := range []struct{ token, method, path string }{
		{owner, "PUT", "/devices/new"},
		{owner, "PUT", "/devices/d/modules/new"},
		{owner, "POST", "/devices"},
		{owner, "PATCH", "/twins/d"},
		{owner, "PUT", "/twins/d/modules/m"},
		{owner, "POST", "/twins/d/methods"},
		{owner, "POST", "/devices/query"},
		{owner, "PUT", "/jobs/v2/j"},
		{owner, "POST", "/jobs/create"},
		{own, "POST", "/devices/d/files"},
		{own, "POST", "/devices/d/files/notifications"},
	} {
		for what, c := range map[string]struct {
			body, kind string
			want       int
		}{
			"nothing": {"", "", 400}, "half": {"{", "application/json", 400}, "text": {`"text"`, "application/json; charset=utf-8", 400},
			"a number": {"7", "", 400}, "no UTF-8": {"{\"\xff", "", 400}, "two": {"{}{}", "", 400}, "depth": {deep, "", 400},
			"too much": {strings.Repeat(" ", 2<<20), "", 413}, "a form": {"a=b", "application/x-www-form-urlencoded", 415},
			"XML": {"<a/>", "text/xml", 415}, "a bad type": {"{}", ";", 415},
		} {
			if w := b.typed(e.token, e.method, e.path, c.kind, strings.NewReader(c.body)); w.Code != c.want {
				t.Errorf("%s %s with %s: %d %s, want %d", e.method, e.path, what, w.Code, w.Body, c.want)
			}
		}
		broken := io.MultiReader(strings.NewReader("{"), iotest.ErrReader(errors.New("malformed chunked encoding")))
		if w := b.typed(e.token, e.method, e.path, "", broken); w.Code != http.StatusBadRequest {
			t.Errorf("%s %s with a broken body: %d %s", e.method, e.path, w.Code, w.Body)
		}
	}
	if w := b.with(owner, "PATCH", "/twins/d", `{"tags":`+eleven+`}`); w.Code != http.StatusBadRequest {
		t.Errorf("tags eleven deep: %d %s", w.Code, w.Body)
	}
}

// Whatever a path looks like, it leads to what it names or to an error in the
// hub's form, never somewhere else.
func TestPathTricks(t *testing.T) {
	b := newRightsBench(t)
	own := b.own(registry.ID{Device: "e"}, time.Hour)
	for _, path := range []string{
		"/devices/e/../d/messages/events", "/devices/e%2F..%2Fd/messages/events", "/devices/e/%2E%2E/d/messages/events",
		"/devices//d/messages/events", "/devices/d//messages/events", "//devices/d/messages/events", "/./devices/d/messages/events",
		"/devices/e%2Fmessages/events", "/devices/e%00/messages/events", "/devices/%65%2Fmodules%2Fm/messages/events",
	} {
		w := b.with(own, "POST", path, "x")
		if (w.Code != http.StatusUnauthorized && w.Code != http.StatusNotFound) || !strings.HasPrefix(w.Body.String(), `{"Message":"ErrorCode:`) {
			t.Errorf("POST %s: %d %s %v", path, w.Code, w.Body, w.Header())
		}
	}
	for range b.hub.Events.All() {
		t.Error("telemetry arrived")
	}
	owner := b.policyToken("iothubowner", "hub.test", time.Hour)
	for request, want := range map[string]int{
		"PUT /devices/a%2Fb": 400, "PUT /devices/a%00b": 400, "PUT /devices/a%20b": 400, "PUT /devices/a%C3%BC": 400,
		"PUT /devices/" + strings.Repeat("a", 129): 400, "PUT /devices/" + strings.Repeat("a", 128): 200,
		"GET /devices/a%2Fb": 404, "GET /devices/../devices/d": 404, "DELETE /devices/e/../d": 404, "GET /twins//d": 404,
		"GET /devices/d/": 404, "GET /": 404, "PATCH /devices/d": 405, "HEAD /devices/d/messages/devicebound": 405,
		"GET /devices/query": 404, "PUT /devices": 405, "POST /jobs/v2/query": 405,
	} {
		method, path, _ := strings.Cut(request, " ")
		w := b.with(owner, method, path, "{}")
		if w.Code != want || (want >= 400 && !strings.HasPrefix(w.Body.String(), `{"Message":"ErrorCode:`)) {
			t.Errorf("%s: %d %s %v, want %d", request, w.Code, w.Body, w.Header(), want)
		}
	}
}
