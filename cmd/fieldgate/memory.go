package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// memory measures what leaves cost. What is in use is the heap that the last
// collection found alive, and stacks.
type memory struct {
	base atomic.Int64 // in use when the first leaf could connect, in bytes; 0: not yet
}

// memoryState is a snapshot. PerLeaf is what has come since the start, shared by the
// leaves that are connected; messages in hand-over are in it.
type memoryState struct {
	InUse   int64  `json:"in_use_bytes"`
	AtStart int64  `json:"at_start_bytes"` // before the first leaf
	Limit   int64  `json:"limit_bytes"`    // from where on the collector works harder
	PerLeaf *int64 `json:"per_leaf_bytes"` // null: nobody is connected
}

// begin notes what the gateway needs without leaves.
func (m *memory) begin() {
	runtime.GC() // before the first one nothing is known to be alive
	m.base.Store(memoryInUse())
}

func (m *memory) state(connected int) memoryState {
	s := memoryState{InUse: memoryInUse(), AtStart: m.base.Load(), Limit: debug.SetMemoryLimit(-1)}
	if connected > 0 && s.AtStart > 0 {
		each := max(0, s.InUse-s.AtStart) / int64(connected)
		s.PerLeaf = &each
	}
	return s
}

func memoryInUse() (n int64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			n += int64(s.Value.Uint64())
		}
	}
	return n
}
