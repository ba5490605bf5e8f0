package methods

import (
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// A call may have found a listener just before the listener ends or is replaced.
// The moment is too short to be met from outside; here it is held open.
func TestFoundTooLate(t *testing.T) {
	pump := registry.ID{Device: "pump"}
	e := New(func(registry.ID) error { return nil })
	never := func(Request) { t.Error("delivered to a listener that has ended") }

	cancel := e.Listen(pump, never)
	found, _ := e.listener(pump)
	cancel()
	if found.take(Request{}) {
		t.Error("a listener took a request after its cancel")
	}

	e.Listen(pump, never)
	found, _ = e.listener(pump)
	defer e.Listen(pump, func(Request) {})()
	if found.take(Request{}) {
		t.Error("a listener took a request after another one had come")
	}
}
