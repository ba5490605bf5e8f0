package amqp

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway/hub"
)

// cbsCredit is how many answers the hub may send before we have read one.
const cbsCredit = 100

// cbs puts tokens on the connection: a pair of links in a session of its own, on
// which requests and answers are matched by id (wire contract, section 1.8).
type cbs struct {
	*conn
	busy chan struct{} // a lock that can be waited for with a context
	pair *cbsPair      // guarded by busy; nil before the first
}

// cbsPair is one life of the two links.
type cbsPair struct {
	session  *goamqp.Session
	sender   *goamqp.Sender
	receiver *goamqp.Receiver
	lost     chan struct{} // closed when the receiver has failed
	err      error         // why; read it after lost is closed

	mu      sync.Mutex
	last    uint64                    // guarded by mu; id of the last request
	waiting map[string]chan cbsAnswer // guarded by mu; by message id
}

// cbsAnswer is what the hub says to a token.
type cbsAnswer struct {
	status      int
	description string
}

// open opens the pair of links if there is none.
func (b *cbs) open(ctx context.Context) error {
	_, err := b.get(ctx)
	return err
}

// get returns the pair, which is opened again after it was lost.
func (b *cbs) get(ctx context.Context) (*cbsPair, error) {
	select {
	case b.busy <- struct{}{}:
		defer func() { <-b.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if b.pair != nil {
		select {
		case <-b.pair.lost:
			_ = b.pair.session.Close(ctx) // one link may have outlived the other
		default:
			return b.pair, nil
		}
	}
	p, err := b.dial(ctx)
	if err != nil {
		return nil, faultOf(fmt.Errorf("%s: %w", hub.CBSAddress, timeout(ctx, err, "attach")))
	}
	b.pair = p
	b.start(func() { p.read(b.live) })
	return p, nil
}

func (b *cbs) dial(ctx context.Context) (*cbsPair, error) {
	session, err := b.wire.NewSession(ctx, nil)
	if err != nil {
		return nil, err
	}
	p := &cbsPair{
		session: session,
		lost:    make(chan struct{}),
		waiting: make(map[string]chan cbsAnswer),
	}
	if p.sender, err = session.NewSender(ctx, hub.CBSAddress, nil); err == nil {
		p.receiver, err = session.NewReceiver(ctx, hub.CBSAddress, &goamqp.ReceiverOptions{Credit: cbsCredit})
	}
	if err != nil {
		_ = session.Close(ctx) // the error to report is the one above
		return nil, err
	}
	return p, nil
}

// put asks the hub to accept the token for the audience.
func (b *cbs) put(ctx context.Context, audience, token string) error {
	p, err := b.get(ctx)
	if err != nil {
		return err
	}
	id, answer := p.expect()
	defer p.forget(id)
	if err := p.sender.Send(ctx, request(id, audience, token), nil); err != nil {
		if _, lost := errors.AsType[*goamqp.LinkError](err); lost {
			_ = p.session.Close(ctx) // half a pair is none: get opens the next
		}
		return faultOf(timeout(ctx, err, "token request"))
	}
	select {
	case a := <-answer:
		return a.fault(b.clock().Wall)
	case <-p.lost:
		return faultOf(p.err)
	case <-ctx.Done():
		return timeout(ctx, ctx.Err(), "token")
	}
}

// request makes the message of a put-token.
func request(id, audience, token string) *goamqp.Message {
	to, replyTo := hub.CBSAddress, hub.CBSReplyTo
	return &goamqp.Message{
		Properties: &goamqp.MessageProperties{MessageID: id, To: &to, ReplyTo: &replyTo},
		ApplicationProperties: map[string]any{
			"operation": hub.CBSOperation,
			"type":      hub.CBSTokenType,
			"name":      audience,
		},
		Value: token,
	}
}

// expect makes an id for a request, and the place for its answer.
func (p *cbsPair) expect() (id string, answer <-chan cbsAnswer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	id = strconv.FormatUint(p.last, 10)
	c := make(chan cbsAnswer, 1)
	p.waiting[id] = c
	return id, c
}

// forget gives up on an answer; a late one is ignored.
func (p *cbsPair) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
}

// read hands answers to those who wait for them, until the link fails.
func (p *cbsPair) read(ctx context.Context) {
	defer close(p.lost)
	for {
		m, err := p.receiver.Receive(ctx, nil)
		if err != nil {
			p.err = err
			return
		}
		if err := p.receiver.AcceptMessage(ctx, m); err != nil {
			p.err = err
			return
		}
		id, a := readAnswer(m)
		p.mu.Lock()
		c := p.waiting[id]
		delete(p.waiting, id)
		p.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
}

// readAnswer takes apart what the hub says; anything that is not as it should be
// comes out as status 0, a fault of the service.
func readAnswer(m *goamqp.Message) (id string, a cbsAnswer) {
	if m.Properties != nil {
		id, _ = m.Properties.CorrelationID.(string)
	}
	a.description, _ = m.ApplicationProperties["status-description"].(string)
	switch n := m.ApplicationProperties["status-code"].(type) {
	case int32:
		a.status = int(n)
	case int64:
		a.status = int(n)
	case uint32:
		a.status = int(n)
	}
	return id, a
}

// fault returns nil when the answer is a success.
func (a cbsAnswer) fault(now time.Time) error {
	verdict, ok := hub.JudgeToken(a.status, a.description)
	if ok {
		return nil
	}
	return remedy(verdict, now, fmt.Errorf("status %d %s", a.status, a.description))
}
