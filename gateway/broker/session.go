package broker

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// session is one connection of a leaf from its CONNECT to its end. Fields
// without a note are set while it logs in, before other goroutines know it.
type session struct {
	b        *Broker
	conn     *guardedConn
	source   string          // the leaf's address, without the port
	listener string          // the address on which it came in
	ctx      context.Context // ends with the connection
	stopping <-chan struct{} // closed when the gateway is stopping
	ready    chan struct{}   // capacity 1: there may be something to acknowledge
	writing  sync.WaitGroup  // the acknowledger, and who writes what is for the leaf

	login   login
	client  *mqtt.Client
	id      string    // names the MQTT session: the leaf's id, or leaf/client id
	leaf    string    // "" until admitted
	expiry  time.Time // of the token; zero: none
	guest   *guest    // nil: it is no guest
	turn    *turn
	inbox   *inbox
	desk    *desk                  // where its leaf is served
	box     *mailbox               // its session on the way down
	out     outflow                // guarded by desk.mu
	present bool                   // CONNACK says that the session was known
	certs   []*x509.Certificate    // that the client has shown, and proven to hold the key of the first
	will    *gateway.Message       // nil: none
	willIn  time.Duration          // how long after the connection's end the will is sent
	handing bool                   // within the path: used by the reading goroutine only
	why     atomic.Pointer[string] // why the gateway has closed the connection, nil: it has not
}

func (s *session) version() byte { return s.conn.version }

// stop closes the connection; an MQTT 5 leaf is told the code, and the log why.
func (s *session) stop(code packets.Code, why string) {
	s.why.CompareAndSwap(nil, &why)
	_ = s.b.server.DisconnectClient(s.client, code) // the error is the code
	s.conn.Close()
}

// reason is why the connection has ended: what the gateway stopped it for, if it did,
// else the error with which it ended.
func (s *session) reason(err error) string {
	switch why := s.why.Load(); {
	case why != nil:
		return *why
	case errors.Is(err, errStopped): // its own words are about packets
		return "the connection was lost"
	}
	return reasonText(err)
}

// maxShownTopic bounds what of a topic is in a log line, in bytes.
const maxShownTopic = 128

// shownTopic is as much of a topic as is shown.
func shownTopic(topic string) string {
	return strings.ToValidUTF8(topic[:min(len(topic), maxShownTopic)], "?")
}

// errStopped tells mochi that the connection is over.
var errStopped = packets.ErrRejectPacket

// takePublish is called with each PUBLISH that has been checked. What comes behind
// the end of the connection is none of our business, whether or not it was read.
func (s *session) takePublish(first byte, body []byte) error {
	if s.ctx.Err() != nil {
		return errStopped
	}
	p, err := readPublication(s.version(), first, bytes.Clone(body))
	if err != nil {
		return err
	}
	if s.guest != nil {
		return s.takeRequest(p)
	}
	return s.publish(p)
}

// publish follows one PUBLISH from the wire into the hands of the path. It runs
// in the connection's reading goroutine, so that it sees the publications of a
// connection in their order, and blocks only where the leaf is to feel it:
//
//  1. a request is answered (request.go), what else is no message of this leaf, or
//     of one for which it may speak (mapped.go), is refused;
//  2. an MQTT 3.1.1 leaf with too many messages in flight waits;
//  3. the leaf's turn is taken, as another connection of it may be publishing;
//  4. the acknowledgement is queued, unless the message came before;
//  5. the path takes the message, and says later what became of it: settle.
//
// Before all that, a leaf that sends more than it may waits (pace.go).
//
// An error means that the connection is over.
func (s *session) publish(p *publication) error {
	if p.qos > 1 {
		s.b.counters.refuse(RefuseQoS)
		s.stop(packets.ErrQosNotSupported, "it has published with QoS 2, which is not offered, on "+shownTopic(p.topic))
		return errStopped
	}
	if taken, err := s.request(p); taken {
		return err
	}
	m, err := s.b.read(s.leaf, p)
	if err != nil {
		return s.refuseTopic(p, err)
	}
	s.desk.speakFor(m.Leaf)
	if p.qos == 0 {
		return s.handOver(m, func() (gateway.Done, error) {
			s.b.counters.count(func(st *State) { st.Published[m.Lane].QoS0++ })
			return s.settleUnacknowledged, nil
		})
	}
	if err := s.room(); err != nil {
		return err
	}
	m.Stream = s.inbox.row()
	return s.handOver(m, func() (gateway.Done, error) {
		h, err := s.inbox.add(s, p.id, p.dup, s.b.sum(p))
		if h == nil {
			return nil, err
		}
		h.row = m.Stream
		s.b.counters.count(func(st *State) { st.Published[m.Lane].QoS1++ })
		return func(err error) { s.settle(h, err) }, nil
	})
}

// room is step 2.
func (s *session) room() error {
	err := s.inbox.wait(s)
	if errors.Is(err, errInflight) {
		s.b.counters.refuse(RefuseInflight)
		s.stop(packets.ErrReceiveMaximum, "it has more messages in flight than it may")
	}
	if err != nil {
		return errStopped
	}
	return nil
}

// handOver is steps 3 to 5. queue is step 4; it returns nil for a message that
// came before.
func (s *session) handOver(m *gateway.Message, queue func() (gateway.Done, error)) error {
	t := s.turn
	if m.Leaf != s.leaf {
		t = s.b.borrowTurn(m.Leaf)
		defer s.b.returnTurn(m.Leaf)
	}
	if !t.take(s.ctx) {
		return errStopped
	}
	defer t.give()
	done, err := queue()
	switch {
	case err != nil:
		return errStopped
	case done == nil:
		s.b.counters.count(func(st *State) { st.Resent++ })
		return nil
	}
	failpoint.Hit(failpoint.BrokerHandover)
	s.handing = true
	s.b.up.Handle(s.ctx, m, done)
	s.handing = false
	return nil
}

// settle hears from the path, in any goroutine, what became of a message.
func (s *session) settle(h *handover, err error) {
	if err != nil {
		s.b.counters.refuse(refuseReason(err))
	}
	s.inbox.settle(h, err)
}

// settleUnacknowledged is settle for QoS 0: there is nobody to tell.
func (s *session) settleUnacknowledged(err error) {
	if err != nil {
		s.b.counters.refuse(refuseReason(err))
	}
}

// refuseTopic answers a publication that is none of this leaf's messages: by
// PUBACK in MQTT 5, by closing in MQTT 3.1.1, as the hub does. Firmware that has
// rules says more than these are about, and stays.
func (s *session) refuseTopic(p *publication, err error) error {
	if s.version() < version5 && s.mayChatter(p.topic) {
		s.b.chatter(s.leaf, p.topic)
		return s.answer(p, nil)
	}
	s.b.counters.refuse(RefuseTopic)
	s.b.notices.warn(s.leaf, "publication refused", slog.String("leaf", s.leaf), slog.String("topic", p.topic))
	if s.version() < version5 {
		s.stop(packets.ErrNotAuthorized, "it has published on a topic that is not its own: "+shownTopic(p.topic))
		return errStopped
	}
	return s.answer(p, err)
}

// answer acknowledges, in its turn, a publication that is not handed over.
func (s *session) answer(p *publication, verdict error) error {
	if p.qos == 0 {
		return nil
	}
	if err := s.room(); err != nil {
		return err
	}
	h, err := s.inbox.add(s, p.id, false, 0)
	if err != nil {
		return errStopped
	}
	s.inbox.settle(h, verdict)
	return nil
}

// drainTime is how long a gateway that stops waits for the fate of messages in
// hand-over. A leaf sends again what is not acknowledged by then.
const drainTime = time.Second

// acknowledge writes acknowledgements, all that are due in one write, until the
// connection ends. It has a goroutine of its own: whoever settles a message
// must not wait for a leaf's network. When the gateway is stopping it takes no
// more messages, and says goodbye when none is in hand-over. At its end it wakes
// the reading goroutine if that waits for room.
func (s *session) acknowledge(stopping <-chan struct{}) {
	defer s.inbox.release(s)
	var buf []byte
	var late <-chan time.Time
	for {
		select {
		case <-s.ready:
		case <-stopping:
			stopping, late = nil, time.After(drainTime)
			s.inbox.drain()
		case <-late:
			s.stop(packets.ErrServerShuttingDown, "the gateway is stopping")
			return
		case <-s.ctx.Done():
			return
		}
		var err error
		if buf, err = s.writeAcknowledgements(buf[:0]); err != nil {
			return
		}
		if late != nil && s.inbox.quiet() {
			s.stop(packets.ErrServerShuttingDown, "the gateway is stopping")
			return
		}
	}
}

// writeAcknowledgements writes what is due and returns its buffer. After an
// error the connection is closed.
func (s *session) writeAcknowledgements(buf []byte) ([]byte, error) {
	runtime.Gosched() // whoever settles several goes on first: they are one write then
	acks, n, refused := s.inbox.acknowledgements(s, buf)
	if len(acks) > 0 {
		failpoint.Hit(failpoint.BrokerPuback)
		if _, err := s.conn.Write(acks); err != nil {
			return acks, err
		}
		failpoint.Hit(failpoint.BrokerPubacked)
		s.b.counters.count(func(st *State) { st.Acknowledged += uint64(n) })
	}
	if refused != nil {
		s.endRefused(refused)
	}
	return acks, refused
}

// endRefused closes an MQTT 3.1.1 connection of which a message was not taken:
// only then does the leaf send it again (MQTT 3.1.1, section 4.4). It waits
// first, so that a leaf that reconnects at once does not do so in a loop.
func (s *session) endRefused(reason error) {
	s.b.notices.warn(s.leaf, "message not taken, closing connection", slog.String("leaf", s.leaf), slog.Any("reason", reason))
	delay := time.NewTimer(s.b.cfg.Load().RefuseDelay.D())
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-s.stopping:
	case <-s.ctx.Done():
	}
	s.stop(packets.ErrUnspecifiedError, "a message of it was not taken: "+reason.Error())
}

// turn makes the connections of one leaf hand over one after the other.
type turn struct {
	token    chan struct{} // capacity 1
	sessions int           // that count on it, guarded by Broker.mu
	guests   int           // wills and sessions of others that count on it, guarded by Broker.mu
}

// take waits for the turn until ctx ends.
func (t *turn) take(ctx context.Context) bool {
	select {
	case t.token <- struct{}{}:
		if ctx.Err() == nil {
			return true
		}
		t.give()
	case <-ctx.Done():
	}
	return false
}

func (t *turn) give() { <-t.token }

// sum recognises a publication that comes again. Another one has another sum,
// except once in 2^64.
func (b *Broker) sum(p *publication) uint64 {
	var h maphash.Hash
	h.SetSeed(b.seed)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(p.topic)))
	h.Write(n[:])
	h.WriteString(p.topic)
	h.Write(p.payload)
	h.WriteString(p.properties.ContentType)
	h.Write(p.properties.CorrelationData)
	for _, u := range p.properties.User {
		h.WriteString(u.Key)
		h.WriteString(u.Val)
	}
	return h.Sum64()
}
