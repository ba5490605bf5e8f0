package dial

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// network dials TCP so that the kernel ends a connection whose far side leaves what
// we sent unacknowledged, or has no room for it, for twice KeepAlive. A link can be
// cut one way only: then the hub shows itself all the time, so its silence does not
// tell, and it would be minutes until the missing settlements do (TCP_USER_TIMEOUT:
// tcp(7), RFC 5482). It is about the next TCP on the way: behind a proxy, about the
// proxy.
func (c *Config) network() *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, socket syscall.RawConn) error {
		var err error
		if outer := socket.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(2*c.KeepAlive.D()/time.Millisecond))
		}); outer != nil {
			return outer
		}
		return err
	}}
}
