package routes

import (
	"maps"
	"slices"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/presence"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// guest is an identity on one of its links.
type guest struct {
	c      *connection
	link   *server.Link
	source hub.Source
	visit  *visit
}

// visit is the presence of an identity on a connection: it begins with the
// identity's first link and ends with its last, or when a newer connection of
// the identity has come.
type visit struct {
	id      registry.ID
	session *presence.Session
	links   map[*server.Link]struct{} // guarded by the connection's lock
}

// attachIdentity lets an identity in on one of its own addresses (section 3.2).
// rest is what stands behind the ids.
func (c *connection) attachIdentity(l *server.Link, id registry.ID, rest []string) (server.Endpoint, *amqp.Error) {
	route, o := identityRoute(l, id, rest)
	if route == nil {
		return server.Endpoint{}, notFound(l.Address())
	}
	g, about, err := c.invite(l, id)
	if err != nil {
		return server.Endpoint{}, wireError(err)
	}
	o.id, o.token = id, about
	if g.visit, err = c.enter(l, o); err != nil {
		return server.Endpoint{}, wireError(err)
	}
	return c.noted(l, route(g)), nil
}

// identityRoute finds out what a link of an identity is for; nil when its
// address has no meaning.
func identityRoute(l *server.Link, id registry.ID, rest []string) (func(*guest) server.Endpoint, owner) {
	switch {
	case matches(rest, "messages", "events") && !l.Receives:
		return (*guest).telemetry, owner{purpose: forTelemetry}
	case matches(rest, "messages", "events") && id.Module != "":
		return (*guest).inputs, owner{purpose: forInputs}
	case matches(rest, "messages", "devicebound") && l.Receives:
		return (*guest).commands, owner{purpose: forCommands}
	case matches(rest, "twin"):
		return (*guest).twin, owner{purpose: forTwin, pairing: pairing(l)}
	case matches(rest, "methods", "devicebound"):
		return (*guest).methods, owner{purpose: forMethods, pairing: pairing(l)}
	}
	return nil, owner{}
}

// inputs are messages for a module from the edge runtime around it, of which a
// hub has none: nothing ever comes.
func (g *guest) inputs() server.Endpoint { return server.Endpoint{} }

// invite checks that the identity may use the connection, by a token that is on
// it or by the certificate of the TLS client (sections 1.2 and 1.5). about is
// what the token is about; "" for a certificate.
func (c *connection) invite(l *server.Link, id registry.ID) (g *guest, about string, err error) {
	identity, err := c.hub.Registry.Find(id)
	if err != nil {
		return nil, "", err
	}
	device, err := c.hub.Registry.Find(registry.ID{Device: id.Device})
	if err != nil {
		return nil, "", err
	}
	if device.Disabled {
		return nil, "", refusal.New(401003, "the device is disabled")
	}
	g = &guest{c: c, link: l, source: hub.Source{ID: id, Generation: identity.Generation, Connection: c.number}}
	if t := c.covering(id); t != nil {
		g.source.Auth = t.grant.AuthMethod()
		return g, t.grant.Identity, nil
	}
	if chain := c.conn.Certificates(); len(chain) > 0 {
		g.source.Auth, err = c.hub.Registry.AuthenticateCertificate(chain, id)
		return g, "", err
	}
	return nil, "", refusal.New(401003, "no token for "+id.String()+" on this connection")
}

// enter notes a link, and begins the identity's visit with the first one. Each
// visit counts as a connection of its own (section 3.9).
func (c *connection) enter(l *server.Link, o owner) (*visit, error) {
	c.mu.Lock()
	v := c.visits[o.id]
	first := v == nil
	if first {
		v = &visit{id: o.id, links: make(map[*server.Link]struct{})}
	}
	o.visit = v
	if err := c.uncontested(l, o); err != nil {
		c.mu.Unlock()
		return nil, err
	}
	if first {
		if err := c.hub.Limits.Take(limits.Connection, 0); err != nil {
			c.mu.Unlock()
			return nil, err
		}
		c.visits[o.id] = v
	}
	v.links[l] = struct{}{}
	c.links[l] = o
	c.mu.Unlock()
	if first { // nobody uses the session before: links attach one at a time
		v.session = c.hub.Presence.Enter(o.id, func(reason *refusal.Error) { c.expel(v, reason) })
	}
	return v, nil
}

// expel ends a visit from the hub's side.
func (c *connection) expel(v *visit, reason *refusal.Error) {
	c.mu.Lock()
	if c.visits[v.id] == v {
		delete(c.visits, v.id)
	}
	links := slices.Collect(maps.Keys(v.links))
	c.mu.Unlock()
	for _, l := range links {
		l.Detach(wireError(reason))
	}
}

// leave counts a link out of its visit, and says whether it was the last one.
// The lock is held.
func (c *connection) leave(v *visit, l *server.Link) (last bool) {
	delete(v.links, l)
	if len(v.links) > 0 {
		return false
	}
	if c.visits[v.id] == v {
		delete(c.visits, v.id)
	}
	return true
}
