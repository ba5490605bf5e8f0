package twin

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// report is one patch that a leaf has handed over.
type report struct {
	patch object
	done  func(version int64, err error)
	since time.Time
}

// flight is a patch that is with the hub.
type flight struct {
	patch   object
	reports []report // to be answered; none when the patch is in custody
	kept    bool     // it is kept[0] as well
	result  *result  // nil until there is one
}

type result struct {
	version int64
	err     error
}

const (
	// patchTimeout is how long the hub may take for a patch.
	patchTimeout = 20 * time.Second
	// pauseMin and pauseMax bound the wait after a request that failed.
	pauseMin = time.Second
	pauseMax = time.Minute
)

// serveLocked has the leaf's work done, by a goroutine of its own, unless somebody
// is at it.
func (t *Twins) serveLocked(l *leaf) {
	if !l.working {
		l.working = true
		t.work.Go(func() { t.serve(l) })
	}
}

// serve does what there is to do for a leaf, one thing after the other. Whatever
// changes what is in custody happens here.
func (t *Twins) serve(l *leaf) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.step(l) {
	}
	l.working = false
}

// step does the next thing; it is false when there is none. The lock is released
// meanwhile.
func (t *Twins) step(l *leaf) bool {
	now := time.Now()
	open := t.linkUp && !now.Before(l.until)
	move := t.toMove(l, now)
	switch {
	case l.flight != nil && l.flight.result != nil:
		t.landed(l)
	case move, len(l.queue) > 0 && len(l.unanswered()) == 0 && (!open || len(l.kept) > 0 || t.overdue(l.queue, now)):
		t.keep(l, move)
	case open && l.flight == nil && len(l.kept) > 0:
		t.send(l, &flight{patch: l.kept[0], kept: true})
	case open && l.flight == nil && len(l.queue) > 0:
		t.sendQueue(l)
	case open && l.stale && !l.reading:
		t.refresh(l)
	default:
		t.wakeLocked(l, now)
		return false
	}
	return true
}

// toMove says that the patch that is with the hub goes into custody as well: its
// leaf has waited long enough, or the answer will not come.
func (t *Twins) toMove(l *leaf, now time.Time) bool {
	rs := l.unanswered()
	return len(rs) > 0 && (!t.linkUp || t.overdue(rs, now))
}

// overdue says that a leaf has waited long enough for the hub.
func (t *Twins) overdue(rs []report, now time.Time) bool {
	return len(rs) > 0 && now.Sub(rs[0].since) >= t.cfg.Load().HubWait.D()
}

// wakeLocked comes back when something is due by itself.
func (t *Twins) wakeLocked(l *leaf, now time.Time) {
	var due time.Time
	if t.linkUp && now.Before(l.until) && (len(l.kept) > 0 || l.stale) {
		due = l.until
	}
	for _, rs := range [][]report{l.queue, l.unanswered()} {
		if len(rs) > 0 {
			if end := rs[0].since.Add(t.cfg.Load().HubWait.D()); due.IsZero() || end.Before(due) {
				due = end
			}
		}
	}
	if !due.IsZero() && !t.closed {
		time.AfterFunc(due.Sub(now), func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if !t.closed {
				t.serveLocked(l)
			}
		})
	}
}

// unanswered are the reports of the flight, if it is not in custody.
func (l *leaf) unanswered() []report {
	if l.flight == nil {
		return nil
	}
	return l.flight.reports
}

// unsent are the patches that the hub may not have taken, in order.
func (l *leaf) unsent() []object {
	var list []object
	if l.flight != nil && !l.flight.kept {
		list = append(list, l.flight.patch)
	}
	list = append(list, l.kept...)
	for _, r := range l.queue {
		list = append(list, r.patch)
	}
	return list
}

// sendQueue sends what waits as one patch, as far as one can say it.
func (t *Twins) sendQueue(l *leaf) {
	if l.leftover {
		if t.forget(l); l.leftover {
			t.keep(l, false) // in the place of what flash does not forget, or not at all
			return
		}
	}
	f := &flight{patch: l.queue[0].patch, reports: l.queue[:1:1]}
	for _, r := range l.queue[1:] {
		both, ok := combine(f.patch, r.patch)
		if !ok || sizeOf(both) > maxSection {
			break
		}
		f.patch, f.reports = both, append(f.reports, r)
	}
	l.queue = slices.Clone(l.queue[len(f.reports):])
	t.send(l, f)
}

// send puts a patch on its way.
func (t *Twins) send(l *leaf, f *flight) {
	l.flight = f
	text := format(f.patch)
	t.work.Go(func() {
		version, err := t.patch(l.id, text)
		t.mu.Lock()
		defer t.mu.Unlock()
		f.result = &result{version, err}
		t.serveLocked(l)
	})
}

func (t *Twins) patch(id string, text []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(t.life, patchTimeout)
	defer cancel()
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return t.Hub.PatchReported(ctx, id, text)
}

// landed acts on the hub's answer.
func (t *Twins) landed(l *leaf) {
	f := l.flight
	l.flight = nil
	refused, isRefused := errors.AsType[*gateway.TwinError](f.result.err)
	switch {
	case f.result.err == nil:
		l.failures = 0
		l.takenLocked(f.patch, f.result.version)
		if !f.kept {
			t.copyPromptly(l)
		}
	case isRefused && !passing(refused):
		l.failures = 0
		if f.kept {
			t.counts.Refused++
			t.Log.Warn("hub refuses what a leaf has reported", "leaf", l.id, "status", refused.Status, "code", refused.Code, "reason", refused.Message)
		}
	default: // it may have arrived: it is sent again, which changes nothing if so
		t.pauseLocked(l)
		if !f.kept {
			l.queue = append(f.reports, l.queue...)
		}
		return
	}
	if f.kept {
		l.kept = slices.Clone(l.kept[1:])
		t.forget(l)
		return
	}
	t.tell(f.reports, f.result.version, f.result.err)
}

// copyPromptly has the copy on flash before the leaf hears that the hub has taken what
// it reported: after a crash, with the hub away, it reads nothing older.
func (t *Twins) copyPromptly(l *leaf) {
	if !l.behind || l.credit == 0 {
		return
	}
	l.credit--
	t.mu.Unlock()
	_ = t.saveCopy(l) // the hub has it all the same
	t.mu.Lock()
}

// forget takes from flash what the hub has taken, once the copy there has it. If that
// fails it is tried again before the hub gets more, as after a crash what is there
// would be sent behind that.
func (t *Twins) forget(l *leaf) {
	kept, behind := l.kept, l.behind
	t.mu.Unlock()
	var err error
	if behind {
		err = t.saveCopy(l)
	}
	if err == nil {
		if err = t.saveKept(l.id, kept); err != nil {
			t.Log.Warn("cannot forget what a leaf has reported", "leaf", l.id, "err", err)
		}
	}
	t.mu.Lock()
	l.leftover = err != nil
}

// tell answers reports.
func (t *Twins) tell(rs []report, version int64, err error) {
	t.mu.Unlock()
	for _, r := range rs {
		r.done(version, err)
	}
	t.mu.Lock()
}

// keep takes into custody what is not, on flash, and then answers: what waits, and
// with move what is with the hub for too long.
func (t *Twins) keep(l *leaf, move bool) {
	f := l.flight
	var reports []report
	var head, tail []object // head is with the hub and must stay as it is
	switch {
	case move:
		reports, head, tail = slices.Clone(f.reports), []object{f.patch}, l.kept
	case f != nil && f.kept:
		head, tail = l.kept[:1:1], l.kept[1:]
	default:
		tail = l.kept
	}
	for _, r := range l.queue {
		reports = append(reports, r)
		tail = appended(tail, r.patch)
	}
	l.queue = nil
	patches := append(head, tail...)
	t.mu.Unlock()
	err := t.saveKept(l.id, patches)
	t.mu.Lock()
	if move {
		f.reports = nil // answered below, whatever the hub says later
	}
	if err == nil {
		l.kept, l.leftover = patches, false
		if move {
			f.kept = true
		}
		t.counts.Kept += int64(len(reports))
	}
	t.tell(reports, 0, err)
}

// refresh reads the twin again, and tells the leaf what it has missed.
func (t *Twins) refresh(l *leaf) {
	l.stale, l.reading = false, true
	t.work.Go(func() {
		ctx, cancel := context.WithTimeout(t.life, patchTimeout)
		defer cancel()
		err := t.fetch(ctx, l.id)
		t.mu.Lock()
		defer t.mu.Unlock()
		l.reading = false
		refused, isRefused := errors.AsType[*gateway.TwinError](err)
		switch {
		case err == nil:
			t.tellMissedLocked(l)
		case isRefused && !passing(refused):
			t.Log.Warn("hub refuses the twin", "leaf", l.id, "status", refused.Status, "reason", refused.Message)
		default:
			l.stale = true
			t.pauseLocked(l)
		}
		t.serveLocked(l)
	})
}

// pauseLocked waits before the next request about this leaf.
func (t *Twins) pauseLocked(l *leaf) {
	pause := min(pauseMin<<min(l.failures, 10), pauseMax)
	l.failures++
	l.until = time.Now().Add(pause/2 + rand.N(pause/2+1))
}
