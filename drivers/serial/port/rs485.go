package port

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// From linux/serial.h.
const (
	tiocSRS485        = 0x542F // TIOCSRS485
	rs485Enabled      = 1 << 0
	rs485RTSOnSend    = 1 << 1
	rs485RTSAfterSend = 1 << 2
)

// errNoRS485 says that the port's driver cannot switch the direction.
var errNoRS485 = errors.New("the port cannot switch the direction of RS-485: leave rs485 out if the adapter does so by itself, as USB ones do")

// setRS485 has the driver switch the direction, if that is wanted. The setting
// belongs to the port, not to the descriptor.
func setRS485(fd int, c *Config) error {
	if !c.RS485 {
		return nil
	}
	err := unix.IoctlSetTermios(fd, tiocSRS485, c.rs485())
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return errNoRS485
	}
	if err != nil {
		return fmt.Errorf("cannot set up RS-485: %w", err)
	}
	return nil
}

// rs485 is the struct serial_rs485 of linux/serial.h: flags, the delays before
// and after sending in milliseconds, each of 32 bits, and 20 bytes that are zero.
// A Termios begins with four words of 32 bits and is longer, so that it can stand
// for it without package unsafe; the kernel reads, and writes back, 32 bytes.
func (c *Config) rs485() *unix.Termios {
	flags := uint32(rs485Enabled | rs485RTSOnSend)
	if c.RS485Invert {
		flags = rs485Enabled | rs485RTSAfterSend
	}
	return &unix.Termios{
		Iflag: flags,
		Oflag: uint32(c.RS485Before.D() / time.Millisecond),
		Cflag: uint32(c.RS485After.D() / time.Millisecond),
	}
}
