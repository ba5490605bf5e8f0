package broker

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// What one leaf throws at the gateway costs others nothing but time of the processor:
// they are answered all the while. How long that takes, alone and beside each bomb, is
// logged, not asserted: machines that run tests are not quiet.
func TestBombsLeaveOthersAlone(t *testing.T) {
	many := func(n int, packet func(w *wire, i int) []byte) func(*wire) []byte {
		return func(w *wire) (all []byte) {
			for i := range n {
				all = append(all, packet(w, i)...)
			}
			return all
		}
	}
	var pairs []byte // user properties (MQTT 5, section 3.3.2.3.7)
	for range 1000 {
		pairs = append(append(append(pairs, 38), text("a")...), text("b")...)
	}
	for name, bomb := range map[string]func(*wire) []byte{
		"alone": nil,
		"subscriptions": many(200, func(_ *wire, i int) []byte {
			return frame(0x82, append(append([]byte{1, byte(i), 0}, text("leaf/pump-2/a/"+string(rune('a'+i%26)))...), 1))
		}),
		"pings":      many(200, func(*wire, int) []byte { return []byte{0xc0, 0} }),
		"properties": func(w *wire) []byte { return w.publication(1, "leaf/pump-2/telemetry", "x", pairs...) },
		"one packet id": many(200, func(w *wire, _ int) []byte {
			return w.publication(7, "leaf/pump-2/telemetry", "x")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			victim := b.leaf("pump-1", version5)
			stop, thrown := make(chan struct{}), new(atomic.Int64)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for bomb != nil {
					select {
					case <-stop:
						return
					default:
					}
					w := b.leaf("pump-2", version5)
					w.c.SetDeadline(time.Now().Add(patience))
					go func() { // what is answered is read, as far as the connection lasts
						buf := make([]byte, 4096)
						for {
							if _, err := w.c.Read(buf); err != nil {
								return
							}
						}
					}()
					packets := bomb(w)
					for range 20 {
						if _, err := w.c.Write(packets); err != nil {
							break
						}
						thrown.Add(1)
					}
					w.c.Close()
				}
			}()
			if bomb != nil {
				b.until("the first one", func() bool { return thrown.Load() > 0 })
			}
			took := make([]time.Duration, 300)
			for i := range took {
				begin := time.Now()
				victim.alive()
				took[i] = time.Since(begin)
			}
			close(stop)
			<-ended
			slices.Sort(took)
			t.Logf("answered within %v, 99 of 100 within %v, beside %d", took[150], took[297], thrown.Load())
		})
	}
}
