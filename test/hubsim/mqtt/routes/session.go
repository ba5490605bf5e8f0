package routes

// session is what outlives a connection with clean session 0 (section 2.7). It
// belongs to the identity's one connection at a time, and there to the reading
// goroutine, except for what says otherwise.
type session struct {
	generation string          // of the registration it is for
	granted    map[string]byte // QoS by filter

	// sent is the sequence number of the command that was last sent with a
	// packet id. It belongs to the goroutine that sends commands.
	sent map[uint16]uint64
}

func newSession(generation string) *session {
	return &session{generation: generation, granted: make(map[string]byte), sent: make(map[uint16]uint64)}
}

// packetID is the packet id of a command: the same on every connection of the
// session, and different for all commands that a queue can hold at a time.
func packetID(sequence uint64) uint16 { return uint16(sequence%(1<<16-1)) + 1 }

// again notes that a command is sent, and says whether it was before.
func (s *session) again(sequence uint64) bool {
	id := packetID(sequence)
	again := s.sent[id] == sequence // sequence numbers begin at 1
	s.sent[id] = sequence
	return again
}
