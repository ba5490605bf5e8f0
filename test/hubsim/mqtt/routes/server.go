// Package routes gives the topics of MQTT their meaning for devices and
// modules: telemetry, commands, twins and methods (wire contract, section 2), who
// may connect (section 1.6), and what outlives a connection (section 2.7).
//
// A connection is one identity. A session is what the hub remembers of an
// identity between connections: its subscriptions and which commands it was sent.
package routes

import (
	"maps"
	"slices"
	"sync"

	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Server is what the MQTT connections of a hub share. It is safe for concurrent
// use.
type Server struct {
	hub      *hub.Hub
	ordered  faults.Ordered
	entering sync.Mutex // held from taking a place in open to entering the presence table

	mu       sync.Mutex // guards everything below
	closed   error      // why nobody may enter any more
	open     map[registry.ID]*connection
	sessions map[registry.ID]*session // of clients that want to be remembered
}

// New returns the routes of a hub.
func New(h *hub.Hub) *Server {
	return &Server{
		hub:      h,
		open:     make(map[registry.ID]*connection),
		sessions: make(map[registry.ID]*session),
	}
}

// Stats counts what is there now.
type Stats struct {
	ConnectionsOpen int `json:"connections_open"`
	Sessions        int `json:"sessions"` // remembered, connected or not
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{ConnectionsOpen: len(s.open), Sessions: len(s.sessions)}
}

// Close closes all connections and refuses new ones. It does not wait for the
// end of their Serve.
func (s *Server) Close(reason error) {
	s.mu.Lock()
	s.closed = reason
	open := slices.Collect(maps.Values(s.open))
	s.mu.Unlock()
	for _, c := range open {
		c.conn.Close(reason)
	}
}

// brokenPacket is of a type that does not exist.
var brokenPacket = []byte{0xf0, 0}

// Malform sends a broken packet on every connection of the device and its
// modules, and returns how many.
func (s *Server) Malform(device string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for id, c := range s.open {
		if id.Device == device {
			c.conn.Garble(brokenPacket)
			n++
		}
	}
	return n
}

// Connect lets a client in or not; it fits mqtt.Serve. An older connection of
// the same identity has ended when it returns.
func (s *Server) Connect(conn *mqtt.Conn, login mqtt.Login) (routes mqtt.Routes, present bool, code byte) {
	c, code, err := s.admit(conn, login)
	if err == nil {
		present, err = s.enter(c, login)
		code = verdict(err)
	}
	if err != nil {
		s.hub.Log.Info("device refused", "client", login.ClientID, "code", code, "error", err)
		return nil, false, code
	}
	return c, present, mqtt.Accepted
}

// enter makes the connection the identity's only one, and gives it its session.
func (s *Server) enter(c *connection, login mqtt.Login) (present bool, err error) {
	older, err := s.displace(c)
	if err != nil {
		return false, err
	}
	if older != nil {
		<-older.gone // what it leaves behind is ours
	}
	// Whoever was disabled or deleted since the token was checked was not there
	// to be thrown out.
	if err := s.allowed(c.source.ID); err != nil {
		c.leave()
		return false, err
	}
	c.session, present = s.sessionOf(c, login.CleanSession)
	c.begin(login)
	return present, nil
}

// displace takes the identity's place, and tells its older connection to go,
// which is returned.
func (s *Server) displace(c *connection) (older *connection, err error) {
	s.entering.Lock()
	defer s.entering.Unlock()
	s.mu.Lock()
	older, err = s.open[c.source.ID], s.closed
	if err == nil {
		s.open[c.source.ID] = c
	}
	s.mu.Unlock()
	if err != nil {
		return nil, refusal.New(503001, err.Error())
	}
	c.presence = s.hub.Presence.Enter(c.source.ID, func(reason *refusal.Error) { c.conn.Close(reason) })
	return older, nil
}

// depart takes a connection that has ended out of the table.
func (s *Server) depart(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[c.source.ID] == c {
		delete(s.open, c.source.ID)
	}
}

// sessionOf returns the session of a connection: the remembered one of the same
// registration, or an empty one. present says that it was remembered.
func (s *Server) sessionOf(c *connection, clean bool) (own *session, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := c.source.ID
	own = s.sessions[id]
	if clean || own == nil || own.generation != c.source.Generation {
		own = newSession(c.source.Generation)
	} else {
		present = true
	}
	if clean {
		delete(s.sessions, id)
	} else {
		s.sessions[id] = own
	}
	return own, present
}
