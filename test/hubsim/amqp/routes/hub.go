// Package routes gives the addresses of the hub their meaning over AMQP: the
// token node $cbs, the devices' telemetry, and the reading of events with its
// management node (wire contract, sections 1.8, 3.2, 3.5 and 5.9).
package routes

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Hub is what all connections share. It is safe for concurrent use.
type Hub struct {
	Registry *registry.Registry
	Events   *events.Log
	Faults   *Faults
	Name     string    // the hub's host name
	Created  time.Time // told to readers of events
	Log      *slog.Logger

	numbers atomic.Uint64 // connections ever
	mu      sync.Mutex    // guards open and readers
	open    map[*connection]struct{}
	readers map[readerKey]*readers
}

// Stats counts what is there now, and what ever was.
type Stats struct {
	ConnectionsOpen int    `json:"connections_open"`
	ConnectionsEver uint64 `json:"connections_ever"`
	Identities      int    `json:"identities"` // with a good token on an open connection
	Links           int    `json:"links"`      // on open connections, $cbs included
}

// Stats returns the counts.
func (h *Hub) Stats() Stats {
	s := Stats{ConnectionsEver: h.numbers.Load()}
	for _, c := range h.connections() {
		c.mu.Lock()
		s.ConnectionsOpen++
		s.Identities += len(c.tokens)
		s.Links += len(c.links)
		c.mu.Unlock()
	}
	return s
}

func (h *Hub) connections() []*connection {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.open))
}

// Close ends all connections in order, with e as the reason.
func (h *Hub) Close(e *amqp.Error) {
	for _, c := range h.connections() {
		c.conn.Close(e)
	}
}

// DetachLinks ends all links of the device with e, and returns how many.
func (h *Hub) DetachLinks(device string, e *amqp.Error) int {
	links := h.linksOf(device)
	for _, l := range links {
		l.Detach(e)
	}
	return len(links)
}

// EndSessions ends every session that has a link of the device, and returns how
// many links of the device that cost.
func (h *Hub) EndSessions(device string, e *amqp.Error) int {
	links := h.linksOf(device)
	for _, l := range links {
		l.EndSession(e)
	}
	return len(links)
}

func (h *Hub) linksOf(device string) []*server.Link {
	var list []*server.Link
	for _, c := range h.connections() {
		c.mu.Lock()
		for l, owner := range c.links {
			if owner.device == device {
				list = append(list, l)
			}
		}
		c.mu.Unlock()
	}
	return list
}

// Revoke takes the device's tokens away on all connections: its links end with
// amqp:unauthorized-access.
func (h *Hub) Revoke(device string, reason string) {
	for _, c := range h.connections() {
		c.revoke(deviceToken(device), reason)
	}
	h.DetachLinks(device, unauthorized(reason))
}

func deviceToken(device string) string { return "devices/" + device }

// Connect makes the routes of one connection; it fits server.Serve.
func (h *Hub) Connect(conn *server.Conn) server.Routes {
	c := &connection{
		hub:    h,
		conn:   conn,
		number: h.numbers.Add(1),
		tokens: make(map[string]*token),
		links:  make(map[*server.Link]owner),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == nil {
		h.open = make(map[*connection]struct{})
	}
	h.open[c] = struct{}{}
	return c
}
