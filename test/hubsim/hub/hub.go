// Package hub is the hub without its protocols: the parts that know identities,
// events, twins, commands, methods and files, and how they hang together. The
// protocols' routes call it; it knows none of them.
package hub

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/files"
	"github.com/fieldgate/fieldgate/test/hubsim/jobs"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/presence"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/bulk"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// MaxTelemetry is the largest telemetry message, or batch of them, in bytes
// (section 6.2).
const MaxTelemetry = 256 << 10

// Config is what a hub is made with.
type Config struct {
	Host       string   // the hub's name in tokens
	Names      []string // other names it goes by
	Policies   []registry.Policy
	Partitions int
	Keep       events.Bounds

	SystemEvents bool // write the events of section 5.10
	Log          *slog.Logger
}

// Hub holds the parts. The fields do not change; each part is safe for
// concurrent use.
type Hub struct {
	Name        string    // the hub's host name
	Created     time.Time // told to readers of events
	Log         *slog.Logger
	Registry    *registry.Registry
	Presence    *presence.Table
	Events      *events.Log
	Twins       *twins.Store
	Commands    *commands.Queues
	Feedback    *commands.Notices
	FileNotices *commands.Notices
	Methods     *methods.Exchange
	Limits      *limits.Limits
	Faults      *faults.Switches
	Jobs        *jobs.Scheduler // twin updates and methods for many devices
	Transfers   *bulk.Transfers // imports and exports of the registry
	Uploads     *files.Uploads  // set before the hub serves; nil without storage for files

	connections atomic.Uint64 // ever
}

// NextConnection numbers a connection of whatever protocol, from 1.
func (h *Hub) NextConnection() uint64 { return h.connections.Add(1) }

// ConnectionsEver is how many numbers NextConnection has given.
func (h *Hub) ConnectionsEver() uint64 { return h.connections.Load() }

// Source is where telemetry comes from.
type Source struct {
	ID         registry.ID
	Generation string
	Auth       string // as the hub writes it in iothub-connection-auth-method
	Connection uint64 // number of the connection, from 1
}

// Telemetry stores encoded AMQP messages that came in one transfer or request,
// all or none. They were parsed before. The error is a *refusal.Error: too
// large, throttled, refused by a fault. It keeps the slices.
func (h *Hub) Telemetry(from Source, encoded ...[]byte) error {
	size := 0
	for _, b := range encoded {
		size += len(b)
	}
	if size > MaxTelemetry {
		return refusal.New(413001, "a message and a batch may have 256 KiB")
	}
	if err := h.Faults.Refusal(from.ID.Device); err != nil {
		return err
	}
	if err := h.Limits.Take(limits.Telemetry, size); err != nil {
		return err
	}
	list := make([]events.Event, len(encoded))
	for i, b := range encoded {
		list[i] = events.Event{
			Device: from.ID.Device, Module: from.ID.Module, Generation: from.Generation,
			Auth: from.Auth, Connection: from.Connection, Message: b,
		}
	}
	h.Events.AppendAll(list)
	return nil
}

// Message stores one message of a protocol other than AMQP.
func (h *Hub) Message(from Source, m *message.Message) error {
	return h.Telemetry(from, m.AMQP().Append(nil))
}
