package gateway

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever was given up, in whatever order and however little was known of what came
// before: no more is said than is true, and all of it in the end.
func TestGapsAreNeverMoreThanTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const numbers = 4000
		var g gaps
		var gone [numbers + 1]bool
		truth := func(n uint64) (sum uint64) {
			for i := range n {
				if gone[i] {
					sum++
				}
			}
			return sum
		}
		all := rapid.Bool().Draw(t, "sees all")
		for range rapid.IntRange(0, 300).Draw(t, "notes") {
			first := rapid.Uint64Range(1, numbers-10).Draw(t, "first")
			last := first + rapid.Uint64Range(0, 3).Draw(t, "more")
			for n := first; n <= last; n++ {
				if gone[n] {
					last = n - 1
				}
			}
			if last < first {
				continue
			}
			before := truth(first)
			if !all && rapid.IntRange(0, 3).Draw(t, "unseen") == 0 { // by a start of before, which the message knows
				for n := first; n <= last; n++ {
					gone[n] = true
				}
				continue
			}
			known := rapid.Uint64Range(0, before).Draw(t, "known")
			g.note(first, last, known)
			for n := first; n <= last; n++ {
				gone[n] = true
			}
			if len(g.steps) > maxSteps {
				t.Fatalf("%d steps", len(g.steps))
			}
			at := rapid.Uint64Range(1, numbers).Draw(t, "at")
			if got, true := g.below(at), truth(at); got > true {
				t.Fatalf("below %d: %d, of %d", at, got, true)
			}
		}
		if got, want := g.below(numbers), truth(numbers); all && got != want || got > want {
			t.Errorf("in the end %d, want %d", got, want)
		}
	})
}

// A row that expires one by one takes no memory.
func TestGapsInARowAreOneStep(t *testing.T) {
	var g gaps
	for n := uint64(1); n <= 100_000; n++ {
		g.note(n, n, 0)
	}
	if len(g.steps) != 1 || g.below(100_001) != 100_000 {
		t.Errorf("%d steps, %d in all", len(g.steps), g.below(100_001))
	}
}
