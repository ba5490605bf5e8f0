package amqp

import (
	"context"
	"errors"
	"fmt"
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
	sender  *goamqp.Sender
	forget  context.CancelFunc // stops the renewal of the leaf's token
	dead    atomic.Bool        // the session has failed
}

// Send puts one message on its way.
func (l *link) Send(ctx context.Context, m *gateway.Message) (uplink.Receipt, error) {
	r, err := l.sender.SendWithReceipt(ctx, encode(hub.ToAMQP(m, l.conn.clock())), nil)
	if err == nil {
		return &receipt{link: l, wire: r}, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	// Not an end of anything: go-amqp itself found that it cannot be sent.
	if e, ok := err.(*goamqp.Error); ok && e.Condition == goamqp.ErrCondMessageSizeExceeded {
		return nil, &uplink.Fault{Remedy: uplink.Poison, Err: err}
	}
	return nil, l.fault(err)
}

// fault notes the end of the session, for those who come after. A hub that takes
// an open link away because of the identity may only have seen the token expire:
// what it says to the next token tells (wire contract, section 3.11).
func (l *link) fault(err error) error {
	if _, ok := errors.AsType[*goamqp.SessionError](err); ok {
		l.dead.Store(true)
	}
	err = faultOf(err)
	if f, ok := errors.AsType[*uplink.Fault](err); ok && f.Remedy == uplink.Refused {
		return &uplink.Fault{Remedy: uplink.Again, Err: err}
	}
	return err
}

// Abort ends the whole session: a link cannot be closed while answers are
// outstanding, and these do not come. If the hub does not even answer that, the
// connection is no good either.
func (l *link) Abort() {
	ctx, cancel := context.WithTimeout(l.conn.live, l.conn.cfg.Timeout.D())
	defer cancel()
	l.dead.Store(true)
	if err := l.session.wire.Close(ctx); errors.Is(err, context.DeadlineExceeded) {
		l.conn.line.Close()
	}
}

// Close gives up the link.
func (l *link) Close(ctx context.Context) {
	l.forget()
	ctx, cancel := context.WithTimeout(ctx, l.conn.cfg.Timeout.D())
	defer cancel()
	_ = l.sender.Close(ctx) // it may have ended by itself long before
	l.conn.sessions.release(l.session, l.dead.Load())
}

// receipt is the hub's answer to one message.
type receipt struct {
	link *link
	wire goamqp.SendReceipt
}

// Wait returns nil when the hub has accepted the message.
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
