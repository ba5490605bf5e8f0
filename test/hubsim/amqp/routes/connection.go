package routes

import (
	"errors"
	"strings"
	"sync"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// connection is one client's connection.
type connection struct {
	all    *Hub
	hub    *hub.Hub
	conn   *server.Conn
	number uint64

	mu     sync.Mutex        // guards everything below
	tokens map[string]*token // by what they are about
	plain  bool              // a token came by SASL PLAIN
	links  map[*server.Link]owner
	visits map[registry.ID]*visit
	slow   *settler // nil until settling was slow once
	clocks map[*clock]struct{}
	ended  bool

	ringing sync.WaitGroup // clocks that are set or ringing
}

// owner is on whose behalf a link exists, and what for.
type owner struct {
	purpose purpose
	token   string // what the token that allows it is about; "" when none does
	id      registry.ID
	visit   *visit // nil when it is not about one identity
	pairing string // of twin and method links: what the two links of a pair share
}

// purpose is what a link is for.
type purpose uint8

const (
	forTokens purpose = iota
	forTelemetry
	forCommands
	forInputs
	forTwin
	forMethods
	forService
)

func newConnection(h *Hub, conn *server.Conn) *connection {
	return &connection{
		all:    h,
		hub:    h.hub,
		conn:   conn,
		number: h.hub.NextConnection(),
		tokens: make(map[string]*token),
		links:  make(map[*server.Link]owner),
		visits: make(map[registry.ID]*visit),
		clocks: make(map[*clock]struct{}),
	}
}

// Plain checks the forms of user name that SASL PLAIN may have: those of
// identities and that of a policy (section 1.7). The token then counts as if
// put, but the connection ends with it.
func (c *connection) Plain(user, password string) error {
	grant, err := c.authenticate(password)
	if err != nil {
		return err
	}
	if !c.isUser(user, password, grant) {
		return errors.New("the token is for another user name")
	}
	c.mu.Lock()
	c.plain = true
	c.mu.Unlock()
	return c.admit(grant)
}

// isUser compares a user name with a good token.
func (c *connection) isUser(user, text string, g registry.Grant) bool {
	name, realm, _ := strings.Cut(user, "@")
	if name == "" {
		return false
	}
	if hubName, ok := strings.CutPrefix(realm, "sas.root."); ok {
		t, err := sas.Parse(text)
		return err == nil && t.Policy == name && c.isHub(hubName)
	}
	id := registry.ID{Device: name}
	if device, module, ok := strings.Cut(name, "/modules/"); ok {
		id = registry.ID{Device: device, Module: module}
	}
	return c.isHub(strings.TrimPrefix(realm, "sas.")) && g.Covers(id)
}

// isHub compares a name with the hub's: its first label, or all of it.
func (c *connection) isHub(name string) bool {
	label, _, _ := strings.Cut(c.hub.Name, ".")
	return strings.EqualFold(name, label) || strings.EqualFold(name, c.hub.Name)
}

// meant is the identity that an address is about. Most clients encode ids in
// addresses, and id is what that says; Node's device SDK does not, which matters
// for ids with percent signs.
func (c *connection) meant(id registry.ID, address string) registry.ID {
	if _, ok := c.hub.Registry.Get(id); ok {
		return id
	}
	segments, _ := segmentsOf(address)
	if bare, _, ok := splitIdentity(segments); ok {
		if _, ok := c.hub.Registry.Get(bare); ok {
			return bare
		}
	}
	return id
}

// Attach finds the address and lets the client in, or not.
func (c *connection) Attach(l *server.Link) (server.Endpoint, *amqp.Error) {
	path, ok := parseAddress(l.Address())
	if !ok {
		return server.Endpoint{}, notFound(l.Address())
	}
	if id, rest, ok := splitIdentity(path); ok {
		return c.attachIdentity(l, c.meant(id, l.Address()), rest)
	}
	switch {
	case matches(path, "$cbs"):
		return c.attached(l, owner{purpose: forTokens}, c.cbs(l)), nil
	case matches(path, "$management"):
		return c.attachService(l, mayRead, c.management(l))
	case matches(path, "messages", "devicebound") && !l.Receives:
		return c.attachService(l, mayServe, c.commandSender())
	case matches(path, "messages", "serviceBound", "feedback") && l.Receives:
		return c.attachService(l, mayServe, c.feedback(l))
	case l.Receives && (matches(path, "messages", "serviceBound", "filenotifications") ||
		matches(path, "messages", "serviceBound", "fileuploadnotifications")):
		return c.attachService(l, mayServe, c.fileNotices(l))
	case matches(path, "messages", "events", "consumergroups", "*", "partitions", "*") && l.Receives:
		return c.attachReader(l, path[3], path[5])
	}
	return server.Endpoint{}, notFound(l.Address())
}

// attached notes the link, and sees to it that its end is noted too.
func (c *connection) attached(l *server.Link, o owner, e server.Endpoint) server.Endpoint {
	c.mu.Lock()
	c.links[l] = o
	c.mu.Unlock()
	return c.noted(l, e)
}

// noted sees to it that the end of a link is noted.
func (c *connection) noted(l *server.Link, e server.Endpoint) server.Endpoint {
	gone := e.Gone
	e.Gone = func() {
		if gone != nil {
			gone()
		}
		c.detached(l)
	}
	return e
}

// detached forgets a link; with its last one an identity leaves.
func (c *connection) detached(l *server.Link) {
	c.mu.Lock()
	v := c.links[l].visit
	delete(c.links, l)
	last := v != nil && c.leave(v, l)
	c.mu.Unlock()
	if last {
		v.session.Leave()
	}
}

// linksWhere returns the links that satisfy want. The lock must not be held.
func (c *connection) linksWhere(want func(*server.Link, owner) bool) []*server.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*server.Link
	for l, o := range c.links {
		if want(l, o) {
			list = append(list, l)
		}
	}
	return list
}

// Closed stops everything that belongs to the connection.
func (c *connection) Closed() {
	c.all.forget(c)
	c.mu.Lock()
	c.ended = true
	for k := range c.clocks {
		c.stop(k)
	}
	clear(c.tokens)
	slow := c.slow
	c.mu.Unlock()
	c.ringing.Wait()
	if slow != nil {
		slow.stop()
	}
}
