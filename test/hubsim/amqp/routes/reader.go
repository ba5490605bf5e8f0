package routes

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
)

// readChunk is how many events a reader looks up at a time.
const readChunk = 256

// attachReader lets a client read the events of a partition (section 5.9).
func (c *connection) attachReader(l *server.Link, group, partition string) (server.Endpoint, *amqp.Error) {
	n, err := strconv.Atoi(partition)
	if !c.hub.Events.HasGroup(group) || err != nil || n < 0 || n >= c.hub.Events.Partitions() {
		return server.Endpoint{}, notFound(l.Address())
	}
	position, e := startOf(l)
	if e != nil {
		return server.Endpoint{}, e
	}
	r := &reader{
		link: l, events: c.hub.Events, partition: n,
		next: c.hub.Events.Start(n, position),
	}
	place := seat{strings.ToLower(group), n}
	endpoint, refusal := c.attachService(l, mayRead, server.Endpoint{
		Pump: r.run,
		Gone: func() { c.all.readers.leave(place, l) },
	})
	if refusal != nil {
		return server.Endpoint{}, refusal
	}
	if refusal = c.all.readers.enter(place, l); refusal != nil {
		endpoint.Gone()
		return server.Endpoint{}, refusal
	}
	return endpoint, nil
}

// startOf reads the selector filter; without one a reader starts at the
// beginning.
func startOf(l *server.Link) (events.Position, *amqp.Error) {
	filter, ok := l.Source.Filter.Get("apache.org:selector-filter:string").(amqp.Described)
	if !ok {
		return events.Position{}, nil
	}
	p, err := events.ParseSelector(amqp.Text(filter.Value))
	if err != nil {
		return p, &amqp.Error{Condition: amqp.CondArgument, Description: err.Error()}
	}
	return p, nil
}

// reader sends the events of a partition to one link.
type reader struct {
	link      *server.Link
	events    *events.Log
	partition int
	next      int64 // sequence number
}

func (r *reader) run() {
	for {
		list, news := r.events.Read(r.partition, r.next, readChunk)
		if len(list) == 0 {
			r.link.Idle()
			select {
			case <-news:
			case <-r.link.Done():
				return
			}
			continue
		}
		for i := range list {
			if !r.link.Ready() {
				return
			}
			r.link.Send(Render(&list[i]), true)
			r.next = list[i].Sequence + 1
		}
	}
}

// Render encodes an event as the hub hands it to readers: the device's message
// with the hub's annotations, and ids as text.
func Render(e *events.Event) []byte {
	stored, err := amqp.ParseMessage(e.Message)
	if err != nil {
		panic("routes: a stored message cannot be read: " + err.Error()) // it was read before it was stored
	}
	m := &amqp.Message{
		Annotations: annotations(e, stored),
		Properties:  stored.Properties,
		Application: stored.Application,
		Data:        [][]byte{stored.Body()},
	}
	if p := m.Properties; p != nil {
		p.MessageID = idText(p.MessageID)
		p.CorrelationID = idText(p.CorrelationID)
	}
	return m.Append(nil)
}

func annotations(e *events.Event, stored *amqp.Message) amqp.Map {
	m := amqp.Map{
		{Key: amqp.Symbol("x-opt-sequence-number"), Value: e.Sequence},
		{Key: amqp.Symbol("x-opt-offset"), Value: strconv.FormatInt(e.Offset, 10)},
		{Key: amqp.Symbol("x-opt-enqueued-time"), Value: e.Enqueued},
		{Key: amqp.Symbol("x-opt-partition-key"), Value: e.Device},
		{Key: amqp.Symbol("iothub-connection-device-id"), Value: e.Device},
		{Key: amqp.Symbol("iothub-connection-auth-method"), Value: e.Auth},
		{Key: amqp.Symbol("iothub-connection-auth-generation-id"), Value: e.Generation},
		{Key: amqp.Symbol("iothub-enqueuedtime"), Value: e.Enqueued},
		{Key: amqp.Symbol("iothub-message-source"), Value: cmp.Or(e.Kind, "Telemetry")},
	}
	if e.Module != "" {
		m = append(m, amqp.Pair{Key: amqp.Symbol("iothub-connection-module-id"), Value: e.Module})
	}
	for _, name := range []amqp.Symbol{"iothub-interface-id", "dt-subject"} {
		if v := stored.Annotations.Get(string(name)); v != nil {
			m = append(m, amqp.Pair{Key: name, Value: v})
		}
	}
	return m
}

// idText turns an id that a client sent as UUID into text; others stay.
func idText(id any) any {
	if u, ok := id.(amqp.UUID); ok {
		return u.String()
	}
	return id
}
