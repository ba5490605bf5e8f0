package twin

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Kinds of notes, by leaf.
const (
	copyNote     = "twin"     // the copy, as kept
	reportedNote = "reported" // patches in custody, an array of objects
)

// versionKey is the member of a section that holds its version.
const versionKey = "$version"

// number is an integer as JSON.
func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

// versionOf returns the version of a section, 0 for none.
func versionOf(section object) int64 {
	n, _ := section[versionKey].(json.Number)
	v, _ := n.Int64()
	return v
}

// leaf is what is known of one leaf's twin, guarded by Twins.mu.
type leaf struct {
	id        string
	listening map[gateway.Reach]struct{} // ways on which it hears of desired changes

	desired  object          // the copy; nil: none
	reported object          // the copy, without what the hub has not taken
	read     gateway.Instant // when the hub last sent it
	told     object          // desired as the leaf knows it; nil: it has never asked
	handed   object          // desired as it will know it, if nothing is lost on the way
	stale    bool            // the copy is to be read again
	reading  bool            // somebody does
	gap      bool            // the hub has taken patches that the copy does not have
	changed  bool            // the copy is not on flash as it is here
	soon     bool            // and should be before long
	behind   bool            // what it says there is older, not only its version
	news     int             // counts what made it so
	credit   int             // how often it may yet be written before its minute has passed

	queue    []report  // in order; not in custody, not with the hub
	kept     []object  // in custody on flash, in order; with flight.kept the first is with the hub
	flight   *flight   // with the hub; nil: nothing
	working  bool      // a goroutine is in work
	failures int       // in a row, of requests to the hub
	leftover bool      // flash has patches that the hub has taken, besides or instead of kept
	until    time.Time // no request before
}

// copied is the form of a copy on flash.
type copied struct {
	Desired  object          `json:"desired"`
	Reported object          `json:"reported"`
	Told     object          `json:"told,omitempty"`
	UpToDate bool            `json:"up_to_date"` // told is desired
	Read     gateway.Instant `json:"read"`
}

// copied returns the form on flash.
func (l *leaf) copied() copied {
	c := copied{Desired: l.desired, Reported: l.reported, Told: l.told, Read: l.read}
	if l.told != nil && versionOf(l.told) == l.version() {
		c.Told, c.UpToDate = nil, true
	}
	return c
}

// leafLocked returns what is known of a leaf; the copy comes from flash when it is
// needed first.
func (t *Twins) leafLocked(id string) *leaf {
	l := t.leaves[id]
	if l != nil {
		return l
	}
	l = newLeaf(id)
	t.leaves[id] = l
	text, err := t.Notes.Note(copyNote, id)
	if err == nil && text != nil {
		err = l.load(text)
	}
	if err != nil {
		t.Log.Warn("the copy of a twin cannot be read", "leaf", id, "err", err)
	}
	return l
}

func newLeaf(id string) *leaf {
	return &leaf{id: id, listening: make(map[gateway.Reach]struct{}), credit: promptCopies}
}

func (l *leaf) load(text []byte) error {
	o, err := parse(text)
	if err != nil {
		return err
	}
	var c copied
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	// The objects are taken from the one with exact numbers.
	l.desired, _ = o["desired"].(object)
	l.reported, _ = o["reported"].(object)
	l.told, _ = o["told"].(object)
	if c.UpToDate {
		l.told = l.desired
	}
	l.handed = l.told
	l.read = c.Read
	return nil
}

// version is that of the desired section of the copy.
func (l *leaf) version() int64 { return versionOf(l.desired) }

// versions are those of both sections of a copy.
type versions struct{ desired, reported int64 }

func (l *leaf) versions() versions { return versions{versionOf(l.desired), versionOf(l.reported)} }

// readLocked takes a twin that the hub has sent. before were the versions when it
// was asked for: what came meanwhile, as a change, an answer to a patch or a later
// read that was answered first, is newer. Where the copy is made of such and has a
// gap, that stays, and the twin has to be read again.
func (l *leaf) readLocked(document object, before versions, now gateway.Instant) {
	desired, _ := document["desired"].(object)
	reported, _ := document["reported"].(object)
	if desired == nil {
		desired = object{}
	}
	if l.version() == before.desired || versionOf(desired) >= l.version() {
		if l.desired == nil || !reflect.DeepEqual(desired, l.desired) {
			l.changed = true
		}
		if versionOf(l.told) == versionOf(desired) && l.told != nil {
			l.told = desired // the same version, perhaps spelt by a replacement
		}
		if versionOf(l.handed) == versionOf(desired) && l.handed != nil {
			l.handed = desired
		}
		l.desired = desired
	}
	if known := versionOf(l.reported); known == before.reported || versionOf(reported) >= known {
		if !reflect.DeepEqual(reported, l.reported) {
			l.changed = true
		}
		if l.reported == nil || !sameValues(reported, l.reported) {
			l.news++
			l.behind, l.soon = true, true // the leaf may read what it was told was taken
		}
		l.reported, l.gap = reported, false
	}
	l.read = now
}

// takenLocked takes a patch that the hub has taken. version is that of the reported
// section since, 0 where the hub did not say: it is the patch behind the copy, or the
// hub has taken others between, of which nobody here has heard.
func (l *leaf) takenLocked(patch object, version int64) {
	known := versionOf(l.reported)
	if l.reported == nil || version != known+1 {
		l.gap, l.stale = true, true
	}
	reported := apply(l.reported, patch)
	if !sameValues(reported, l.reported) {
		l.news++
		l.behind = true
	}
	reported[versionKey] = number(max(version, known))
	l.reported, l.changed = reported, true
}

// sameValues says that two sections differ in their versions at most.
func sameValues(a, b object) bool {
	a, b = maps.Clone(a), maps.Clone(b)
	delete(a, versionKey)
	delete(b, versionKey)
	return len(a) == len(b) && (len(a) == 0 || reflect.DeepEqual(a, b))
}

// toldLocked notes what the leaf knows.
func (l *leaf) toldLocked(desired object) {
	if versionOf(l.told) != versionOf(desired) || l.told == nil {
		l.changed, l.soon = true, true
	}
	l.told = desired
}

// How soon a changed copy is on flash: what a leaf was told, so that it is not
// told again after a crash; and the rest, which the hub has too.
const (
	soon  = time.Second
	later = time.Minute
)

// promptCopies is how many copies of a leaf's twin, one for each patch that the hub has
// taken, are on flash before the leaf hears that it was: of a leaf that reports now
// and then, all, and of one that reports all the time one a minute, as flash wears out.
const promptCopies = 10

// Run works until ctx ends. Then what leaves have reported is on flash, with the
// copies, when it returns; broker, drivers and uplink should have ended by then.
func (t *Twins) Run(ctx context.Context) error {
	tick := time.NewTicker(soon)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case now := <-tick.C:
			all := now.Sub(last) >= later
			if all {
				last = now
			}
			t.saveCopies(all)
		case <-ctx.Done():
			t.close()
			t.saveCopies(true)
			return nil
		}
	}
}

// close lets the work under way end: nothing is sent any more.
func (t *Twins) close() {
	t.end()
	t.mu.Lock()
	t.closed, t.linkUp = true, false
	for _, l := range t.leaves {
		t.serveLocked(l)
	}
	t.mu.Unlock()
	t.work.Wait()
}

// saveCopies writes copies that have changed: those that should be on flash soon,
// or all, once a minute.
func (t *Twins) saveCopies(all bool) {
	t.mu.Lock()
	var list []*leaf
	for _, l := range t.leaves {
		if all {
			l.credit = min(l.credit+1, promptCopies)
		}
		if l.changed && (all || l.soon) {
			list = append(list, l)
		}
	}
	t.mu.Unlock()
	for _, l := range list {
		_ = t.saveCopy(l) // with all the others again
	}
}

// saveCopy writes the copy of one leaf, unless it is on flash as it is here. An error
// is logged, and returned. The caller does not hold t.mu.
func (t *Twins) saveCopy(l *leaf) error {
	t.saving.Lock() // an older one must not come behind a newer one
	defer t.saving.Unlock()
	t.mu.Lock()
	if !l.changed {
		t.mu.Unlock()
		return nil
	}
	news := l.news
	l.changed, l.soon = false, false
	text, err := json.Marshal(l.copied())
	t.mu.Unlock()
	if err == nil {
		err = t.Notes.SetNotes(copyNote, map[string][]byte{l.id: text})
	}
	if err != nil {
		t.Log.Warn("cannot keep the copy of a twin", "leaf", l.id, "err", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		l.changed = true
	case l.news == news:
		l.behind = false // not before it is there: somebody may wait for that
	}
	return err
}

// recall reads what is in custody.
func (t *Twins) recall() error {
	kept := make(map[string][]object)
	err := t.Notes.EachNote(reportedNote, func(id string, text []byte) error {
		o, err := parse(append(append([]byte(`{"patches":`), text...), '}'))
		if err != nil {
			t.Log.Error("reported patches in custody cannot be read: they are lost", "leaf", id, "err", err)
			return nil
		}
		list, _ := o["patches"].([]any)
		for _, x := range list {
			if patch, ok := x.(object); ok {
				kept[id] = append(kept[id], patch)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, patches := range kept {
		t.leafLocked(id).kept = patches // nobody else is there yet
	}
	return nil
}

// saveKept writes the patches in custody of one leaf.
func (t *Twins) saveKept(id string, patches []object) error {
	var text []byte // nil: none
	if len(patches) > 0 {
		var err error
		if text, err = json.Marshal(patches); err != nil {
			return err
		}
	}
	return t.Notes.SetNotes(reportedNote, map[string][]byte{id: text})
}
