package serial

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	bugst "go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// errBusy says that another program, or another driver of this one, has the port.
var errBusy = errors.New("port is in use by another program")

// errGone says that the device behind an open port is no longer there.
var errGone = errors.New("port is gone: unplugged, or the other end has closed it")

// port is an open serial port. The device is opened twice:
//
//   - lib, by the serial library, sets speed, parity and raw mode and keeps
//     ordinary users from opening the device again (TIOCEXCL);
//   - file, our own, holds the lock that also keeps root out, and carries the
//     bytes. The library's Read works on select(2), which cannot take
//     descriptors from 1024 on, and its Write has no time limit and is not ended
//     by Close. Reads and writes on file obey deadlines, and end when it is
//     closed.
type port struct {
	file   *os.File
	lib    bugst.Port
	device string // the path with links resolved
}

// openPort opens and locks the device to which path leads now.
func openPort(path string, mode *bugst.Mode) (*port, error) {
	device, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("cannot find port: %w", err)
	}
	if info, err := os.Stat(device); err == nil && info.Mode()&os.ModeCharDevice == 0 {
		return nil, fmt.Errorf("%s is not a serial port", device)
	}
	file, err := openLocked(device)
	if err != nil {
		return nil, err
	}
	lib, err := bugst.Open(device, mode)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot set up port: %w", asBusy(err))
	}
	return &port{file: file, lib: lib, device: device}, nil
}

// openLocked opens the device without waiting for a carrier and without making
// it our terminal, and takes the lock. The lock ends with the file.
func openLocked(device string) (*os.File, error) {
	file, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open port: %w", asBusy(err))
	}
	raw, err := file.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(fd uintptr) {
			if _, e := unix.IoctlGetTermios(int(fd), unix.TCGETS); e != nil {
				failed = fmt.Errorf("%s is not a serial port", device)
				return
			}
			failed = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB)
		})
		err = errors.Join(err, failed)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot lock port: %w", asBusy(err))
	}
	return file, nil
}

// asBusy replaces the ways in which the system and the library say that a port
// is in use.
func asBusy(err error) error {
	portErr, ok := errors.AsType[*bugst.PortError](err)
	if ok && portErr.Code() == bugst.PortBusy || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EWOULDBLOCK) {
		return errBusy
	}
	return err
}

// read returns at least one byte or an error: errGone, os.ErrDeadlineExceeded, or
// os.ErrClosed after close.
func (p *port) read(b []byte) (int, error) {
	n, err := p.file.Read(b)
	if n > 0 {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) || errors.Is(err, unix.ENXIO) {
		err = errGone
	}
	return 0, err
}

// write writes all of text, waiting at most that long for the other end.
func (p *port) write(text string, limit time.Duration) (int, error) {
	if err := p.file.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return 0, err
	}
	return p.file.WriteString(text)
}

// close ends reads and writes that are waiting. Safe for concurrent use with
// them. Closing a device that was unplugged may fail and is done with then, too:
// there is nothing that one could do about it.
func (p *port) close() {
	_ = p.lib.Close()
	_ = p.file.Close()
}
