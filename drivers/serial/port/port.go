// Package port is a serial port, as all drivers of serial leaves use it: found
// by what it is rather than by the order of plugging, locked, set up, opened
// again after it was unplugged. What is said on it is the driver's business.
//
// A Keeper keeps one port open and calls the driver with each opening:
//
//  1. find.go finds the device that the configured name means now,
//  2. port.go opens and locks it, rs485.go has it switch the direction,
//  3. keeper.go calls the driver, which reads and writes until an error,
//  4. then it waits, woken by uevent.go when something is plugged in, and
//     begins anew.
package port

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	bugst "go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// ErrBusy says that another program, or another driver of this one, has the port.
var ErrBusy = errors.New("port is in use by another program")

// ErrGone says that the device behind an open port is no longer there.
var ErrGone = errors.New("port is gone: unplugged, or the other end has closed it")

// drainLimit is how long a port that is being closed may take to send what was
// written. The kernel would wait for 30 s when the other end holds it up (Linux,
// tty_port_close_start), and whoever closes with it.
const drainLimit = 500 * time.Millisecond

// Port is an open serial port. One goroutine may read while another writes, and
// any may close. The device is opened three times:
//
//   - lib, by the serial library, sets speed, parity and raw mode and keeps
//     ordinary users from opening the device again (TIOCEXCL);
//   - file, our own, holds the lock that also keeps root out, and carries the
//     bytes. The library's Read works on select(2), which cannot take
//     descriptors from 1024 on, and its Write has no time limit and is not ended
//     by Close. Reads and writes on file obey deadlines, and end when it is
//     closed;
//   - hold is a duplicate of file for what is to be done when that is closed.
type Port struct {
	file   *os.File
	lib    io.Closer
	hold   int
	device string // the path with links resolved
	unread []byte // comes before what the device holds; of whoever reads

	closing sync.Once
	closed  chan struct{} // all descriptors are
}

// Open finds, opens and locks the port, whose configuration must be valid.
func Open(c *Config) (*Port, error) {
	device, err := system.find(c.Port)
	if err != nil {
		return nil, fmt.Errorf("cannot find port: %w", err)
	}
	if info, err := os.Stat(device); err == nil && info.Mode()&os.ModeCharDevice == 0 {
		return nil, fmt.Errorf("%s is not a serial port", device)
	}
	file, hold, err := openLocked(device)
	if err != nil {
		return nil, err
	}
	p := &Port{file: file, hold: hold, device: device, closed: make(chan struct{})}
	lib, err := bugst.Open(device, c.mode())
	if err != nil {
		err = fmt.Errorf("cannot set up port: %w", asBusy(err))
	} else {
		p.lib = lib
		err = setRS485(hold, c)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// openLocked opens the device without waiting for a carrier and without making
// it our terminal, and takes the lock. The lock ends with the file.
func openLocked(device string) (file *os.File, hold int, err error) {
	file, err = os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("cannot open port: %w", asBusy(err))
	}
	raw, err := file.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(fd uintptr) {
			if _, e := unix.IoctlGetTermios(int(fd), unix.TCGETS); e != nil {
				failed = fmt.Errorf("%s is not a serial port", device)
				return
			}
			if failed = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB); failed == nil {
				hold, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
			}
		})
		err = errors.Join(err, failed)
	}
	if err != nil {
		file.Close()
		return nil, -1, fmt.Errorf("cannot lock port: %w", asBusy(err))
	}
	return file, hold, nil
}

// asBusy replaces the ways in which the system and the library say that a port
// is in use.
func asBusy(err error) error {
	portErr, ok := errors.AsType[*bugst.PortError](err)
	if ok && portErr.Code() == bugst.PortBusy || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	return err
}

// Device is the path of the device, with links resolved.
func (p *Port) Device() string { return p.device }

// SetReadDeadline ends reads at a time, also one that waits; zero: never.
func (p *Port) SetReadDeadline(t time.Time) error { return p.file.SetReadDeadline(t) }

// Read returns at least one byte or an error: ErrGone, os.ErrDeadlineExceeded, or
// os.ErrClosed after Close.
func (p *Port) Read(b []byte) (int, error) {
	if len(p.unread) > 0 {
		n := copy(b, p.unread)
		p.unread = p.unread[n:]
		return n, nil
	}
	n, err := p.file.Read(b)
	if n > 0 {
		return n, nil
	}
	return 0, asGone(err)
}

// Unread gives back what Read has returned last: the next Read begins with it. b is
// copied. It is called by whoever reads.
func (p *Port) Unread(b []byte) { p.unread = append(bytes.Clone(b), p.unread...) }

// Write writes all of b, waiting at most that long for the other end, and returns
// how much it has written. The bytes may still be on their way in the device
// then. The errors are those of Read.
func (p *Port) Write(b []byte, limit time.Duration) (int, error) {
	if err := p.file.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return 0, err
	}
	n, err := p.file.Write(b)
	if err != nil {
		err = asGone(err)
	}
	return n, err
}

func asGone(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return ErrGone
	}
	return err
}

// Flush throws away what has come and was not read.
func (p *Port) Flush() {
	raw, err := p.file.SyscallConn()
	if err == nil {
		// Of a port that is gone nothing is left to be thrown away.
		_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIFLUSH) })
	}
}

// Close ends reads and writes that are waiting, and does not wait itself: the
// kernel may hold up whoever closes a port. Closing a device that was unplugged
// may fail and is done with then, too: there is nothing that one could do
// about it.
func (p *Port) Close() {
	p.closing.Do(func() {
		_ = p.file.Close() // not the last descriptor, so that the kernel does not wait here
		go p.giveBack()
	})
}

// giveBack closes the descriptors that are left. What was written has a short
// time to leave; then it is thrown away, so that closing does not wait for it.
func (p *Port) giveBack() {
	defer close(p.closed)
	for end := time.Now().Add(drainLimit); time.Now().Before(end); time.Sleep(drainLimit / 50) {
		if left, err := unix.IoctlGetInt(p.hold, unix.TIOCOUTQ); err != nil || left == 0 {
			break
		}
	}
	_ = unix.IoctlSetInt(p.hold, unix.TCFLSH, unix.TCOFLUSH)
	if p.lib != nil {
		_ = p.lib.Close()
	}
	_ = unix.Close(p.hold)
}
