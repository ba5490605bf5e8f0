package routes

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// MaxTokens is how many identities one connection may carry (section 3.9).
const MaxTokens = 999

// connection is one client's connection.
type connection struct {
	hub    *Hub
	conn   *server.Conn
	number uint64

	mu     sync.Mutex        // guards everything below
	tokens map[string]*token // by identity
	links  map[*server.Link]owner
	slow   *settler       // nil until settling was slow once
	timers sync.WaitGroup // expiry timers that are set or running
	ended  bool
}

// token is a good token and the clock that ends it.
type token struct {
	grant registry.Grant
	timer *time.Timer
}

// owner is on whose behalf a link exists.
type owner struct {
	identity string // of the token that allowed it; "" for $cbs
	device   string // "" when it is not about one device
}

// Plain checks the two forms of user name that SASL PLAIN may have: a device's
// and a policy's (section 1.7). The token then counts as if put.
func (c *connection) Plain(user, password string) error {
	grant, err := c.hub.Registry.Authenticate(password, time.Now())
	if err != nil {
		return err
	}
	name, realm, _ := strings.Cut(user, "@")
	if !strings.HasPrefix(realm, "sas.root.") && name != grant.Device {
		return errors.New("the token is for another user name")
	}
	if status, reason := c.admit(grant); status != 200 {
		return errors.New(reason)
	}
	return nil
}

// Attach finds the address and lets the client in, or not.
func (c *connection) Attach(l *server.Link) (server.Endpoint, *amqp.Error) {
	path, ok := parseAddress(l.Address())
	if !ok {
		return server.Endpoint{}, notFound(l.Address())
	}
	switch {
	case matches(path, "$cbs"):
		return c.attached(l, owner{}, c.cbs(l)), nil
	case matches(path, "$management"):
		return c.attachService(l, c.management(l))
	case matches(path, "devices", "*", "messages", "events") && !l.Receives:
		return c.attachTelemetry(l, path[1])
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
	gone := e.Gone
	e.Gone = func() {
		c.mu.Lock()
		delete(c.links, l)
		c.mu.Unlock()
		if gone != nil {
			gone()
		}
	}
	return e
}

// attachService lets in a client with a token of a policy with ServiceConnect.
func (c *connection) attachService(l *server.Link, e server.Endpoint) (server.Endpoint, *amqp.Error) {
	identity, ok := c.allowed(func(g registry.Grant) bool { return g.Rights&registry.ServiceConnect != 0 })
	if !ok {
		return server.Endpoint{}, unauthorized("no token with the right ServiceConnect on this connection")
	}
	return c.attached(l, owner{identity: identity}, e), nil
}

// allowed returns the identity of a token that satisfies want.
func (c *connection) allowed(want func(registry.Grant) bool) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for identity, t := range c.tokens {
		if want(t.grant) {
			return identity, true
		}
	}
	return "", false
}

// admit takes a good token, in place of an older one of the same identity. The
// links of that identity do not notice.
func (c *connection) admit(g registry.Grant) (status int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return 500, "the connection is closing"
	}
	old := c.tokens[g.Identity]
	if old == nil && len(c.tokens) >= MaxTokens {
		return 403, "403005 IotHubMaxCbsTokenExceeded: the connection has 999 tokens"
	}
	if old != nil {
		c.stop(old)
	}
	t := &token{grant: g}
	c.tokens[g.Identity] = t
	c.timers.Add(1)
	t.timer = time.AfterFunc(time.Until(g.Expiry), func() {
		defer c.timers.Done()
		c.expire(t)
	})
	return 200, "OK"
}

// stop ends the clock of a token. The lock is held.
func (c *connection) stop(t *token) {
	if t.timer.Stop() {
		c.timers.Done()
	}
}

// expire ends a token's links, unless the token has been renewed meanwhile.
func (c *connection) expire(t *token) {
	c.mu.Lock()
	current := c.tokens[t.grant.Identity] == t
	if current {
		delete(c.tokens, t.grant.Identity)
	}
	c.mu.Unlock()
	if current {
		c.detachIdentity(t.grant.Identity, "the token has expired")
	}
}

// revoke takes the token of an identity away.
func (c *connection) revoke(identity, reason string) {
	c.mu.Lock()
	if t := c.tokens[identity]; t != nil {
		c.stop(t)
		delete(c.tokens, identity)
	}
	c.mu.Unlock()
	c.detachIdentity(identity, reason)
}

func (c *connection) detachIdentity(identity, reason string) {
	c.mu.Lock()
	var links []*server.Link
	for l, o := range c.links {
		if o.identity == identity {
			links = append(links, l)
		}
	}
	c.mu.Unlock()
	for _, l := range links {
		l.Detach(unauthorized(reason))
	}
}

// Closed stops everything that belongs to the connection.
func (c *connection) Closed() {
	c.hub.mu.Lock()
	delete(c.hub.open, c)
	c.hub.mu.Unlock()
	c.mu.Lock()
	c.ended = true
	for _, t := range c.tokens {
		c.stop(t)
	}
	clear(c.tokens)
	slow := c.slow
	c.mu.Unlock()
	c.timers.Wait()
	if slow != nil {
		slow.stop()
	}
}

// parseAddress returns the segments of an address, percent-decoded. An absolute
// address with a port is refused, as by the service (section 3.2), except in
// the form of the readers of events.
func parseAddress(address string) ([]string, bool) {
	if scheme, rest, found := strings.Cut(address, "://"); found {
		host, path, _ := strings.Cut(rest, "/")
		if strings.Contains(host, ":") && !strings.EqualFold(scheme, "sb") {
			return nil, false
		}
		address = path
	}
	segments := strings.Split(strings.TrimPrefix(address, "/"), "/")
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		if err != nil || decoded == "" {
			return nil, false
		}
		segments[i] = decoded
	}
	return segments, true
}

// matches compares an address with fixed words, in which case does not matter,
// and "*", which stands for anything.
func matches(path []string, words ...string) bool {
	if len(path) != len(words) {
		return false
	}
	for i, w := range words {
		if w != "*" && !strings.EqualFold(path[i], w) {
			return false
		}
	}
	return true
}

func unauthorized(reason string) *amqp.Error {
	return &amqp.Error{Condition: amqp.CondUnauthorized, Description: reason}
}

// notFound is the answer to an address without meaning (section 3.2).
func notFound(address string) *amqp.Error {
	return refusal(amqp.CondNotFound, 404006, "AmqpAddressNotFound: "+address)
}

// refusal is an error in the form of the service: a JSON text and an info map.
func refusal(condition amqp.Symbol, code int, message string) *amqp.Error {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	id := hex.EncodeToString(b[:])
	text, _ := json.Marshal(map[string]any{ // strings and numbers only
		"errorCode":    code,
		"trackingId":   id,
		"message":      message,
		"timestampUtc": time.Now().UTC().Format(time.RFC3339Nano),
	})
	return &amqp.Error{Condition: condition, Description: string(text), Info: amqp.Map{
		{Key: amqp.Symbol("com.microsoft:is-filtered"), Value: true},
		{Key: amqp.Symbol("com.microsoft:error-code"), Value: int32(code)},
		{Key: amqp.Symbol("com.microsoft:tracking-id"), Value: id},
	}}
}
