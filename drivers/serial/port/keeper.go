package port

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// How long to wait before a port that failed is opened again: from reopenMin,
// doubled each time up to reopenMax; not longer than until something is plugged
// in. Looking is cheap, and a link that udev makes is no event of the kernel's.
const (
	reopenMin = 100 * time.Millisecond
	reopenMax = time.Second
)

// Keeper keeps one port open. Its methods are safe for concurrent use.
type Keeper struct {
	cfg Config
	log *slog.Logger

	mu sync.Mutex
	// guarded by mu:
	s    State
	last string // text of the last error logged, to log a repeating one once
}

// State says how a port is.
type State struct {
	Open   bool
	Device string    // what the configured name led to at the last opening, "/dev/ttyUSB1"
	Err    error     // why the port is not open; nil while it is
	Since  time.Time // since when it is open or not; zero before the first attempt
	Opened int64     // how often it was opened; each after the first is a reopening
}

// NewKeeper makes one, for a valid configuration. It does not touch the port.
func NewKeeper(cfg Config, log *slog.Logger) *Keeper { return &Keeper{cfg: cfg, log: log} }

// State is a snapshot.
func (k *Keeper) State() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.s
}

// Driver is the part of a driver's state that the port knows.
func (k *Keeper) Driver(name, kind string) gateway.DriverState {
	s := k.State()
	return gateway.DriverState{Name: name, Kind: kind, Up: s.Open, Err: s.Err, Device: s.Device, Since: s.Since, Ups: s.Opened}
}

// Run opens the port, calls serve with it, and opens it again when serve has
// returned, until ctx ends. The ctx of serve ends with that of Run; the port is
// closed by then or when serve returns, whichever is first, which also ends reads
// and writes that wait.
func (k *Keeper) Run(ctx context.Context, serve func(ctx context.Context, p *Port) error) {
	look := make(chan struct{}, 1)
	var listener sync.WaitGroup
	listener.Go(func() { plugged(ctx, func() { signal(look) }) })
	defer listener.Wait()
	wait := reopenMin
	for ctx.Err() == nil {
		p, err := Open(&k.cfg)
		if err == nil {
			begin := time.Now()
			err = k.serve(ctx, p, serve)
			if time.Since(begin) > reopenMax { // else it is a loose contact
				wait = reopenMin
			}
		}
		if ctx.Err() != nil {
			err = nil // we closed it
		}
		k.closed(err)
		select {
		case <-ctx.Done():
		case <-look:
			wait = reopenMin
			continue
		case <-time.After(wait):
		}
		wait = min(2*wait, reopenMax)
	}
}

// serve is one opening.
func (k *Keeper) serve(ctx context.Context, p *Port, serve func(context.Context, *Port) error) error {
	k.opened(p.device)
	ctx, over := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, p.Close)
	err := serve(ctx, p)
	stop()
	over()
	p.Close()
	// A kernel that does not give the port back costs this much time, and that
	// goroutine.
	select {
	case <-p.closed:
	case <-time.After(2 * drainLimit):
		k.log.Warn("closing the serial port takes long", "device", p.device)
	}
	return err
}

func (k *Keeper) opened(device string) {
	k.mu.Lock()
	k.s = State{Open: true, Device: device, Since: time.Now(), Opened: k.s.Opened + 1}
	n := k.s.Opened
	k.last = ""
	k.mu.Unlock()
	k.log.Info("serial port open", "device", device, "opened", n)
}

// closed notes why the port is not open; nil at the end. The same reason again is
// not logged.
func (k *Keeper) closed(err error) {
	k.mu.Lock()
	if k.s.Open || k.s.Since.IsZero() {
		k.s.Since = time.Now()
	}
	k.s.Open, k.s.Err = false, err
	news := err != nil && err.Error() != k.last
	if news {
		k.last = err.Error()
	}
	k.mu.Unlock()
	if news {
		k.log.Warn("serial port not open", "err", err)
	}
}

// signal leaves a note in a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
