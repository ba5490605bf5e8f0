package commands_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
)

func TestNextServesInOrder(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		const receivers = 10
		var got [receivers]commands.Delivery
		var all sync.WaitGroup
		for n := range receivers {
			all.Go(func() {
				d, err := b.Next(t.Context(), pump)
				if err != nil {
					t.Errorf("receiver %d: %v", n, err)
				}
				got[n] = d
			})
			synctest.Wait() // this one waits before the next one comes
		}
		for n := range receivers {
			b.send(t, fmt.Sprint(n))
		}
		all.Wait()
		for n, d := range got {
			if string(d.Message.Body) != fmt.Sprint(n) {
				t.Errorf("receiver %d got %s", n, d.Message.Body)
			}
		}
	})
}

// What comes back goes to who waits: after an abandon, an unlock, a lost lock.
func TestNextGetsWhatComesBack(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		for name, giveUp := range map[string]func(lock string){
			"abandon": func(lock string) { want(t, b.Abandon(pump, lock), 0) },
			"unlock":  func(lock string) { b.Unlock(pump, lock) },
			"expiry":  func(string) { time.Sleep(time.Minute) },
		} {
			b.send(t, name)
			lock := b.receive(t, name).LockToken
			done := make(chan commands.Delivery, 1)
			go func() {
				d, err := b.Next(t.Context(), pump)
				want(t, err, 0)
				done <- d
			}()
			synctest.Wait()
			giveUp(lock)
			d := <-done
			if string(d.Message.Body) != name {
				t.Errorf("%s: got %s", name, d.Message.Body)
			}
			want(t, b.Complete(pump, d.LockToken), 0)
		}
	})
}

func TestNextEnds(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.Next(ctx, pump); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v, want that of the context", err)
		}
		b.send(t, "a")
		if d, err := b.Next(t.Context(), pump); err != nil || string(d.Message.Body) != "a" {
			t.Fatalf("got %+v, %v", d, err)
		}
	})
}

// A receiver whose device is deleted waits on, and gets what the next device of
// that name is sent.
func TestNextOutlivesDrop(t *testing.T) {
	run(t, commands.Config{}, func(t *testing.T, b *bench) {
		done := make(chan commands.Delivery, 1)
		go func() {
			d, err := b.Next(t.Context(), pump)
			want(t, err, 0)
			done <- d
		}()
		synctest.Wait()
		b.Drop(pump)
		b.send(t, "a")
		if d := <-done; d.Sequence != 1 {
			t.Errorf("sequence %d, want 1", d.Sequence)
		}
	})
}

// Receivers give up at the very moment at which messages come: every message
// reaches exactly one of those who stay, in the end.
func TestNextLosesNothing(t *testing.T) {
	for range 200 {
		run(t, commands.Config{Depth: 100}, func(t *testing.T, b *bench) {
			const messages, receivers = 8, 6
			got := make(chan commands.Delivery, messages)
			var all sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			for range receivers {
				all.Go(func() {
					if d, err := b.Next(ctx, pump); err == nil {
						got <- d
					}
				})
			}
			synctest.Wait()
			all.Go(cancel)
			all.Go(func() {
				for n := range messages {
					if err := b.Send(pump, &message.Message{Body: []byte{byte(n)}}); err != nil {
						t.Error(err)
					}
				}
			})
			all.Wait()
			for range messages - len(got) {
				d, ok := b.Receive(pump)
				if !ok {
					t.Fatalf("a message is lost: %d of %d got", len(got), messages)
				}
				got <- d
			}
			seen := make(map[byte]bool)
			for range messages {
				seen[(<-got).Message.Body[0]] = true
			}
			if len(seen) != messages {
				t.Fatalf("%d different messages, want %d", len(seen), messages)
			}
			b.nothing(t)
		})
	}
}

// At the moment of its expiry a message is expired, whoever comes first: the
// timer, a settlement or a purge.
func TestNothingBeatsExpiry(t *testing.T) {
	for range 200 {
		run(t, commands.Config{TTL: time.Minute, Lock: 2 * time.Minute}, func(t *testing.T, b *bench) {
			b.send(t, "a")
			lock := b.receive(t, "a").LockToken
			var all sync.WaitGroup
			for _, f := range []func(){
				func() { want(t, b.Complete(pump, lock), 412002) },
				func() { want(t, b.Abandon(pump, lock), 412002) },
				func() { b.Unlock(pump, lock) },
				func() {
					if n := b.Purge(pump); n != 0 {
						t.Errorf("%d purged, want 0", n)
					}
				},
			} {
				all.Go(func() {
					time.Sleep(time.Minute)
					f()
				})
			}
			all.Wait()
			b.wantReports(t, "a Expired")
		})
	}
}

// Settlements of one delivery race: exactly one gets it.
func TestOneSettlement(t *testing.T) {
	for range 200 {
		run(t, commands.Config{MaxDelivery: 1}, func(t *testing.T, b *bench) {
			b.send(t, "a")
			lock := b.receive(t, "a").LockToken
			var won [4]bool
			var all sync.WaitGroup
			for n, f := range []func() bool{
				func() bool { return b.Complete(pump, lock) == nil },
				func() bool { return b.Reject(pump, lock) == nil },
				func() bool { return b.Abandon(pump, lock) == nil },
				func() bool { return b.Purge(pump) == 1 },
			} {
				all.Go(func() { won[n] = f() })
			}
			all.Wait()
			var winners []string
			for n, status := range []string{"a Success", "a Rejected", "a DeliveryCountExceeded", "a Purged"} {
				if won[n] {
					winners = append(winners, status)
				}
			}
			if len(winners) != 1 {
				t.Fatalf("winners %q, want one", winners)
			}
			b.wantReports(t, winners...)
		})
	}
}
