package broker

import (
	"encoding/binary"
	"log/slog"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// subscribe answers SUBSCRIBE (section 3.8). The answer waits until the
// subscriptions of a session that is kept are on flash.
func (s *session) subscribe(pk *packets.Packet) error {
	ident := 0
	if ids := pk.Properties.SubscriptionIdentifier; len(ids) > 0 {
		ident = ids[0]
	}
	subs := make([]subscription, len(pk.Filters))
	for i, f := range pk.Filters {
		sub, ok := s.b.readFilter(s.leaf, f.Filter)
		if !ok {
			s.b.notices.warn(s.leaf+" filter", "subscription refused", slog.String("leaf", s.leaf), slog.String("filter", f.Filter))
			sub = subscription{filter: f.Filter}
		}
		sub.qos, sub.ident = min(f.Qos, 1), ident
		subs[i] = sub
	}
	fresh := s.freshSaid(pk.Filters, subs)
	codes, noted := s.desk.subscribe(s, subs)
	if err := s.confirm(packets.Suback, pk.PacketID, codes, noted); err != nil {
		return err
	}
	s.desk.serve(s)
	if len(fresh) > 0 {
		s.sayAgain(fresh)
	}
	return nil
}

// unsubscribe answers UNSUBSCRIBE (section 3.10). Nothing of it is sent any more
// when it is answered, except what is being written.
func (s *session) unsubscribe(pk *packets.Packet) error {
	filters := make([]string, len(pk.Filters))
	for i, f := range pk.Filters {
		filters[i] = f.Filter
	}
	codes, noted := s.desk.unsubscribe(s, filters)
	s.desk.serve(s)
	if s.version() < version5 {
		codes = nil
	}
	return s.confirm(packets.Unsuback, pk.PacketID, codes, noted)
}

// confirm writes SUBACK or UNSUBACK once noted is closed; nil is closed already.
func (s *session) confirm(kind byte, id uint16, codes []byte, noted <-chan struct{}) error {
	if noted != nil {
		<-noted
	}
	body := binary.BigEndian.AppendUint16(nil, id)
	if s.version() == version5 {
		body = append(body, 0) // no properties
	}
	body = append(body, codes...)
	packet := binary.AppendUvarint([]byte{kind << 4}, uint64(len(body)))
	_, err := s.conn.Write(append(packet, body...))
	return err
}

// leaving takes what a DISCONNECT says about the session (MQTT 5.0, section
// 3.14.2.2.2). mochi is not to see it: to mochi no session is kept.
func (s *session) leaving(pk *packets.Packet) error {
	if !pk.Properties.SessionExpiryIntervalFlag {
		return nil
	}
	asked := pk.Properties.SessionExpiryInterval
	pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 0, false
	if s.login.sessionExpiry == 0 && asked > 0 {
		return packets.ErrProtocolViolationZeroNonZeroExpiry
	}
	s.desk.keepFor(s, time.Duration(asked)*time.Second)
	return nil
}

// grantedExpiry is how long an MQTT 5 session outlives its connection, in
// seconds.
func (s *session) grantedExpiry() uint32 {
	if !s.login.keep {
		return 0
	}
	return min(s.login.sessionExpiry, uint32(sessionTTL/time.Second))
}
