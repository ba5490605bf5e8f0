package leafsim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Serial is a serial line: a pseudo-terminal whose far end the gateway opens as
// if it were a port. A line carries a JSON object with the leaf's number in
// "seq", and is answered by {"ack":seq}.
//
// Whatever the leaf's window, one line is under way at a time: bytes get lost on
// a serial line, and only a leaf that waits for each answer keeps its order
// then.
type Serial struct {
	Link string // where to put the symbolic link to the port

	mu   sync.Mutex
	leaf *os.File // the leaf's end, guarded by mu like what follows; nil until dialled
	// port keeps the gateway's end open, so that the line stays when the
	// gateway goes, as a UART does.
	port    *os.File
	current *serialConn // who gets the answers, nil for nobody
	reader  sync.WaitGroup
}

// answerTime is how long the leaf waits for an answer before it sends the line
// again. It is longer than a gateway takes to write to flash.
const answerTime = 2 * time.Second

// open makes the pseudo-terminal and the link to it.
func (s *Serial) open() (err error) {
	if s.leaf, s.port, err = openTerminal(s.Link); err != nil {
		return err
	}
	leaf := s.leaf
	s.reader.Go(func() { s.read(leaf) })
	return nil
}

// openTerminal makes a pseudo-terminal and a link to the gateway's end, which is
// the port.
func openTerminal(link string) (leaf, port *os.File, err error) {
	if leaf, port, err = pty.Open(); err != nil {
		return nil, nil, err
	}
	err = errors.Join(control(port, setRaw), control(leaf, setNonblock))
	if err == nil {
		// A link left by an earlier run leads nowhere.
		if err = os.Remove(link); err == nil || errors.Is(err, os.ErrNotExist) {
			err = os.Symlink(port.Name(), link)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, leaf.Close(), port.Close())
	}
	return leaf, port, nil
}

// control does something to a file's descriptor.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = do(int(fd)) })
	return errors.Join(err, failed)
}

// setNonblock undoes what the making of the pseudo-terminal has done to its
// end: only without blocking do deadlines work, and does closing end a read.
func setNonblock(fd int) error { return unix.SetNonblock(fd, true) }

// setRaw switches off everything that a terminal does beyond passing on bytes
// (termios(3), raw mode).
func setRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// endExclusive lets the port be opened again. A gateway that was killed has not
// given back its exclusive use (ioctl_tty(2), TIOCEXCL). A UART forgets it with
// the last program that closes the port; here that is the leaf.
func endExclusive(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCNXCL, 0) }

// read passes the gateway's answers to the present connection until the
// terminal is closed.
func (s *Serial) read(leaf *os.File) {
	lines := bufio.NewReader(leaf)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var answer struct {
			Ack uint64 `json:"ack"`
		}
		if json.Unmarshal(line, &answer) != nil || answer.Ack == 0 {
			continue // a refusal, or the rest of an answer
		}
		s.mu.Lock()
		c := s.current
		s.mu.Unlock()
		if c != nil {
			c.answered(answer.Ack)
		}
	}
}

// Noise writes bytes to the line that no leaf should send. The line must have
// been opened.
func (s *Serial) Noise(bytes []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaf == nil {
		return os.ErrClosed
	}
	return s.write(bytes)
}

// write waits for the gateway at most as long as for an answer.
func (s *Serial) write(bytes []byte) error {
	if err := s.leaf.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	_, err := s.leaf.Write(bytes)
	return err
}

func (*Serial) window(int) int { return 1 }

func (s *Serial) dial(_ context.Context, _ string, _ int) (conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaf == nil {
		if err := s.open(); err != nil {
			return nil, err
		}
	}
	if err := control(s.port, endExclusive); err != nil {
		return nil, err
	}
	s.current = &serialConn{line: s, out: make(chan *Message), lost: make(chan struct{}), ack: make(chan uint64, 1)}
	return s.current, nil
}

func (s *Serial) close() {
	s.mu.Lock()
	if s.leaf != nil {
		// Errors do not matter: the terminal is gone either way.
		_ = os.Remove(s.Link)
		_ = s.port.Close()
		_ = s.leaf.Close()
		s.leaf, s.current = nil, nil
	}
	s.mu.Unlock()
	s.reader.Wait()
}

// serialConn is the time until an answer stays out.
type serialConn struct {
	line    *Serial
	out     chan *Message // closed by wait when an answer stays out
	lost    chan struct{} // closed by close
	ack     chan uint64   // acknowledged numbers
	waiters sync.WaitGroup
}

// answered passes on an answer. It waits for the connection to have taken the
// one before.
func (c *serialConn) answered(n uint64) {
	select {
	case c.ack <- n:
	case <-c.lost:
	}
}

func (c *serialConn) send(_ context.Context, m *Message) error {
	line := append([]byte(`{"seq":`+strconv.FormatUint(m.N, 10)+","), m.Body[1:]...)
	c.line.mu.Lock()
	err := c.line.write(append(line, '\n'))
	c.line.mu.Unlock()
	if err != nil {
		return err
	}
	c.waiters.Go(func() { c.wait(m) })
	return nil
}

// wait waits for the answer to m. Answers to earlier copies of earlier messages
// may still be under way.
func (c *serialConn) wait(m *Message) {
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	for {
		select {
		case n := <-c.ack:
			if n != m.N {
				continue
			}
			select {
			case c.out <- m:
			case <-c.lost:
			}
			return
		case <-timer.C:
			close(c.out)
			return
		case <-c.lost:
			return
		}
	}
}

func (c *serialConn) acks() <-chan *Message { return c.out }

func (c *serialConn) close() {
	c.line.mu.Lock()
	c.line.current = nil
	c.line.mu.Unlock()
	close(c.lost)
	c.waiters.Wait()
}
