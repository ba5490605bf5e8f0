package gateway

import (
	"log/slog"
	"testing"
	"time"
)

// memo is Notes in memory.
type memo struct {
	values map[string][]byte
	writes int
}

func (m *memo) Note(kind, name string) ([]byte, error) { return m.values[kind+name], nil }

func (m *memo) SetNotes(kind string, values map[string][]byte) error {
	m.writes++
	for name, v := range values {
		m.values[kind+name] = v
	}
	return nil
}

func (m *memo) EachNote(string, func(string, []byte) error) error { return nil }

// spendAll reads one message after the other until the budget says no.
func spendAll(b *budget, now Instant, at time.Time, size int) (n int) {
	for n < 100000 {
		if left, _ := b.left(now, at); left == 0 {
			return n
		}
		b.spend(size)
		n++
	}
	return n
}

func TestBudgetOfADaySurvivesRestarts(t *testing.T) {
	notes := &memo{values: make(map[string][]byte)}
	cfg := Config{BackfillMessagesPerDay: 640}
	begin := func() *budget {
		return &budget{cfg: &cfg, notes: notes, log: slog.New(slog.DiscardHandler)}
	}
	day := Instant{Wall: time.Date(2026, 5, 1, 23, 0, 0, 0, time.UTC), Quality: Synced}
	at := time.Unix(0, 0)
	b := begin()
	for range 300 {
		if left, _ := b.left(day, at); left == 0 {
			t.Fatal("used up too early")
		}
		b.spend(1)
	}
	b = begin() // as after a crash: at most one step is lost to the day
	n := spendAll(b, day, at, 1)
	if n > 340 || n < 340-640/daySteps {
		t.Errorf("%d after the crash, want 340 less at most a step of %d", n, 640/daySteps)
	}
	if notes.writes > daySteps+2 {
		t.Errorf("%d notes", notes.writes)
	}
	b.end()
	unset := Instant{Wall: time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)}
	if n := spendAll(begin(), unset, at, 1); n != 0 {
		t.Errorf("an untrusted clock gave %d", n)
	}
	back := Instant{Wall: day.Wall.AddDate(0, 0, -3), Quality: Synced}
	if n := spendAll(begin(), back, at, 1); n != 0 {
		t.Errorf("a clock put back gave %d", n)
	}
	next := Instant{Wall: day.Wall.Add(time.Hour), Quality: Synced}
	if n := spendAll(begin(), next, at, 1); n != 640 {
		t.Errorf("the next day gave %d, want 640", n)
	}
}

func TestBudgetOfASecond(t *testing.T) {
	cfg := Config{BackfillMessagesPerSecond: 10, BackfillBytesPerSecond: 1000}
	b := &budget{cfg: &cfg}
	at := time.Unix(0, 0)
	if n := spendAll(b, Instant{}, at, 10); n != 10 {
		t.Errorf("%d in the first second, want 10 by messages", n)
	}
	if n := spendAll(b, Instant{}, at.Add(time.Hour), 500); n != 2 {
		t.Errorf("%d in a later second, want 2 by bytes", n)
	}
	total := 0
	for i := range 100 {
		total += spendAll(b, Instant{}, at.Add(time.Hour+time.Duration(i)*100*time.Millisecond), 10)
	}
	if total > 110 || total < 95 { // what was left of the second before counts too
		t.Errorf("%d in ten seconds, want about 100", total)
	}
}
