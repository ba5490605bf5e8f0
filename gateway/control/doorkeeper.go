package control

import (
	"net"
	"sync"
)

// Bounds of open connections. Anybody on the machine may call, and must not use up
// the open files that leaves need, nor may one operator keep out the others.
const (
	maxVisits    = 256 // of one user who may do something
	maxStrangers = 16  // of all who may not: they are only told so
)

// doorkeeper lets in no more than that.
type doorkeeper struct {
	net.Listener

	mu     sync.Mutex
	inside map[string]int // connections by user, guarded by mu; "" are strangers
}

// visitor is a connection whose other end is known.
type visitor struct {
	net.Conn
	peer  peer
	leave func()
}

// Accept closes at once who is one too many.
func (d *doorkeeper) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		a, who := peerAccess(c)
		user, most := who, maxVisits
		if a == nothing {
			user, most = "", maxStrangers
		}
		if d.enter(user, most) {
			return &visitor{c, peer{a, who}, sync.OnceFunc(func() { d.leave(user) })}, nil
		}
		c.Close()
	}
}

func (d *doorkeeper) enter(user string, most int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside[user] >= most {
		return false
	}
	d.inside[user]++
	return true
}

func (d *doorkeeper) leave(user string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside[user]--; d.inside[user] == 0 {
		delete(d.inside, user)
	}
}

// Close ends the visit.
func (v *visitor) Close() error {
	v.leave()
	return v.Conn.Close()
}
