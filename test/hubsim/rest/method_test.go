package rest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// newMethodBench is a hub whose device d and module m exist and do not listen.
func newMethodBench(t *testing.T) *registryBench {
	t.Helper()
	b := newRegistryBench(t)
	b.as = "service"
	for _, id := range []registry.ID{{Device: "d"}, {Device: "d", Module: "m"}, {Device: oddID}} {
		if _, err := b.hub.Registry.Create(registry.Identity{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// answers has an identity answer every request with status and payload, and
// returns where the last request is to be found.
func (b *registryBench) answers(id registry.ID, status int32, payload string) *methods.Request {
	var last methods.Request
	b.hub.Methods.Listen(id, func(r methods.Request) {
		last = r
		b.hub.Methods.Answer(id, r.ID, status, []byte(payload))
	})
	return &last
}

func TestInvokeMethod(t *testing.T) {
	b := newMethodBench(t)
	for _, c := range []struct {
		path                string
		id                  registry.ID
		body                string
		payload             string // that the device gets
		status              int32
		answer, wholeAnswer string
	}{
		{
			"/twins/d/methods?api-version=2021-04-12",
			registry.ID{Device: "d"},
			`{"methodName":"start","payload":{"a":1},"responseTimeoutInSeconds":10,"connectTimeoutInSeconds":3}`, `{"a":1}`,
			200, `[1]`, `{"status":200,"payload":[1]}`,
		},
		{ // as Node calls without payload
			"/twins/d/modules/m/methods",
			registry.ID{Device: "d", Module: "m"},
			`{"methodName":"start","payload":null,"responseTimeoutInSeconds":30,"connectTimeoutInSeconds":0}`, `null`,
			500, ``, `{"status":500,"payload":null}`,
		},
		{ // defaults
			"/twins/50%25%231%3F+x/methods",
			registry.ID{Device: oddID},
			`{"methodName":"start"}`, ``,
			-7, `null`, `{"status":-7,"payload":null}`,
		},
	} {
		last := b.answers(c.id, c.status, c.answer)
		w := b.ask("POST", c.path, "", c.body)
		if w.Code != http.StatusOK || w.Body.String() != c.wholeAnswer {
			t.Errorf("%s: %d %s, want %s", c.path, w.Code, w.Body, c.wholeAnswer)
		}
		if last.Name != "start" || string(last.Payload) != c.payload {
			t.Errorf("%s: the device got %+v, want the payload %s", c.path, last, c.payload)
		}
	}
}

func TestMethodRefused(t *testing.T) {
	b := newMethodBench(t)
	const path = "/twins/d/methods"
	b.refused(404103, "POST", path, "", `{"methodName":"start"}`)
	b.refused(404103, "POST", "/twins/d/modules/m/methods", "", `{"methodName":"start"}`)
	b.refused(404001, "POST", "/twins/other/methods", "", `{"methodName":"start"}`)
	b.refused(404010, "POST", "/twins/d/modules/other/methods", "", `{"methodName":"start"}`)
	for _, body := range []string{
		``, `5`, `{`, `{"methodName":5}`, `{}`, `{"methodName":"a b"}`,
		`{"methodName":"start","responseTimeoutInSeconds":4}`,
		`{"methodName":"start","responseTimeoutInSeconds":301}`,
		`{"methodName":"start","responseTimeoutInSeconds":9223372036854775807}`,
		`{"methodName":"start","connectTimeoutInSeconds":301}`,
		`{"methodName":"start","connectTimeoutInSeconds":-1}`,
		`{"methodName":"start","connectTimeoutInSeconds":-9223372036854775808}`,
		`{"methodName":"start","connectTimeoutInSeconds":"1"}`,
	} {
		b.refused(400004, "POST", path, "", body)
	}
	b.refused(413001, "POST", path, "", `{"methodName":"start","payload":"`+strings.Repeat("x", methods.MaxPayload)+`"}`)
	b.answers(registry.ID{Device: "d"}, 200, "not JSON")
	b.refused(502000, "POST", path, "", `{"methodName":"start"}`)
	for _, policy := range []string{"registryReadWrite", "device"} {
		b.as = policy
		b.refused(401002, "POST", path, "", `{"methodName":"start"}`)
	}
}

func TestMethodOfDisabledDevice(t *testing.T) {
	b := newMethodBench(t)
	b.hub.Registry.SetEnabled("d", false)
	b.refused(404001, "POST", "/twins/d/methods", "", `{"methodName":"start","connectTimeoutInSeconds":300}`)
}

func TestMethodTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMethodBench(t)
		took := func(code int, body string) time.Duration {
			start := time.Now()
			b.refused(code, "POST", "/twins/d/methods", "", body)
			return time.Since(start)
		}
		const body = `{"methodName":"start","responseTimeoutInSeconds":5,"connectTimeoutInSeconds":7}`
		if d := took(404103, body); d != 7*time.Second {
			t.Errorf("the hub waited %v for the device, want 7s", d)
		}
		b.hub.Methods.Listen(registry.ID{Device: "d"}, func(methods.Request) {})
		if d := took(504101, body); d != 5*time.Second {
			t.Errorf("the hub waited %v for the answer, want 5s", d)
		}
		if d := took(504101, `{"methodName":"start"}`); d != 30*time.Second {
			t.Errorf("the hub waited %v for the answer, want 30s", d)
		}
	})
}

// A caller that goes away does not hold the device's calls in progress.
func TestMethodCallerGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMethodBench(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, "POST", "https://hub.test/twins/d/methods",
			strings.NewReader(`{"methodName":"start","connectTimeoutInSeconds":300}`))
		r.Header.Set("Authorization", b.token())
		start := time.Now()
		b.api.ServeHTTP(httptest.NewRecorder(), r)
		if d := time.Since(start); d != time.Second {
			t.Errorf("the call lasted %v, want 1s", d)
		}
	})
}

// Methods have a rate in bytes when a tier is switched on.
func TestMethodRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newMethodBench(t)
		b.answers(registry.ID{Device: "d"}, 200, "")
		if err := b.hub.Limits.SetTier("S1", 1); err != nil {
			t.Fatal(err)
		}
		body := `{"methodName":"start","payload":"` + strings.Repeat("x", 100_000) + `"}`
		codes := make(map[int]int)
		for range 20 { // two megabytes at once, at a rate of 160 KB a second
			codes[b.ask("POST", "/twins/d/methods", "", body).Code]++
		}
		if codes[http.StatusOK] == 0 || codes[http.StatusTooManyRequests] == 0 || len(codes) != 2 {
			t.Errorf("answers by status: %v", codes)
		}
	})
}

// Whatever the body is: the device answers a call that is one, and the hub
// refuses all others.
func FuzzMethodBody(f *testing.F) {
	f.Add(`{"methodName":"start","payload":{"a":[1,null]},"responseTimeoutInSeconds":10,"connectTimeoutInSeconds":3}`)
	f.Add(`{"methodName":"start","payload":null}`)
	f.Add(`{"methodName":"a b","responseTimeoutInSeconds":-1e9}`)
	f.Add(`[{}]`)
	f.Fuzz(func(t *testing.T, body string) {
		b := newMethodBench(t)
		last := b.answers(registry.ID{Device: "d"}, 200, "")
		w := b.ask("POST", "/twins/d/methods", "", body)
		switch {
		case w.Code == http.StatusOK:
			if last.Name == "" || (len(last.Payload) > 0 && !json.Valid(last.Payload)) {
				t.Errorf("the device got %+v", last)
			}
		case w.Code != http.StatusBadRequest && w.Code != http.StatusRequestEntityTooLarge || last.Name != "":
			t.Errorf("%d %s, and the device got %+v", w.Code, w.Body, last)
		}
	})
}
