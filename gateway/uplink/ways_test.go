package uplink_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// twoWays are two hubs without a network that stand for two ways to one.
type twoWays struct {
	t             *testing.T
	first, second *wire

	mu      sync.Mutex // guards everything below
	blocked error      // of the first way; nil: it is open
	probes  int
}

func newTwoWays(t *testing.T) *twoWays {
	w := &twoWays{t: t, first: newWire(), second: newWire()}
	w.first.dial = func(int) error { return w.state() }
	return w
}

// block has the first way fail with err.
func (w *twoWays) block(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blocked = err
}

func (w *twoWays) state() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blocked
}

func (w *twoWays) transport() *uplink.Ways {
	return uplink.NewWays(
		uplink.Way{Name: "first", Transport: w.first, Probe: func(context.Context) error {
			w.mu.Lock()
			w.probes++
			w.mu.Unlock()
			return w.state()
		}},
		uplink.Way{Name: "second", Transport: w.second}, 10*time.Minute)
}

func (w *twoWays) start(out gateway.Outbox) (*uplink.Uplink, func()) {
	return startTransport(w.t, uplink.DefaultConfig(), w.transport(), out)
}

// probed is how often the first way was probed.
func (w *twoWays) probed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.probes
}

// open is how many connections there are.
func (w *twoWays) open() (n int) {
	for _, hub := range []*wire{w.first, w.second} {
		hub.mu.Lock()
		for _, c := range hub.conns {
			select {
			case <-c.done:
			default:
				n++
			}
		}
		hub.mu.Unlock()
	}
	return n
}

var errBlocked = &uplink.Unreachable{Err: errors.New("connection refused")}

func TestSecondWayIsUsedUntilTheFirstIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, out := newTwoWays(t), newOutbox(t)
		w.second.delay = time.Second // messages are on their way when the way changes
		w.block(errBlocked)
		u, stop := w.start(out)
		defer stop()
		synctest.Wait()
		if s := u.State(); !s.Connected || s.Transport != "second" || s.Reason != "first: connection refused" {
			t.Fatalf("state %+v", s)
		}
		time.Sleep(time.Hour + time.Second)
		if w.probed() != 6 || w.first.attempts() != 1 || w.open() != 1 {
			t.Errorf("%d probes, %d attempts, %d connections", w.probed(), w.first.attempts(), w.open())
		}
		w.block(nil)
		time.Sleep(10*time.Minute - time.Second - 100*time.Millisecond)
		out.publish("a", 50)
		time.Sleep(50 * time.Millisecond)
		if s := u.State(); s.Transport != "second" || s.Inflight != 50 {
			t.Errorf("before the probe: %+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := u.State(); !s.Connected || s.Transport != "first" || s.Reason != "" || s.Accepted != 50 || s.LastError != "" || s.Recalls != 0 {
			t.Errorf("after the probe: %+v", s)
		}
		if n := w.open(); n != 1 || w.first.count("a") != 0 || w.second.count("a") != 50 {
			t.Errorf("%d connections; %d and %d arrived", n, w.first.count("a"), w.second.count("a"))
		}
		out.publish("a", 50)
		time.Sleep(24 * time.Hour)
		if n := w.first.count("a"); n != 50 || w.probed() != 7 {
			t.Errorf("%d on the first way, %d probes", n, w.probed())
		}
	})
}

func TestAWayThatLeadsToARefusalIsKept(t *testing.T) {
	for _, remedy := range []uplink.Remedy{uplink.Refused, uplink.Throttled, uplink.BackOff} {
		synctest.Test(t, func(t *testing.T) {
			w := newTwoWays(t)
			w.block(&uplink.Fault{Remedy: remedy, Err: errors.New("no")})
			u, stop := w.start(newOutbox(t))
			defer stop()
			time.Sleep(time.Hour)
			if n := w.second.attempts(); n > 0 {
				t.Errorf("%v: the second way was dialled %d times", remedy, n)
			}
			if s := u.State(); s.Connected || !strings.Contains(s.LastError, "first: no") {
				t.Errorf("%v: state %+v", remedy, s)
			}
		})
	}
}

func TestWhenNoWayLeadsToTheHubBothAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoWays(t)
		w.block(errBlocked)
		w.second.dial = func(int) error { return &uplink.Unreachable{Err: errors.New("no route")} }
		u, stop := w.start(newOutbox(t))
		defer stop()
		time.Sleep(time.Hour)
		s := u.State()
		if !strings.Contains(s.LastError, "first: connection refused") || !strings.Contains(s.LastError, "second: no route") {
			t.Errorf("state %+v", s)
		}
		if a, b := w.first.attempts(), w.second.attempts(); a != b || a < 10 {
			t.Errorf("%d and %d attempts", a, b)
		}
	})
}

func TestTheWayThatWorkedLastIsTriedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoWays(t)
		w.block(errBlocked)
		u, stop := w.start(newOutbox(t))
		defer stop()
		for range 5 {
			time.Sleep(2 * time.Minute)
			w.second.last().lose(errors.New("cut"))
		}
		time.Sleep(time.Second)
		if w.first.attempts() != 1 || w.second.attempts() != 6 {
			t.Errorf("%d and %d attempts", w.first.attempts(), w.second.attempts())
		}
		if s := u.State(); s.Reason != "first: connection refused" {
			t.Errorf("the reason is forgotten: %+v", s)
		}
	})
}
