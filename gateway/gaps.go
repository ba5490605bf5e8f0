package gateway

import "slices"

// gaps is what is known of the numbers of one leaf, lane and start that will not
// reach the hub, because their messages were dropped or refused. It is never more
// than is true: who counts what is missing and finds less there would take a loss
// for a drop.
type gaps struct {
	start uint32
	steps []step // in the order of at
}

// step counts some numbers that were given up, from first to at. No other step
// counts any in between.
type step struct {
	first, at, add uint64
	// least is how many are given up at least, at and everything below it taken
	// together: a message of an earlier start says what that start knew.
	least uint64
	total uint64 // the sum of all steps up to here, and not below least
}

// maxSteps bounds the memory for a leaf, lane and start. When there are more, the
// oldest are taken together in pairs, each counted at the later one: numbers
// between the two are then said later than they could be.
const maxSteps = 128

// note says that the numbers from first to last were given up. known is how many
// below first were given up as far as was known when that one was handed over.
func (g *gaps) note(first, last, known uint64) {
	i, found := slices.BinarySearchFunc(g.steps, last, func(s step, n uint64) int {
		switch {
		case s.at < n:
			return -1
		case s.at > n:
			return 1
		}
		return 0
	})
	if i > 0 {
		first = max(first, g.steps[i-1].at+1)
	}
	if found || first == 0 || last < first {
		return
	}
	n := last - first + 1
	switch {
	case i < len(g.steps) && g.steps[i].first < last: // within what was taken together
		s := &g.steps[i]
		s.first, s.add, s.least = min(s.first, first), s.add+n, max(s.least, known+n)
	case i > 0 && g.steps[i-1].at == first-1:
		i--
		s := &g.steps[i]
		s.at, s.add, s.least = last, s.add+n, max(s.least, known)+n
	default:
		g.steps = slices.Insert(g.steps, i, step{first: first, at: last, add: n, least: known + n})
	}
	if len(g.steps) > maxSteps {
		g.thin()
		i = 0
	}
	g.sum(i)
}

// thin takes the older half of the steps together in pairs.
func (g *gaps) thin() {
	older := g.steps[:maxSteps/2]
	for i := 0; i < len(older); i += 2 {
		a, b := older[i], older[i+1]
		older[i/2] = step{first: a.first, at: b.at, add: a.add + b.add, least: max(a.least+b.add, b.least)}
	}
	g.steps = slices.Delete(g.steps, len(older)/2, len(older))
}

// sum brings the totals from a step on up to date.
func (g *gaps) sum(from int) {
	before := uint64(0)
	if from > 0 {
		before = g.steps[from-1].total
	}
	for i := from; i < len(g.steps); i++ {
		s := &g.steps[i]
		s.total = max(before+s.add, s.least)
		before = s.total
	}
}

// below returns how many numbers below n were given up, as far as is known.
func (g *gaps) below(n uint64) uint64 {
	i, _ := slices.BinarySearchFunc(g.steps, n, func(s step, n uint64) int {
		if s.at < n {
			return -1
		}
		return 1
	})
	if i == 0 {
		return 0
	}
	return g.steps[i-1].total
}

// maxStarts is of how many starts of the gateway a flow remembers gaps: what comes
// back from flash is seldom of more.
const maxStarts = 4

// gapsOf returns the gaps of the flow in one start.
func (f *flow) gapsOf(start uint32) *gaps {
	for _, g := range f.gaps {
		if g.start == start {
			return g
		}
	}
	return nil
}

// giveUp notes numbers of a start that will not reach the hub; see gaps.note.
func (f *flow) giveUp(start uint32, first, last, known uint64) {
	if f.live != nil {
		f = f.live
	}
	g := f.gapsOf(start)
	if g == nil {
		g = &gaps{start: start}
		f.gaps = append(f.gaps, g)
		slices.SortFunc(f.gaps, func(a, b *gaps) int { return int(a.start) - int(b.start) })
		if len(f.gaps) > maxStarts {
			f.gaps = slices.Delete(f.gaps, 0, 1)
		}
	}
	g.note(first, last, known)
}

// dropped returns how many messages before m in its start were given up, as far as
// is known: what m says itself was known when it was handed over.
func (f *flow) dropped(m *Message) uint64 {
	if f.live != nil {
		f = f.live
	}
	if g := f.gapsOf(m.Start); g != nil {
		return max(m.Dropped, g.below(m.Seq))
	}
	return m.Dropped
}

// GivenUp is a run of messages that the store gave up: the numbers First to Last of
// one leaf, lane and start. Dropped is what the first of them says, Why is DropQuota
// or DropPurged.
type GivenUp struct {
	Leaf        string
	Lane        Lane
	Start       uint32
	First, Last uint64
	Dropped     uint64
	Why         DropReason
}

// gaveUp is told by the store.
func (p *Path) gaveUp(runs []GivenUp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range runs {
		p.flowLocked(r.Leaf, r.Lane).giveUp(r.Start, r.First, r.Last, r.Dropped)
	}
}
