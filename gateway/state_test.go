package gateway_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// A path with nothing to do shows all the same that it goes on: what watches it
// would take it for hanging else.
func TestIdlePathLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, gateway.CustodyRelay)
		defer b.end()
		for range 100 {
			last := b.path.State().Looked
			time.Sleep(gateway.LookEvery)
			synctest.Wait()
			if s := b.path.State(); !s.Looked.After(last) {
				t.Fatalf("looked last at %v, and did not again in %v", last, gateway.LookEvery)
			}
		}
	})
}
