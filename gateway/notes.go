package gateway

// Notes is small memory on flash: one value for each name within a kind. It is
// for what is written seldom: sessions, twins, what a leaf has completed. The
// store has one. Safe for concurrent use.
type Notes interface {
	// Note returns a value that is the caller's, or nil if there is none.
	Note(kind, name string) ([]byte, error)

	// SetNotes writes values, and deletes where a value is nil; all or none of it
	// is on flash, synced, when it returns nil. The errors wrap ErrStoreFull or
	// ErrStoreFailed.
	SetNotes(kind string, values map[string][]byte) error

	// EachNote calls f for each note of a kind, in the order of their names. The
	// value is f's own. An error of f ends it and is returned.
	EachNote(kind string, f func(name string, value []byte) error) error
}
