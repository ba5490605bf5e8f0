package arm

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
)

// Paths of the tests.
const (
	query  = "?api-version=2023-06-30"
	base   = "/subscriptions/" + Subscription + "/resourceGroups/bench/providers/Microsoft.Devices/IotHubs"
	served = base + "/hub"
	other  = base + "/other"
)

// aHub is the least that a hub can be created with.
const aHub = `{"location":"bench","sku":{"name":"S1","capacity":1}}`

// bench makes a provider of a hub called hub.test.
func bench(t testing.TB, cfg Config) (*Provider, *hub.Hub) {
	t.Helper()
	h := hub.New(hub.Config{
		Host: "hub.test", Policies: newPolicies(), Partitions: 4, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(h.Close)
	return New(h, cfg), h
}

// answered is what the provider said.
type answered struct {
	status int
	header http.Header
	text   []byte
	body   map[string]any
}

// ask makes a request as an operator does. Headers come as "Name: value".
func ask(t testing.TB, p *Provider, method, path, body string, headers ...string) answered {
	t.Helper()
	r := httptest.NewRequest(method, "https://arm.test"+path+query, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer any")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	return serve(t, p, r)
}

func serve(t testing.TB, p *Provider, r *http.Request) answered {
	t.Helper()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	a := answered{status: w.Code, header: w.Header(), text: w.Body.Bytes()}
	if len(a.text) > 0 && !bytes.HasPrefix(a.text, []byte("[")) {
		if err := json.Unmarshal(a.text, &a.body); err != nil {
			t.Fatalf("%s %s: %v in %q", r.Method, r.URL, err, a.text)
		}
	}
	return a
}

// at returns the value at a path of names through the body.
func (a answered) at(path ...string) any {
	var v any = a.body
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// want fails the test when the status is another one.
func (a answered) want(t testing.TB, status int) answered {
	t.Helper()
	if a.status != status {
		t.Fatalf("got %d with %s, want %d", a.status, a.text, status)
	}
	return a
}

func TestEveryRequestMustBeInOrder(t *testing.T) {
	p, _ := bench(t, Config{})
	for _, c := range []struct {
		what, path, authorization string
		status                    int
		code                      string
	}{
		{"good", served + query, "Bearer x", 200, ""},
		{"words in any case", strings.NewReplacer("resourceGroups", "RESOURCEgroups", "IotHubs", "iothubs", "bench", "BENCH").Replace(served) + query, "Bearer x", 200, ""},
		{"preview", served + "?api-version=2024-01-01-preview", "Bearer x", 200, ""},
		{"no token", served + query, "", 401, "AuthenticationFailed"},
		{"empty token", served + query, "Bearer ", 401, "AuthenticationFailed"},
		{"a device's token", served + query, "SharedAccessSignature sr=x", 401, "AuthenticationFailed"},
		{"no version", served, "Bearer x", 400, "MissingApiVersionParameter"},
		{"no date", served + "?api-version=1", "Bearer x", 400, "InvalidApiVersionParameter"},
		{"another subscription", strings.Replace(served, Subscription, "1", 1) + query, "Bearer x", 404, "SubscriptionNotFound"},
		{"another group", strings.Replace(served, "bench", "x", 1) + query, "Bearer x", 404, "ResourceNotFound"},
		{"another hub", other + query, "Bearer x", 404, "ResourceNotFound"},
		{"nothing there", served + "/nothing" + query, "Bearer x", 404, "NotFound"},
		{"empty name", base + "//x" + query, "Bearer x", 404, "NotFound"},
		{"upwards", served + "/../hub" + query, "Bearer x", 404, "NotFound"},
	} {
		r := httptest.NewRequest("GET", "https://arm.test"+c.path, nil)
		if c.authorization != "" {
			r.Header.Set("Authorization", c.authorization)
		}
		a := serve(t, p, r)
		if code, _ := a.at("error", "code").(string); a.status != c.status || code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", c.what, a.status, code, c.status, c.code)
		}
	}
}

func TestOwns(t *testing.T) {
	for path, want := range map[string]bool{
		served: true, "/Subscriptions/x": true, "/providers/Microsoft.Devices/operations": true,
		"/devices/subscriptions": false, "/": false, "": false, "/subscriptionsx": false,
	} {
		if Owns(path) != want {
			t.Errorf("%q: got %v, want %v", path, !want, want)
		}
	}
}

// Whatever a path is, its canonical form is canonical, and names keep their case.
func FuzzCanonical(f *testing.F) {
	f.Add(served)
	f.Add("/providers/Microsoft.Devices/Operations/")
	f.Add("//x/../y")
	f.Fuzz(func(t *testing.T, path string) {
		once, ok := canonical(path)
		if !ok {
			return
		}
		if twice, ok := canonical(once); !ok || twice != once {
			t.Fatalf("%q became %q, and then %q", path, once, twice)
		}
		if !strings.EqualFold(strings.Trim(path, "/"), strings.Trim(once, "/")) {
			t.Fatalf("%q became %q", path, once)
		}
	})
}

// Whatever a hub is put with, the answer is in order and the hub can be read.
func FuzzPut(f *testing.F) {
	p, _ := bench(f, Config{})
	f.Add(aHub)
	f.Add(`{"properties":{"authorizationPolicies":[{"keyName":"a","rights":"DeviceConnect"}]}}`)
	f.Add(`{"properties":{"cloudToDevice":{"defaultTtlAsIso8601":"PT5M","feedback":null},"routing":{"x":[1]}},"tags":{"a":"b"}}`)
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{served, other} {
			a := ask(t, p, "PUT", path, body)
			if a.status >= 500 || (a.status >= 300 && a.at("error", "code") == nil) {
				t.Fatalf("%s: got %d with %s", path, a.status, a.text)
			}
		}
		if a := ask(t, p, "GET", served, ""); a.at("properties", "hostName") != "hub.test" {
			t.Fatalf("got %s", a.text)
		}
	})
}
