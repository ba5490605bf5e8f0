package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// otherLeaves send othersRate messages a second together while one leaf throws a
	// bomb, and while it does not, by turns, othersPeriod each time, othersRounds times, or
	// for less where there is one round only.
	otherLeaves  = 10
	othersRate   = 500
	othersPeriod = 2 * time.Second
	othersRounds = 40
	// hubDelay is how long each byte takes to a hub that is far away, and back.
	hubDelay = 20 * time.Millisecond
)

// others is what one leaf can do to the others: how long their messages take with it and
// without.
func others(ctx context.Context, p *Plan, env *Env, b *strings.Builder) error {
	fmt.Fprintf(b, `### What one leaf does to the others

%d leaves send %d messages a second together, by turns with a leaf beside them that throws a bomb and without, %v each time, %d times.
The bomb comes from a process that has only the processors that nobody else wants (SCHED_IDLE): what others lose, they lose by what the gateway does.
"nothing" is a process that throws none: what differs there is noise. CPU is that of the gateway, in %% of one processor. The p50 and p99 are of
all periods together; "changes" compares each period beside the bomb with the one before it alone, and is the middle of these changes, with the bounds
between which it lies in 95 of 100 cases.

`, otherLeaves, othersRate, p.period(), p.part(othersRounds))
	for _, delay := range []time.Duration{0, hubDelay} {
		if err := othersAt(ctx, p, env, b, delay); err != nil {
			return err
		}
	}
	return nil
}

func othersAt(ctx context.Context, p *Plan, env *Env, b *strings.Builder, delay time.Duration) (err error) {
	leaves := names(otherLeaves + 1)
	maker := func(ctx context.Context, env *Env, _ []string) (Rig, error) {
		return newFarFieldgate(ctx, env, "relay", leaves, delay)
	}
	r, crew, err := ready(ctx, env, otherLeaves, maker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	defer crew.close()
	fmt.Fprintf(b, "%v to the hub and %v back:\n\n", delay, delay)
	b.WriteString("| beside | thrown/s | CPU alone / beside | peak RSS | acknowledged alone p50 / p99 | beside p50 / p99 | p50 changes by | p99 changes by |\n|---|---|---|---|---|---|---|---|\n")
	for _, x := range bombs {
		if !p.wantsBomb(x.name) {
			continue
		}
		if err := besides(ctx, p, env, b, r.(*fieldgate), crew, x); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	b.WriteString("\n")
	return nil
}

// besides measures one bomb and writes its line.
func besides(ctx context.Context, p *Plan, env *Env, b *strings.Builder, g *fieldgate, crew *crew, x bomb) error {
	attacker := names(otherLeaves + 1)[otherLeaves]
	t := target{Bomb: x.name, Address: g.address, CAFile: g.path("ca.pem"), Leaf: attacker}
	t.User, t.Password = g.door.Login(attacker)
	if err := forgetPeak(g.PID()); err != nil {
		return err
	}
	var alone, beside spell
	var thrown int
	var throwing time.Duration
	period := p.period()
	for range p.part(othersRounds) {
		if err := alone.measure(ctx, g, crew, period); err != nil {
			return err
		}
		bomb, err := startBomb(env.Self, t)
		if err != nil {
			return err
		}
		time.Sleep(period / 4) // until it has begun
		env.profile(g.PID(), syscall.SIGUSR1)
		err = beside.measure(ctx, g, crew, period)
		env.profile(g.PID(), syscall.SIGUSR2)
		n, took, err2 := bomb.end()
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		thrown, throwing = thrown+n, throwing+took
		time.Sleep(period / 2) // what it has left behind is done with
	}
	m, err := memoryOf(g.PID())
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "| %s | %.0f | %.1f %% / %.1f %% | %s | %s / %s | %s / %s | %s | %s |\n", x.name, float64(thrown)/throwing.Seconds(),
		alone.load(), beside.load(), mebibytes(m.peak), fine(alone.all(50)), fine(alone.all(99)),
		fine(beside.all(50)), fine(beside.all(99)), change(&alone, &beside, 50), change(&alone, &beside, 99))
	return nil
}

// spell is what was seen in all the periods of one sort.
type spell struct {
	latency   []Latencies // of each period
	cpu, took time.Duration
}

func (s *spell) measure(ctx context.Context, g *fieldgate, crew *crew, period time.Duration) error {
	before, err := usageOf(g.PID())
	if err != nil {
		return err
	}
	count := int(othersRate * period.Seconds())
	a, err := crew.publish(ctx, Load{Window: 200, Size: 200, Count: count, Rate: othersRate}, measured)
	if err != nil {
		return err
	}
	after, err := usageOf(g.PID())
	if err != nil {
		return err
	}
	s.latency = append(s.latency, a.latency)
	s.cpu += after.since(before).cpu
	s.took += a.ended.Sub(a.begun)
	return nil
}

// load is what of one processor the gateway has used, in percent.
func (s *spell) load() float64 { return 100 * s.cpu.Seconds() / s.took.Seconds() }

// all is a percentile of all periods together.
func (s *spell) all(p float64) time.Duration { return slices.Concat(s.latency...).Percentile(p) }

// change is by how much a percentile of beside differs from that of alone.
func change(alone, beside *spell, p float64) string {
	changes := make([]float64, len(alone.latency))
	for i, a := range alone.latency {
		changes[i] = 100 * (float64(beside.latency[i].Percentile(p))/float64(a.Percentile(p)) - 1)
	}
	low, middle, high := median(changes)
	return fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", middle, low, high)
}

// median sorts values and returns the middle one, and the bounds between which that of
// all there could be lies in 95 of 100 cases, however they are spread: as many values are
// below it as heads are thrown. Less than six values bound nothing, and give the outermost.
func median(values []float64) (low, middle, high float64) {
	slices.Sort(values)
	n := len(values)
	rank := max(0, int(math.Floor((float64(n)-1.96*math.Sqrt(float64(n)))/2)))
	return values[rank], (values[(n-1)/2] + values[n/2]) / 2, values[n-1-rank]
}

func fine(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

func (p *Plan) period() time.Duration {
	return time.Duration(float64(othersPeriod) * min(1, othersRounds*p.Scale))
}

func (p *Plan) wantsBomb(name string) bool { return p.Bombs == nil || p.Bombs.MatchString(name) }
