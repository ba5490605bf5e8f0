package routes

import (
	"errors"
	"fmt"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/presence"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// connection is one identity on one connection. Its fields do not change after
// begin, except for those that say otherwise.
type connection struct {
	server   *Server
	hub      *hub.Hub
	conn     *mqtt.Conn
	source   hub.Source
	presence *presence.Session
	session  *session
	expiry   time.Time     // of the token; zero for none
	will     *mqtt.Publish // nil for none
	clocks   clocks
	gone     chan struct{} // closed when nothing of the connection is left

	ends map[purpose]func() // end what a subscription does; of the reading goroutine
}

// maxSubscriptions is how many an identity may have (section 2.7).
const maxSubscriptions = 5

// begin starts what lasts as long as the connection. The subscriptions of
// earlier connections work again at once: not every client renews them (trap
// 9.1).
func (c *connection) begin(login mqtt.Login) {
	c.ends = make(map[purpose]func())
	if !c.expiry.IsZero() {
		c.clocks.after(c.expiry.Sub(c.hub.Faults.Now()), func() {
			c.conn.Close(refusal.New(401003, "the token has expired"))
		})
	}
	for filter, qos := range c.session.granted {
		c.start(filterPurpose(c.source.ID, filter), qos)
	}
	c.hub.Log.Debug("device connected", "client", login.ClientID, "clean", login.CleanSession)
}

// Publish does what a message on its topic means.
func (c *connection) Publish(p mqtt.Publish, done func(error)) {
	c.presence.Touch()
	if bag, ok := eventBag(c.source.ID, p.Topic); ok {
		c.telemetry(bag, p, done)
		return
	}
	t, err := parseRequest(p.Topic)
	if err == nil {
		switch t.kind {
		case twinGet:
			c.getTwin(t)
		case twinPatch:
			c.patchTwin(t, p.Body)
		case methodAnswer:
			c.hub.Methods.Answer(c.source.ID, t.requestID, t.status, p.Body)
		}
	}
	done(err) // an unknown topic closes the connection (section 2.7)
}

// Subscribe grants the filters of section 2.1, with QoS 1 at most. Any other one
// closes the connection.
func (c *connection) Subscribe(filter string, qos byte) (granted byte, err error) {
	c.presence.Touch()
	what := filterPurpose(c.source.ID, filter)
	if what == unknown {
		err := fmt.Errorf("the filter %q means nothing to %s", filter, c.source.ID)
		c.conn.Close(err)
		return 0, err
	}
	granted = min(qos, 1)
	before, known := c.session.granted[filter]
	if !known && len(c.session.granted) == maxSubscriptions {
		return 0, errors.New("there are five subscriptions already")
	}
	c.session.granted[filter] = granted
	if !known || before != granted { // otherwise what is under way stays so
		c.end(what)
		c.start(what, granted)
	}
	return granted, nil
}

// Unsubscribe ends what the filter was for.
func (c *connection) Unsubscribe(filter string) {
	if _, known := c.session.granted[filter]; !known {
		return
	}
	delete(c.session.granted, filter)
	c.end(filterPurpose(c.source.ID, filter))
}

// start begins what a subscription is for.
func (c *connection) start(what purpose, qos byte) {
	switch what {
	case commandsTo:
		c.ends[what] = c.sendCommands(qos)
	case desiredTo:
		c.ends[what] = c.hub.Twins.Watch(c.source.ID, c.notify)
	case methodsTo:
		c.ends[what] = c.hub.Methods.Listen(c.source.ID, c.call)
	default: // twin answers need nothing, and a hub has no inputs for modules
		c.ends[what] = func() {}
	}
}

func (c *connection) end(what purpose) {
	if end := c.ends[what]; end != nil {
		end()
	}
	delete(c.ends, what)
}

// Closed publishes the will, when there is reason to, and ends everything that
// belongs to the connection.
func (c *connection) Closed(orderly bool) {
	if c.will != nil && !orderly {
		c.publishWill()
	}
	for what := range c.ends {
		c.end(what)
	}
	c.leave()
}

// leave gives the identity's place up.
func (c *connection) leave() {
	c.clocks.stop()
	c.presence.Leave()
	c.server.depart(c)
	close(c.gone)
}
