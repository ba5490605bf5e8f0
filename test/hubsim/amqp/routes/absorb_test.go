package routes_test

import (
	"bytes"
	"context"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
)

// BenchmarkAbsorb is one link with a pipeline of batches as the C SDK makes
// them, each of 100 messages of 200 bytes; the client runs in this process too.
// The hub is to take 100,000 messages a second on one core, which
// "-cpu 1" asks for.
func BenchmarkAbsorb(b *testing.B) {
	const perBatch, size, ahead = 100, 200, 50
	bench := newBench(b)
	c := bench.device(pump)
	s := c.sender(telemetryAddress, nil)
	inner, err := goamqp.NewMessage(bytes.Repeat([]byte("x"), size)).MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	batch := &goamqp.Message{Format: 0x80013700}
	for range perBatch {
		batch.Data = append(batch.Data, inner)
	}
	if len(inner)*perBatch > hub.MaxTelemetry {
		b.Fatal("the batch is too large")
	}
	b.SetBytes(perBatch * size)
	var receipts []goamqp.SendReceipt
	settle := func() {
		for _, r := range receipts {
			if _, err := r.Wait(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		receipts = receipts[:0]
	}
	for b.Loop() {
		r, err := s.SendWithReceipt(context.Background(), batch, nil)
		if err != nil {
			b.Fatal(err)
		}
		if receipts = append(receipts, r); len(receipts) == ahead {
			settle()
		}
	}
	settle()
	b.ReportMetric(float64(b.N)*perBatch/b.Elapsed().Seconds(), "msg/s")
	if got, want := bench.hub.Events.Stats().Total, uint64(b.N)*perBatch; got < want {
		b.Fatalf("events: got %d, want %d", got, want)
	}
}
