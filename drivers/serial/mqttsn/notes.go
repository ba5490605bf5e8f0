package mqttsn

import (
	"encoding/json"
	"time"
)

// sessionNote is the kind of note in which a kept session outlives the gateway. Its
// name is the leaf's id.
const sessionNote = "mqttsn session"

// maxNoting is how many answers may wait for a note.
const maxNoting = 16

// keptSession is a session on flash.
type keptSession struct {
	Subs []subscription `json:"subs,omitempty"`
	Will *will          `json:"will,omitempty"`
}

// encode returns the note of the session, "" if it needs none.
func (s *session) encode() string {
	if !s.keep || len(s.subs) == 0 && s.will == nil {
		return ""
	}
	text, _ := json.Marshal(keptSession{s.subs, s.will}) // plain values: it cannot fail
	return string(text)
}

// note has the session noted, as it is when its turn comes, if that is news, and
// calls then, with the lock held, when that is on flash, or cannot be. then may be
// nil, and is not called when too many wait.
func (s *session) note(then func()) {
	if !s.noting.busy && s.encode() == s.noted {
		if then != nil {
			then()
		}
		return
	}
	if len(s.noting.list) >= maxNoting {
		return // too many at once: those before write it, and the leaf asks again
	}
	l := s.l
	s.noting.add(l, func() {
		l.mu.Lock()
		text := s.encode()
		write := text != s.noted
		s.noted = text
		l.mu.Unlock()
		if write {
			l.writeNote(s.leaf, text)
		}
		if then != nil {
			l.mu.Lock()
			then()
			l.unlock()
			signal(l.news)
		}
	})
}

// writeNote writes one note.
func (l *Link) writeNote(leaf, text string) {
	if l.ways.Notes == nil {
		return
	}
	value := []byte(text)
	if text == "" {
		value = nil
	}
	if err := l.ways.Notes.SetNotes(sessionNote, map[string][]byte{leaf: value}); err != nil {
		// It is served all the same. Only a restart makes the leaf subscribe again.
		l.log.Warn("cannot note a session", "leaf", leaf, "err", err)
	}
}

// recall reads the sessions of the last run: their leaves are away. A note that
// cannot be read costs its leaf a new subscription.
func (l *Link) recall() {
	if l.ways.Notes == nil {
		return
	}
	for leaf, s := range l.sessions {
		text, err := l.ways.Notes.Note(sessionNote, leaf)
		var k keptSession
		if err == nil && text != nil {
			err = json.Unmarshal(text, &k)
		}
		if err != nil {
			l.log.Warn("the note of a session cannot be read", "leaf", leaf, "err", err)
			continue
		}
		l.mu.Lock()
		for _, sub := range k.Subs {
			if level, rest := sub.cut(); rest != "" && level != "" {
				s.subs = append(s.subs, sub)
			}
		}
		s.will, s.noted = k.Will, string(text)
		s.keep = text != nil
		s.since, s.gone = time.Now(), "not seen since the gateway started"
		s.interest()
		l.unlock()
	}
}
