package routes

import (
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// MaxTokens is how many identities one connection may carry (section 3.9).
const MaxTokens = 999

// token is a good token and the clock that ends it.
type token struct {
	grant  registry.Grant
	expiry *clock
}

// authenticate judges the text of a token by the hub's own clock.
func (c *connection) authenticate(text string) (registry.Grant, error) {
	grant, err := c.hub.Registry.Authenticate(text, c.hub.Faults.Now())
	if err == nil {
		err = c.hub.Faults.TokenRefusal(grant.ID.Device)
	}
	if err == nil {
		err = tokenRefusal(&c.all.ordered, grant.ID.Device)
	}
	return grant, err
}

// admit takes a good token, in place of an older one about the same. The links
// that it allows do not notice.
func (c *connection) admit(g registry.Grant) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return refusal.New(503001, "the connection is closing")
	}
	old := c.tokens[g.Identity]
	if old == nil && len(c.tokens) >= MaxTokens {
		return refusal.New(403005, "the connection has 999 tokens")
	}
	if old != nil {
		c.stop(old.expiry)
	}
	t := &token{grant: g}
	c.tokens[g.Identity] = t
	t.expiry = c.after(g.Expiry.Sub(c.hub.Faults.Now()), func() { c.expire(t) })
	return nil
}

// expire ends a token, unless it has been renewed meanwhile. Its links go, and
// the whole connection when that stands on SASL PLAIN (section 1.4).
func (c *connection) expire(t *token) {
	c.mu.Lock()
	current := c.tokens[t.grant.Identity] == t
	if current {
		delete(c.tokens, t.grant.Identity)
	}
	plain := c.plain
	c.mu.Unlock()
	reason := refusal.New(401003, "the token has expired")
	switch {
	case !current:
	case plain:
		c.conn.Close(wireError(reason))
	default:
		c.detachToken(t.grant.Identity, reason)
	}
}

// revoke takes the tokens of an identity away, and with a device those of its
// modules.
func (c *connection) revoke(id registry.ID, reason *refusal.Error) {
	var revoked []string
	c.mu.Lock()
	for about, t := range c.tokens {
		of := t.grant.ID
		if of == id || (id.Module == "" && of.Device == id.Device) {
			c.stop(t.expiry)
			delete(c.tokens, about)
			revoked = append(revoked, about)
		}
	}
	c.mu.Unlock()
	for _, about := range revoked {
		c.detachToken(about, reason)
	}
}

// detachToken ends the links that a token allowed.
func (c *connection) detachToken(about string, reason *refusal.Error) {
	for _, l := range c.linksWhere(func(_ *server.Link, o owner) bool { return o.token == about }) {
		l.Detach(wireError(reason))
	}
}

// find returns a token whose grant satisfies want; nil when there is none.
func (c *connection) find(want func(registry.Grant) bool) *token {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tokens {
		if want(t.grant) {
			return t
		}
	}
	return nil
}

// covering returns a token that lets its bearer act as the identity, the
// narrowest there is; nil when there is none.
func (c *connection) covering(id registry.ID) *token {
	c.mu.Lock()
	for _, about := range []string{id.Path(), registry.ID{Device: id.Device}.Path()} {
		if t := c.tokens[about]; t != nil && t.grant.Covers(id) {
			c.mu.Unlock()
			return t
		}
	}
	c.mu.Unlock()
	return c.find(func(g registry.Grant) bool { return g.Covers(id) })
}
