package amqp

import (
	"encoding/binary"
	"net"
	"runtime"
	"sync"
	"time"
)

// guard stands between go-amqp and the stream to the hub, and keeps three things
// from costing more than they must.
//
// It closes the whole connection when one direction of it has failed. go-amqp
// waits for its writer before it reports what its reader saw; on a line that was
// cut silently the writer would hang in a full socket long after the reader has
// noticed.
//
// It keeps the frames of a channel in order. When the hub ends a session, go-amqp
// gives the channel to the next session at once, and answers the END a moment
// later: the BEGIN of the next session may go out before that answer. The hub
// calls that a framing error, and closes the connection under all leaves.
//
// It writes together what is there together: go-amqp writes frame by frame, and a
// frame of its own in TLS and in the kernel is most of what a message of a leaf
// that says little costs.
type guard struct {
	net.Conn               // the stream to the hub
	abort    func()        // closes the socket below it; never waits
	patience time.Duration // how long one write may take

	// Channels that go-amqp has begun and not ended. The frame is the BEGIN that
	// waits for the END of the session before it, nil for none. Only the one
	// goroutine that writes touches it.
	begun map[uint16][]byte

	more  chan struct{} // capacity 1: there is something to write, or closing
	ended chan struct{} // closed when nothing is written any more

	mu      sync.Mutex // guards the following
	room    sync.Cond  // unsent has been taken, or err is set
	unsent  []byte     // whole frames
	err     error      // why nothing can be written any more
	closing bool
}

// maxUnsent is how much waits to be written, besides what is being written: one
// more frame, which has at most as much again, is let in below it.
const maxUnsent = 64 << 10

// newGuard starts a goroutine, which Close ends.
func newGuard(stream net.Conn, abort func(), patience time.Duration) *guard {
	g := &guard{
		Conn: stream, abort: abort, patience: patience, begun: make(map[uint16][]byte),
		more: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	g.room.L = &g.mu
	go g.flush()
	return g
}

// Read reads what the hub says.
func (g *guard) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if err != nil {
		g.abort()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.err != nil {
			err = g.err // that was first
		}
	}
	return n, err
}

// SetDeadline is for reading only: each write has its own.
func (g *guard) SetDeadline(t time.Time) error { return g.Conn.SetReadDeadline(t) }

// SetWriteDeadline does nothing.
func (g *guard) SetWriteDeadline(time.Time) error { return nil }

// Write takes one frame, as go-amqp writes them. It is on its way, not sent, when
// Write returns: a failure shows in the next one, and ends the connection.
func (g *guard) Write(frame []byte) (int, error) {
	channel, code := frameOf(frame)
	waiting, begun := g.begun[channel]
	switch code {
	case performativeBegin:
		if begun {
			g.begun[channel] = append([]byte(nil), frame...)
			return len(frame), nil
		}
		g.begun[channel] = nil
	case performativeEnd:
		if waiting == nil {
			delete(g.begun, channel)
			break
		}
		g.begun[channel] = nil
		return len(frame), g.put(frame, waiting)
	}
	return len(frame), g.put(frame)
}

// put adds frames to what is unsent, when there is room.
func (g *guard) put(frames ...[]byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.unsent) >= maxUnsent && g.err == nil {
		g.room.Wait()
	}
	if g.err != nil {
		return g.err
	}
	for _, f := range frames {
		g.unsent = append(g.unsent, f...)
	}
	g.wake()
	return nil
}

func (g *guard) wake() {
	select {
	case g.more <- struct{}{}:
	default:
	}
}

// flush writes what is unsent until the guard is closed or a write fails. It lets
// others go first that have something to add: what can run now is not waited for.
func (g *guard) flush() {
	defer close(g.ended)
	var b []byte
	for {
		<-g.more
		runtime.Gosched()
		g.mu.Lock()
		b, g.unsent = g.unsent, b[:0]
		closing := g.closing
		g.room.Signal()
		g.mu.Unlock()
		if err := g.write(b); err != nil {
			g.mu.Lock()
			g.err = err
			g.room.Signal()
			g.mu.Unlock()
			g.abort()
			return
		}
		if closing {
			return
		}
	}
}

func (g *guard) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if err := g.Conn.SetWriteDeadline(time.Now().Add(g.patience)); err != nil {
		return err
	}
	_, err := g.Conn.Write(b)
	return err
}

// Close writes what is unsent, and closes the stream.
func (g *guard) Close() error {
	g.mu.Lock()
	g.closing = true
	g.wake()
	g.mu.Unlock()
	<-g.ended
	return g.Conn.Close()
}

// What a session begins and ends with: codes of performatives (AMQP 1.0, part 2,
// sections 2.7.2 and 2.7.6).
const (
	performativeBegin = 0x11
	performativeEnd   = 0x17
)

// frameOf returns the channel of an AMQP frame and the code of its performative;
// the code is 0 for anything else that is written (AMQP 1.0, part 2, section
// 2.3: size, offset of the body in words, type 0, channel; then a described type
// whose descriptor is a small number).
func frameOf(b []byte) (channel uint16, code byte) {
	if len(b) < 8 || uint64(binary.BigEndian.Uint32(b)) != uint64(len(b)) || b[5] != 0 {
		return 0, 0
	}
	body := 4 * int(b[4])
	if len(b) < body+3 || b[body] != 0x00 || b[body+1] != 0x53 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(b[6:]), b[body+2]
}
