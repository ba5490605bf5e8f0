package hub

import (
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/jobs"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/presence"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/bulk"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// How feedback is gathered (section 5.8).
const (
	feedbackBatch = 64
	feedbackDelay = 15 * time.Second
)

// New puts a hub together. It must be closed.
func New(cfg Config) *Hub {
	h := &Hub{
		Name:     cfg.Host,
		Created:  time.Now().UTC().Truncate(time.Millisecond),
		Log:      cfg.Log,
		Registry: registry.New(append([]string{cfg.Host}, cfg.Names...), cfg.Policies),
		Presence: presence.New(),
		Events:   events.New(cfg.Partitions, cfg.Keep),
		Limits:   &limits.Limits{},
		Faults:   &faults.Switches{},
	}
	h.Feedback = commands.NewNotices(commands.Config{}, feedbackBatch, feedbackDelay)
	h.FileNotices = commands.NewNotices(commands.Config{}, 1, 0)
	h.Commands = commands.New(commands.Config{}, h.Feedback, func(id registry.ID) string {
		i, _ := h.Registry.Get(id)
		return i.Generation
	})
	h.Twins = twins.New(h.Registry, h.status)
	h.Methods = methods.New(h.Callable)
	h.Jobs = jobs.New(h.Twins, h.Methods, h.Limits)
	h.Transfers = bulk.NewTransfers(bulk.Changer{Registry: h.Registry, Twins: h.Twins})
	h.Registry.SetClock(h.Faults.Now)
	h.Registry.OnChange(h.identityChanged)
	if cfg.SystemEvents {
		(&ownEvents{h: h}).watch()
	}
	return h
}

// Close ends what runs by itself. Connections must have ended before.
func (h *Hub) Close() {
	h.Jobs.Close()
	h.Transfers.Close()
	h.Commands.Close()
	h.Feedback.Close()
	h.FileNotices.Close()
}

// Callable says whether services may call methods of the identity and send it
// commands: to them one that may not connect is not there (section 6.3).
func (h *Hub) Callable(id registry.ID) error {
	if _, err := h.Registry.Find(id); err != nil {
		return err
	}
	if h.Registry.MayConnect(id) != nil {
		return refusal.New(404001, "the device is disabled")
	}
	return nil
}

// status is what the twin tells about the connection.
func (h *Hub) status(id registry.ID) twins.Status {
	s := h.Presence.State(id)
	return twins.Status{Connected: s.Connected, LastActivity: Time(s.LastActivity), Queued: h.Commands.Len(id)}
}

// Time writes a time as the service does; one that was never set is the year 1.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.9999999Z") }

// identityChanged carries a change of the registry to everyone else: who may
// connect no more is cut off at once.
func (h *Hub) identityChanged(c registry.Change, i registry.Identity) {
	switch c {
	case registry.Disabled:
		h.cutOff(i.ID, refusal.New(401003, "the device is disabled"))
		for _, m := range h.Registry.Modules(i.ID.Device) {
			h.cutOff(m.ID, refusal.New(401003, "the device is disabled"))
		}
	case registry.Deleted:
		h.cutOff(i.ID, refusal.New(404001, "the identity is deleted"))
		h.Commands.Drop(i.ID)
		h.Feedback.Drop(i.ID)
		h.FileNotices.Drop(i.ID)
		h.Presence.Forget(i.ID)
	}
}

// cutOff ends every session of an identity.
func (h *Hub) cutOff(id registry.ID, reason *refusal.Error) { h.Presence.End(id, reason) }
