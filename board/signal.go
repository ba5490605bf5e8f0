package board

import "time"

// Signal is what the status LED tells whoever stands before the box.
type Signal int

// The signals. docs/board.md shows them to users; patterns is what they look like.
const (
	Starting  Signal = iota // leaves cannot connect yet
	Connected               // to the hub
	Away                    // the hub is not reached, and nothing waits for it
	Backlog                 // the hub is not reached, and messages wait for it on flash
	Pairing                 // a new leaf may join
	Paired                  // the new leaf was let in, a moment ago
	Refused                 // somebody who wanted to pair was not let in, a moment ago
	Failed                  // somebody must act: see fieldgate status
)

// String returns the word for it, as metrics and status have it.
func (s Signal) String() string {
	return [...]string{"starting", "connected", "away", "backlog", "pairing", "paired", "refused", "failed"}[s]
}

// Signals are all of them.
var Signals = []Signal{Starting, Connected, Away, Backlog, Pairing, Paired, Refused, Failed}

// patterns are, by signal, for how long the LED is on, off, on, off ..., over and
// over. Without an off it is on for good. They differ in rhythm, not in speed
// alone, so that nobody needs a watch.
var patterns = [...][]time.Duration{
	Starting:  {time.Second, time.Second},
	Connected: {time.Hour},
	Away:      {flash, 2*time.Second - flash},
	Backlog:   {flash, gap, flash, 2*time.Second - 2*flash - gap},
	Pairing:   {900 * time.Millisecond, flash},
	Paired:    {7 * flash, gap, flash, gap, flash, 3 * gap},
	Refused:   {flash, flash},
	Failed:    {flash, gap, flash, gap, flash, 800 * time.Millisecond},
}

const flash, gap = 100 * time.Millisecond, 200 * time.Millisecond
