package events

import (
	"iter"
	"sort"
)

// cut returns the index of the first event of a segment that is numbered above
// after.
func cut(segment []Event, after uint64) int {
	return sort.Search(len(segment), func(i int) bool { return segment[i].Number > after })
}

// merge walks through the pieces of all partitions in order of arrival.
func merge(pieces [][][]Event) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for {
			oldest := -1
			for i, p := range pieces {
				if len(p) > 0 && (oldest < 0 || p[0][0].Number < pieces[oldest][0][0].Number) {
					oldest = i
				}
			}
			if oldest < 0 {
				return
			}
			p := pieces[oldest]
			if !yield(p[0][0]) {
				return
			}
			if p[0] = p[0][1:]; len(p[0]) == 0 {
				pieces[oldest] = p[1:]
			}
		}
	}
}
