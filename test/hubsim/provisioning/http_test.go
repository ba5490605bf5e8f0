package provisioning

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHTTP(t *testing.T) {
	s, h := bench(t, Config{})
	ask := func(method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "https://dps.test"+path, strings.NewReader(body))
		r.Header.Set("Authorization", derived(t, s, device))
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
			t.Errorf("%s %s: content type %q", method, path, got)
		}
		return w
	}
	const version = "?api-version=2019-03-31"
	own := s.Path() + device
	w := ask("PUT", own+"/register"+version, `{"registrationId":"pump-1"}`)
	begun := read(t, Answer{Status: w.Code, Body: w.Body.Bytes()}, 202)
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("again after %q s", w.Header().Get("Retry-After"))
	}
	w = ask("GET", own+"/operations/"+begun.OperationID+version, "{}")
	if got := read(t, Answer{Status: w.Code, Body: w.Body.Bytes()}, 200); got.State.AssignedHub != h.Name || w.Header().Get("Retry-After") != "" {
		t.Errorf("got %s", w.Body)
	}
	if w = ask("POST", own+version, `{"registrationId":"pump-1"}`); w.Code != 200 || !strings.Contains(w.Body.String(), `"assignedHub":"hub.test"`) {
		t.Errorf("got %d with %s", w.Code, w.Body)
	}
	for _, c := range []struct {
		what, method, path, body string
		status, code             int
	}{
		{"no version", "PUT", own + "/register", "{}", 400, 400004},
		{"another device", "PUT", s.Path() + "pump-2/register" + version, "{}", 401, 401002},
		{"another scope", "PUT", "/0ne0/registrations/pump-1/register" + version, "{}", 404, 404201},
		{"too large", "PUT", own + "/register" + version, strings.Repeat(" ", maxBody+1), 413, 413001},
		{"no such operation", "GET", own + "/operations/x" + version, "", 404, 404201},
		{"no such request", "DELETE", own + version, "", 404, 404201},
		{"an empty segment", "PUT", own + "//register" + version, "{}", 404, 404201},
		{"a segment up", "PUT", own + "/x/../register" + version, "{}", 404, 404201},
		{"no such path", "GET", own + "/else" + version, "", 404, 404201},
	} {
		w := ask(c.method, c.path, c.body)
		if got := read(t, Answer{Status: w.Code, Body: w.Body.Bytes()}, c.status); got.ErrorCode != c.code {
			t.Errorf("%s: got %s, want %d", c.what, w.Body, c.code)
		}
	}
}
