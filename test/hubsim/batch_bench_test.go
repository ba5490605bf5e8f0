package hubsim_test

import (
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// BenchmarkBatches is one link over TLS with batches as the C SDK makes them,
// each of 100 messages of 200 bytes. Both ends run in this process, whose use of
// processors is reported as the hub reports its own: it is not to be the
// bottleneck below 100,000 messages a second on one core ("-cpu 1").
func BenchmarkBatches(b *testing.B) {
	const perBatch, ahead = 100, 50
	hub := start(b, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	c := dial(b, hub, nil)
	c.login("pump-1")
	s := c.sender("pump-1")
	inner, err := goamqp.NewMessage(pattern(200)).MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	batch := &goamqp.Message{Format: 0x80013700}
	for range perBatch {
		batch.Data = append(batch.Data, inner)
	}
	var receipts []goamqp.SendReceipt
	settle := func() {
		for _, r := range receipts {
			if _, err := r.Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		receipts = receipts[:0]
	}
	before := hub.Stats()
	for b.Loop() {
		r, err := s.SendWithReceipt(b.Context(), batch, nil)
		if err != nil {
			b.Fatal(err)
		}
		if receipts = append(receipts, r); len(receipts) == ahead {
			settle()
		}
	}
	settle()
	after := hub.Stats()
	n := float64(b.N) * perBatch
	b.ReportMetric(n/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(n/(after.CPUSeconds-before.CPUSeconds), "msg/cpu-s")
	if got := after.Messages - before.Messages; got < uint64(n) {
		b.Fatalf("arrivals: got %d, want %.0f", got, n)
	}
}
