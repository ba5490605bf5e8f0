package amqp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

// goodbye is how long the connection may take to close in good order.
const goodbye = 2 * time.Second

// conn is one connection to the hub.
type conn struct {
	*Transport
	stream   *dial.Stream
	wire     *goamqp.Conn
	cbs      *cbs
	sessions sessions
	shared   shared

	live       context.Context // ends with Close
	cancel     context.CancelFunc
	background sync.WaitGroup // see start

	mu         sync.Mutex
	closed     bool                 // guarded by mu: nothing is started any more
	identities map[string]time.Time // guarded by mu; leaf -> expiry of the last token put
	renewals   map[string]*renewal  // guarded by mu; of leaves that have links
	ears       map[string]*ear      // guarded by mu
}

func newConn(t *Transport, stream *dial.Stream, wire *goamqp.Conn) *conn {
	c := &conn{
		Transport: t, stream: stream, wire: wire, identities: make(map[string]time.Time),
		renewals: make(map[string]*renewal), ears: make(map[string]*ear),
	}
	c.live, c.cancel = context.WithCancel(context.Background())
	c.cbs = &cbs{conn: c, busy: make(chan struct{}, 1)}
	c.sessions = sessions{conn: c, busy: make(chan struct{}, 1)}
	c.shared = shared{conn: c, busy: make(chan struct{}, 1), alone: make(chan struct{}, 1)}
	c.start(c.sweepEars)
	return c
}

// start runs f as a part of the connection, which Close waits for; f ends with live.
// It does nothing when the connection is closed: who holds it may come late.
func (c *conn) start(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.background.Go(f)
	}
}

// Done is closed when the connection is lost.
func (c *conn) Done() <-chan struct{} { return c.wire.Done() }

// Err says why the connection is lost.
func (c *conn) Err() error {
	if err := c.wire.Err(); err != nil {
		return faultOf(err)
	}
	return nil
}

// Close ends the connection. A hub that does not listen any more gets a moment.
func (c *conn) Close() {
	c.cancel()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	timer := time.AfterFunc(goodbye, c.stream.Abort)
	defer timer.Stop()
	_ = c.wire.Close() // whatever it says, it is closed
	c.background.Wait()
}

// Open proves the leaf's identity and opens its link.
func (c *conn) Open(ctx context.Context, leaf string) (uplink.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout.D())
	defer cancel()
	if !c.hasIdentity(leaf) {
		return c.shared.open(ctx, leaf)
	}
	l, err := c.openLink(ctx, leaf)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// hasIdentity says that the hub knows the leaf as a device of its own.
func (c *conn) hasIdentity(leaf string) bool { return c.proofs.Identity(leaf) == leaf }

// openLink opens the telemetry link of the leaf's identity.
func (c *conn) openLink(ctx context.Context, leaf string) (*link, error) {
	release, err := c.holdToken(ctx, leaf)
	if err != nil {
		return nil, err
	}
	s, sender, err := c.sessions.attach(ctx, leaf)
	if err != nil {
		release()
		return nil, err
	}
	return &link{conn: c, leaf: leaf, session: s, sender: sender, release: release}, nil
}

// errFull says that the connection carries as many leaves as the hub allows.
var errFull = fmt.Errorf("the connection carries %d leaves, its limit: waits for the token of a silent leaf to expire", hub.MaxIdentities)

// admit makes room for one more token on the connection. The hub counts tokens,
// and one that was put cannot be taken back: only those of leaves that have been
// silent for a whole token's life make room. The place is taken at once, because
// many leaves come at the same time; fresh says that it was not the leaf's before.
func (c *conn) admit(leaf string, now time.Time) (fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.identities[leaf]; known {
		return false, nil
	}
	if len(c.identities) >= hub.MaxIdentities {
		maps.DeleteFunc(c.identities, func(_ string, expiry time.Time) bool { return expiry.Before(now) })
	}
	if len(c.identities) >= hub.MaxIdentities {
		return false, &uplink.Fault{Remedy: uplink.Refused, Err: errFull}
	}
	c.identities[leaf] = now.Add(c.cfg.TokenTTL.D())
	return true, nil
}

// admitted notes until when the hub counts the leaf's token; the zero time says
// that there is none.
func (c *conn) admitted(leaf string, expiry time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if expiry.IsZero() {
		delete(c.identities, leaf)
		return
	}
	c.identities[leaf] = expiry
}

// timeout says in our words that the hub did not answer in time.
func timeout(ctx context.Context, err error, what string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("hub does not answer: %s", what)
	}
	return err
}
