package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Rig is a gateway and what is behind it.
type Rig interface {
	// Name says what it is.
	Name() string
	// Door is where leaves connect.
	Door() Door
	// PID is that of the gateway's process.
	PID() int
	// Arrived returns what of a phase has arrived behind the gateway.
	Arrived(Phase) (Arrivals, error)
	// Count returns how many messages have arrived in all, duplicates included.
	Count() (int, error)
	// Cut cuts the way behind the gateway, Restore mends it.
	Cut() error
	Restore(context.Context) error
	// Kill ends the gateway with signal 9, Start starts it.
	Kill()
	Start(context.Context) error
	// FarCPU is the processor time of what is behind the gateway.
	FarCPU() (time.Duration, error)
	// Close ends everything.
	Close() error
}

// Arrivals are the messages of one phase behind the gateway.
type Arrivals struct {
	Distinct, Duplicates int
	Last                 time.Time
	P50, P99             time.Duration // from publish to arrival, of the first copies
}

// tallies collects arrivals by phase.
type tallies map[Phase]*arrived

type arrived struct {
	seen       map[uint64]struct{}
	duplicates int
	last       time.Time
	latency    Latencies
}

// add notes one message that has arrived.
func (t tallies) add(body []byte, at time.Time) {
	m, ok := readMark(body)
	if !ok {
		return
	}
	a := t[m.phase]
	if a == nil {
		a = &arrived{seen: make(map[uint64]struct{})}
		t[m.phase] = a
	}
	key := uint64(m.leaf)<<32 | uint64(m.number)
	if _, again := a.seen[key]; again {
		a.duplicates++
		return
	}
	a.seen[key] = struct{}{}
	a.last = at
	a.latency = append(a.latency, at.Sub(m.published))
}

func (t tallies) arrivals(p Phase) Arrivals {
	a := t[p]
	if a == nil {
		return Arrivals{}
	}
	return Arrivals{
		Distinct: len(a.seen), Duplicates: a.duplicates, Last: a.last,
		P50: a.latency.Percentile(50), P99: a.latency.Percentile(99),
	}
}

// patience is how long messages may stay away before they count as lost.
const patience = 20 * time.Second

// await waits until n messages of the phase have arrived, or nothing more comes.
// total is how many must have come in all by then.
func await(ctx context.Context, r Rig, p Phase, n, total int) (Arrivals, error) {
	last, moved := -1, time.Now()
	for {
		count, err := r.Count()
		if err != nil {
			return Arrivals{}, err
		}
		quiet := false
		if count != last {
			last, moved = count, time.Now()
		} else {
			quiet = time.Since(moved) > patience
		}
		if count >= total || quiet {
			a, err := r.Arrived(p)
			if err != nil || a.Distinct >= n || quiet {
				return a, err
			}
			total = count + n - a.Distinct // duplicates were among them
		}
		select {
		case <-ctx.Done():
			return Arrivals{}, fmt.Errorf("%s: %d arrived: %w", r.Name(), count, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

var errNoProgram = errors.New("program not found")
