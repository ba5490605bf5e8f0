// Package routes gives the addresses of the hub their meaning over AMQP: the
// token node $cbs; telemetry, commands, twins and methods of devices and their
// modules; the back end's sending of commands and its queues of notices; and
// the reading of events with its management node (wire contract, sections 1.7,
// 1.8, 3 and 5.8 to 5.10). Each kind of link has a file of its own.
//
// An identity shows itself by its links: it is connected from its first one on
// a connection to its last. What allows a link is a token that was put on the
// connection, or the certificate that the client showed in TLS.
package routes

import (
	"maps"
	"slices"
	"sync"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Hub is what all AMQP connections of a hub share. Create it with New. It is
// safe for concurrent use.
type Hub struct {
	hub     *hub.Hub
	readers readers
	ordered faults.Ordered
	givenUp server.GivenUp

	mu   sync.Mutex // guards open
	open map[*connection]struct{}
}

// New returns the routes of h. It must be called before h serves anyone.
func New(h *hub.Hub) *Hub {
	r := &Hub{hub: h, open: make(map[*connection]struct{})}
	h.Registry.OnChange(r.identityChanged)
	return r
}

// Connect makes the routes of one connection; it fits server.Serve.
func (h *Hub) Connect(conn *server.Conn) server.Routes {
	c := newConnection(h, conn)
	conn.Count(&h.givenUp)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[c] = struct{}{}
	return c
}

func (h *Hub) connections() []*connection {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.open))
}

func (h *Hub) forget(c *connection) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, c)
}

// identityChanged takes the tokens of an identity away that may connect no
// more. Its links have ended with its presence by then.
func (h *Hub) identityChanged(change registry.Change, i registry.Identity) {
	var reason *refusal.Error
	switch change {
	case registry.Disabled:
		reason = refusal.New(401003, "the device is disabled")
	case registry.Deleted:
		reason = refusal.New(404001, "the identity is deleted")
	default:
		return
	}
	for _, c := range h.connections() {
		c.revoke(i.ID, reason)
	}
}

// Stats counts what is there now, and what ever was.
type Stats struct {
	ConnectionsOpen int    `json:"connections_open"` // of AMQP
	ConnectionsEver uint64 `json:"connections_ever"` // of all protocols
	Identities      int    `json:"identities"`       // with a good token on an open AMQP connection
	Links           int    `json:"links"`            // on open connections, $cbs included
	Detached        uint64 `json:"detached"`         // links ever, by the AMQP client
	SessionsEnded   uint64 `json:"sessions_ended"`   // ever, by the AMQP client
}

// Stats returns the counts.
func (h *Hub) Stats() Stats {
	s := Stats{
		ConnectionsEver: h.hub.ConnectionsEver(),
		Detached:        h.givenUp.Links.Load(), SessionsEnded: h.givenUp.Sessions.Load(),
	}
	for _, c := range h.connections() {
		c.mu.Lock()
		s.ConnectionsOpen++
		s.Identities += len(c.tokens)
		s.Links += len(c.links)
		c.mu.Unlock()
	}
	return s
}

// Close ends all connections in order, with e as the reason.
func (h *Hub) Close(e *amqp.Error) {
	for _, c := range h.connections() {
		c.conn.Close(e)
	}
}

// DetachLinks ends all links of the device and its modules with e, and returns
// how many.
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

// brokenFrame has a body that begins inside of its own header, which every
// client takes for a protocol error. With other garbage rhea does less: what
// follows a size that lies is the size of a huge frame, for which it waits, and
// a value that it cannot read ends in an error that the vendor's SDK does not
// listen to. The SDK's client then hangs without a word.
var brokenFrame = []byte{0, 0, 0, 8, 1, 0, 0, 0}

// Malform sends a broken frame on every connection that has a link of the
// device, and returns how many.
func (h *Hub) Malform(device string) int {
	conns := make(map[*server.Conn]bool)
	for _, l := range h.linksOf(device) {
		conns[l.Conn] = true
	}
	for conn := range conns {
		conn.Garble(brokenFrame)
	}
	return len(conns)
}

func (h *Hub) linksOf(device string) []*server.Link {
	var list []*server.Link
	for _, c := range h.connections() {
		list = append(list, c.linksWhere(func(_ *server.Link, o owner) bool { return o.id.Device == device })...)
	}
	return list
}
