package control

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A thousand connections that say nothing, or half of something, cost a bounded
// number of open files; when they have gone the daemon answers as before.
func TestAThousandConnections(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, socket)
	state(t, socket)
	const many = 1000
	all := make([]net.Conn, 0, many)
	for i := range many {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			_, _ = io.WriteString(c, "POST /v1/devices/pump-1/commands HTTP/1.1\r\nHost: x\r\nContent-Le")
		}
		all = append(all, c)
	}
	// Who is one too many reads the end, the others nothing: the last has surely
	// been looked at when its own end has come.
	if _, err := all[many-1].Read(make([]byte, 1)); err == nil {
		t.Error("the last one is served")
	}
	// A deadline that is over before the read has begun says nothing: then longer ones.
	open := all
	for wait := time.Millisecond; len(open) > maxVisits && wait < time.Second; wait *= 4 {
		open = slices.DeleteFunc(slices.Clone(open), func(c net.Conn) bool {
			_ = c.SetReadDeadline(time.Now().Add(wait))
			_, err := c.Read(make([]byte, 1))
			return !isTimeout(err)
		})
	}
	if len(open) > maxVisits {
		t.Errorf("%d connections are open, want %d at most", len(open), maxVisits)
	}
	for _, c := range all {
		c.Close()
	}
	for { // until those have left
		var n int
		if err := NewClient(socket).State(t.Context(), &n); err == nil {
			break
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// Strangers together have few places, and take none from others.
func TestStrangersHaveFewPlaces(t *testing.T) {
	d := &doorkeeper{inside: make(map[string]int)}
	for range maxStrangers {
		if !d.enter("", maxStrangers) {
			t.Fatal("kept out too early")
		}
	}
	if d.enter("", maxStrangers) {
		t.Error("one too many")
	}
	if !d.enter("user 7", maxVisits) {
		t.Error("an operator is kept out by strangers")
	}
	d.leave("user 7")
	d.leave("")
	if !d.enter("", maxStrangers) || len(d.inside) != 1 {
		t.Errorf("a place that was left is not free: %v", d.inside)
	}
}
