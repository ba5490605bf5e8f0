package hubsim

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
)

// Arrival is one telemetry message as the hub took it, for tests and people.
// Slices and maps belong to the receiver, except that Body is shared and must
// not be changed.
type Arrival struct {
	Number          uint64            `json:"number"` // position among all arrivals, from 1
	Device          string            `json:"device"`
	Partition       int               `json:"partition"`
	Sequence        int64             `json:"sequence"`   // in its partition, from 0
	Connection      uint64            `json:"connection"` // number of the connection, from 1
	Enqueued        time.Time         `json:"enqueued"`   // whole milliseconds
	MessageID       string            `json:"message_id,omitempty"`
	CorrelationID   string            `json:"correlation_id,omitempty"`
	UserID          string            `json:"user_id,omitempty"`
	ContentType     string            `json:"content_type,omitempty"`
	ContentEncoding string            `json:"content_encoding,omitempty"`
	Expiry          time.Time         `json:"expiry,omitzero"`
	Created         time.Time         `json:"created,omitzero"`
	Properties      map[string]string `json:"properties,omitempty"` // the application's
	Body            []byte            `json:"body"`
}

// Arrivals walks through everything that has arrived and is kept, in order of
// arrival.
func (h *Hub) Arrivals() iter.Seq[Arrival] { return h.arrivalsAfter(0) }

func (h *Hub) arrivalsAfter(number uint64) iter.Seq[Arrival] {
	return func(yield func(Arrival) bool) {
		for e := range h.routes.Events.Since(number) {
			if !yield(arrival(e)) {
				return
			}
		}
	}
}

// Watch walks through what arrives with a number above after, waiting for more,
// until ctx ends.
func (h *Hub) Watch(ctx context.Context, after uint64) iter.Seq[Arrival] {
	return func(yield func(Arrival) bool) {
		for {
			select {
			case <-h.routes.Events.Wait(after):
			case <-ctx.Done():
				return
			}
			for a := range h.arrivalsAfter(after) {
				after = a.Number
				if !yield(a) {
					return
				}
			}
		}
	}
}

// arrival takes an event apart.
func arrival(e events.Event) Arrival {
	a := Arrival{
		Number: e.Number, Device: e.Device, Partition: e.Partition, Sequence: e.Sequence,
		Connection: e.Connection, Enqueued: e.Enqueued, Properties: make(map[string]string),
	}
	m, err := amqp.ParseMessage(e.Message)
	if err != nil {
		panic("hubsim: a stored message cannot be read: " + err.Error()) // it was read before it was stored
	}
	if p := m.Properties; p != nil {
		a.MessageID, a.CorrelationID = idText(p.MessageID), idText(p.CorrelationID)
		a.UserID = string(p.UserID)
		a.ContentType, a.ContentEncoding = string(p.ContentType), string(p.ContentEncoding)
		a.Expiry, a.Created = p.Expiry, p.Creation
	}
	for _, p := range m.Application {
		a.Properties[amqp.Text(p.Key)] = idText(p.Value)
	}
	a.Body = m.Body()
	return a
}

// idText writes any simple value as text.
func idText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []byte:
		return string(v)
	}
	if s := amqp.Text(v); s != "" {
		return s
	}
	return fmt.Sprint(v)
}

// Stats counts what is there now, and what ever was.
type Stats struct {
	routes.Stats
	Messages uint64 `json:"messages"` // ever taken; duplicates count, nobody judges them here
	Kept     int    `json:"kept"`
	Bytes    int64  `json:"bytes"` // of the messages kept
	Dropped  uint64 `json:"dropped"`
}

// Stats returns the counts.
func (h *Hub) Stats() Stats {
	e := h.routes.Events.Stats()
	return Stats{
		Stats: h.routes.Stats(), Messages: e.Total, Kept: e.Kept, Bytes: e.Bytes, Dropped: e.Dropped,
	}
}
