package store

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Where the account of damage is kept in the meta database.
const (
	damageKind = "store"
	damageNote = "damage"
)

// damage is the account of what was lost to damaged flash. It outlives the
// process, so that nobody misses it.
type damage struct {
	mu    sync.Mutex
	total gateway.Damage // guarded by mu, like what follows
	dirty bool           // not yet in the meta database
}

// add counts messages, and blocks whose number of messages nobody knows, that
// stood in the segment.
func (d *damage) add(messages, blocks int, s *segment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total.Messages += int64(messages)
	d.total.Commits += int64(blocks)
	d.span(s.first.Wall, s.last.Wall)
	d.dirty = true
}

func (d *damage) span(first, last time.Time) {
	if !first.IsZero() && (d.total.From.IsZero() || first.Before(d.total.From)) {
		d.total.From = first
	}
	if last.After(d.total.To) {
		d.total.To = last
	}
}

// addMeta counts the loss of the meta database.
func (d *damage) addMeta() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total.Meta++
	d.dirty = true
}

func (d *damage) snapshot() gateway.Damage {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}

// loadDamage adds what earlier processes have counted.
func (s *Store) loadDamage() {
	text, err := s.Note(damageKind, damageNote)
	if err != nil || text == nil {
		return
	}
	var before gateway.Damage
	if err := json.Unmarshal(text, &before); err != nil {
		s.log.Warn("cannot read the account of damage", "error", err)
		return
	}
	d := &s.damage
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total.Messages += before.Messages
	d.total.Commits += before.Commits
	d.total.Meta += before.Meta
	d.span(before.From, before.To)
}

// saveDamage writes the account when it has changed. What cannot be written now
// is written later.
func (s *Store) saveDamage() {
	d := &s.damage
	d.mu.Lock()
	total, dirty := d.total, d.dirty
	d.dirty = false
	d.mu.Unlock()
	if !dirty {
		return
	}
	text, err := json.Marshal(total)
	if err == nil {
		err = s.SetNotes(damageKind, map[string][]byte{damageNote: text})
	}
	if err != nil {
		d.mu.Lock()
		d.dirty = true
		d.mu.Unlock()
	}
}

// sayDamage repeats at every start what was lost.
func (s *Store) sayDamage() {
	if d := s.damage.snapshot(); d != (gateway.Damage{}) {
		s.log.Warn("messages were lost to damaged flash since the store was made", "messages", d.Messages,
			"commits", d.Commits, "meta_databases", d.Meta, "captured_from", d.From, "captured_to", d.To)
	}
}
