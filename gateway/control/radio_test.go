package control

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// air is a radio whose pairings do what the test says.
type air struct {
	pair func(context.Context, Ceremony) error
}

func (a air) Scan(context.Context, time.Duration) ([]Heard, error) {
	return []Heard{{Address: "C8:00:00:00:00:01", RSSI: -40}}, nil
}

func (a air) Pair(ctx context.Context, _ string, ask Ceremony) error { return a.pair(ctx, ask) }

func (a air) Forget(context.Context, string) error {
	return &Refusal{http.StatusNotFound, errors.New("who?")}
}

func serveAir(t *testing.T, pair func(context.Context, Ceremony) error) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	s := New(Config{Socket: socket}, Parts{State: func() any { return 7 }, Radio: func() Radio { return air{pair} }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	state(t, socket)
	return NewClient(socket)
}

// What a pairing asks reaches the operator, and the answers come back to it.
func TestQuestionsOfAPairing(t *testing.T) {
	var got []any
	c := serveAir(t, func(ctx context.Context, ask Ceremony) error {
		key, ok := ask.Passkey(ctx)
		got = append(got, key, ok, ask.Agree(ctx, 42), ask.Agree(ctx, 43), ask.JustWorks)
		ask.Show(7)
		return nil
	})
	var asked []Step
	err := c.PairDevice(t.Context(), Pairing{Address: "x", JustWorks: true}, func(s Step) (Answer, error) {
		asked = append(asked, s)
		return Answer{Passkey: 123456, Yes: s.Number != 43}, nil
	})
	if want := []any{uint32(123456), true, true, false, true}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the pairing heard %v, %v; want %v", got, err, want)
	}
	want := []Step{{ID: 1, Ask: AskPasskey}, {ID: 2, Ask: AskAgree, Number: 42}, {ID: 3, Ask: AskAgree, Number: 43}, {Ask: ShowNumber, Number: 7}}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %+v, want %+v", asked, want)
	}
}

// What BlueZ says when the pairing is over goes to nobody: the connection that it
// would be written to can be another's.
func TestAWordThatComesTooLate(t *testing.T) {
	var late Ceremony
	c := serveAir(t, func(_ context.Context, ask Ceremony) error {
		late = ask
		return nil
	})
	for range 20 {
		err := c.PairDevice(t.Context(), Pairing{Address: "x"}, func(Step) (Answer, error) { return Answer{}, nil })
		if err != nil {
			t.Fatal(err)
		}
		late.Show(7)
	}
	if _, err := c.HeardDevices(t.Context(), time.Second); err != nil {
		t.Error(err)
	}
}

// An answer to a question that is over is no answer to the next one.
func TestALateAnswerCountsForNothing(t *testing.T) {
	late := make(chan struct{})
	c := serveAir(t, func(ctx context.Context, ask Ceremony) error {
		if ask.Agree(ctx, 1) {
			<-late
			if ask.Agree(ctx, 2) {
				return nil
			}
		}
		return errors.New("differs")
	})
	err := c.PairDevice(t.Context(), Pairing{}, func(s Step) (Answer, error) {
		if s.Number == 1 {
			go func() {
				_ = c.ask(t.Context(), "/v1/ble/answer", []byte(`{"id":1,"yes":true}`), new(Result)) // twice
				close(late)
			}()
			return Answer{Yes: true}, nil
		}
		_ = c.ask(t.Context(), "/v1/ble/answer", []byte(`{"id":1,"yes":true}`), new(Result))
		return Answer{Yes: false}, nil
	})
	if err == nil || err.Error() != "differs" {
		t.Errorf("the pairing is %v", err)
	}
}

// A pairing ends with the caller, and its errors keep their kind.
func TestEndOfAPairing(t *testing.T) {
	ended := make(chan error, 1)
	c := serveAir(t, func(ctx context.Context, ask Ceremony) error {
		if _, ok := ask.Passkey(ctx); ok {
			return &Refusal{http.StatusUnauthorized, errors.New("wrong")}
		}
		ended <- ctx.Err()
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := c.PairDevice(ctx, Pairing{}, func(Step) (Answer, error) { cancel(); return Answer{}, ctx.Err() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the pairing's caller has gone, and it ended with %v", err)
	}
	key := uint32(1)
	if err := c.PairDevice(t.Context(), Pairing{Passkey: &key}, nil); !errors.Is(err, ErrUnproven) {
		t.Errorf("a wrong passkey: %v", err)
	}
	if err := c.ForgetDevice(t.Context(), "x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing to forget: %v", err)
	}
	if found, err := c.HeardDevices(t.Context(), time.Second); err != nil || len(found) != 1 || found[0].RSSI != -40 {
		t.Errorf("heard %+v, %v", found, err)
	}
}

// What a caller may not, and what makes no sense.
func TestRadioRefusals(t *testing.T) {
	for _, x := range []struct {
		as                 access
		method, path, body string
		none               bool // no Bluetooth
		want               int
	}{
		{reading, "GET", "/v1/ble/devices?for=1s", "", false, http.StatusForbidden},
		{reading, "POST", "/v1/ble/pair", "{}", false, http.StatusForbidden},
		{reading, "POST", "/v1/ble/answer", "{}", false, http.StatusForbidden},
		{reading, "POST", "/v1/ble/forget", "{}", false, http.StatusForbidden},
		{changing, "GET", "/v1/ble/devices?for=1h", "", false, http.StatusBadRequest},
		{changing, "GET", "/v1/ble/devices", "", false, http.StatusBadRequest},
		{changing, "POST", "/v1/ble/pair", "{", false, http.StatusBadRequest},
		{changing, "POST", "/v1/ble/pair", `{"passkey":1000000}`, false, http.StatusBadRequest},
		{changing, "POST", "/v1/ble/answer", `{"passkey":1000000}`, false, http.StatusBadRequest},
		{changing, "POST", "/v1/ble/answer", `{"id":1,"yes":true}`, false, http.StatusConflict},
		{changing, "POST", "/v1/ble/pair", "{}", true, http.StatusServiceUnavailable},
		{changing, "GET", "/v1/ble/devices?for=1s", "", true, http.StatusServiceUnavailable},
	} {
		p := Parts{Log: slog.New(slog.DiscardHandler)}
		if !x.none {
			p.Radio = func() Radio { return air{} }
		}
		r := httptest.NewRequest(x.method, x.path, strings.NewReader(x.body))
		r = r.WithContext(context.WithValue(r.Context(), accessKey{}, peer{x.as, "user 1000"}))
		w := httptest.NewRecorder()
		New(Config{}, p).handler().ServeHTTP(w, r)
		if w.Code != x.want {
			t.Errorf("%s %s %s with access %d: %d %s, want %d", x.method, x.path, x.body, x.as, w.Code, w.Body, x.want)
		}
	}
}
