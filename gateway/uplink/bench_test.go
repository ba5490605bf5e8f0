package uplink_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// outbox is the contract of gateway.Outbox in memory, with a record of what
// happened. Messages of a leaf are numbered from 1.
type outbox struct {
	t  *testing.T
	mu sync.Mutex // guards everything below

	up        bool
	queues    map[string][]*item
	owned     map[string]bool
	until     map[string]time.Time
	ready     chan struct{} // closed and replaced when something changed
	settled   map[string]gateway.Outcome
	recalls   []recall
	shelfFull int // how often the shelf will not take a message
	linkups   int
	lastLeaf  string
}

type item struct {
	d    *gateway.Delivery // nil when not taken
	m    *gateway.Message
	gone bool
}

type recall struct {
	leaf    string
	pause   time.Duration
	refused bool
}

func newOutbox(t *testing.T) *outbox {
	return &outbox{
		t: t, queues: make(map[string][]*item), owned: make(map[string]bool),
		until: make(map[string]time.Time), ready: make(chan struct{}), settled: make(map[string]gateway.Outcome),
	}
}

func (o *outbox) changed() {
	close(o.ready)
	o.ready = make(chan struct{})
}

// publish adds the next n messages of the leaf.
func (o *outbox) publish(leaf string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for range n {
		seq := uint64(len(o.queues[leaf]) + 1)
		m := &gateway.Message{Leaf: leaf, Seq: seq, Body: []byte(name(leaf, seq))}
		o.queues[leaf] = append(o.queues[leaf], &item{m: m})
	}
	o.changed()
}

func name(leaf string, seq uint64) string { return leaf + "/" + strconv.FormatUint(seq, 10) }

func (o *outbox) LinkUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up = true
	o.linkups++
	o.changed()
}

func (o *outbox) LinkDown() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up = false
	clear(o.owned)
	for _, q := range o.queues {
		for _, i := range q {
			i.d = nil
		}
	}
}

func (o *outbox) NextLeaf(ctx context.Context) (string, error) {
	for {
		o.mu.Lock()
		leaf, wait := o.nextLocked()
		changed := o.ready
		o.mu.Unlock()
		if leaf != "" {
			return leaf, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		timer.Stop()
	}
}

// nextLocked returns a leaf with something to send, or how long the next pause
// lasts. Leaves take turns.
func (o *outbox) nextLocked() (string, time.Duration) {
	wait := time.Hour
	if !o.up {
		return "", wait
	}
	var leaves []string
	for leaf, q := range o.queues {
		open := slices.ContainsFunc(q, func(i *item) bool { return i.d == nil && !i.gone })
		switch pause := time.Until(o.until[leaf]); {
		case o.owned[leaf] || !open:
		case pause > 0:
			wait = min(wait, pause)
		default:
			leaves = append(leaves, leaf)
		}
	}
	if len(leaves) == 0 {
		return "", wait
	}
	slices.Sort(leaves)
	next := slices.IndexFunc(leaves, func(l string) bool { return l > o.lastLeaf })
	o.lastLeaf = leaves[max(next, 0)]
	o.owned[o.lastLeaf] = true
	return o.lastLeaf, 0
}

func (o *outbox) Take(leaf string, max int) (ds []*gateway.Delivery) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if max < 1 {
		o.t.Errorf("Take of %d", max)
	}
	if !o.owned[leaf] {
		return nil
	}
	for _, i := range o.queues[leaf] {
		if i.d == nil && !i.gone && len(ds) < max {
			i.d = &gateway.Delivery{Message: i.m}
			ds = append(ds, i.d)
		}
	}
	if len(ds) == 0 {
		delete(o.owned, leaf)
	}
	return ds
}

func (o *outbox) Settle(d *gateway.Delivery, outcome gateway.Outcome, _ string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if outcome == gateway.Refused && o.shelfFull > 0 {
		o.shelfFull--
		return errors.New("no room on the shelf")
	}
	i := o.queues[d.Leaf][d.Seq-1]
	if i.d != d {
		o.t.Errorf("%s settled after it was recalled", d.Body)
		return nil
	}
	if i.gone {
		o.t.Errorf("%s settled twice", d.Body)
	}
	i.gone = true
	o.settled[string(d.Body)] = outcome
	return nil
}

func (o *outbox) Recall(leaf string, pause time.Duration, refused bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, i := range o.queues[leaf] {
		i.d = nil
	}
	delete(o.owned, leaf)
	o.until[leaf] = time.Now().Add(pause)
	o.recalls = append(o.recalls, recall{leaf, pause, refused})
	o.changed()
}

// outcome returns the outcome of one message, and whether it has one.
func (o *outbox) outcome(m string) (gateway.Outcome, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, ok := o.settled[m]
	return s, ok
}

// recalled returns all calls of Recall.
func (o *outbox) recalled() []recall {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.recalls)
}

// count returns how many messages have that outcome.
func (o *outbox) count(outcome gateway.Outcome) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.settled {
		if s == outcome {
			n++
		}
	}
	return n
}

// accepted returns how many messages of the leaf the hub has taken.
func (o *outbox) accepted(leaf string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for m, s := range o.settled {
		if l, _, _ := strings.Cut(m, "/"); l == leaf && s == gateway.Accepted {
			n++
		}
	}
	return n
}

// quiet returns how many of the leaves whose names begin so have been served.
func (o *outbox) quiet() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for m := range o.settled {
		if strings.HasPrefix(m, "quiet") {
			n++
		}
	}
	return n
}

// wire is a hub without a network: a Transport with knobs.
type wire struct {
	mu sync.Mutex // guards everything below; knobs are set before Run

	dial     func(n int) error                        // n-th attempt, from 1
	open     func(leaf string) error                  // nil accepts
	send     func(ctx context.Context, m string)      // blocks like a link without credit
	answer   func(m string) (stored bool, fate error) // the hub's word, asked when it is waited for
	delay    time.Duration                            // of each answer
	together int                                      // messages in one delivery, at most; 0 is 1
	gentle   bool                                     // what is not stored leaves the link open, as when the hub releases a message

	dials    []time.Time
	opens    map[string]int
	conns    []*conn
	arrived  map[string][]string
	inflight int
	most     int // highest inflight ever
	batches  int // deliveries of more than one message
}

func newWire() *wire {
	return &wire{opens: make(map[string]int), arrived: make(map[string][]string)}
}

func (w *wire) Dial(context.Context) (uplink.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials = append(w.dials, time.Now())
	if w.dial != nil {
		if err := w.dial(len(w.dials)); err != nil {
			return nil, err
		}
	}
	c := &conn{wire: w, done: make(chan struct{})}
	w.conns = append(w.conns, c)
	return c, nil
}

// opened returns how often the leaf's link was opened, or tried to be.
func (w *wire) opened(leaf string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opens[leaf]
}

// count returns how many messages of the leaf arrived.
func (w *wire) count(leaf string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.arrived[leaf])
}

// highest returns how many messages were in flight at most.
func (w *wire) highest() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most
}

// attempts returns how often somebody dialled.
func (w *wire) attempts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.dials)
}

// last returns the latest connection.
func (w *wire) last() *conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns[len(w.conns)-1]
}

type conn struct {
	*wire
	once sync.Once
	err  error
	done chan struct{}
}

func (c *conn) Done() <-chan struct{} { return c.done }
func (c *conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}
func (c *conn) Close() { c.lose(nil) }

// lose ends the connection.
func (c *conn) lose(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.done)
	})
}

func (c *conn) Open(_ context.Context, leaf string) (uplink.Link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opens[leaf]++
	if c.wire.open != nil {
		if err := c.wire.open(leaf); err != nil {
			return nil, err
		}
	}
	return &link{conn: c, leaf: leaf, lost: make(chan struct{}), aborted: make(chan struct{})}, nil
}

type link struct {
	*conn
	leaf string

	once sync.Once
	lost chan struct{} // closed when the link is gone
	why  error         // read it after lost is closed

	aborted chan struct{}
}

var errLinkLost = &uplink.Fault{Remedy: uplink.Again, Err: errors.New("link lost")}

func (l *link) lose(err error) {
	l.once.Do(func() {
		l.why = err
		close(l.lost)
	})
}

func (l *link) Send(ctx context.Context, ms []*gateway.Message) (uplink.Receipt, int, error) {
	n := min(len(ms), max(l.wire.together, 1))
	if l.wire.send != nil {
		l.wire.send(ctx, string(ms[0].Body))
	}
	select {
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	case <-l.lost:
		return nil, 0, l.why
	case <-l.done:
		return nil, 0, errLinkLost
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &receipt{link: l, n: n, due: time.Now().Add(l.delay)}
	stored := true
	for _, m := range ms[:n] {
		if l.answer != nil && r.fate == nil {
			stored, r.fate = l.answer(string(m.Body))
		}
	}
	if stored {
		for _, m := range ms[:n] {
			l.arrived[l.leaf] = append(l.arrived[l.leaf], string(m.Body))
		}
	}
	if f, ok := errors.AsType[*uplink.Fault](r.fate); ok && f.Remedy != uplink.Poison && !l.gentle {
		l.lose(r.fate) // what is behind it finds no link
	}
	if n > 1 {
		l.batches++
	}
	l.inflight += n
	l.most = max(l.most, l.inflight)
	return r, n, nil
}

func (l *link) Abort(uplink.Rung)     { close(l.aborted) }
func (l *link) Close(context.Context) {}

type receipt struct {
	link *link
	n    int // messages
	due  time.Time
	fate error
}

func (r *receipt) Wait(ctx context.Context) error {
	timer := time.NewTimer(time.Until(r.due))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-r.link.done:
		return errLinkLost
	case <-r.link.aborted:
		return errLinkLost
	}
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	r.link.inflight -= r.n
	return r.fate
}

// clock reads the bubble's time.
func clock() gateway.Instant {
	now := time.Now()
	return gateway.Instant{Wall: now, Quality: gateway.Synced, Boot: 1, Uptime: time.Duration(now.UnixNano())}
}

// start runs an uplink; stop ends it and waits.
func start(t *testing.T, cfg uplink.Config, w *wire, out gateway.Outbox) (u *uplink.Uplink, stop func()) {
	t.Helper()
	return startTransport(t, cfg, w, out)
}

// startTransport is start for any transport.
func startTransport(t *testing.T, cfg uplink.Config, w uplink.Transport, out gateway.Outbox) (u *uplink.Uplink, stop func()) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	u = uplink.New(cfg, uplink.Parts{Transport: w, Clock: clock, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := u.Run(ctx, out); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	return u, func() {
		cancel()
		<-ended
	}
}
