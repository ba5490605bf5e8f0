package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// largeStore is a backlog in which it takes long to find anything.
type largeStore struct {
	gateway.Backlog
	messages int
	between  time.Duration // of two messages, and behind the last
}

func (b largeStore) Look(_ context.Context, lane gateway.Lane, use func(gateway.Waiting) bool) error {
	for i := range b.messages {
		time.Sleep(b.between)
		m := &gateway.Message{Leaf: "pump-1", Lane: lane, Seq: uint64(i), System: gateway.System{MessageID: fmt.Sprint(lane, i)}}
		if !use(gateway.Waiting{Stored: gateway.Stored{Message: m}}) {
			return nil
		}
	}
	time.Sleep(b.between)
	return nil
}

// slowLine takes its time for all that is written, and fails when that is over.
type slowLine struct {
	*httptest.ResponseRecorder
	takes    time.Duration
	deadline time.Time
}

func (l *slowLine) SetReadDeadline(time.Time) error { return nil }

func (l *slowLine) SetWriteDeadline(at time.Time) error {
	l.deadline = at
	return nil
}

func (l *slowLine) Write(b []byte) (int, error) {
	time.Sleep(l.takes)
	if !l.deadline.IsZero() && time.Now().After(l.deadline) {
		return 0, errors.New("too late")
	}
	return l.ResponseRecorder.Write(b)
}

// What waits is exported however long that takes: what is looked for may be rare, or the
// line slow. Only a caller that takes nothing is given up.
func TestExportTakesItsTime(t *testing.T) {
	for _, c := range []struct {
		name           string
		between, takes time.Duration
		broken         bool
	}{
		{"little in a large store", 10 * patience, time.Second, false},
		{"a slow line", 0, patience * 9 / 10, false},
		{"nobody takes it", 0, patience * 11 / 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := func() (now gateway.Instant) { now.Wall = time.Now(); return now }
				s := New(Config{}, Parts{Backlog: largeStore{messages: 70, between: c.between}, Clock: clock, Log: slog.New(slog.DiscardHandler)})
				line := &slowLine{httptest.NewRecorder(), c.takes, time.Now().Add(patience)}
				broken := true
				func() {
					defer func() { _ = recover() }()
					s.look(s.waiting)(line, httptest.NewRequest("GET", "/v1/store/messages", nil))
					broken = false
				}()
				if broken != c.broken {
					t.Fatalf("broken off: %v", broken)
				}
				if n := strings.Count(line.Body.String(), "\n"); !c.broken && n != 70*int(gateway.Lanes) {
					t.Errorf("%d messages", n)
				}
				// What is still in buffers is written when the handler is through.
				if left := time.Until(line.deadline); !c.broken && left != patience {
					t.Errorf("there are %v for the last of it", left)
				}
			})
		})
	}
}

// failingStore is a backlog on a card that fails.
type failingStore struct{ gateway.Backlog }

func (failingStore) Look(context.Context, gateway.Lane, func(gateway.Waiting) bool) error {
	return gateway.ErrStoreFailed
}

func (failingStore) Verify(context.Context, gateway.Lane) (gateway.Verified, error) {
	return gateway.Verified{}, gateway.ErrStoreFailed
}

func (failingStore) Purge(context.Context, gateway.Lane, func(*gateway.Message) bool) (gateway.Purged, error) {
	return gateway.Purged{Messages: 2}, gateway.ErrStoreFailed
}

// Who asks for the backlog is told that the store fails, and what was purged all the same.
func TestStoreFails(t *testing.T) {
	s := New(Config{}, Parts{Backlog: failingStore{}, Clock: func() (now gateway.Instant) { return now }, Log: slog.New(slog.DiscardHandler)})
	for name, serve := range map[string]http.HandlerFunc{"list": s.waiting, "verify": s.verify, "purge": s.purgeBacklog} {
		w := httptest.NewRecorder()
		serve(w, httptest.NewRequest("POST", "/v1/store", strings.NewReader("{}")))
		if text := w.Body.String(); w.Code != http.StatusInsufficientStorage || name == "purge" && !strings.Contains(text, "2 messages were purged; ") {
			t.Errorf("%s: status %d, %s", name, w.Code, text)
		}
		if err := failed(w.Code, ""); !errors.Is(err, ErrStore) {
			t.Errorf("%s: the client says %v", name, err)
		}
	}
}
