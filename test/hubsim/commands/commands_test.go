package commands_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

func TestOrder(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		sent := time.Now()
		b.send(t, "a", "b", "c")
		first, second := b.receive(t, "a"), b.receive(t, "b")
		if first.Sequence != 1 || second.Sequence != 2 || first.Count != 0 || !first.Enqueued.Equal(sent) {
			t.Errorf("deliveries %+v and %+v", first, second)
		}
		if len(first.LockToken) != 36 || first.LockToken == second.LockToken {
			t.Errorf("lock tokens %s and %s", first.LockToken, second.LockToken)
		}
		want(t, b.Abandon(pump, second.LockToken), 0)
		want(t, b.Abandon(pump, first.LockToken), 0)
		again := b.receive(t, "a")
		if again.Count != 1 || again.Sequence != 1 || again.LockToken == first.LockToken {
			t.Errorf("delivered again: %+v", again)
		}
		b.Unlock(pump, again.LockToken)
		b.Unlock(pump, again.LockToken) // not its lock any more
		again = b.receive(t, "a")
		if again.Count != 1 {
			t.Errorf("after an unlock the count is %d, want 1", again.Count)
		}
		want(t, b.Complete(pump, again.LockToken), 0)
		want(t, b.Complete(pump, again.LockToken), 412002)
		want(t, b.Reject(pump, b.receive(t, "b").LockToken), 0)
		want(t, b.Complete(pump, b.receive(t, "c").LockToken), 0)
		b.nothing(t)
		b.wantReports(t, "a Success", "b Rejected", "c Success")
	})
}

func TestUnknownLocks(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		b.send(t, "a")
		lock := b.receive(t, "a").LockToken
		for _, c := range []struct {
			id   registry.ID
			lock string
		}{
			{pump, "no-such-lock"},
			{pump, ""},
			{registry.ID{Device: "other"}, lock},
			{registry.ID{Device: "pump", Module: "m"}, lock},
		} {
			want(t, b.Complete(c.id, c.lock), 412002)
			want(t, b.Reject(c.id, c.lock), 412002)
			want(t, b.Abandon(c.id, c.lock), 412002)
			b.Unlock(c.id, c.lock)
		}
		want(t, b.Complete(pump, lock), 0)
	})
}

func TestDepth(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		for n := range 50 {
			b.send(t, fmt.Sprint(n))
		}
		lock := b.receive(t, "0").LockToken
		m := &message.Message{}
		want(t, b.Send(pump, m), 403004) // what is locked counts
		want(t, b.Send(registry.ID{Device: "other"}, m), 0)
		want(t, b.Complete(pump, lock), 0)
		want(t, b.Send(pump, m), 0)
		want(t, b.Send(pump, m), 403004)
		if n := b.Len(pump); n != 50 {
			t.Errorf("length %d, want 50", n)
		}
	})
}

func TestSendRefuses(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		for _, c := range []struct {
			name string
			m    message.Message
			code int
		}{
			{"empty", message.Message{}, 0},
			{"no feedback", message.Message{Ack: "none"}, 0},
			{"feedback", message.Message{ID: "1", Ack: "positive"}, 0},
			{"feedback without id", message.Message{Ack: "negative"}, 400004},
			{"unknown ack", message.Message{ID: "1", Ack: "perhaps"}, 400004},
			{"as large as may be", message.Message{Body: make([]byte, commands.MaxSize)}, 0},
			{"too large", message.Message{ID: "1", Body: make([]byte, commands.MaxSize)}, 413001},
			{"two days", message.Message{Expiry: time.Now().Add(commands.MaxTTL)}, 0},
			{"more than two days", message.Message{Expiry: time.Now().Add(commands.MaxTTL + 1)}, 403009},
			{"no time left", message.Message{Expiry: time.Now()}, 403009},
		} {
			if err := b.Send(pump, &c.m); codeOf(err) != c.code {
				t.Errorf("%s: error %v, want code %d", c.name, err, c.code)
			}
		}
		if n := b.Len(pump); n != 5 {
			t.Errorf("length %d, want 5", n)
		}
	})
}

func TestDeliveryCount(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		b.send(t, "a", "b")
		for n := range 10 {
			b.wantReports(t)
			d := b.receive(t, "a")
			if d.Count != n {
				t.Errorf("delivery %d has the count %d", n, d.Count)
			}
			want(t, b.Abandon(pump, d.LockToken), 0)
		}
		b.wantReports(t, "a DeliveryCountExceeded")
		b.receive(t, "b")
	})
}

func TestPurge(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		b.send(t, "a", "b", "c")
		lock := b.receive(t, "a").LockToken
		if n := b.Purge(pump); n != 3 {
			t.Errorf("%d purged, want 3", n)
		}
		b.wantReports(t, "a Purged", "b Purged", "c Purged")
		want(t, b.Complete(pump, lock), 412002)
		if n := b.Purge(pump) + b.Purge(registry.ID{Device: "other"}); n != 0 {
			t.Errorf("%d purged from empty queues", n)
		}
		b.send(t, "d")
		if d := b.receive(t, "d"); d.Sequence != 4 {
			t.Errorf("sequence %d, want 4", d.Sequence)
		}
	})
}

func TestDrop(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		b.send(t, "a", "b")
		lock := b.receive(t, "a").LockToken
		b.Drop(pump)
		b.Drop(registry.ID{Device: "other"})
		want(t, b.Complete(pump, lock), 412002)
		time.Sleep(24 * time.Hour)
		b.wantReports(t)
		b.send(t, "c")
		if d := b.receive(t, "c"); d.Sequence != 1 {
			t.Errorf("sequence %d, want 1: the device is another one", d.Sequence)
		}
	})
}

func TestConfigure(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		b.send(t, "a")
		b.Configure(commands.Config{Depth: 2, TTL: time.Minute, Lock: 5 * time.Second, MaxDelivery: 1})
		b.send(t, "b")
		want(t, b.Send(pump, &message.Message{}), 403004)
		b.receive(t, "a")
		time.Sleep(5 * time.Second)
		a := b.receive(t, "a")
		want(t, b.Abandon(pump, a.LockToken), 0)
		b.wantReports(t, "a DeliveryCountExceeded")
		time.Sleep(55 * time.Second)
		b.wantReports(t, "b Expired")
	})
}

// However many commands wait, one goroutine looks after their time.
func TestManyDevices(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		before := runtime.NumGoroutine()
		const devices, each = 1000, 50
		for d := range devices {
			id := registry.ID{Device: fmt.Sprint(d)}
			for range each {
				want(t, b.Send(id, &message.Message{ID: "x", Ack: "positive"}), 0)
			}
			if _, ok := b.Receive(id); !ok {
				t.Fatalf("nothing for device %d", d)
			}
		}
		if n := runtime.NumGoroutine(); n > before {
			t.Errorf("%d goroutines, %d before", n, before)
		}
		time.Sleep(time.Hour)
		for d := range devices {
			if n := b.Len(registry.ID{Device: fmt.Sprint(d)}); n != 0 {
				t.Fatalf("device %d has %d messages left", d, n)
			}
		}
	})
}
