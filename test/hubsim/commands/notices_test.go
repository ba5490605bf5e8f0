package commands_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// notices runs f in a bubble with the queue of section 5.8.
func notices(t *testing.T, cfg commands.Config, f func(t *testing.T, n *commands.Notices)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := commands.NewNotices(cfg, 64, 15*time.Second)
		defer n.Close()
		f(t, n)
	})
}

// add adds records about devices, each a JSON text that holds its name.
func add(n *commands.Notices, devices ...string) {
	for _, d := range devices {
		n.Add(registry.ID{Device: d}, []byte(`"`+d+`"`))
	}
}

// body receives a message, whose body must be an array with the names given.
func body(t *testing.T, n *commands.Notices, names string) commands.Delivery {
	t.Helper()
	d, ok := n.Receive()
	if !ok {
		t.Fatalf("nothing to receive, want %s", names)
	}
	var list []string
	if err := json.Unmarshal(d.Message.Body, &list); err != nil {
		t.Fatalf("body %s: %v", d.Message.Body, err)
	}
	if got := strings.Join(list, " "); got != names {
		t.Fatalf("received %q, want %q", got, names)
	}
	return d
}

func empty(t *testing.T, n *commands.Notices) {
	t.Helper()
	if d, ok := n.Receive(); ok {
		t.Fatalf("received %s, want nothing", d.Message.Body)
	}
}

func TestNoticesAreGathered(t *testing.T) {
	notices(t, commands.Config{}, func(t *testing.T, n *commands.Notices) {
		add(n, "a")
		time.Sleep(10 * time.Second)
		add(n, "b")
		time.Sleep(5*time.Second - time.Nanosecond)
		empty(t, n)
		time.Sleep(time.Nanosecond)
		want(t, n.Complete(body(t, n, "a b").LockToken), 0)

		var names []string
		for i := range 65 {
			names = append(names, fmt.Sprint(i))
		}
		add(n, names...)
		want(t, n.Complete(body(t, n, strings.Join(names[:64], " ")).LockToken), 0)
		empty(t, n)
		time.Sleep(15 * time.Second)
		want(t, n.Reject(body(t, n, "64").LockToken), 0)
		empty(t, n)

		add(n, names[:64]...)
		body(t, n, strings.Join(names[:64], " "))
		time.Sleep(15 * time.Second)
		empty(t, n) // the time of what is full already means nothing
	})
}

func TestNoticesWait(t *testing.T) {
	notices(t, commands.Config{}, func(t *testing.T, n *commands.Notices) {
		start := time.Now()
		add(n, "a")
		d, err := n.Next(t.Context())
		if err != nil || time.Since(start) != 15*time.Second || string(d.Message.Body) != `["a"]` {
			t.Errorf("got %+v, %v after %v", d, err, time.Since(start))
		}
	})
}

func TestNoticesComeBack(t *testing.T) {
	notices(t, commands.Config{MaxDelivery: 2, Lock: time.Minute, TTL: time.Hour}, func(t *testing.T, n *commands.Notices) {
		add(n, "a")
		time.Sleep(15 * time.Second)
		lost := body(t, n, "a")
		empty(t, n)
		time.Sleep(time.Minute)
		want(t, n.Complete(lost.LockToken), 412002)
		want(t, n.Abandon(lost.LockToken), 412002)
		want(t, n.Reject(lost.LockToken), 412002)
		n.Unlock(lost.LockToken)
		d := body(t, n, "a")
		n.Unlock(d.LockToken)
		d = body(t, n, "a")
		if d.Count != 0 {
			t.Errorf("count %d after a lost lock and an unlock, want 0", d.Count)
		}
		want(t, n.Abandon(d.LockToken), 0)
		d = body(t, n, "a")
		if d.Count != 1 || d.Sequence != 1 {
			t.Errorf("delivered again: %+v", d)
		}
		want(t, n.Abandon(d.LockToken), 0)
		empty(t, n)

		add(n, "b")
		time.Sleep(time.Hour + 15*time.Second)
		empty(t, n)
	})
}

// Records about a deleted device are gone, wherever they wait; what a receiver
// has it can still settle when others are in it.
func TestNoticesDrop(t *testing.T) {
	gone := registry.ID{Device: "gone"}
	notices(t, commands.Config{}, func(t *testing.T, n *commands.Notices) {
		add(n, "a", "gone")
		time.Sleep(15 * time.Second)
		shared := body(t, n, "a gone")
		add(n, "gone")
		time.Sleep(15 * time.Second)
		alone := body(t, n, "gone")
		add(n, "gone", "gone")
		time.Sleep(15 * time.Second) // ready
		add(n, "gone", "b")          // still gathered
		n.Drop(gone)
		if string(shared.Message.Body) != `["a","gone"]` {
			t.Errorf("a message that was delivered has changed: %s", shared.Message.Body)
		}
		want(t, n.Complete(alone.LockToken), 412002)
		want(t, n.Abandon(shared.LockToken), 0)
		want(t, n.Complete(body(t, n, "a").LockToken), 0)
		empty(t, n)
		time.Sleep(15 * time.Second)
		want(t, n.Complete(body(t, n, "b").LockToken), 0)

		add(n, "gone")
		time.Sleep(10 * time.Second)
		n.Drop(gone) // nothing is gathered now
		time.Sleep(15 * time.Second)
		empty(t, n)
		add(n, "gone")
		time.Sleep(10 * time.Second)
		n.Drop(gone)
		add(n, "c")
		time.Sleep(15*time.Second - time.Nanosecond)
		empty(t, n)
		time.Sleep(time.Nanosecond)
		body(t, n, "c")
	})
}

func TestSingleNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := commands.NewNotices(commands.Config{}, 1, 0)
		defer n.Close()
		add(n, "a", "b")
		for _, want := range []string{`"a"`, `"b"`} {
			if d, ok := n.Receive(); !ok || string(d.Message.Body) != want {
				t.Errorf("received %+v, want %s", d, want)
			}
		}
	})
}

// Nobody fetches: the oldest make room.
func TestNoticesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := commands.NewNotices(commands.Config{}, 1, 0)
		defer n.Close()
		for i := range commands.MaxNotices + 2 {
			add(n, fmt.Sprint(i))
		}
		if got := n.Len(); got != commands.MaxNotices {
			t.Errorf("%d messages, want %d", got, commands.MaxNotices)
		}
		if d, _ := n.Receive(); string(d.Message.Body) != `"2"` {
			t.Errorf("the oldest is %s, want 2", d.Message.Body)
		}
	})
}

func TestNoticesConfigure(t *testing.T) {
	notices(t, commands.Config{}, func(t *testing.T, n *commands.Notices) {
		n.Configure(commands.Config{TTL: 2 * time.Minute, Lock: 5 * time.Second, MaxDelivery: 1})
		add(n, "a")
		time.Sleep(15 * time.Second)
		body(t, n, "a")
		time.Sleep(5 * time.Second)
		want(t, n.Abandon(body(t, n, "a").LockToken), 0)
		empty(t, n)
		add(n, "b")
		time.Sleep(15*time.Second + 2*time.Minute - time.Nanosecond)
		body(t, n, "b")
		time.Sleep(time.Nanosecond)
		if got := n.Len(); got != 0 {
			t.Errorf("%d messages, want none: it has expired", got)
		}
		add(n, "c")
		n.SetDelay(time.Second)
		time.Sleep(14 * time.Second)
		empty(t, n)
		time.Sleep(time.Second)
		body(t, n, "c")
		add(n, "d")
		time.Sleep(time.Second)
		body(t, n, "d")
	})
}
