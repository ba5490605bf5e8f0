package master

import (
	"errors"
	"os"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
)

// Why there is no answer. Both leave the bus fit for the next request.
var (
	errSilent  = errors.New("no answer")
	errGarbled = errors.New("no answer that could be understood")
)

// errHung says that the port takes nothing any more.
var errHung = errors.New("the port does not take what is to be sent")

// writeLimit is how long the port may take to take a frame: far longer than 256
// characters at 300 baud.
const writeLimit = 15 * time.Second

// resync is the silence after which a bus that was garbled is taken to be at
// rest. A program cannot measure the 3.5 characters of the specification: under
// load it sees gaps of several milliseconds where there are none.
const resync = 20 * time.Millisecond

// bus is one opening of the port. It is used by one goroutine.
type bus struct {
	port *port.Port
	cfg  *Config
	free time.Time // when the bus has been silent for long enough to send
	buf  []byte
	// stray counts bytes that belonged to no answer.
	stray func(n int)
}

func newBus(p *port.Port, cfg *Config, stray func(int)) *bus {
	return &bus{port: p, cfg: cfg, buf: make([]byte, 0, 2*modbus.MaxFrame), stray: stray}
}

// silence is the shortest time between frames (MODBUS over Serial Line V1.02,
// section 2.5.1.1): 3.5 characters, above 19200 baud 1.75 ms.
func (b *bus) silence() time.Duration {
	if b.cfg.Baud > 19200 {
		return 1750 * time.Microsecond
	}
	return b.cfg.Time(3.5)
}

// ask sends a request and returns the answer. The error is a modbus.Exception,
// errSilent or errGarbled, or else that of a port that is lost.
func (b *bus) ask(q *modbus.Request, timeout time.Duration) (*modbus.Answer, error) {
	if wait := time.Until(b.free); wait > 0 {
		time.Sleep(wait)
	}
	b.port.Flush()
	frame := q.Frame()
	if _, err := b.port.Write(frame, writeLimit); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errHung
		}
		return nil, err
	}
	onTheLine := b.cfg.Time(float64(len(frame)))
	if !q.Answered() {
		b.free = time.Now().Add(onTheLine + b.cfg.TurnAround.D())
		return new(modbus.Answer), nil
	}
	a, err := b.listen(q, frame, time.Now().Add(timeout+onTheLine+b.cfg.Time(float64(q.AnswerSize()))))
	b.free = time.Now().Add(b.silence())
	return a, err
}

// listen reads until there is an answer to q or its time is over. What comes
// before the answer (the end of a late one, a byte that a transceiver made of
// its own switching) is passed over.
func (b *bus) listen(q *modbus.Request, frame []byte, until time.Time) (*modbus.Answer, error) {
	b.buf = b.buf[:0]
	echo := 0
	if b.cfg.Echo {
		echo = len(frame)
	}
	for {
		if err := b.port.SetReadDeadline(until); err != nil {
			return nil, err
		}
		n, err := b.port.Read(b.buf[len(b.buf):cap(b.buf)])
		b.buf = b.buf[:len(b.buf)+n]
		heard := b.buf[min(echo, len(b.buf)):]
		if a, skipped, err := find(q, heard); !errors.Is(err, modbus.ErrShort) {
			if skipped > 0 {
				b.stray(skipped)
			}
			return a, err
		}
		full := len(b.buf) == cap(b.buf)
		switch {
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case err == nil && !full:
			continue
		case len(heard) == 0:
			return nil, errSilent
		}
		b.stray(len(heard))
		if err := b.settle(); err != nil {
			return nil, err
		}
		return nil, errGarbled
	}
}

// find looks for the answer to q, at the first place at which there is one.
// skipped is what stands before it. The error is that of the answer, or ErrShort
// while there is none.
func find(q *modbus.Request, heard []byte) (a *modbus.Answer, skipped int, err error) {
	for i := range heard {
		if heard[i] != q.Unit { // at once: noise at full rate is not worth a checksum at each byte
			continue
		}
		a, err := q.Parse(heard[i:])
		if err == nil {
			return a, i, nil
		}
		if e, refused := errors.AsType[modbus.Exception](err); refused {
			return nil, i, e
		}
	}
	return nil, 0, modbus.ErrShort
}

// settle reads until the bus is silent; a bus on which somebody never stops is
// used again after half a second.
func (b *bus) settle() error {
	rest := make([]byte, modbus.MaxFrame)
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		if err := b.port.SetReadDeadline(time.Now().Add(max(resync, b.silence()))); err != nil {
			return err
		}
		n, err := b.port.Read(rest)
		if n > 0 {
			b.stray(n)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isSilence says that the slave has not answered.
func isSilence(err error) bool {
	return errors.Is(err, errSilent) || errors.Is(err, errGarbled)
}
