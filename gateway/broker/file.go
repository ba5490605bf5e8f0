package broker

import (
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway/plain"
)

// Files takes files that leaves send in parts; *upload.Spool is one. What it has
// returned nil for is synced to flash. Safe for concurrent use.
type Files interface {
	Part(leaf, name string, n int, content []byte, now time.Time) error
	End(leaf, name string) (begun bool, err error)
	GiveUp(leaf, name string) error
}

// filePart is a publication that is about a file.
type filePart struct {
	name string
	n    int // 0 for a word
	word string
}

// The words at the place of a part's number.
const (
	fileEnd    = "end"    // the file is whole
	fileCancel = "cancel" // it never will be
)

// parseFile reads a topic about a file of the leaf:
//
//	leaf/{leaf}/file/{name}/{1, 2, 3 …}
//	leaf/{leaf}/file/{name}/end
//	leaf/{leaf}/file/{name}/cancel
//
// The name is percent-encoded where it has what a topic level cannot.
func parseFile(leaf, topic string) (filePart, bool) {
	id, rest, ok := plain.Cut(topic)
	if !ok || !plain.Names(id, leaf) {
		return filePart{}, false
	}
	rest, ok = strings.CutPrefix(rest, "file/")
	level, part, more := strings.Cut(rest, "/")
	name, err := url.PathUnescape(level)
	if !ok || !more || err != nil || name == "" {
		return filePart{}, false
	}
	if part == fileEnd || part == fileCancel {
		return filePart{name: name, word: part}, true
	}
	n, err := strconv.ParseUint(part, 10, 31)
	return filePart{name: name, n: int(n)}, err == nil && n > 0 && part[0] != '0' && part[0] != '+'
}

// file takes a publication about a file. The leaf waits for the flash: that is
// its backpressure. With QoS 0 nobody could tell it that a part is missing, so
// that is refused.
func (s *session) file(p *publication, f filePart) error {
	if p.qos == 0 || s.b.files == nil {
		return s.refuseTopic(p, errTopic)
	}
	if err := s.room(); err != nil {
		return err
	}
	h, err := s.inbox.add(s, p.id, p.dup, s.b.sum(p))
	if err != nil {
		return errStopped
	}
	if h == nil { // it came before
		s.b.counters.count(func(st *State) { st.Resent++ })
		return nil
	}
	// Two connections of a leaf take turns, or a part could overtake its end.
	if !s.turn.take(s.ctx) {
		s.settle(h, s.ctx.Err())
		return errStopped
	}
	defer s.turn.give()
	s.settle(h, s.takeFile(f, p.payload))
	return nil
}

func (s *session) takeFile(f filePart, content []byte) error {
	var err error
	switch f.word {
	case "":
		err = s.b.files.Part(s.leaf, f.name, f.n, content, s.b.clock().Wall)
	case fileCancel:
		err = s.b.files.GiveUp(s.leaf, f.name)
	default:
		var begun bool
		if begun, err = s.b.files.End(s.leaf, f.name); err == nil && !begun {
			// Said again after its acknowledgement was lost, most likely. To refuse it
			// would have an MQTT 3.1.1 leaf say it for ever.
			s.b.notices.warn(s.leaf+" end", "the end of a file that is not begun", slog.String("leaf", s.leaf), slog.String("file", f.name))
		}
	}
	if err != nil {
		s.b.notices.warn(s.leaf+" file", "part of a file refused", slog.String("leaf", s.leaf), slog.String("file", f.name), slog.Any("reason", err))
		return err
	}
	s.b.counters.count(func(st *State) { st.FileParts++ })
	return nil
}
