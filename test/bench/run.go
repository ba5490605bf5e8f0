package bench

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Env is where a measurement runs.
type Env struct {
	Bin  string // folder with fieldgate
	Self string // the program that serves as hub with the argument "hub"
	Dir  string // for stores and logs: on the disk that is to be measured

	// Profiles is a folder for profiles of each load in the gateway, which must have
	// been built with the tag profile; "" for none.
	Profiles string
}

// profile tells a gateway of a profile build to begin or to end one.
func (e *Env) profile(pid int, what syscall.Signal) {
	if e.Profiles != "" {
		_ = syscall.Kill(pid, what) // mosquitto does not mind either of them
	}
}

// Maker starts a rig for leaves.
type Maker func(ctx context.Context, env *Env, leaves []string) (Rig, error)

// Rigs are the gateways that are compared; the last one is what the others are
// held against.
var Rigs = []Maker{
	func(ctx context.Context, env *Env, leaves []string) (Rig, error) {
		return newFieldgate(ctx, env, "relay", leaves)
	},
	func(ctx context.Context, env *Env, leaves []string) (Rig, error) {
		return newFieldgate(ctx, env, "disk", leaves)
	},
	newBridge,
}

// Result is one load through one rig.
type Result struct {
	Rig, Load           string
	Count               int
	Accepted, Delivered float64 // messages a second
	CPU                 float64 // seconds per 100,000 messages, of the gateway
	LoadCPU, FarCPU     float64 // the same of the leaves and of what is behind the gateway
	Peak                int64   // memory of the gateway in bytes
	AckP50, AckP99      time.Duration
	ArriveP50           time.Duration
	ArriveP99           time.Duration
	Written             float64 // bytes to disk per byte of bodies
	Lost, Duplicates    int
}

const (
	warmUp Phase = iota
	measured
	backlog
	live
)

// warmUps is how many messages of each leaf come before those that are measured:
// they open its link to the hub.
const warmUps = 5

// names returns ids of leaves.
func names(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("leaf-%04d", i+1)
	}
	return ids
}

// Run sends a load through a fresh rig.
func Run(ctx context.Context, env *Env, load Load, start Maker) (res Result, err error) {
	r, crew, err := ready(ctx, env, load.Leaves, start)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	defer crew.close()
	return measure(ctx, env, r, crew, load, measured)
}

// ready starts a rig and connects leaves whose links to the hub are open.
func ready(ctx context.Context, env *Env, leaves int, start Maker) (Rig, *crew, error) {
	r, err := start(ctx, env, names(leaves))
	if err != nil {
		return nil, nil, err
	}
	crew, err := dial(ctx, r.Door(), names(leaves))
	if err == nil {
		n := warmUps * leaves
		_, err = crew.publish(ctx, Load{Window: warmUps, Size: 100, Count: n}, warmUp)
		if err == nil {
			_, err = await(ctx, r, warmUp, n, n)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return r, crew, nil
}

// measure sends a load through a rig whose leaves are connected.
func measure(ctx context.Context, env *Env, r Rig, crew *crew, load Load, phase Phase) (res Result, err error) {
	before, err := r.Count()
	if err != nil {
		return res, err
	}
	meter, err := newMeter(r)
	if err != nil {
		return res, err
	}
	env.profile(r.PID(), syscall.SIGUSR1)
	a, err := crew.publish(ctx, load, phase)
	env.profile(r.PID(), syscall.SIGUSR2)
	if err != nil {
		return res, fmt.Errorf("%s, %s: %w", r.Name(), load.Name, err)
	}
	b, err := await(ctx, r, phase, load.Count, before+load.Count)
	if err != nil {
		return res, err
	}
	res = Result{
		Rig: r.Name(), Load: load.Name, Count: load.Count,
		Accepted:  float64(load.Count) / a.ended.Sub(a.begun).Seconds(),
		Delivered: float64(b.Distinct) / b.Last.Sub(a.begun).Seconds(),
		AckP50:    a.latency.Percentile(50), AckP99: a.latency.Percentile(99),
		ArriveP50: b.P50, ArriveP99: b.P99,
		Lost: load.Count - b.Distinct, Duplicates: b.Duplicates,
	}
	return res, meter.read(&res, load)
}

// meter reads what a load has cost.
type meter struct {
	rig       Rig
	gateway   usage
	load, far time.Duration
}

func newMeter(r Rig) (m meter, err error) {
	m.rig, m.load = r, ownCPU()
	if m.gateway, err = usageOf(r.PID()); err != nil {
		return m, err
	}
	m.far, err = r.FarCPU()
	return m, err
}

func (m meter) read(res *Result, load Load) error {
	now, err := newMeter(m.rig)
	if err != nil {
		return err
	}
	memory, err := memoryOf(m.rig.PID())
	if err != nil {
		return err
	}
	used := now.gateway.since(m.gateway)
	per := func(d time.Duration) float64 { return d.Seconds() / float64(load.Count) * 100_000 }
	res.CPU, res.LoadCPU, res.FarCPU = per(used.cpu), per(now.load-m.load), per(now.far-m.far)
	res.Peak = memory.peak
	res.Written = float64(used.written) / float64(load.Count*load.Size)
	return nil
}
