package store

import (
	"errors"
	"fmt"

	"github.com/fieldgate/fieldgate/gateway"
)

// makeRoom makes sure that one more segment fits below the lane's bound, by the
// lane's policy. The error wraps gateway.ErrStoreFull where it does not fit.
func (l *lane) makeRoom() error {
	for !l.fits() {
		switch l.cfg.Load().Full {
		case FullThin:
			if s := l.oldest(func(s *segment) bool { return !s.thinned }); s != nil {
				if err := l.thin(s); err != nil {
					return err
				}
				continue
			}
			fallthrough
		case FullDropOldest:
			if s := l.oldest(func(*segment) bool { return true }); s != nil {
				if err := l.drop(s); err != nil {
					return err
				}
				continue
			}
		}
		if !l.finishOne() {
			return fmt.Errorf("%w: lane %v has reached its %v", gateway.ErrStoreFull, l.id, gateway.Size(l.cfg.Load().MaxBytes))
		}
	}
	return nil
}

// fits says whether one more segment fits below the lane's bound.
func (l *lane) fits() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum int64
	for _, s := range l.segments {
		sum += s.occupies()
	}
	return sum+reservation(int64(l.store.cfg.SegmentSize)) <= int64(l.cfg.Load().MaxBytes)
}

// oldest returns the first sealed segment that has messages and is as wanted.
func (l *lane) oldest(wanted func(*segment) bool) *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		if s.sealed && !s.gone && wanted(s) {
			return s
		}
	}
	return nil
}

// finishOne waits until a segment that was handed over for sealing is sealed,
// which may show that it needs less room than was reserved. It returns false
// when there is none.
func (l *lane) finishOne() bool {
	l.mu.Lock()
	var open *segment
	for _, s := range l.segments {
		if s.closing && !s.sealed && !s.gone {
			open = s
			break
		}
	}
	l.mu.Unlock()
	if open == nil {
		return false
	}
	l.finish(open)
	l.mu.Lock()
	defer l.mu.Unlock()
	return open.sealed
}

// drop gives up the messages of a segment and removes its files. Messages that
// are Out are in memory, on their way to the hub: they stay in the table until
// they are settled, and count as dropped only when they come back.
func (l *lane) drop(s *segment) error {
	s.io.Lock()
	defer s.io.Unlock()
	names := l.nameWaiting(s)
	if err := l.erase(s); err != nil {
		return fmt.Errorf("%w: cannot drop oldest segment: %w", gateway.ErrStoreFailed, err)
	}
	l.mu.Lock()
	s.gone = true
	n := s.giveUp()
	l.dropped[gateway.DropQuota] += int64(n)
	l.mu.Unlock()
	l.tellGivenUp(names)
	l.log.Warn("lane is full: oldest messages dropped", "event", "lane-full", "messages", n,
		"captured_from", s.first.Wall, "captured_to", s.last.Wall)
	l.store.wakeKeeper()
	return nil
}

// thin gives up every second unsettled message of each leaf in a segment and
// rewrites it without them and without what is settled. Messages that are Out
// stay. Every message keeps its position.
func (l *lane) thin(s *segment) error {
	s.io.Lock()
	defer s.io.Unlock()
	if err := l.openReading(s); err != nil {
		return err
	}
	sieve := sieve{lane: l, segment: s, seen: map[string]int{}, names: roll{why: gateway.DropQuota}}
	s.thinned = true // goes into the new index
	if err := l.rewrite(s, logSize(s.dir)+segmentMemtable, l.store.trash, sieve.feed); err != nil {
		s.thinned = false
		return err
	}
	disk := diskUse(s.dir)
	l.mu.Lock()
	s.disk = disk
	for _, p := range sieve.dropped {
		s.set(p.Block, int(p.Index), settled)
	}
	l.dropped[gateway.DropQuota] += int64(len(sieve.dropped))
	l.mu.Unlock()
	l.tellGivenUp(sieve.names.runs)
	l.log.Warn("lane is full: every second message of its oldest segment dropped", "event", "lane-full", "messages", len(sieve.dropped),
		"captured_from", s.first.Wall, "captured_to", s.last.Wall)
	l.store.wakeKeeper()
	return nil
}

// sieve chooses what stays when a segment is thinned.
type sieve struct {
	lane    *lane
	segment *segment
	seen    map[string]int // unsettled messages of each leaf so far
	dropped []gateway.Position
	names   roll // of those
}

// feed hands the sifted blocks to put.
func (v *sieve) feed(put func(block uint32, frame []byte) error) error {
	s := v.segment
	for block := range uint32(len(s.table)) {
		var sifted []byte
		count := s.count(block)
		use := func(data []byte) {
			if f, err := parseFrameAt(data, s.address(block), count); err == nil {
				sifted = v.sift(f)
			}
		}
		_, err := s.db.get(block, use)
		if err != nil && passing(err) {
			return fmt.Errorf("%w: cannot read segment to thin it: %w", gateway.ErrStoreFailed, err)
		}
		if sifted == nil { // Badger does not find it; it may be there all the same
			data, err := v.lane.salvageBlock(s, block)
			if err != nil {
				return fmt.Errorf("%w: cannot read segment to thin it: %w", gateway.ErrStoreFailed, err)
			}
			if data != nil {
				use(data)
			}
		}
		if sifted == nil {
			continue // lost: Read will find and count that
		}
		if err := put(block, sifted); err != nil {
			return err
		}
	}
	return nil
}

// sift returns the frame with only those messages in it that stay. One that is
// damaged stays so: Read will find and count it.
func (v *sieve) sift(f frame) []byte {
	states := make([]gateway.StoredState, f.count)
	v.lane.mu.Lock()
	for i := range states {
		states[i] = v.segment.state(f.block, i)
	}
	v.lane.mu.Unlock()
	var payload []byte
	var damaged []int
	ends := make([]int, f.count)
	all := func(int) bool { return true }
	f.each(all, func(i int, data []byte, err error) bool {
		switch {
		case states[i] == settled:
		case errors.Is(err, errDamaged):
			damaged = append(damaged, i)
		case err == nil && v.stays(f, i, states[i], data):
			payload = append(payload, data...)
		}
		ends[i] = len(payload)
		return true
	})
	return spoil(appendFrame(nil, f.address, f.index, payload, ends), damaged)
}

func (v *sieve) stays(f frame, index int, state gateway.StoredState, data []byte) bool {
	m, err := decodeMessage(data)
	if err != nil {
		return true // Read will find and count that
	}
	v.seen[m.Leaf]++
	if state == gateway.Out || v.seen[m.Leaf]%2 == 1 {
		return true
	}
	v.names.add(m)
	v.dropped = append(v.dropped, gateway.Position{
		Lane: f.lane, Segment: f.segment, Block: f.block, Index: uint16(index),
	})
	return false
}
