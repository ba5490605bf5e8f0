package mqttsn

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/gateway"
)

// Link is the gateway on one line: sessions of leaves, and the bytes between. It
// outlives openings of the line. It is the gateway.Reach of its leaves. Safe for
// concurrent use.
type Link struct {
	cfg    Config
	topics table
	only   string // the leaf of a line that has but one
	clock  gateway.Clock
	log    *slog.Logger
	ways   gateway.Ways
	ctx    context.Context // of Run
	news   chan struct{}   // capacity 1: look at the timers, and at what is to be done later
	work   sync.WaitGroup

	mu sync.Mutex
	// guarded by mu, with everything in sessions:
	sessions  map[string]*session // by leaf, one for each that may speak here
	at        map[string]*session // by address, those that are connected
	out       *outbox             // of the present opening, nil without one
	later     []func()            // to be done without the lock, in this order
	doing     bool                // somebody does
	closing   bool                // nobody connects any more
	advertise time.Time           // when, next
	counts    counts
}

// New makes a link for these leaves, of which there is one at least. cfg must be
// valid.
func New(cfg Config, leaves []string, clock gateway.Clock, log *slog.Logger) *Link {
	l := &Link{
		cfg: cfg, topics: newTable(&cfg), clock: clock, log: log, news: make(chan struct{}, 1),
		sessions: make(map[string]*session), at: make(map[string]*session), counts: newCounts(),
	}
	if len(leaves) == 1 {
		l.only = leaves[0]
	}
	for _, id := range leaves {
		l.sessions[id] = newSession(l, id)
	}
	return l
}

// Run joins the link to the gateway and calls line, which calls Serve for each
// opening of the line, until ctx ends and line has returned. It may be called once.
func (l *Link) Run(ctx context.Context, ways gateway.Ways, line func(ctx context.Context)) {
	l.ctx, l.ways = ctx, ways
	l.recall()
	var parts sync.WaitGroup
	parts.Go(func() { l.keepTime(ctx) })
	line(ctx)
	parts.Wait()
	l.mu.Lock()
	l.closing = true
	for _, s := range l.sessions {
		s.leave()
	}
	l.unlock()
	l.work.Wait()
	l.takeBack()
}

// takeBack tells the attendance that nobody is reached here any more.
func (l *Link) takeBack() {
	l.mu.Lock()
	for _, s := range l.sessions {
		s.say(0)
	}
	l.unlock()
}

// keepTime does what is due until ctx ends.
func (l *Link) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-l.news:
		}
		l.mu.Lock()
		next := l.tick(time.Now())
		l.unlock()
		timer.Reset(time.Until(next))
	}
}

// tick does what is due now and returns when it is to be called again at the
// latest.
func (l *Link) tick(now time.Time) time.Time {
	next := now.Add(time.Hour)
	soon := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	if l.out != nil && l.cfg.Advertise > 0 {
		if !now.Before(l.advertise) {
			l.sayHere(now)
		}
		soon(l.advertise)
	}
	for _, s := range l.sessions {
		soon(s.tick(now))
	}
	return next
}

// sayHere sends ADVERTISE (section 6.1).
func (l *Link) sayHere(now time.Time) {
	every := max(l.cfg.Advertise.D(), time.Second)
	if l.cfg.Advertise == 0 {
		every = 65535 * time.Second // nobody is to wait for the next one
	}
	l.advertise = now.Add(every)
	l.send(direct, &Message{Type: Advertise, Gateway: byte(l.cfg.GatewayID), Duration: uint16(every / time.Second)}, nil)
}

// unlock gives the lock back and does what is to be done without it: the gateway
// is told things, and from within may call us. Whoever comes meanwhile leaves the
// rest to the first, so that the order holds.
func (l *Link) unlock() {
	for !l.doing && len(l.later) > 0 {
		l.doing = true
		do := l.later
		l.later = nil
		l.mu.Unlock()
		for _, f := range do {
			f()
		}
		l.mu.Lock()
		l.doing = false
	}
	l.mu.Unlock()
}

// unlockQuickly gives the lock back where nothing may be called: the rest is done
// by keepTime.
func (l *Link) unlockQuickly() {
	l.mu.Unlock()
	signal(l.news)
}

// signal leaves a note in a channel of capacity one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// maxUnsent bounds what waits to be written to a line, in octets: a line that
// takes nothing loses what comes beyond, as a line does.
const maxUnsent = 64 << 10

// outbox is what waits to be written in one opening. Guarded by Link.mu.
type outbox struct {
	queue  []outgoing
	octets int
	ready  chan struct{} // capacity 1: queue is not empty, or over
	over   bool
}

type outgoing struct {
	frame []byte
	sent  func(ok bool) // with the lock held; nil: nobody asks
}

// send puts a message on its way. sent is called when it is written, or will not
// be; perhaps from within.
func (l *Link) send(address string, m *Message, sent func(ok bool)) {
	frame := hdlc.Append(nil, wrap(nil, address, m), true)
	if l.out == nil || l.out.octets+len(frame) > maxUnsent {
		l.counts.events["unsent"]++
		if sent != nil {
			sent(false)
		}
		return
	}
	l.out.queue = append(l.out.queue, outgoing{frame, sent})
	l.out.octets += len(frame)
	signal(l.out.ready)
}

// Serve reads and writes one opening of the line until reading fails, closes it
// and returns the error. Run must be running; there is one opening at a time. A
// write that fails loses what it wrote, and should end when the line is closed.
func (l *Link) Serve(line io.ReadWriteCloser) error {
	out := &outbox{ready: make(chan struct{}, 1)}
	l.mu.Lock()
	l.out = out
	now := time.Now()
	l.sayHere(now)
	for _, s := range l.sessions {
		s.pump(now)
		if said := s.said; s.interest() == said {
			s.again()
		}
	}
	l.unlock()
	signal(l.news)

	var writer sync.WaitGroup
	writer.Go(func() { l.write(line, out) })
	err := l.read(line)

	line.Close()
	l.mu.Lock()
	out.over = true
	if l.out == out {
		l.out = nil
		for _, s := range l.sessions {
			s.unplug()
		}
	}
	signal(out.ready)
	l.unlock()
	writer.Wait()
	return err
}

func (l *Link) write(line io.Writer, out *outbox) {
	for {
		l.mu.Lock()
		queue, over := out.queue, out.over
		out.queue, out.octets = nil, 0
		l.mu.Unlock()
		for _, o := range queue {
			ok := !over
			if ok {
				_, err := line.Write(o.frame)
				ok = err == nil
			}
			if o.sent == nil && ok {
				continue
			}
			l.mu.Lock()
			if !ok {
				l.counts.events["unsent"]++
			}
			if o.sent != nil {
				o.sent(ok)
			}
			l.unlock()
			signal(l.news) // a timer may run from now on
		}
		if over {
			return
		}
		<-out.ready
	}
}

func (l *Link) read(line io.Reader) error {
	var frames hdlc.Reader
	buf := make([]byte, 2048)
	for {
		n, err := line.Read(buf)
		before := frames.Discards
		frames.Feed(buf[:n], l.take)
		if frames.Discards != before {
			l.lost(before, frames.Discards)
		}
		if err != nil {
			return err
		}
	}
}

// take takes the content of a frame, which is the caller's again afterwards.
func (l *Link) take(content []byte) {
	l.mu.Lock()
	defer signal(l.news)
	defer l.unlock()
	address, message, err := unwrap(content)
	var m *Message
	if err == nil {
		m, err = Parse(message)
	}
	if err != nil {
		l.discard("malformed", "err", err)
		return
	}
	l.receive(address, m, time.Now())
}

// receive finds who has sent a message. There are three that say it themselves, and
// one that does not matter.
func (l *Link) receive(address string, m *Message, now time.Time) {
	switch {
	case m.Type == SearchGW:
		l.send(address, &Message{Type: GWInfo, Gateway: byte(l.cfg.GatewayID)}, nil)
		return
	case m.Type == Connect:
		l.connect(address, m, now)
		return
	case m.Type == PingReq && len(m.Text) > 0:
		if s := l.sessions[string(m.Text)]; s != nil && s.connected() {
			l.bind(s, address, now)
			s.receive(m, now)
			return
		}
	case l.at[address] != nil:
		l.at[address].receive(m, now)
		return
	}
	l.stranger(address, m, now)
}

// stranger answers somebody without a session.
func (l *Link) stranger(address string, m *Message, now time.Time) {
	switch m.Type {
	case Publish:
		if m.Flags.QoS == -1 {
			// Section 6.8: without a connection. Whose it is the line must tell.
			if l.only == "" || address != direct {
				l.discard("no_leaf")
				return
			}
			l.sessions[l.only].publish(m, now)
			return
		}
	case Register, Subscribe, Unsubscribe, PingReq, Disconnect, WillTopicUpd, WillMsgUpd:
	default:
		return // an answer to somebody else, or before
	}
	if m.Type != Disconnect {
		l.counts.events["strangers"]++
	}
	l.send(address, &Message{Type: Disconnect}, nil)
}

// connect takes CONNECT (section 6.2).
func (l *Link) connect(address string, m *Message, now time.Time) {
	s := l.sessions[string(m.Text)]
	code, result := Accepted, ""
	switch {
	case m.Protocol != Protocol:
		code, result = NotSupported, "protocol"
	case s == nil, !l.known(s.leaf):
		code, result = NotSupported, "unknown"
	case l.closing, len(s.handing.list) >= maxIncoming: // each connection may leave a will
		code, result = Congestion, "busy"
	}
	if code != Accepted {
		l.counts.logins[result]++
		l.warn("connect "+result, "leaf refused", "client_id", fmt.Sprintf("%q", m.Text), "reason", result)
		l.send(address, &Message{Type: ConnAck, Code: code}, nil)
		return
	}
	l.bind(s, address, now)
	s.connect(m, now)
}

// known says whether the leaf is admitted at present.
func (l *Link) known(leaf string) bool { return l.ways.Leaves == nil || l.ways.Leaves.Known(leaf) }

// bind makes an address that of a session. Who was there before is lost: it cannot
// be told from the new one.
func (l *Link) bind(s *session, address string, now time.Time) {
	if other := l.at[address]; other != nil && other != s {
		other.lose(now, "another leaf has taken its place")
	}
	if l.at[s.address] == s {
		delete(l.at, s.address)
	}
	s.address = address
	l.at[address] = s
}

// do has f called without the lock.
func (l *Link) do(f func()) { l.later = append(l.later, f) }
