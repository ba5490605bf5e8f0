// Package meter is a simulated Modbus RTU bus: slaves on a pseudo-terminal, whose
// other end the gateway opens as if it were an RS-485 port. It shares no code with
// the gateway's master, and mbpoll has been its judge; its faults are switches.
package meter

import (
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Slave is one device on the bus, to be changed only within Bus.Do.
type Slave struct {
	Holding, Input   []uint16 // from address 0
	Coils, Discretes []bool

	Dead      bool            // answers nothing
	Delay     time.Duration   // before each answer
	Late      []time.Duration // before the next answers instead
	Garble    int             // so many next answers have a wrong checksum
	Cut       int             // so many next answers lose their second half
	Refuse    byte            // exception for every request, 0 for none
	Ignores   byte            // function to which it gives no answer, 0 for none
	Refuses   map[byte]byte   // exceptions by function
	Stuck     bool            // writes are acknowledged and change nothing
	OnlyMany  bool            // knows no function for a single value
	MaxSpan   int             // registers it gives at once, 0 for all that the protocol allows
	Forbidden []uint16        // addresses that do not exist, also within larger reads

	// Counts has the 32 bits of input registers 0 and 1, high word first, go up by
	// one with each request that reads them: no two readings are equal.
	Counts bool

	Asked int // requests so far, dead or not
}

// Bus is the line with its slaves.
type Bus struct {
	Link string // where to put the symbolic link to the port

	mu      sync.Mutex
	slaves  map[byte]*Slave
	noise   []byte // before each answer
	echo    bool
	far     *os.File
	port    *os.File // keeps the gateway's end open, so that the line stays when the gateway goes
	running sync.WaitGroup
}

// Start makes a bus with slaves and the link to its port.
func Start(link string, slaves map[byte]*Slave) (*Bus, error) {
	b := &Bus{Link: link, slaves: maps.Clone(slaves)}
	return b, b.Plug()
}

// Plug makes a pseudo-terminal and has the link lead to it: the adapter is there
// again, under whatever name.
func (b *Bus) Plug() error {
	far, port, err := pty.Open()
	if err != nil {
		return err
	}
	err = errors.Join(control(far, func(fd int) error { return unix.SetNonblock(fd, true) }), control(port, setRaw))
	if err == nil {
		if err = os.Remove(b.Link); err == nil || errors.Is(err, os.ErrNotExist) {
			err = os.Symlink(port.Name(), b.Link)
		}
	}
	if err != nil {
		return errors.Join(err, far.Close(), port.Close())
	}
	b.mu.Lock()
	b.far, b.port = far, port
	b.mu.Unlock()
	b.running.Go(func() { b.serve(far) })
	return nil
}

// Unplug takes the adapter away, in the middle of whatever is on the line.
func (b *Bus) Unplug() {
	b.mu.Lock()
	far, port := b.far, b.port
	b.far, b.port = nil, nil
	b.mu.Unlock()
	if far == nil {
		return
	}
	// Errors do not matter: the terminal is gone either way.
	_ = os.Remove(b.Link)
	_ = port.Close()
	_ = far.Close()
	b.running.Wait()
}

// Restart lets the port be opened again after a gateway that was killed, as a real
// one can be: its exclusive use (ioctl_tty(2), TIOCEXCL) ends with the last program
// that has it open, and that is this one.
func (b *Bus) Restart() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.port == nil {
		return os.ErrClosed
	}
	return control(b.port, func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCNXCL, 0) })
}

// Close ends the bus.
func (b *Bus) Close() { b.Unplug() }

// Do lets f look at the slave and change it, between two requests.
func (b *Bus) Do(unit byte, f func(*Slave)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b.slaves[unit])
}

// Noise is put on the line before each answer from now on.
func (b *Bus) Noise(noise []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noise = noise
}

// Echo has the adapter hear from now on what it sends itself.
func (b *Bus) Echo() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.echo = true
}

// Babble puts bytes on the line at once.
func (b *Bus) Babble(noise []byte) error {
	b.mu.Lock()
	far := b.far
	b.mu.Unlock()
	if far == nil {
		return os.ErrClosed
	}
	_, err := far.Write(noise)
	return err
}

// gap is the silence that ends a request which is not whole.
const gap = 50 * time.Millisecond

func (b *Bus) serve(line *os.File) {
	var request []byte
	buf := make([]byte, 512)
	for {
		deadline := time.Time{}
		if len(request) > 0 {
			deadline = time.Now().Add(gap)
		}
		if line.SetReadDeadline(deadline) != nil {
			return
		}
		n, err := line.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			request = request[:0]
			continue
		}
		if err != nil {
			return
		}
		b.mu.Lock()
		echo := b.echo
		b.mu.Unlock()
		if echo {
			_, _ = line.Write(buf[:n])
		}
		request = append(request, buf[:n]...)
		if size := length(request); size > 0 && len(request) >= size {
			b.answer(line, request[:size])
			request = request[:0]
		}
	}
}

// length is that of the request that begins so, 0 while it cannot be told.
func length(b []byte) int {
	if len(b) < 8 {
		return 0
	}
	if b[1] == 15 || b[1] == 16 {
		return 9 + int(b[6])
	}
	return 8
}

func (b *Bus) answer(line *os.File, request []byte) {
	n := len(request)
	if sum := crc(request[:n-2]); request[n-2] != byte(sum) || request[n-1] != byte(sum>>8) {
		return
	}
	b.mu.Lock()
	if request[0] == 0 {
		for _, unit := range slices.Sorted(maps.Keys(b.slaves)) {
			if s := b.slaves[unit]; !s.Dead {
				s.do(request[1 : n-2])
			}
		}
		b.mu.Unlock()
		return
	}
	s := b.slaves[request[0]]
	if s == nil {
		b.mu.Unlock()
		return
	}
	s.Asked++
	if s.Dead || s.Ignores == request[1] {
		b.mu.Unlock()
		return
	}
	pdu := s.do(request[1 : n-2])
	frame := append(append(slices.Clone(b.noise), request[0]), pdu...)
	sum := crc(frame[len(b.noise):])
	if s.Garble > 0 {
		s.Garble--
		sum ^= 0x0100
	}
	frame = append(frame, byte(sum), byte(sum>>8))
	if s.Cut > 0 {
		s.Cut--
		frame = frame[:len(frame)/2]
	}
	delay := s.Delay
	if len(s.Late) > 0 {
		delay, s.Late = s.Late[0], s.Late[1:]
	}
	b.mu.Unlock()
	time.Sleep(delay)
	_, _ = line.Write(frame) // a line that is gone is noticed by reading
}

// do carries out a request without its address, and returns the answer.
func (s *Slave) do(q []byte) []byte {
	if s.Refuse != 0 {
		return []byte{q[0] | 0x80, s.Refuse}
	}
	if e := s.Refuses[q[0]]; e != 0 {
		return []byte{q[0] | 0x80, e}
	}
	at, count := int(q[1])<<8|int(q[2]), int(q[3])<<8|int(q[4])
	switch q[0] {
	case 1, 2:
		table := s.Coils
		if q[0] == 2 {
			table = s.Discretes
		}
		if s.bad(at, count, len(table)) {
			return []byte{q[0] | 0x80, 2}
		}
		bits := make([]byte, (count+7)/8)
		for i, on := range table[at : at+count] {
			if on {
				bits[i/8] |= 1 << (i % 8)
			}
		}
		return append([]byte{q[0], byte(len(bits))}, bits...)
	case 3, 4:
		table := s.Holding
		if q[0] == 4 {
			table = s.Input
		}
		if s.bad(at, count, len(table)) {
			return []byte{q[0] | 0x80, 2}
		}
		if s.Counts && q[0] == 4 && at == 0 {
			s.count()
		}
		out := []byte{q[0], byte(2 * count)}
		for _, v := range table[at : at+count] {
			out = append(out, byte(v>>8), byte(v))
		}
		return out
	}
	return s.write(q, at, count)
}

func (s *Slave) count() {
	if s.Input[1]++; s.Input[1] == 0 {
		s.Input[0]++
	}
}

func (s *Slave) write(q []byte, at, count int) []byte {
	single := q[0] == 5 || q[0] == 6
	if single && s.OnlyMany || q[0] != 5 && q[0] != 6 && q[0] != 15 && q[0] != 16 {
		return []byte{q[0] | 0x80, 1}
	}
	if single {
		count = 1
	}
	size := len(s.Holding)
	if q[0] == 5 || q[0] == 15 {
		size = len(s.Coils)
	}
	if s.bad(at, count, size) {
		return []byte{q[0] | 0x80, 2}
	}
	for i := 0; i < count && !s.Stuck; i++ {
		switch q[0] {
		case 5:
			s.Coils[at] = q[3] == 0xFF
		case 6:
			s.Holding[at] = uint16(q[3])<<8 | uint16(q[4])
		case 15:
			s.Coils[at+i] = q[6+i/8]>>(i%8)&1 != 0
		case 16:
			s.Holding[at+i] = uint16(q[6+2*i])<<8 | uint16(q[7+2*i])
		}
	}
	return slices.Clone(q[:5])
}

func (s *Slave) bad(at, count, size int) bool {
	return count < 1 || at+count > size || s.MaxSpan > 0 && count > s.MaxSpan ||
		slices.ContainsFunc(s.Forbidden, func(a uint16) bool { return int(a) >= at && int(a) < at+count })
}

// crc is CRC-16/MODBUS, low byte to be sent first (MODBUS over Serial Line V1.02,
// appendix B).
func crc(b []byte) (sum uint16) {
	sum = 0xFFFF
	for _, x := range b {
		sum ^= uint16(x)
		for range 8 {
			if sum&1 != 0 {
				sum = sum>>1 ^ 0xA001
			} else {
				sum >>= 1
			}
		}
	}
	return sum
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

// setRaw switches off what a terminal does beyond passing on bytes (termios(3)).
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
