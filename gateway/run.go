package gateway

import (
	"context"
	"sync"
	"time"
)

// stallAfter is how long a leaf may hold scarce memory without the hub settling
// anything of it, before its unsent messages wait on flash instead.
const stallAfter = 10 * time.Second

// Run keeps the path's own time: it moves to flash what the hub does not settle
// soon enough, ends the pauses of leaves and reads the backlog. It returns when
// ctx has ended and everything that was handed over is settled, on flash, or
// refused; by then drivers, broker and uplink should have ended.
func (p *Path) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { p.feed(ctx) })
	wg.Go(func() { p.keepTime(ctx) })
	wg.Wait()
	p.budget.end()
	p.close()
	return nil
}

// close takes no more messages and waits until the commits under way are done.
func (p *Path) close() {
	p.mu.Lock()
	p.closing = true
	p.linkDownLocked()
	p.room.Broadcast()
	for p.flying > 0 {
		p.mu.Unlock()
		<-p.idleC
		p.mu.Lock()
	}
	p.mu.Unlock()
}

// keepTime calls tick whenever something is due.
func (p *Path) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-p.timeC:
		case <-ctx.Done():
			return
		}
		timer.Reset(time.Until(p.tick(time.Now())))
	}
}

// LookEvery is how often at least a path that runs looks at what is due.
const LookEvery = sampleEvery

// tick does what is due and returns when to look again.
func (p *Path) tick(now time.Time) (next time.Time) {
	var store StoreState
	due := now.Sub(p.sampled) >= sampleEvery
	if due {
		p.sampled = now
		store = p.store.State()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looked = now
	if due {
		p.forecasts.add(p.sampleLocked(now, store), store.BytesWritten)
	}
	next = now.Add(min(stallAfter, sampleEvery))
	for l := range p.lanes {
		if due := p.spillDueLocked(Lane(l), now); due.Before(next) {
			next = due
		}
	}
	scarce := p.held >= int64(p.cfg.Load().StagedBytes)/2 // from there on no backlog is read
	for _, s := range p.senders {
		switch {
		case s.place == paused && !now.Before(s.until):
			s.place = idle
			p.unparkLocked(s)
			p.offerLocked(s)
		case s.place == paused:
			if s.until.Before(next) {
				next = s.until
			}
		case s.stalled && s.held == 0: // nothing on its way whose settlement could end it
			p.unparkLocked(s)
			s.progress = now
		case scarce && p.linkUp && s.place != queued && !s.parked && s.held > 0 && now.Sub(s.progress) >= stallAfter:
			s.stalled = true
			p.parkLocked(s, true)
		}
	}
	return next
}

// spillDueLocked hands to the store what waited for the hub for the lane's spill
// time, and returns when the next is due.
func (p *Path) spillDueLocked(l Lane, now time.Time) time.Time {
	lane := &p.lanes[l]
	after := p.cfg.Load().Lanes[l].SpillAfter.D()
	i := 0
	for ; i < len(lane.waiting); i++ {
		e := lane.waiting[i]
		if e.gone || e.storage != staged {
			continue
		}
		if due := e.since.Add(after); due.After(now) {
			lane.waiting = lane.waiting[i:]
			return due
		}
		p.spillLocked(e.flow, Out)
	}
	lane.waiting = nil
	return now.Add(stallAfter)
}
