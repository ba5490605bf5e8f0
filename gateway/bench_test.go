package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

// BenchmarkRelay is the way of a message that never sees flash: handed over,
// taken, settled, acknowledged. 20 leaves, up to 50 messages each on the way.
func BenchmarkRelay(b *testing.B) {
	store := newDisk().open()
	path := gateway.NewPath(gateway.DefaultConfig(), store, allLeaves{}, nil, wallClock, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = path.Run(ctx)
	}()
	path.LinkUp()
	go func() {
		for {
			leaf, err := path.NextLeaf(ctx)
			if err != nil {
				return
			}
			for ds := path.Take(leaf, 64); len(ds) > 0; ds = path.Take(leaf, 64) {
				for _, d := range ds {
					path.Settle(d, gateway.Accepted, "")
				}
			}
		}
	}()
	const leaves = 20
	var ids [leaves]string
	var window [leaves]chan struct{}
	for i := range leaves {
		ids[i] = fmt.Sprintf("leaf-%d", i)
		window[i] = make(chan struct{}, 50)
	}
	body := make([]byte, 200)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		w := window[i%leaves]
		w <- struct{}{}
		path.Handle(ctx, &gateway.Message{Leaf: ids[i%leaves], Lane: gateway.LaneTelemetry, Body: body}, func(error) { <-w })
	}
	for _, w := range window {
		for range cap(w) {
			w <- struct{}{}
		}
	}
	b.StopTimer()
	cancel()
	<-ended
	store.close()
}
