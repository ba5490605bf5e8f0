package broker

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// maxRequests is how many requests of one connection are being answered at once;
// what comes beyond hears that it is too many.
const maxRequests = 16

// asking is what a leaf asks for, in either dialect.
type asking struct {
	kind   hub.RequestKind
	rid    string // the leaf's own in the IoT Hub dialect, the gateway's in an answer to a method
	status int    // of an answer to a method
	plain  bool
}

// parseAsking reads the topic of a request by leaf: those of hub.ParseRequest and
// of plain.ParseRequest.
func parseAsking(leaf, topic string) (asking, bool) {
	if r, ok := hub.ParseRequest(topic); ok {
		return asking{kind: r.Kind, rid: r.RID, status: r.Status}, true
	}
	r, ok := plain.ParseRequest(leaf, topic)
	return asking{kind: r.Kind, rid: r.RID, status: r.Status, plain: true}, ok
}

// request takes a publication that is a request, not a message. It says whether
// it was one.
func (s *session) request(p *publication) (bool, error) {
	a, ok := parseAsking(s.leaf, p.topic)
	if f, ok := parseFile(s.leaf, p.topic); ok {
		return true, s.file(p, f)
	}
	if !ok {
		return s.requestMapped(p)
	}
	switch {
	case a.kind == hub.AnswerMethod:
		if !s.desk.answerCall(s, a.rid, a.statusOf(p), p.payload) {
			s.b.counters.count(func(st *State) { st.LateReplies++ })
		}
	case a.kind == hub.GetTwin:
		s.getTwin(a.answerTo(s, p))
	case a.plain:
		return true, s.reportPlain(p, s.leaf)
	default:
		s.report(p.payload, a.answerTo(s, p))
	}
	return true, s.answer(p, nil)
}

// requestMapped is request for what a rule makes one. An answer to a call may be a
// message as well.
func (s *session) requestMapped(p *publication) (bool, error) {
	if s.b.rules.Load().Answers(s.leaf, p.topic) {
		s.desk.answerMapped(p.topic, p.payload)
		if _, means := s.b.rules.Load().Read(s.leaf, p.topic); !means {
			return true, s.answer(p, nil)
		}
	}
	leaf, ok := s.b.readReport(s.leaf, p.topic)
	if !ok {
		return false, nil
	}
	s.desk.speakFor(leaf)
	return true, s.reportPlain(p, leaf)
}

// statusOf is the status of an answer to a method: that of the topic, or of the
// user property "status".
func (a *asking) statusOf(p *publication) int {
	for _, u := range p.properties.User {
		if u.Key == "status" {
			if n, ok := hub.ParseStatus(u.Val); ok {
				return n
			}
		}
	}
	return a.status
}

// twinReply words the answer to a request about a twin. topic is "" where the
// leaf does not listen for it.
type twinReply struct {
	plain         bool
	rid           string
	responseTopic string // of MQTT 5, asked for by the leaf
	correlation   []byte
}

func (a *asking) answerTo(s *session, p *publication) twinReply {
	return twinReply{a.plain, a.rid, p.properties.ResponseTopic, p.properties.CorrelationData}
}

// getTwin answers a leaf that asks for its twin. The hub may take a while, and the
// leaf may go on publishing meanwhile.
func (s *session) getTwin(to twinReply) {
	s.b.counters.count(func(st *State) { st.TwinReads++ })
	if !s.listens(to) {
		return // as the hub: who does not listen is not answered
	}
	if !s.beginRequest() {
		s.fail(to, &gateway.TwinError{Status: 429, Code: 429001, Message: "too many requests at once"})
		return
	}
	s.writing.Go(func() {
		defer s.endRequest()
		document, age, err := s.b.twins.Twin(s.ctx, s.leaf)
		if err != nil {
			s.fail(to, hub.TwinFault(err))
			return
		}
		s.reply(to, 200, document, ageProperty(age)...)
	})
}

// ageProperty says how old a copy is, in seconds, rounded up.
func ageProperty(age time.Duration) []gateway.Property {
	switch {
	case age == 0:
		return nil
	case age < 0:
		return []gateway.Property{{Name: "fieldgate-age", Value: "unknown"}}
	}
	seconds := int64((age + time.Second - 1) / time.Second)
	return []gateway.Property{{Name: "fieldgate-age", Value: strconv.FormatInt(seconds, 10)}}
}

// beginRequest counts a request in, if there are not too many. It is called by
// the reading goroutine only.
func (s *session) beginRequest() bool {
	s.desk.mu.Lock()
	defer s.desk.mu.Unlock()
	if s.out.requests >= maxRequests {
		return false
	}
	s.out.requests++
	return true
}

func (s *session) endRequest() {
	s.desk.mu.Lock()
	defer s.desk.mu.Unlock()
	s.out.requests--
}

// report takes a patch of reported properties in the IoT Hub dialect: the leaf
// hears on the answer's topic what became of it.
func (s *session) report(patch []byte, to twinReply) {
	s.b.counters.count(func(st *State) { st.Reports++ })
	if !s.beginRequest() {
		s.fail(to, &gateway.TwinError{Status: 429, Code: 429001, Message: "too many requests at once"})
		return
	}
	s.b.twins.Report(s.leaf, patch, func(version int64, err error) {
		s.endRequest()
		switch {
		case err != nil:
			s.fail(to, hub.TwinFault(err))
		case version > 0:
			s.reply(to, 204, nil, gateway.Property{Name: "$version", Value: strconv.FormatInt(version, 10)})
		default: // in custody: which version it will be, the hub says later
			s.reply(to, 204, nil)
		}
	})
}

// reportPlain takes a patch of reported properties in the plain dialect or by a
// rule: its
// acknowledgement says that it is in custody. A patch that can never be taken is
// acknowledged to an MQTT 3.1.1 leaf, which would send it for ever; what is wrong
// with it is said on leaf/{id}/twin/error.
func (s *session) reportPlain(p *publication, leaf string) error {
	s.b.counters.count(func(st *State) { st.Reports++ })
	to := twinReply{plain: true, correlation: p.properties.CorrelationData}
	judge := func(err error) error {
		refused, final := errors.AsType[*gateway.TwinError](err)
		if !final {
			return err
		}
		s.b.notices.warn(leaf+" reported", "reported properties refused", slog.String("leaf", leaf), slog.Any("reason", err))
		s.fail(to, refused)
		if s.version() < version5 {
			return nil
		}
		return err
	}
	if p.qos == 0 {
		s.b.twins.Report(leaf, p.payload, func(_ int64, err error) { s.settleUnacknowledged(judge(err)) })
		return nil
	}
	if err := s.room(); err != nil {
		return err
	}
	h, err := s.inbox.add(s, p.id, p.dup, s.b.sum(p))
	if err != nil {
		return errStopped
	}
	if h == nil { // it came before
		s.b.counters.count(func(st *State) { st.Resent++ })
		return nil
	}
	s.b.twins.Report(leaf, p.payload, func(_ int64, err error) { s.settle(h, judge(err)) })
	return nil
}

func (s *session) fail(to twinReply, e *gateway.TwinError) {
	s.reply(to, e.Status, hub.TwinErrorBody(e))
}

// listens says whether the session would get an answer.
func (s *session) listens(to twinReply) bool {
	s.desk.mu.Lock()
	defer s.desk.mu.Unlock()
	_, _, ok := s.replyTopic(to, 200, nil)
	return ok
}

// replyTopic finds where an answer goes: only to what the session has subscribed
// to, also where an MQTT 5 leaf names a topic itself.
func (s *session) replyTopic(to twinReply, status int, more []gateway.Property) (string, subscription, bool) {
	if !to.plain {
		sub, ok := find(s.box.subs, toTwinAnswers, "")
		return hub.TwinAnswerTopic(status, to.rid, more...), sub, ok
	}
	if to.responseTopic != "" {
		id, rest, ok := plain.Cut(to.responseTopic)
		if ok && plain.Names(id, s.leaf) {
			if sub, found := find(s.box.subs, toPlain, rest); found && !strings.ContainsAny(to.responseTopic, "+#") {
				return to.responseTopic, sub, true
			}
		}
		return "", subscription{}, false
	}
	topic := plain.Document
	if status >= 300 {
		topic = plain.Error
	}
	sub, ok := find(s.box.subs, toPlain, topic)
	if !ok {
		return "", sub, false
	}
	return plain.Topic(sub.level, topic), sub, true
}

// reply sends an answer about a twin, if the session listens for it.
func (s *session) reply(to twinReply, status int, body []byte, more ...gateway.Property) {
	d := s.desk
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.box.owner != s {
		return
	}
	topic, sub, ok := s.replyTopic(to, status, more)
	if !ok || len(topic) > maxString {
		return
	}
	p := &parcel{topic: topic, payload: body, properties: appendIdent(nil, sub), answer: func(gateway.Verdict) {}}
	if to.plain {
		if len(to.correlation) > 0 {
			p.properties = appendBinary(p.properties, 9, to.correlation)
		}
		for _, m := range append([]gateway.Property{{Name: "status", Value: strconv.Itoa(status)}}, more...) {
			p.properties = appendUser(p.properties, m.Name, m.Value)
		}
	}
	d.postLocked(s, p)
}

// What follows writes properties of MQTT 5 (section 2.2.2).

// appendIdent says under which subscription identifier a leaf has asked for it.
func appendIdent(b []byte, sub subscription) []byte {
	if sub.ident == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, 11), uint64(sub.ident))
}

func appendBinary(b []byte, id byte, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, id), uint16(len(value)))
	return append(b, value...)
}

func appendUser(b []byte, name, value string) []byte {
	if len(name) > maxString || len(value) > maxString {
		return b
	}
	return appendText(appendText(append(b, propertyUser), name), value)
}

// appendCommand writes what is known of a command: what MQTT 5 has words for, and
// the rest as user properties under the names that the hub's bags have.
func appendCommand(b []byte, sub subscription, c *gateway.Command) []byte {
	b = appendIdent(b, sub)
	for _, p := range hub.SystemProperties(c) {
		switch {
		case p.Name == "$.ct" && len(p.Value) <= maxString:
			b = appendText(append(b, 3), p.Value)
		case p.Name == "$.cid" && len(p.Value) <= maxString:
			b = appendBinary(b, 9, []byte(p.Value))
		default:
			b = appendUser(b, p.Name, p.Value)
		}
	}
	for _, p := range c.Properties {
		b = appendUser(b, p.Name, p.Value)
	}
	return b
}

// appendCall says where the answer to a method goes.
func appendCall(b []byte, sub subscription, rid string) []byte {
	b = appendIdent(b, sub)
	b = appendText(append(b, 8), plain.Topic(sub.level, "reply/"+rid))
	return appendBinary(b, 9, []byte(rid))
}
