package amqp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// link is the sending link of one leaf.
type link struct {
	conn    *conn
	leaf    string
	session *session
	sender  sender
	alias   string      // the leaf's id, if it goes out under another identity; "" else
	release func()      // gives the leaf's identity up
	ended   atomic.Bool // it is good for Close only
	dead    atomic.Bool // the session has failed
}

// sender is what a link uses of *goamqp.Sender.
type sender interface {
	SendWithReceipt(context.Context, *goamqp.Message, *goamqp.SendWithReceiptOptions) (goamqp.SendReceipt, error)
	MaxMessageSize() uint64
	Close(context.Context) error
}

// Send puts messages on their way, several in one transfer where there are several.
func (l *link) Send(ctx context.Context, ms []*gateway.Message) (uplink.Receipt, int, error) {
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch) // go-amqp has copied what was in it
	m, n, err := l.pack(ms, scratch)
	if err != nil {
		return nil, 0, &uplink.Fault{Remedy: uplink.Poison, Err: err}
	}
	r, err := l.sender.SendWithReceipt(ctx, m, nil)
	if n > 1 && isTooLarge(err) { // that says nothing about any one of them
		n = 1
		r, err = l.sender.SendWithReceipt(ctx, l.encode(ms[0], l.conn.clock()), nil)
	}
	if err == nil {
		return &receipt{link: l, wire: r}, n, nil
	}
	if ctx.Err() != nil {
		return nil, 0, ctx.Err()
	}
	if isTooLarge(err) {
		return nil, 0, &uplink.Fault{Remedy: uplink.Poison, Err: err}
	}
	return nil, 0, l.fault(err)
}

// isTooLarge says that go-amqp itself found that a message cannot be sent, which
// ends nothing.
func isTooLarge(err error) bool {
	e, ok := err.(*goamqp.Error)
	return ok && e.Condition == goamqp.ErrCondMessageSizeExceeded
}

// Bounds of a batch. The hub takes 256 KiB (wire contract, section 3.5), and so
// may each message; half of it is as cheap per message and keeps less in memory.
const (
	maxBatch     = 128 << 10
	sectionBytes = 8 // in front of each message in a batch
)

// scratches are buffers for the sections of a batch.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// pack makes one transfer of the first n messages: of one alone an ordinary
// message, of several the vendor's batch, in which each data section is a whole
// encoded message (wire contract, section 3.5). It may be in scratch.
func (l *link) pack(ms []*gateway.Message, scratch *[]byte) (m *goamqp.Message, n int, err error) {
	now := l.conn.clock()
	bound := uint64(maxBatch)
	if limit := l.sender.MaxMessageSize(); limit > 0 {
		bound = min(bound, limit)
	}
	if len(ms) == 1 || ms[0].Size()+ms[1].Size() > int(bound) {
		return l.encode(ms[0], now), 1, nil
	}
	batch := &goamqp.Message{Format: hub.BatchFormat, Data: make([][]byte, 0, len(ms))}
	size := uint64(0)
	*scratch = (*scratch)[:0]
	for _, one := range ms {
		encoded, err := l.section(one, now, scratch)
		if err != nil && n == 0 {
			return nil, 0, err
		}
		size += uint64(len(encoded) + sectionBytes)
		if n == 0 && size > bound {
			return l.encode(one, now), 1, nil
		}
		if err != nil || size > bound {
			break // it is the first one next time
		}
		batch.Data = append(batch.Data, encoded)
		n++
	}
	return batch, n, nil
}

// section encodes a message of a batch, behind what is in scratch.
func (l *link) section(m *gateway.Message, now gateway.Instant, scratch *[]byte) ([]byte, error) {
	n := len(*scratch)
	b, ok := hub.AppendAMQP(*scratch, m, now, l.alias)
	if !ok {
		return l.encode(m, now).MarshalBinary()
	}
	*scratch = b
	return b[n:], nil
}

// encode makes an ordinary message. One that goes out under another identity than
// its leaf's says whose it is.
func (l *link) encode(m *gateway.Message, now gateway.Instant) *goamqp.Message {
	a := hub.ToAMQP(m, now)
	if l.alias != "" {
		a.Properties[hub.PropertyLeaf] = l.alias
	}
	return encode(a)
}

// fault notes the end of the session, for those who come after. A hub that takes
// an open link away because of the identity may only have seen the token expire:
// what it says to the next token tells (wire contract, section 3.11).
func (l *link) fault(err error) error {
	l.ended.Store(true)
	if _, ok := errors.AsType[*goamqp.SessionError](err); ok {
		l.dead.Store(true)
	}
	err = faultOf(err)
	if f, ok := errors.AsType[*uplink.Fault](err); ok && f.Remedy == uplink.Refused {
		return &uplink.Fault{Remedy: uplink.Again, Err: err}
	}
	return err
}

// Abort detaches the link or ends the whole session. An answer that comes after
// the detach all the same ends the session too: go-amqp knows nobody it is for. If
// the hub does not even answer the detach or the end, the connection is no good
// either.
func (l *link) Abort(rung uplink.Rung) {
	ctx, cancel := context.WithTimeout(l.conn.live, l.conn.cfg.Timeout.D())
	defer cancel()
	end := l.sender.Close
	if rung != uplink.RungLink {
		l.dead.Store(true)
		end = l.session.wire.Close
	}
	if err := end(ctx); errors.Is(err, context.DeadlineExceeded) {
		l.conn.stream.Abort()
	}
}

// Close gives up the link.
func (l *link) Close(ctx context.Context) {
	l.release()
	ctx, cancel := context.WithTimeout(ctx, l.conn.cfg.Timeout.D())
	defer cancel()
	_ = l.sender.Close(ctx) // it may have ended by itself long before
	l.conn.sessions.release(l.session, l.dead.Load())
}

// receipt is the hub's answer to one transfer.
type receipt struct {
	link *link
	wire goamqp.SendReceipt
}

// Wait returns nil when the hub has accepted what was in it.
func (r *receipt) Wait(ctx context.Context) error {
	state, err := r.wire.Wait(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return r.link.fault(err)
	}
	return outcome(state, r.link.conn.clock().Wall)
}

// outcome returns what the hub's word on one message asks for.
func outcome(state goamqp.DeliveryState, now time.Time) error {
	switch s := state.(type) {
	case *goamqp.StateAccepted:
		return nil
	case *goamqp.StateRejected:
		if s.Error == nil {
			return &uplink.Fault{Remedy: uplink.Poison, Err: errors.New("rejected without a reason")}
		}
		verdict := hub.JudgeRejection(string(s.Error.Condition), s.Error.Description)
		return remedy(verdict, now, fmt.Errorf("rejected: %w", reason(s.Error)))
	case *goamqp.StateReleased:
		return &uplink.Fault{Remedy: uplink.Again, Err: errors.New("released")}
	case *goamqp.StateModified:
		return &uplink.Fault{Remedy: uplink.Again, Err: errors.New("given back as modified")}
	default:
		return &uplink.Fault{Remedy: uplink.BackOff, Err: fmt.Errorf("settled as %T", state)}
	}
}

// encode puts a message into go-amqp's words.
func encode(a hub.AMQPMessage) *goamqp.Message {
	m := &goamqp.Message{
		Properties: &goamqp.MessageProperties{
			UserID:          a.UserID,
			ContentType:     optional(a.ContentType),
			ContentEncoding: optional(a.ContentEncoding),
		},
		ApplicationProperties: make(map[string]any, len(a.Properties)),
		Data:                  [][]byte{a.Body},
	}
	if a.MessageID != "" {
		m.Properties.MessageID = a.MessageID
	}
	if a.CorrelationID != "" {
		m.Properties.CorrelationID = a.CorrelationID
	}
	if !a.Expiry.IsZero() {
		m.Properties.AbsoluteExpiryTime = &a.Expiry
	}
	for name, value := range a.Properties {
		m.ApplicationProperties[name] = value
	}
	if len(a.Annotations) > 0 {
		m.Annotations = make(goamqp.Annotations, len(a.Annotations))
		for name, value := range a.Annotations {
			m.Annotations[name] = value
		}
	}
	return m
}

// optional returns nil for a value that is not set.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
