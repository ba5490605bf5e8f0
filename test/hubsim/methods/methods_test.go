package methods_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

var (
	pump   = registry.ID{Device: "pump"}
	module = registry.ID{Device: "pump", Module: "valve"}
)

// open returns an exchange that knows the pump and its module.
func open() *methods.Exchange {
	return methods.New(func(id registry.ID) error {
		if id != pump && id != module {
			return refusal.New(404001, "no such device")
		}
		return nil
	})
}

// echo listens as a device that answers at once with the payload it got.
func echo(e *methods.Exchange, id registry.ID, status int32) (cancel func()) {
	return e.Listen(id, func(r methods.Request) { e.Answer(id, r.ID, status, r.Payload) })
}

// want checks an error; the code 0 stands for none.
func want(t *testing.T, err error, code int) {
	t.Helper()
	got := 0
	if err != nil {
		got = refusal.Of(err).Code
	}
	if got != code {
		t.Errorf("error %v, want code %d", err, code)
	}
}

func TestInvoke(t *testing.T) {
	e := open()
	var got methods.Request
	defer e.Listen(pump, func(r methods.Request) {
		got = r
		if !e.Answer(pump, r.ID, 207, []byte(`{"b":2}`)) {
			t.Error("the answer was not wanted")
		}
	})()
	a, err := e.Invoke(t.Context(), pump, methods.Call{Name: "start!", Payload: json.RawMessage(`{"a":1}`)})
	want(t, err, 0)
	if a.Status != 207 || string(a.Payload) != `{"b":2}` {
		t.Errorf("answer %d %s", a.Status, a.Payload)
	}
	if got.Name != "start!" || string(got.Payload) != `{"a":1}` || len(got.ID) != 36 {
		t.Errorf("request %+v", got)
	}
	if e.Answer(pump, got.ID, 200, nil) {
		t.Error("a second answer was wanted")
	}
}

func TestPayloads(t *testing.T) {
	e := open()
	for _, c := range []struct {
		name    string
		payload string
		call    int // code that a call with the payload gets
		answer  int // code that the caller of a device that answers with it gets
	}{
		{"none", "", 0, 0},
		{"null", "null", 0, 0},
		{"number", "5", 0, 0},
		{"object", `{"a":[1,"ü"]}`, 0, 0},
		{"not JSON", "{", 400004, 502000},
		{"two values", "1 2", 400004, 502000},
		{"as large as may be", `"` + strings.Repeat("x", methods.MaxPayload-2) + `"`, 0, 0},
		{"too large", `"` + strings.Repeat("x", methods.MaxPayload-1) + `"`, 413001, 502000},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer echo(e, pump, 200)()
			a, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m", Payload: []byte(c.payload)})
			want(t, err, c.call)
			if err == nil && (string(a.Payload) != c.payload || (a.Payload == nil) != (c.payload == "")) {
				t.Errorf("payload %q, want %q", a.Payload, c.payload)
			}
			defer e.Listen(pump, func(r methods.Request) { e.Answer(pump, r.ID, 200, []byte(c.payload)) })()
			_, err = e.Invoke(t.Context(), pump, methods.Call{Name: "m"})
			want(t, err, c.answer)
		})
	}
}

func TestCallsRefused(t *testing.T) {
	e := open()
	defer echo(e, pump, 200)()
	for _, c := range []struct {
		name string
		id   registry.ID
		call methods.Call
		code int
	}{
		{"good", pump, methods.Call{Name: "Get-State_2.0~|!#%&'*+^`"}, 0},
		{"no name", pump, methods.Call{}, 400004},
		{"space", pump, methods.Call{Name: "a b"}, 400004},
		{"tab", pump, methods.Call{Name: "a\tb"}, 400004},
		{"not ASCII", pump, methods.Call{Name: "größe"}, 400004},
		{"delete", pump, methods.Call{Name: "a\x7f"}, 400004},
		{"longest waits", pump, methods.Call{Name: "m", ConnectTimeout: 300 * time.Second, ResponseTimeout: 300 * time.Second}, 0},
		{"connect too long", pump, methods.Call{Name: "m", ConnectTimeout: 301 * time.Second}, 400004},
		{"connect negative", pump, methods.Call{Name: "m", ConnectTimeout: -1}, 400004},
		{"response too short", pump, methods.Call{Name: "m", ResponseTimeout: 5*time.Second - 1}, 400004},
		{"response too long", pump, methods.Call{Name: "m", ResponseTimeout: 301 * time.Second}, 400004},
		{"unknown", registry.ID{Device: "other"}, methods.Call{Name: "m"}, 404001},
		{"offline", module, methods.Call{Name: "m"}, 404103},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := e.Invoke(t.Context(), c.id, c.call)
			want(t, err, c.code)
		})
	}
	for _, mark := range `$()<>@,;:\"/[]?={}` {
		_, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m" + string(mark)})
		want(t, err, 400004)
	}
}

// A device and its module are called apart.
func TestModules(t *testing.T) {
	e := open()
	defer echo(e, pump, 201)()
	defer echo(e, module, 202)()
	for id, status := range map[registry.ID]int32{pump: 201, module: 202} {
		if a, err := e.Invoke(t.Context(), id, methods.Call{Name: "m"}); err != nil || a.Status != status {
			t.Errorf("%v answered %d, %v; want %d", id, a.Status, err, status)
		}
	}
	defer e.Listen(pump, func(r methods.Request) {
		if e.Answer(module, r.ID, 200, nil) {
			t.Error("somebody else could answer")
		}
		e.Answer(pump, r.ID, 203, nil)
	})()
	if a, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m"}); err != nil || a.Status != 203 {
		t.Errorf("answered %d, %v", a.Status, err)
	}
}

func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open()
		var request string
		defer e.Listen(pump, func(r methods.Request) { request = r.ID })()
		for given, waits := range map[time.Duration]time.Duration{0: 30 * time.Second, 5 * time.Second: 5 * time.Second} {
			start := time.Now()
			_, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m", ResponseTimeout: given})
			want(t, err, 504101)
			if took := time.Since(start); took != waits {
				t.Errorf("timeout %v took %v, want %v", given, took, waits)
			}
			if e.Answer(pump, request, 200, nil) { // trap 9.26
				t.Error("a late answer was wanted")
			}
		}
	})
}

func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open()
		start := time.Now()
		call := methods.Call{Name: "m", ConnectTimeout: 20 * time.Second, ResponseTimeout: 5 * time.Second}
		_, err := e.Invoke(t.Context(), pump, call)
		want(t, err, 404103)
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("the call took %v, want 20s", took)
		}

		// The device comes after 10 s and takes 4 s for its answer; before it
		// others come and go.
		go func() {
			time.Sleep(5 * time.Second)
			echo(e, module, 200)()
			time.Sleep(5 * time.Second)
			e.Listen(pump, func(r methods.Request) {
				time.AfterFunc(4*time.Second, func() { e.Answer(pump, r.ID, 200, nil) })
			})
		}()
		start = time.Now()
		_, err = e.Invoke(t.Context(), pump, call)
		want(t, err, 0)
		if took := time.Since(start); took != 14*time.Second {
			t.Errorf("the call took %v, want 14s", took)
		}
	})
}

func TestCallerGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open()
		for _, online := range []bool{false, true} {
			if online {
				defer e.Listen(pump, func(methods.Request) {})()
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := e.Invoke(ctx, pump, methods.Call{Name: "m", ConnectTimeout: 10 * time.Second})
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want that of the context", err)
			}
		}
	})
}

func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open()
		var requests []string
		defer e.Listen(pump, func(r methods.Request) { requests = append(requests, r.ID) })()
		var calls sync.WaitGroup
		for range methods.MaxInFlight {
			calls.Go(func() {
				_, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m"})
				want(t, err, 0)
			})
		}
		synctest.Wait()
		_, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m"})
		want(t, err, 403800)
		_, err = e.Invoke(t.Context(), module, methods.Call{Name: "m"})
		want(t, err, 404103) // others are not concerned
		for _, r := range requests {
			if !e.Answer(pump, r, 200, nil) {
				t.Error("an answer was not wanted")
			}
		}
		calls.Wait()
		defer echo(e, pump, 200)()
		_, err = e.Invoke(t.Context(), pump, methods.Call{Name: "m"})
		want(t, err, 0)
	})
}

// The newest listener gets the requests; when it goes nobody does, whatever the
// ones before it do.
func TestListeners(t *testing.T) {
	e := open()
	first := echo(e, pump, 201)
	second := echo(e, pump, 202)
	first()
	if a, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m"}); err != nil || a.Status != 202 {
		t.Errorf("answered %d, %v; want 202", a.Status, err)
	}
	second()
	second()
	_, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m"})
	want(t, err, 404103)
}

// A device that reconnects during a call may answer on its new connection.
func TestAnswerAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open()
		var request string
		cancel := e.Listen(pump, func(r methods.Request) { request = r.ID })
		done := make(chan error)
		go func() {
			_, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m"})
			done <- err
		}()
		synctest.Wait()
		cancel()
		defer e.Listen(pump, func(methods.Request) { t.Error("the request came twice") })()
		if !e.Answer(pump, request, 200, nil) {
			t.Error("the answer was not wanted")
		}
		want(t, <-done, 0)
	})
}

// Listeners come and go while calls are made: after a cancel nothing is
// delivered, and every call that was delivered is answered.
func TestListenersRace(t *testing.T) {
	e := open()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 300 {
				gone := false // guarded by the exchange's promise only
				cancel := e.Listen(pump, func(r methods.Request) {
					if gone {
						t.Error("delivered after cancel")
					}
					e.Answer(pump, r.ID, 200, nil)
				})
				cancel()
				gone = true
			}
		})
		all.Go(func() {
			for range 300 {
				_, err := e.Invoke(t.Context(), pump, methods.Call{Name: "m"})
				if err != nil && !refusal.Is(err, 404103) {
					t.Errorf("call: %v", err)
				}
			}
		})
	}
	all.Wait()
}
