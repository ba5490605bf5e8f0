package hubsim_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// running returns the stacks of the hub's own goroutines.
func running() []string {
	b := make([]byte, 1<<20)
	b = b[:runtime.Stack(b, true)]
	var list []string
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		if strings.Contains(stack, "fieldgate/test/hubsim") && !strings.Contains(stack, "hubsim_test.") {
			list = append(list, stack)
		}
	}
	return list
}

// Close ends everything, whatever clients and faults are there.
func TestCloseEndsEverything(t *testing.T) {
	for what, c := range map[string]struct {
		fault   func(*hubsim.Hub)
		arrives bool // what is sent under the fault is taken
	}{
		"in peace":     {func(*hubsim.Hub) {}, true},
		"slow":         {func(h *hubsim.Hub) { h.SlowSettle(time.Hour) }, true},
		"never":        {func(h *hubsim.Hub) { h.SettleNever(true) }, true},
		"cut":          {(*hubsim.Hub).Cut, false},
		"reset before": {func(h *hubsim.Hub) { h.Reset() }, false},
	} {
		t.Run(what, func(t *testing.T) {
			hub, device, s := pump(t)
			device.send(s, "before")
			device.leaf("pump-1")
			everyDoor(t, hub)
			rawPeer(t, hub).say(open(0), begin())
			owner := dial(t, hub, nil)
			owner.login("pump-2")
			info := hub.Info()
			reads := owner.service(info)
			for range 2 {
				if _, err := owner.session.NewReceiver(within(t), reads, &goamqp.ReceiverOptions{Credit: 100}); err != nil {
					t.Fatal(err)
				}
			}
			c.fault(hub)
			_, _ = s.SendWithReceipt(within(t), goamqp.NewMessage([]byte("under way")), nil) // may be lost in the fault
			if c.arrives {
				for range hub.Watch(within(t), 1) {
					break // Close must find it under way, not on the wire
				}
			}
			if err := hub.Close(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(patience); len(running()) > 0; runtime.Gosched() {
				if time.Now().After(deadline) { // they have only to return when Close has
					t.Fatalf("still running:\n%s", strings.Join(running(), "\n\n"))
				}
			}
		})
	}
}
