package broker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// A guest is a connection with the user name "pair" and the code of the pairing
// window. It is no leaf: it may publish one request and hear the answer, which
// nobody else can, and nothing else of it comes any further than this file.
const (
	pairRequest  = "$fieldgate/pair/request"
	pairResponse = "$fieldgate/pair/response"
	// maxGuests is how many connections with the right code there may be: one that was
	// lost may not have ended yet.
	maxGuests = 4
	// guestFarewell is how long a guest may stay that has its answer.
	guestFarewell = 10 * time.Second
)

// guest is what is particular about such a connection. Fields are used by the reading
// goroutine only, until ticket is set.
type guest struct {
	*pairing.Guest
	ticket    *pairing.Ticket // nil: it has not asked yet
	listening bool            // it has subscribed to the response
	waiting   bool            // somebody is about to write the answer
}

// enterGuest judges the code of somebody who wants to pair. It says no more about
// why not than to anybody else.
func (s *session) enterGuest() *refusal {
	code := s.login.password
	s.login.password, s.certs = "", nil
	g, err := s.b.window.Enter(code, s.source)
	if err != nil {
		return refuseCredentials
	}
	if s.login.will != nil {
		return refuseWill
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.b.closing || s.b.guests >= maxGuests {
		return refuseBusy
	}
	s.b.guests++
	s.guest = &guest{Guest: g}
	return nil
}

// guestPacket is OnPacketRead for a guest.
func (s *session) guestPacket(pk packets.Packet) (packets.Packet, error) {
	switch pk.FixedHeader.Type {
	case packets.Subscribe:
		codes := make([]byte, len(pk.Filters))
		for i, f := range pk.Filters {
			if f.Filter == pairResponse {
				s.guest.listening = true // with QoS 0: who misses the answer asks again
			} else if codes[i] = 0x80; s.version() == version5 {
				codes[i] = 0x87 // not authorized
			}
		}
		if err := s.confirm(packets.Suback, pk.PacketID, codes, nil); err != nil {
			return nothing, err
		}
		s.answerGuest()
		return nothing, nil
	case packets.Pingreq, packets.Disconnect:
		return pk, nil
	}
	return nothing, errStopped
}

// takeRequest takes what a guest publishes.
func (s *session) takeRequest(p *publication) error {
	if p.topic != pairRequest || p.qos > 1 || s.guest.ticket != nil && s.guest.waiting {
		s.stop(packets.ErrNotAuthorized, "who pairs may publish a request and nothing else")
		return errStopped
	}
	r, err := pairing.ParseRequest(p.payload)
	if err == nil && (!plainID(r.ID) || r.ID == pairing.User) {
		err = errors.New("the id is none that a leaf can have")
	}
	if err == nil {
		s.guest.ticket, err = s.guest.Claim(r)
	}
	if p.qos == 1 { // its claim stands, or never will
		ack := binary.BigEndian.AppendUint16([]byte{packets.Puback << 4, 2}, p.id)
		if _, broken := s.conn.Write(ack); broken != nil {
			return broken
		}
	}
	if err != nil {
		s.b.notices.warn(s.source+" pair", "cannot pair", slog.String("source", s.source), slog.Any("reason", err))
		return s.tellGuest(struct {
			Error string `json:"error"`
		}{guestWords(err)})
	}
	s.answerGuest()
	return nil
}

// plainID says whether an id can stand in a topic and in a log.
func plainID(id string) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' || c == '/' || c == '+' || c == '#' {
			return false
		}
	}
	return true
}

// guestWords are what a guest is told. Which leaves there are it learns only when
// it asks for a name, with a code that then is used up.
func guestWords(err error) string {
	switch {
	case errors.Is(err, pairing.ErrWindow), errors.Is(err, pairing.ErrUsed), errors.Is(err, pairing.ErrRejected):
		return err.Error()
	case errors.Is(err, pairing.ErrKnown):
		return "the name cannot be had"
	}
	return "the request cannot be taken: " + err.Error()
}

// answerGuest has the answer written once there is one and the guest listens.
func (s *session) answerGuest() {
	g := s.guest
	if g.ticket == nil || !g.listening || g.waiting {
		return
	}
	g.waiting = true
	ticket := g.ticket
	s.writing.Go(func() {
		select {
		case <-ticket.Decided():
		case <-s.ctx.Done():
			return
		case <-s.stopping:
			return
		}
		answer, err := ticket.Answer()
		if err != nil {
			_ = s.tellGuest(struct {
				Error string `json:"error"`
			}{guestWords(err)})
		} else if s.tellGuest(answer) == nil {
			ticket.Delivered()
		}
		select { // it says goodbye itself, or does not
		case <-time.After(guestFarewell):
		case <-s.ctx.Done():
		case <-s.stopping:
		}
		s.conn.Close()
	})
}

// tellGuest publishes on the response topic, to this connection only.
func (s *session) tellGuest(v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	body := binary.BigEndian.AppendUint16(nil, uint16(len(pairResponse)))
	body = append(body, pairResponse...)
	if s.version() == version5 {
		body = append(body, 0) // no properties
	}
	body = append(body, payload...)
	packet := binary.AppendUvarint([]byte{packets.Publish << 4}, uint64(len(body)))
	_, err = s.conn.Write(append(packet, body...))
	return err
}

// guestLeftLocked counts a guest out.
func (b *Broker) guestLeftLocked(s *session) {
	if s.guest != nil {
		b.guests--
	}
}
