package commands_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
)

func TestExpiry(t *testing.T) {
	run(t, commands.Config{TTL: time.Hour, Lock: 2 * time.Hour}, func(t *testing.T, b *bench) {
		b.send(t, "locked", "ready")
		early := &message.Message{ID: "early", Ack: "negative", Expiry: time.Now().Add(time.Minute)}
		late := &message.Message{ID: "late", Ack: "negative", Body: []byte("late"), Expiry: time.Now().Add(90 * time.Minute)}
		want(t, b.Send(pump, early), 0)
		want(t, b.Send(pump, late), 0)
		lock := b.receive(t, "locked").LockToken
		time.Sleep(time.Minute - time.Nanosecond)
		b.wantReports(t)
		time.Sleep(time.Nanosecond)
		b.wantReports(t, "early Expired")
		time.Sleep(59*time.Minute - time.Nanosecond)
		b.wantReports(t)
		time.Sleep(time.Nanosecond)
		got := b.reports(t)
		slices.Sort(got)
		if !slices.Equal(got, []string{"locked Expired", "ready Expired"}) {
			t.Errorf("feedback %q", got)
		}
		want(t, b.Complete(pump, lock), 412002)
		b.receive(t, "late")
		b.nothing(t)
	})
}

// The timers work without anyone looking: feedback comes by itself.
func TestExpiryByItself(t *testing.T) {
	run(t, commands.Config{TTL: time.Hour}, func(t *testing.T, b *bench) {
		start := time.Now()
		b.send(t, "a")
		d, err := b.feedback.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if after := time.Since(start); after != time.Hour {
			t.Errorf("feedback after %v, want 1h", after)
		}
		var r report
		if err := json.Unmarshal(d.Message.Body, &r); err != nil {
			t.Fatal(err)
		}
		if want := (report{"a", time.Now().UTC(), "Expired", "Expired", "pump", "generation of pump"}); r != want {
			t.Errorf("record %+v, want %+v", r, want)
		}
	})
}

// A lock that expires does not count as a delivery (trap 9.24): the message
// comes back each time, until it expires itself.
func TestLockExpiry(t *testing.T) {
	run(t, commands.Config{MaxDelivery: 2, TTL: time.Hour, Lock: time.Minute}, func(t *testing.T, b *bench) {
		start := time.Now()
		b.send(t, "a", "b")
		for n := range 60 {
			d, err := b.Next(t.Context(), pump)
			if err != nil {
				t.Fatal(err)
			}
			if string(d.Message.Body) != "a" || d.Count != 0 || time.Since(start) != time.Duration(n)*time.Minute {
				t.Fatalf("delivery %d after %v: %s, count %d", n, time.Since(start), d.Message.Body, d.Count)
			}
			other := b.receive(t, "b") // locked together: both come back
			time.Sleep(time.Minute - time.Nanosecond)
			if n := b.Len(pump); n != 2 {
				t.Fatalf("length %d, want 2", n)
			}
			b.nothing(t)
			time.Sleep(time.Nanosecond)
			want(t, b.Complete(pump, d.LockToken), 412002)
			want(t, b.Abandon(pump, other.LockToken), 412002)
		}
		b.nothing(t)
		if got := b.reports(t); len(got) != 2 {
			t.Errorf("feedback %q, want two of expiry", got)
		}
	})
}
