package edit

// Entry is a key that stands in a text, and where: as offsets of bytes.
type Entry struct {
	Path               Path
	From, To           int  // the key with its value
	ValueFrom, ValueTo int  // its value
	Inline             bool // within braces or brackets of another one
}

// Header is the head of a table, or of an element of a list of tables.
type Header struct {
	Path     Path
	From, To int // from the start of its line to behind its last bracket
}

// Outline returns all keys and headers of a text in their order. The error says that
// it is not TOML.
func Outline(text []byte) ([]Entry, []Header, error) {
	l, err := read(text)
	if err != nil {
		return nil, nil, err
	}
	entries := make([]Entry, len(l.entries))
	for i, e := range l.entries {
		entries[i] = Entry{e.path, e.whole.start, e.whole.end, e.value.start, e.value.end, e.inline}
	}
	var headers []Header
	for _, s := range l.sections[1:] { // the first has none
		headers = append(headers, Header{s.path, s.from, s.from + headerLength(text[s.from:])})
	}
	return entries, headers, nil
}

// headerLength is where a header ends that begins on this line: a quoted name may
// hold brackets and signs of a comment.
func headerLength(line []byte) int {
	quote, depth := byte(0), 0
	for i, c := range line {
		switch {
		case quote == '"' && c == '"' && line[i-1] != '\\', quote == '\'' && c == '\'':
			quote = 0
		case quote != 0:
		case c == '"' || c == '\'':
			quote = c
		case c == '[':
			depth++
		case c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(line)
}
