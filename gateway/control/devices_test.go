package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// leaves are two leaves; what is sent to them is what the test says.
type leaves struct {
	err     error
	call    *gateway.Call
	command *gateway.Command
	age     time.Duration
	wait    bool // until the caller's time is up
}

func (l *leaves) Devices() []Device {
	return []Device{{ID: "pump 1/%", State: "connected", Listens: []string{"methods"}}, {ID: "pump-2", State: "away", Listens: []string{}}}
}

func (l *leaves) Admit(_ context.Context, a Admission) (Admitted, error) {
	return Admitted{ID: a.ID, Password: "secret"}, l.err
}

func (l *leaves) Alter(context.Context, string, Alteration) error { return l.err }

func (l *leaves) Dismiss(context.Context, string) error { return l.err }

func (l *leaves) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	if l.wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	l.call = c
	return &gateway.Reply{Status: 207, Body: c.Body}, l.err
}

func (l *leaves) Send(_ context.Context, c *gateway.Command) (gateway.Verdict, error) {
	l.command = c
	return gateway.Rejected, l.err
}

func (l *leaves) Messages(leaf string) []Passage {
	return []Passage{{Lane: "alarm", Bytes: 3, Excerpt: []byte("hot"), Fate: FateTaken, MessageID: leaf + "-1"}}
}

func (l *leaves) Look(context.Context, string) ([]byte, time.Duration, error) {
	return []byte(`{"desired":{"$version":1}}`), l.age, l.err
}

// ask asks a server as somebody who has that access.
func ask(t *testing.T, l *leaves, as access, method, path, body string) (status int, text string) {
	t.Helper()
	s := New(Config{}, Parts{Devices: l, Log: slog.New(slog.DiscardHandler)})
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r = r.WithContext(context.WithValue(r.Context(), accessKey{}, peer{as, "user 1000"}))
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

// Who may look may look, and only who may change may call and send.
func TestWhoMayReachLeaves(t *testing.T) {
	leaf := "/v1/devices/" + url.PathEscape("pump 1/%")
	for _, c := range []struct {
		method, path, body string
		needs              access
	}{
		{"GET", "/v1/devices", "", reading},
		{"GET", leaf, "", reading},
		{"GET", leaf + "/twin", "", reading},
		{"GET", leaf + "/messages", "", reading},
		{"POST", leaf + "/methods/blink", "{}", changing},
		{"POST", leaf + "/commands", "{}", changing},
		{"POST", "/v1/devices", "{}", changing},
		{"PATCH", leaf, "{}", changing},
		{"DELETE", leaf, "", changing},
	} {
		for _, as := range []access{nothing, reading, changing} {
			want := http.StatusForbidden
			if as >= c.needs {
				want = http.StatusOK
			}
			if got, text := ask(t, new(leaves), as, c.method, c.path, c.body); got != want {
				t.Errorf("%s %s with access %d: %d, want %d: %s", c.method, c.path, as, got, want, text)
			}
		}
	}
}

func TestAnswersAboutLeaves(t *testing.T) {
	refused := &gateway.TwinError{Status: 400, Code: 400003, Message: "no twin"}
	leaf := "/v1/devices/" + url.PathEscape("pump 1/%")
	for _, c := range []struct {
		l            leaves
		method, path string
		body         string
		status       int
		has          string
	}{
		{leaves{}, "GET", leaf, "", 200, `"id":"pump 1/%"`},
		{leaves{}, "GET", "/v1/devices/pump-3", "", 404, "no leaf"},
		{leaves{}, "GET", leaf + "/messages", "", 200, `"message_id":"pump 1/%-1","fate":"taken"`},
		{leaves{}, "GET", "/v1/devices/pump-3/messages", "", 404, "no leaf"},
		{leaves{}, "GET", leaf + "/twin", "", 200, `"age_seconds":0`},
		{leaves{age: time.Minute}, "GET", leaf + "/twin", "", 200, `"age_seconds":60,"twin":{"desired"`},
		{leaves{age: -1}, "GET", leaf + "/twin", "", 200, `"age_seconds":null`},
		{leaves{err: gateway.ErrNoTwin}, "GET", leaf + "/twin", "", 404, "no copy"},
		{leaves{err: refused}, "GET", leaf + "/twin", "", 400, "no twin"},
		{leaves{}, "POST", leaf + "/methods/a%2Fb", `{"n":1}`, 200, `{"status":207,"payload":{"n":1}}`},
		{leaves{}, "POST", leaf + "/methods/m", "", 200, `{"status":207,"payload":null}`},
		{leaves{}, "POST", leaf + "/methods/m", "{", 400, "no JSON"},
		{leaves{}, "POST", leaf + "/methods/m", strings.Repeat("1", MaxCall+1), 413, "at most"},
		{leaves{}, "POST", leaf + "/methods/m?timeout=301s", "", 400, "time-out"},
		{leaves{}, "POST", leaf + "/methods/m?timeout=x", "", 400, "time-out"},
		{leaves{wait: true}, "POST", leaf + "/methods/m?timeout=1ms", "", 504, "in time"},
		{leaves{err: gateway.ErrAbsent}, "POST", "/v1/devices/pump-2/methods/m", "", 404, "does not listen for methods (away)"},
		{leaves{err: errors.New("broken")}, "POST", leaf + "/methods/m", "", 500, "broken"},
		{leaves{}, "POST", leaf + "/commands", `{"text":"x"}`, 200, `{"verdict":"rejected"}`},
		{leaves{}, "POST", leaf + "/commands", `{"body":1}`, 400, "cannot be read"},
		{leaves{}, "POST", leaf + "/commands", fmt.Sprintf(`{"text":%q}`, strings.Repeat("x", MaxCommand+1)), 413, "a leaf takes"},
		{leaves{err: gateway.ErrAbsent}, "POST", leaf + "/commands", `{}`, 404, "does not listen for commands"},
		{leaves{}, "POST", "/v1/devices", `{"id":"x","password":true}`, 200, `{"id":"x","password":"secret"}`},
		{leaves{}, "POST", "/v1/devices", `{"name":"x"}`, 400, "cannot be read"},
		{leaves{err: ErrConflict}, "POST", "/v1/devices", `{"id":"x"}`, 409, "conflict"},
		{leaves{err: ErrConflict}, "DELETE", leaf, "", 409, "conflict"},
		{leaves{}, "DELETE", "/v1/devices/pump-3", "", 404, "no leaf"},
		{leaves{}, "PATCH", "/v1/devices/pump-3", "{}", 404, "no leaf"},
		{leaves{err: ErrNotFound}, "PATCH", leaf, `{"disabled":true}`, 404, "not found"},
		{leaves{err: errors.New("broken")}, "PATCH", leaf, `{"id":"y"}`, 500, "broken"},
	} {
		status, text := ask(t, &c.l, changing, c.method, c.path, c.body)
		if status != c.status || !strings.Contains(text, c.has) {
			t.Errorf("%s %s %.30s: %d %s, want %d with %s", c.method, c.path, c.body, status, text, c.status, c.has)
		}
	}
}

// What the caller says arrives as it is.
func TestLocalCommandIsPassedOn(t *testing.T) {
	l := new(leaves)
	text, err := json.Marshal(Command{
		Body: []byte{0, 255}, Properties: map[string]string{"b": "2", "a": "1"}, ContentType: "x/y", MessageID: "m",
	})
	if err != nil {
		t.Fatal(err)
	}
	ask(t, l, changing, "POST", "/v1/devices/pump-2/commands", string(text))
	c := l.command
	if c == nil || c.Leaf != "pump-2" || string(c.Body) != "\x00\xff" || c.System.ContentType != "x/y" || c.System.MessageID != "m" ||
		fmt.Sprint(c.Properties) != "[{a 1} {b 2}]" || c.To != "/devices/pump-2/messages/deviceBound" {
		t.Errorf("passed on: %+v", c)
	}
}

// Many who wait leave no place for more; that ends with them.
func TestLocalCallersAreBounded(t *testing.T) {
	l := &leaves{}
	s := New(Config{}, Parts{Devices: l, Log: slog.New(slog.DiscardHandler)})
	for range maxLocal {
		s.local <- struct{}{}
	}
	call := func() int {
		r := httptest.NewRequest("POST", "/v1/devices/pump-2/methods/m", nil)
		r = r.WithContext(context.WithValue(r.Context(), accessKey{}, peer{changing, ""}))
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, r)
		return w.Code
	}
	if got := call(); got != http.StatusTooManyRequests {
		t.Errorf("one too many: %d", got)
	}
	<-s.local
	for range 2 {
		if got := call(); got != http.StatusOK {
			t.Errorf("with a place: %d", got)
		}
	}
}
