package uplink

import (
	"context"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Listener is a Conn on which the hub can also reach leaves. Safe for concurrent
// use.
type Listener interface {
	Conn
	gateway.HubTwins

	// Listen asks the hub for what the leaf wants, and for nothing else of the
	// leaf any more; 0 asks for nothing. What comes is handed to to, commands in
	// their order. It returns when the hub has agreed, or with an error after
	// which nothing is open for the leaf. lost is called, from any goroutine, when
	// any of it has been lost later; not after the next Listen for the leaf, and
	// not because the connection is lost.
	Listen(ctx context.Context, leaf string, wants gateway.Interest, to gateway.DownHandler, lost func(error)) error
}

// hear listens at the hub for what leaves want, as they come to want it.
func (p *pump) hear(hub Listener) {
	ears := make(map[string]*ear)
	for {
		leaf, wants, err := p.Down.NextInterest(p.taking)
		if err != nil {
			return
		}
		e := ears[leaf]
		if e == nil {
			e = p.newEar(hub, leaf)
			ears[leaf] = e
			p.lines.Go(e.run)
		}
		e.want(wants)
	}
}

// ear listens for one leaf over one connection.
type ear struct {
	*pump
	hub    Listener
	leaf   string
	record *record
	news   chan gateway.Interest // capacity 1: the newest
	lost   chan error            // capacity 1

	wants gateway.Interest // what the leaf wants
	open  gateway.Interest // what the hub was asked for
	due   time.Time        // when to ask again; zero: not by itself
}

func (p *pump) newEar(hub Listener, leaf string) *ear {
	r := p.earRecords[leaf]
	if r == nil {
		r = new(record)
		p.earRecords[leaf] = r
	}
	return &ear{pump: p, hub: hub, leaf: leaf, record: r, news: make(chan gateway.Interest, 1), lost: make(chan error, 1)}
}

// want replaces what the leaf wants. Only the pump's hear calls it.
func (e *ear) want(wants gateway.Interest) {
	select {
	case <-e.news:
	default:
	}
	e.news <- wants
}

// run listens until the pump stops.
func (e *ear) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-e.taking.Done():
			return // the connection is closed, and everything with it
		case e.wants = <-e.news:
			e.consider()
		case err := <-e.lost:
			e.failed(err)
		case <-timer.C:
			e.onTime()
		}
		if e.due.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(e.due))
		}
	}
}

// consider acts on what the leaf wants now. What a leaf asleep wants stays open
// for a while: most are back soon.
func (e *ear) consider() {
	if time.Now().Before(e.due) && e.record.refusals > 0 {
		return // the hub does not take the leaf: a leaf that comes and goes changes nothing
	}
	e.ask()
	if e.wants.Has(gateway.Asleep) && e.due.IsZero() {
		e.due = time.Now().Add(e.cfg.IdleDetach.D())
	}
}

// onTime is another try, or the end of the wait for a leaf asleep.
func (e *ear) onTime() {
	if e.due.IsZero() || time.Now().Before(e.due) {
		return
	}
	if e.wants.Has(gateway.Asleep) && e.open != 0 {
		e.due = time.Time{}
		e.listen(0)
		return
	}
	e.ask()
}

// ask asks the hub for what the leaf wants.
func (e *ear) ask() {
	e.due = time.Time{}
	if e.gate.wait(e.taking) {
		e.listen(e.wants)
	}
}

func (e *ear) listen(wants gateway.Interest) {
	err := e.hub.Listen(e.taking, e.leaf, wants, e.Down, e.tellLost)
	if err != nil {
		e.failed(err)
		return
	}
	e.open = wants
	if wants != 0 {
		if e.record.refusals > 0 && e.tally.welcome(e.leaf) {
			e.Log.Info("hub takes leaf again", "event", "leaf-accepted", "leaf", e.leaf)
		}
		e.record.failures, e.record.refusals = 0, 0
		e.Down.Listening(e.leaf, wants)
	}
}

// tellLost is called by the transport.
func (e *ear) tellLost(err error) {
	select {
	case e.lost <- err:
	default: // one is enough
	}
}

// failed waits before the next try, as the failure asks for.
func (e *ear) failed(err error) {
	e.open = 0
	select {
	case <-e.taking.Done():
		return
	case <-e.conn.Done():
		return
	default:
	}
	pause := e.pause(e.leaf, e.record, err)
	e.due = time.Now().Add(pause)
	e.Log.Debug("way down to leaf is closed", "leaf", e.leaf, "remedy", remedyOf(err).String(), "error", err, "pause_ms", pause.Milliseconds())
}

// GetTwin is described at gateway.HubTwins.
func (u *Uplink) GetTwin(ctx context.Context, leaf string) ([]byte, error) {
	hub := u.listener()
	if hub == nil {
		return nil, gateway.ErrLinkDown
	}
	return hub.GetTwin(ctx, leaf)
}

// PatchReported is described at gateway.HubTwins.
func (u *Uplink) PatchReported(ctx context.Context, leaf string, patch []byte) (int64, error) {
	hub := u.listener()
	if hub == nil {
		return 0, gateway.ErrLinkDown
	}
	return hub.PatchReported(ctx, leaf, patch)
}

// listener returns the present connection, nil if there is none or if the hub
// cannot reach leaves on it.
func (u *Uplink) listener() Listener {
	conn := u.current.Load()
	if conn == nil {
		return nil
	}
	hub, _ := (*conn).(Listener)
	return hub
}
