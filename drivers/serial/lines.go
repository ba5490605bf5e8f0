package serial

import "bytes"

// splitter cuts the bytes of one opening of a port into lines. It holds at most
// one line of at most max bytes: what a line is longer than that is thrown away
// as it comes, until the line end lets the splitter start afresh. Not safe for
// concurrent use.
type splitter struct {
	max  int
	text []byte // of the line under way; empty once the line is too long
	size int    // bytes of the line under way, whether kept or not
	// torn says that the line under way may have begun before the port was
	// opened.
	torn bool
}

// newSplitter makes one for a port that was just opened.
func newSplitter(max int) *splitter { return &splitter{max: max, torn: true} }

// line is what lies between two line ends.
type line struct {
	text    []byte // without the line end; valid until the next feed
	size    int    // bytes on the wire, with the line end
	torn    bool   // perhaps only the tail of a line
	tooLong bool   // longer than the bound; text is empty
}

// feed takes the next bytes and calls emit for every line that they end. An
// error from emit ends the feeding and is returned.
func (s *splitter) feed(p []byte, emit func(line) error) error {
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.keep(p)
			return nil
		}
		s.keep(p[:i])
		p = p[i+1:]
		if err := emit(s.end()); err != nil {
			return err
		}
	}
}

// keep adds bytes to the line under way. One byte more than the bound is kept:
// it may be the CR of the line end.
func (s *splitter) keep(p []byte) {
	s.size += len(p)
	if s.size > s.max+1 {
		s.text = s.text[:0]
		return
	}
	s.text = append(s.text, p...)
}

// end completes the line under way: its line feed was read.
func (s *splitter) end() line {
	l := line{text: bytes.TrimSuffix(s.text, []byte("\r")), size: s.size + 1, torn: s.torn}
	if s.size > s.max+1 || len(l.text) > s.max {
		l.text, l.tooLong = nil, true
	}
	s.text, s.size, s.torn = s.text[:0], 0, false
	return l
}

// quiet says that the port was silent for a while. A line that begins after it
// is whole.
func (s *splitter) quiet() {
	if s.size == 0 {
		s.torn = false
	}
}

// rest is how many bytes there are of a line without an end.
func (s *splitter) rest() int { return s.size }
