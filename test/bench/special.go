package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// special are the measures that are not one load through one rig. Each writes its
// own part of the report.
var special = []struct {
	name    string
	measure func(ctx context.Context, p *Plan, env *Env, b *strings.Builder) error
}{
	{"loss", loss},
	{"idle", idle},
	{"sync", oneLeaf},
	{"leaves", growth},
	{"backlog", drain},
	{"others", others},
}

func (p *Plan) special(ctx context.Context, env *Env, b *strings.Builder, log io.Writer) error {
	for _, s := range special {
		if !p.wants(s.name) {
			continue
		}
		fmt.Fprintf(log, "%s: %s\n", time.Now().Format(time.TimeOnly), s.name)
		if err := s.measure(ctx, p, env, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// part is so much of n as the plan measures.
func (p *Plan) part(n int) int { return max(1, int(math.Round(float64(n)*p.Scale))) }

// loss kills each gateway with what it has acknowledged and not passed on.
func loss(ctx context.Context, p *Plan, env *Env, b *strings.Builder) error {
	b.WriteString("### kill -9 with a backlog\n\nThe way behind the gateway is cut, 20 leaves publish with 50 outstanding, all is acknowledged; kill -9, start, mend.\n\n")
	b.WriteString("| | acknowledged | lost |\n|---|---|---|\n")
	for _, rig := range Rigs {
		lost, n, err := lose(ctx, env, p.part(50_000), rig)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "| %s | %d | %d |\n", n, p.part(50_000), lost)
	}
	b.WriteString("\n")
	return nil
}

func lose(ctx context.Context, env *Env, count int, rig Maker) (lost int, name string, err error) {
	r, crew, err := ready(ctx, env, 20, rig)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	defer crew.close()
	before, err := r.Count()
	if err != nil {
		return 0, "", err
	}
	if err := r.Cut(); err != nil {
		return 0, "", err
	}
	if _, err := crew.publish(ctx, Load{Window: 50, Size: 200, Count: count}, backlog); err != nil {
		return 0, "", err
	}
	r.Kill()
	if err := errors.Join(r.Start(ctx), r.Restore(ctx)); err != nil {
		return 0, "", err
	}
	a, err := await(ctx, r, backlog, count, before+count)
	return count - a.Distinct, r.Name(), err
}

// idle is memory with leaves that are connected and have nothing to say.
func idle(ctx context.Context, _ *Plan, env *Env, b *strings.Builder) (err error) {
	b.WriteString("### Memory with 50 leaves and nothing to do\n\n| | RSS | anonymous |\n|---|---|---|\n")
	for _, rig := range Rigs {
		r, crew, err := ready(ctx, env, 50, rig)
		if err != nil {
			return err
		}
		time.Sleep(3 * time.Second) // measured as it is after a while
		m, err := memoryOf(r.PID())
		crew.close()
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", r.Name(), mebibytes(m.now), mebibytes(m.anonymous))
	}
	b.WriteString("\n")
	return nil
}

// oneLeaf holds a leaf that waits for each acknowledgement against the disk.
func oneLeaf(ctx context.Context, p *Plan, env *Env, b *strings.Builder) error {
	load := Load{Name: "1 x 1, 200 B", Leaves: 1, Window: 1, Size: 200, Count: p.part(2000)}
	res, err := Run(ctx, env, load, Rigs[1])
	if err != nil {
		return err
	}
	raw, err := syncLoop(filepath.Join(env.Dir, "sync"), load.Count)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "### One leaf, one outstanding, disk\n\n| | p50 | p99 |\n|---|---|---|\n| acknowledged | %s | %s |\n| append 256 B and fdatasync | %s | %s |\n\nRatio of p50: %.2f\n\n",
		ms(res.AckP50), ms(res.AckP99), ms(raw.Percentile(50)), ms(raw.Percentile(99)),
		float64(res.AckP50)/float64(max(1, raw.Percentile(50))))
	return nil
}

// syncLoop appends to a file, synced each time.
func syncLoop(file string, n int) (times Latencies, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(file)) }()
	block := make([]byte, 256)
	for range n {
		begun := time.Now()
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
		if err := dataSync(f); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begun))
	}
	return times, nil
}

// mostLeaves is how many leaves one connection to the hub may carry, rounded down.
const mostLeaves = 900

// growth is the cost of a message with few and with many leaves.
func growth(ctx context.Context, p *Plan, env *Env, b *strings.Builder) error {
	b.WriteString("### Cost per message by number of leaves, relay, 2,000/s\n\nOne connection to the hub carries 950 leaves at most.\n\n| leaves | CPU s/100k | peak RSS |\n|---|---|---|\n")
	for _, n := range []int{10, 100, mostLeaves} {
		load := Load{Name: fmt.Sprintf("%d leaves", n), Leaves: n, Window: 50, Size: 200, Count: max(n, p.part(20_000)), Rate: 2000}
		res, err := Run(ctx, env, load, Rigs[0])
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "| %d | %.2f | %s |\n", n, res.CPU, mebibytes(res.Peak))
	}
	b.WriteString("\n")
	return nil
}

// parts is in how many portions the backlog is laid down.
const parts = 10

// drain lays down a backlog, then mends the link while others publish.
func drain(ctx context.Context, p *Plan, env *Env, b *strings.Builder) (err error) {
	const old, fresh = 50, 10 // leaves with a backlog, and leaves that begin when it drains
	total := p.part(1_000_000)
	r, all, err := ready(ctx, env, old+fresh, Rigs[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	defer all.close()
	past, present := &crew{all.leaves[:old]}, &crew{all.leaves[old:]}
	if err := r.Cut(); err != nil {
		return err
	}
	costs := make([]float64, parts)
	for i := range parts {
		before, err := usageOf(r.PID())
		if err != nil {
			return err
		}
		if _, err := past.publish(ctx, Load{Window: 20, Size: 200, Count: total / parts}, backlog+Phase(2+i)); err != nil {
			return err
		}
		after, err := usageOf(r.PID())
		if err != nil {
			return err
		}
		costs[i] = after.since(before).cpu.Seconds() / float64(total/parts) * 100_000
	}
	stored, err := memoryOf(r.PID())
	if err != nil {
		return err
	}
	if err := forgetPeak(r.PID()); err != nil {
		return err
	}
	count, err := r.Count()
	if err != nil {
		return err
	}
	before, err := usageOf(r.PID())
	if err != nil {
		return err
	}
	if err := r.Restore(ctx); err != nil {
		return err
	}
	first, err := firstArrival(ctx, r, count)
	if err != nil {
		return err
	}
	seconds := max(1, int(15*p.Scale))
	env.profile(r.PID(), syscall.SIGUSR1)
	a, err := present.publish(ctx, Load{Window: 50, Size: 200, Count: 500 * seconds, Rate: 500}, live)
	env.profile(r.PID(), syscall.SIGUSR2)
	if err != nil {
		return err
	}
	expected := count + total/parts*parts + 500*seconds
	last, err := await(ctx, r, backlog+Phase(1+parts), total/parts, expected)
	if err != nil {
		return err
	}
	arrived, err := r.Arrived(live)
	if err != nil {
		return err
	}
	after, err := usageOf(r.PID())
	if err != nil {
		return err
	}
	peak, err := memoryOf(r.PID())
	if err != nil {
		return err
	}
	lost := 0
	for i := range parts {
		x, err := r.Arrived(backlog + Phase(2+i))
		if err != nil {
			return err
		}
		lost += total/parts - x.Distinct
	}
	took := last.Last.Sub(first)
	fmt.Fprintf(b, `### A backlog of %d messages

| measure | value |
|---|---|
| CPU s/100k of the first and the last tenth stored | %.2f, %.2f |
| RSS with all stored, anonymous | %s, %s |
| drained | %.0f messages/s |
| CPU s/100k while draining | %.2f |
| live ack p50 / p99 meanwhile, 500/s of other leaves | %s / %s |
| live arrival p50 / p99 meanwhile | %s / %s |
| peak RSS while draining, anonymous at its end | %s, %s |
| lost | %d |

`, total, costs[0], costs[parts-1], mebibytes(stored.now), mebibytes(stored.anonymous),
		float64(total)/took.Seconds(), after.since(before).cpu.Seconds()/float64(total)*100_000,
		ms(a.latency.Percentile(50)), ms(a.latency.Percentile(99)), ms(arrived.P50), ms(arrived.P99),
		mebibytes(peak.peak), mebibytes(peak.anonymous), lost)
	return nil
}

// firstArrival waits until more than count messages have arrived.
func firstArrival(ctx context.Context, r Rig, count int) (time.Time, error) {
	for {
		n, err := r.Count()
		if err != nil || n > count {
			return time.Now(), err
		}
		select {
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
