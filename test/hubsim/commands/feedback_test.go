package commands_test

import (
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
)

// Feedback comes for the outcomes that the sender asked for only.
func TestFeedback(t *testing.T) {
	outcomes := map[string]func(b *bench, lock string) error{
		"Success":  func(b *bench, lock string) error { return b.Complete(pump, lock) },
		"Rejected": func(b *bench, lock string) error { return b.Reject(pump, lock) },
		"DeliveryCountExceeded": func(b *bench, lock string) error {
			return b.Abandon(pump, lock)
		},
		"Expired": func(*bench, string) error { time.Sleep(time.Hour); return nil },
		"Purged":  func(b *bench, _ string) error { b.Purge(pump); return nil },
	}
	for status, settle := range outcomes {
		for _, ack := range []string{"", "none", "positive", "negative", "full"} {
			asked := ack == "full" || (ack == "positive") == (status == "Success") && (ack == "positive" || ack == "negative")
			t.Run(strings.Trim(status+" "+ack, " "), func(t *testing.T) {
				run(t, commands.Config{MaxDelivery: 1}, func(t *testing.T, b *bench) {
					want(t, b.Send(pump, &message.Message{ID: "a", Ack: ack, Body: []byte("a")}), 0)
					want(t, settle(b, b.receive(t, "a").LockToken), 0)
					if n := b.Len(pump); n != 0 {
						t.Errorf("length %d, want 0", n)
					}
					if asked {
						b.wantReports(t, "a "+status)
					} else {
						b.wantReports(t)
					}
				})
			})
		}
	}
}
