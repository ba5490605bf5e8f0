package fakebluez

import (
	"io"
	"slices"
	"sync"
)

// The Nordic UART Service.
const (
	UARTService = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
	uartIn      = "6e400002-b5a3-f393-e0a9-e50e24dcca9e" // is written to by the central
	uartOut     = "6e400003-b5a3-f393-e0a9-e50e24dcca9e" // is notified
)

// UART is a device with the Nordic UART Service, and its end of that: what is written to
// it is notified, in pieces, and what the central writes can be read. It is there
// before and after connections; what is written while nobody listens is lost, as in the
// air. Safe for concurrent use.
type UART struct {
	*Device

	mu     sync.Mutex
	news   sync.Cond
	unread []byte // guarded by mu, like closed
	closed bool
}

// NewUART makes a device, which is to be added. Its input has these flags:
// "write-without-response" or "write".
func NewUART(address string, mtu int, flags ...string) *UART {
	u := &UART{}
	u.news.L = &u.mu
	u.Device = &Device{Address: address, MTU: mtu, Heard: u.heard, Services: []Service{{UUID: UARTService, Characteristics: []*Characteristic{
		{UUID: uartIn, Flags: flags},
		{UUID: uartOut, Flags: []string{"notify"}},
	}}}}
	return u
}

func (u *UART) heard(w Written) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unread = append(u.unread, w.Value...)
	u.news.Broadcast()
}

// Read waits for what the central writes. The error is io.EOF, after Close.
func (u *UART) Read(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.unread) == 0 && !u.closed {
		u.news.Wait()
	}
	if len(u.unread) == 0 {
		return 0, io.EOF
	}
	n := copy(b, u.unread)
	u.unread = slices.Delete(u.unread, 0, n)
	return n, nil
}

// Write notifies.
func (u *UART) Write(b []byte) (int, error) {
	out := u.Services[0].Characteristics[1].UUID
	for piece := range slices.Chunk(b, u.MTU-3) {
		u.Set(out, slices.Clone(piece))
	}
	return len(b), nil
}

// Close ends reading.
func (u *UART) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	u.news.Broadcast()
	return nil
}

// Listened says whether a central listens.
func (u *UART) Listened() bool {
	u.z.mu.Lock()
	defer u.z.mu.Unlock()
	for _, c := range u.Services[0].Characteristics {
		if c.notifying {
			return true
		}
	}
	return false
}
