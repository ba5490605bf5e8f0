package leafsim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience bounds waits for things that must happen; it is no expectation of
// how long they take.
const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// forBothVersions runs a test with MQTT 3.1.1 and MQTT 5.
func forBothVersions(t *testing.T, test func(t *testing.T, version int)) {
	for _, version := range []int{4, 5} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) { test(t, version) })
	}
}

func (b *broker) line(version int) *MQTT {
	return &MQTT{Address: b.listener.Addr().String(), Version: version, Login: PasswordLogin("secret")}
}

func TestEverythingAcknowledged(t *testing.T) {
	forBothVersions(t, func(t *testing.T, version int) {
		b := startBroker(t, version, func(publish) verdict { return accept })
		leaf := New(Options{ID: "pump", Line: b.line(version), Count: 100, AlarmEvery: 10, Size: 200})
		if err := leaf.Run(testContext(t)); err != nil {
			t.Fatal(err)
		}
		acks := leaf.Acked()
		taken, logins := b.seen()
		if len(acks) != 100 || len(taken) != 100 {
			t.Fatalf("%d acknowledged, %d taken, want 100", len(acks), len(taken))
		}
		next := map[string]uint64{Telemetry: 1, Alarm: 1}
		for i, a := range acks {
			if a.N != next[a.Lane] || a.Leaf != "pump" || a.At.Before(a.Sent) {
				t.Fatalf("acknowledgement %d is %+v, want number %d", i, a, next[a.Lane])
			}
			next[a.Lane]++
			body, err := ParseBody([]byte(taken[i].body))
			if err != nil || body.Leaf != "pump" || body.N != a.N || taken[i].topic != "leaf/pump/"+a.Lane || len(taken[i].body) < 200 {
				t.Fatalf("publish %d is %+v, want that of %+v", i, taken[i], a)
			}
		}
		if next[Alarm] != 11 {
			t.Errorf("%d alarms, want 10", next[Alarm]-1)
		}
		if want := (login{"pump", "pump", "secret"}); logins[0] != want {
			t.Errorf("login %+v, want %+v", logins[0], want)
		}
	})
}

// A broker that hangs up at random gets every message again that it has not
// acknowledged, in order and with the same content.
func TestSendsAgainInOrder(t *testing.T) {
	forBothVersions(t, func(t *testing.T, version int) {
		random := rand.New(rand.NewPCG(1, uint64(version)))
		b := startBroker(t, version, func(publish) verdict {
			if random.IntN(20) == 0 {
				return hangUp
			}
			return accept
		})
		leaf := New(Options{ID: "pump", Line: b.line(version), Count: 100, Window: 8})
		if err := leaf.Run(testContext(t)); err != nil {
			t.Fatal(err)
		}
		acks := leaf.Acked()
		for i, a := range acks {
			if a.N != uint64(i+1) {
				t.Fatalf("acknowledgement %d is for message %d", i+1, a.N)
			}
		}
		stats := leaf.Stats()
		if len(acks) != 100 || stats.Acked != 100 || stats.Made != 100 || stats.Resent == 0 || stats.Connects < 2 {
			t.Errorf("%d acknowledgements, stats %+v: want 100 and messages sent again", len(acks), stats)
		}
		taken, _ := b.seen()
		checkTaken(t, taken)
	})
}

// checkTaken: what the broker saw goes up by one, or back to something seen.
func checkTaken(t *testing.T, taken []publish) {
	content := make(map[uint64]string)
	var last, highest uint64
	for i, p := range taken {
		body, err := ParseBody([]byte(p.body))
		if err != nil {
			t.Fatal(err)
		}
		if body.N > last+1 || body.N == last+1 && last < highest && content[body.N] == "" {
			t.Fatalf("publish %d is number %d after %d", i, body.N, last)
		}
		if was, again := content[body.N]; again && was != p.body {
			t.Fatalf("message %d was %q and became %q", body.N, was, p.body)
		}
		content[body.N], last, highest = p.body, body.N, max(highest, body.N)
	}
	if highest != 100 {
		t.Errorf("highest number is %d, want 100", highest)
	}
}

// A refused message is no acknowledged message: the leaf comes back with it.
func TestRefusedIsNotAcknowledged(t *testing.T) {
	var refused atomic.Int32
	b := startBroker(t, 5, func(p publish) verdict {
		if strings.Contains(p.body, `"n":3,`) && refused.Load() < 2 {
			refused.Add(1)
			return refuse
		}
		return accept
	})
	leaf := New(Options{ID: "pump", Line: b.line(5), Count: 5, Window: 1})
	if err := leaf.Run(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := leaf.Stats(); refused.Load() != 2 || got.Acked != 5 || got.Resent != 2 {
		t.Errorf("refused %d times, stats %+v: want message 3 sent again twice", refused.Load(), got)
	}
}

// A broker that takes and never answers gets a window of messages and no more.
func TestWindowIsKept(t *testing.T) {
	forBothVersions(t, func(t *testing.T, version int) {
		const window = 5
		full := make(chan struct{})
		seen := 0
		b := startBroker(t, version, func(publish) verdict {
			if seen++; seen == window {
				close(full)
			}
			return silence
		})
		ctx, cancel := context.WithCancel(testContext(t))
		leaf := New(Options{ID: "pump", Line: b.line(version), Window: window})
		ended := make(chan error, 1)
		go func() { ended <- leaf.Run(ctx) }()
		<-full
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want that of the context", err)
		}
		if got := leaf.Stats(); got.Made != window || got.Acked != 0 {
			t.Errorf("stats %+v: want %d made, none acknowledged", got, window)
		}
	})
}

func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	forBothVersions(t, func(t *testing.T, version int) {
		some := make(chan struct{})
		seen := 0
		b := startBroker(t, version, func(publish) verdict {
			if seen++; seen == 10 {
				close(some)
			}
			return accept
		})
		leaf := New(Options{ID: "pump", Line: b.line(version)})
		ended := make(chan error, 1)
		go func() { ended <- leaf.Run(testContext(t)) }()
		<-some
		leaf.Stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if got := leaf.Stats(); got.Made != got.Acked || got.Acked < 10 || got.Connected {
			t.Errorf("stats %+v: want everything made acknowledged", got)
		}
	})
}

func TestAckLog(t *testing.T) {
	b := startBroker(t, 4, func(publish) verdict { return accept })
	file := filepath.Join(t.TempDir(), "acks.jsonl")
	log, err := OpenAckLog(file)
	if err != nil {
		t.Fatal(err)
	}
	leaf := New(Options{ID: "pump", Line: b.line(4), Count: 7, Log: log})
	if err := leaf.Run(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadAcks(file)
	same := func(a, b Ack) bool { return a.N == b.N && a.Lane == b.Lane && a.Leaf == b.Leaf && a.At.Equal(b.At) }
	if err != nil || !slices.EqualFunc(got, leaf.Acked(), same) {
		t.Errorf("read %+v, %v; want %+v", got, err, leaf.Acked())
	}
}

// A leaf that cannot write down what was acknowledged must not go on.
func TestAckLogFailureEndsTheLeaf(t *testing.T) {
	b := startBroker(t, 4, func(publish) verdict { return accept })
	log, err := OpenAckLog(filepath.Join(t.TempDir(), "acks.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	log.Close()
	leaf := New(Options{ID: "pump", Line: b.line(4), Log: log})
	if err := leaf.Run(testContext(t)); err == nil || len(leaf.Acked()) != 0 {
		t.Errorf("Run returned %v with %d acknowledgements, want an error and none", err, len(leaf.Acked()))
	}
}
