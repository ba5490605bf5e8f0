package hubsim

import (
	"context"
	"iter"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/message"

	"golang.org/x/sys/unix"
)

// Arrival is one telemetry message as the hub took it, for tests and people.
// Slices and maps belong to the receiver, except that Body is shared and must
// not be changed.
type Arrival struct {
	Number          uint64            `json:"number"` // position among all arrivals, from 1
	Device          string            `json:"device"`
	Module          string            `json:"module,omitempty"`
	Kind            string            `json:"kind,omitempty"` // of an event that the hub wrote itself; "" for telemetry
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
		for e := range h.hub.Events.Since(number) {
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
			case <-h.hub.Events.Wait(after):
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
		Number: e.Number, Device: e.Device, Module: e.Module, Kind: e.Kind, Partition: e.Partition, Sequence: e.Sequence,
		Connection: e.Connection, Enqueued: e.Enqueued, Properties: make(map[string]string),
	}
	m, err := amqp.ParseMessage(e.Message)
	if err != nil {
		panic("hubsim: a stored message cannot be read: " + err.Error()) // it was read before it was stored
	}
	if p := m.Properties; p != nil {
		a.MessageID, a.CorrelationID = message.Text(p.MessageID), message.Text(p.CorrelationID)
		a.UserID = string(p.UserID)
		a.ContentType, a.ContentEncoding = string(p.ContentType), string(p.ContentEncoding)
		a.Expiry, a.Created = p.Expiry, p.Creation
	}
	for _, p := range m.Application {
		a.Properties[amqp.Text(p.Key)] = message.Text(p.Value)
	}
	a.Body = m.Body()
	return a
}

// Stats counts what is there now, and what ever was.
type Stats struct {
	routes.Stats
	MQTTConnections  int     `json:"mqtt_connections"`  // open
	DevicesConnected int     `json:"devices_connected"` // by whatever protocol
	CPUSeconds       float64 `json:"cpu_seconds"`       // that this process has used, user and system
	Messages         uint64  `json:"messages"`          // ever taken; duplicates count, nobody judges them here
	Kept             int     `json:"kept"`
	Bytes            int64   `json:"bytes"` // of the messages kept
	Dropped          uint64  `json:"dropped"`
}

// Stats returns the counts.
func (h *Hub) Stats() Stats {
	e := h.hub.Events.Stats()
	return Stats{
		Stats: h.amqp.Stats(), MQTTConnections: h.mqtt.Stats().ConnectionsOpen,
		DevicesConnected: h.hub.Presence.Count(), CPUSeconds: cpuSeconds(),
		Messages: e.Total, Kept: e.Kept, Bytes: e.Bytes, Dropped: e.Dropped,
	}
}

// cpuSeconds is what the process has used of processors so far: a benchmark
// against this hub looks here whether the hub was the bottleneck.
func cpuSeconds() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot happen: both arguments are good
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
