package hubsim_test

import (
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// BenchmarkTelemetry is one link over TLS with a pipeline of 500 messages of
// 200 bytes; both ends run in this process.
func BenchmarkTelemetry(b *testing.B) {
	hub := start(b, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	c := dial(b, hub, nil)
	c.login("pump-1")
	s := c.sender("pump-1")
	const ahead = 500
	receipts := make(chan goamqp.SendReceipt, ahead)
	settled := make(chan error, 1)
	go func() {
		for r := range receipts {
			if _, err := r.Wait(b.Context()); err != nil {
				settled <- err
				return
			}
		}
		settled <- nil
	}()
	body := pattern(200)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		r, err := s.SendWithReceipt(b.Context(), goamqp.NewMessage(body), nil)
		if err != nil {
			b.Fatal(err)
		}
		select {
		case receipts <- r:
		case err := <-settled:
			b.Fatal(err)
		}
	}
	close(receipts)
	if err := <-settled; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	if got := hub.Stats().Messages; got < uint64(b.N) {
		b.Fatalf("arrivals: got %d, want %d", got, b.N)
	}
}
