package upload

import (
	"fmt"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// What follows is for leaves that send a file in numbered parts, one after the
// other, and know nothing of ids.

// ErrPart says that a part has come out of order: the file has a hole.
var ErrPart = fmt.Errorf("%w: the parts before it are missing", ErrBlock)

// Part keeps part n of a file, 1 the first. It is on flash, synced, when it returns
// nil. Part 1 begins the file anew, whatever there was of it; any other follows
// the one before, or takes the place of one that is there. content is the caller's
// again.
func (s *Spool) Part(leaf, name string, n int, content []byte, now time.Time) error {
	id, begun := s.begun(leaf, name)
	if n == 1 {
		if begun {
			if err := s.Cancel(id); err != nil {
				return err
			}
		}
		var err error
		if id, err = s.Begin(leaf, name, now); err != nil {
			return err
		}
		return s.Put(id, blockID(1), content)
	}
	if !begun {
		return ErrPart
	}
	have, err := s.Has(id)
	switch {
	case err != nil:
		return err
	case n < 1 || n > len(have)+1:
		return ErrPart
	case n > maxBlocks:
		return gateway.ErrTooLarge
	}
	return s.Put(id, blockID(n), content)
}

// End says that the file of parts is whole: it is in custody. begun is false when
// there is none: then it was finished before, or never begun.
func (s *Spool) End(leaf, name string) (begun bool, err error) {
	id, begun := s.begun(leaf, name)
	if !begun {
		return false, nil
	}
	order, err := s.Has(id)
	if err != nil {
		return true, err
	}
	for i := range order { // a part may have come again after later ones
		order[i] = blockID(i + 1)
	}
	if err := s.Arrange(id, order); err != nil {
		return true, err
	}
	return true, s.Finish(id)
}

// GiveUp forgets a file of parts, if there is one.
func (s *Spool) GiveUp(leaf, name string) error {
	if id, begun := s.begun(leaf, name); begun {
		return s.Cancel(id)
	}
	return nil
}

// begun returns the file of that name that the leaf has begun and not finished.
func (s *Spool) begun(leaf, name string) (id string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if f.head.Leaf == leaf && f.head.Name == name && !f.head.Whole && !f.gone {
			return f.id, true
		}
	}
	return "", false
}
