package gateway

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"time"
)

// errBudget says that the backlog has used up its budget for now.
var errBudget = errors.New("backfill budget is used up for now")

// budget bounds how much is read back from flash. It belongs to the goroutine
// that reads the backlog.
//
// The day's spending survives a restart: it is noted before it is spent, in steps
// of 1/64 of the budget, so that no crash makes it more. After one, up to a step
// of it may be lost to the day. While the clock cannot be trusted no day begins:
// what is left of the last one known is all there is.
type budget struct {
	cfg   *Config // that of the path, as it was when the lane was looked at
	notes Notes   // nil: the day is not kept
	log   *slog.Logger

	second purse
	day    dayBook
	noted  dayBook // on flash: at least what day says was spent
	loaded bool
}

// purse is what may be spent within a second.
type purse struct {
	messages, bytes float64
	at              time.Time // when it was filled last
}

// dayBook is what was spent on one day.
type dayBook struct {
	Day      string `json:"day"` // 2006-01-02, UTC; "" before trusted time was seen
	Messages int64  `json:"messages"`
	Bytes    int64  `json:"bytes"`
}

// Where the day's spending is noted.
const (
	budgetKind = "budget"
	budgetName = "backfill"
)

// daySteps is how many notes a day costs at most, about.
const daySteps = 64

// left returns how much may be read now; no messages means none. now is the
// gateway's time, at the process's own. It may write a note.
func (b *budget) left(now Instant, at time.Time) (messages, bytes int) {
	messages, bytes = math.MaxInt32, math.MaxInt32
	limit := func(left *int, by float64) { *left = int(max(0, min(float64(*left), by))) }
	b.fill(at)
	if b.cfg.BackfillMessagesPerSecond > 0 {
		limit(&messages, b.second.messages)
	}
	if b.cfg.BackfillBytesPerSecond > 0 {
		limit(&bytes, b.second.bytes)
	}
	if b.daily() && messages > 0 && bytes > 0 {
		b.turn(now)
		b.reserve()
		if b.cfg.BackfillMessagesPerDay > 0 {
			limit(&messages, float64(b.noted.Messages-b.day.Messages))
		}
		if b.cfg.BackfillBytesPerDay > 0 {
			limit(&bytes, float64(b.noted.Bytes-b.day.Bytes))
		}
	}
	if bytes == 0 {
		return 0, 0
	}
	return messages, bytes
}

func (b *budget) daily() bool {
	return b.cfg.BackfillMessagesPerDay > 0 || b.cfg.BackfillBytesPerDay > 0
}

// fill adds what time has brought, at most one second's worth.
func (b *budget) fill(at time.Time) {
	seconds := 1.0
	if !b.second.at.IsZero() {
		seconds = at.Sub(b.second.at).Seconds()
	}
	b.second.at = at
	add := func(left *float64, rate float64) { *left = min(rate, *left+rate*seconds) }
	add(&b.second.messages, float64(b.cfg.BackfillMessagesPerSecond))
	add(&b.second.bytes, float64(b.cfg.BackfillBytesPerSecond))
}

// turn begins a new day when trusted time says so.
func (b *budget) turn(now Instant) {
	if !b.loaded {
		b.load()
	}
	if now.Quality == Unsynced {
		return
	}
	// A day never comes back: a clock that was put back gives nothing twice.
	if today := now.Wall.UTC().Format(time.DateOnly); today > b.day.Day {
		b.day = dayBook{Day: today}
	}
}

// load reads what was noted. A note that cannot be read counts as none: the
// budget must never keep a backlog from draining for good.
func (b *budget) load() {
	b.loaded = true
	if b.notes == nil {
		return
	}
	text, err := b.notes.Note(budgetKind, budgetName)
	if err == nil && text != nil {
		err = json.Unmarshal(text, &b.noted)
	}
	if err != nil {
		b.log.Warn("cannot read what the backlog has spent today", "error", err)
		b.noted = dayBook{}
	}
	b.day = b.noted
}

// reserve notes the next step of the day's spending, if the last one is used up
// and the budget is not.
func (b *budget) reserve() {
	next := b.day
	step := func(spent, budget, noted int64) (int64, bool) {
		if budget == 0 || b.noted.Day == b.day.Day && spent < noted {
			return noted, false
		}
		end := min(budget, spent+max(1, budget/daySteps))
		return end, b.noted.Day != b.day.Day || end > noted
	}
	var more, moreBytes bool
	next.Messages, more = step(b.day.Messages, int64(b.cfg.BackfillMessagesPerDay), b.noted.Messages)
	next.Bytes, moreBytes = step(b.day.Bytes, int64(b.cfg.BackfillBytesPerDay), b.noted.Bytes)
	if more || moreBytes {
		b.note(next)
	}
}

// note writes the day's spending. Where that fails the budget holds until the end
// of the process only: a disk that is full must drain.
func (b *budget) note(d dayBook) {
	b.noted = d
	if b.notes == nil {
		return
	}
	text, err := json.Marshal(d)
	if err == nil {
		err = b.notes.SetNotes(budgetKind, map[string][]byte{budgetName: text})
	}
	if err != nil {
		b.log.Warn("cannot note what the backlog spends today", "error", err)
	}
}

// spend books one message that was read.
func (b *budget) spend(size int) {
	b.second.messages--
	b.second.bytes -= float64(size)
	b.day.Messages++
	b.day.Bytes += int64(size)
}

// end notes what was really spent, where more was reserved.
func (b *budget) end() {
	if b.daily() && b.noted.Day != "" && b.noted != b.day {
		b.note(b.day)
	}
}
