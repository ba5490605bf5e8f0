package amqp

import (
	"context"
	"fmt"
	"sync"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// maxCall bounds the wait for a leaf's answer to a method.
const maxCall = 300 * time.Second

// twinLinks are the doors of one leaf's twin: requests with answers, and on
// request notifications of desired changes (wire contract, section 3.7).
type twinLinks struct {
	*door
	notified bool // notifications were asked for; guarded by ear.busy

	mu      sync.Mutex
	to      gateway.DownHandler        // for notifications; guarded by mu
	waiting map[string]chan twinAnswer // guarded by mu; by correlation id
}

// twinAnswer is what the hub says to a request.
type twinAnswer struct {
	status  int64
	version int64
	body    []byte
}

// openTwin opens the twin's doors if they are not.
func (e *ear) openTwin(ctx context.Context) error {
	e.used = time.Now()
	if e.twin != nil && !e.twin.isLost() {
		return nil
	}
	if e.twin != nil {
		e.twin.close(ctx)
		e.twin = nil
	}
	if err := e.holdIdentity(ctx); err != nil {
		return err
	}
	t := &twinLinks{waiting: make(map[string]chan twinAnswer)}
	d, err := e.openDoor(ctx, e.leaf, twinDoor, t.take)
	if err != nil {
		return fmt.Errorf("twin: %w", err)
	}
	t.door = d
	e.twin = t
	return nil
}

// take hands an answer to whoever waits for it, and a notification down.
func (t *twinLinks) take(d *door, m *goamqp.Message) {
	_ = d.receiver.AcceptMessage(d.life, m) // nothing if it came settled
	annotations := annotationsOf(m)
	var a twinAnswer
	a.status, _ = hub.Number(annotations[hub.TwinStatus])
	a.version, _ = hub.Number(annotations[hub.TwinVersion])
	a.body = bodyOf(m)
	id := ""
	if m.Properties != nil {
		id = textOf(m.Properties.CorrelationID)
	}
	t.mu.Lock()
	to, waiting := t.to, t.waiting[id]
	delete(t.waiting, id)
	t.mu.Unlock()
	switch {
	case waiting != nil:
		waiting <- a // it has room for one
	case id == "" && to != nil:
		to.Desired(d.leaf, a.body, a.version, func() {})
	}
}

// notify asks for notifications.
func (t *twinLinks) notify(ctx context.Context, to gateway.DownHandler) error {
	t.mu.Lock()
	t.to = to
	t.mu.Unlock()
	if t.notified {
		return nil
	}
	a, err := t.ask(ctx, "PUT", hub.NotificationsResource, nil)
	if err != nil {
		return err
	}
	t.notified = true
	return hub.JudgeTwin(a.status, a.body)
}

// ask sends a request and waits for its answer.
func (t *twinLinks) ask(ctx context.Context, operation, resource string, body []byte) (twinAnswer, error) {
	id, answer := newUUID().String(), make(chan twinAnswer, 1)
	t.mu.Lock()
	t.waiting[id] = answer
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.waiting, id)
	}()
	m := &goamqp.Message{
		Properties:  &goamqp.MessageProperties{CorrelationID: id},
		Annotations: goamqp.Annotations{hub.TwinOperation: operation},
		Data:        [][]byte{body},
	}
	if resource != "" {
		m.Annotations[hub.TwinResource] = resource
	}
	if err := t.sender.Send(ctx, m, nil); err != nil {
		return twinAnswer{}, faultOf(timeout(ctx, err, "twin request"))
	}
	select {
	case a := <-answer:
		return a, nil
	case <-t.lost:
		return twinAnswer{}, t.fault()
	case <-ctx.Done():
		return twinAnswer{}, timeout(ctx, ctx.Err(), "twin")
	}
}

// GetTwin is described at gateway.HubTwins.
func (c *conn) GetTwin(ctx context.Context, leaf string) ([]byte, error) {
	a, err := c.askTwin(ctx, leaf, "GET", "", nil)
	return a.body, err
}

// PatchReported is described at gateway.HubTwins.
func (c *conn) PatchReported(ctx context.Context, leaf string, patch []byte) (int64, error) {
	a, err := c.askTwin(ctx, leaf, "PATCH", hub.ReportedResource, patch)
	return a.version, err
}

func (c *conn) askTwin(ctx context.Context, leaf, operation, resource string, body []byte) (twinAnswer, error) {
	if !c.hasIdentity(leaf) {
		return twinAnswer{}, hub.ErrNoTwin
	}
	t, err := c.twinOf(ctx, leaf)
	if err != nil {
		return twinAnswer{}, err
	}
	a, err := t.ask(ctx, operation, resource, body)
	if err != nil {
		return twinAnswer{}, err
	}
	return a, hub.JudgeTwin(a.status, a.body)
}

// twinOf returns the twin's links, open.
func (c *conn) twinOf(ctx context.Context, leaf string) (*twinLinks, error) {
	e := c.ear(leaf)
	if err := e.lock(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	opening, cancel := context.WithTimeout(ctx, c.cfg.Timeout.D())
	defer cancel()
	if err := e.openTwin(opening); err != nil {
		e.close(c.live, e.wants)
		return nil, err
	}
	return e.twin, nil
}
