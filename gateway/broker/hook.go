package broker

import (
	"log/slog"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook is where mochi asks us. What is left to mochi is decoding, CONNACK and
// PINGREQ: it knows no subscriptions, no sessions and no messages.
type hook struct {
	mqtt.HookBase
	b *Broker
}

// ID names the hook.
func (h *hook) ID() string { return "fieldgate" }

// Provides lists the methods below.
func (h *hook) Provides(method byte) bool {
	switch method {
	case mqtt.OnPacketRead, mqtt.OnConnect, mqtt.OnConnectAuthenticate,
		mqtt.OnSessionEstablished, mqtt.OnACLCheck, mqtt.OnPacketEncode:
		return true
	}
	return false
}

func sessionOf(cl *mqtt.Client) *session { return cl.Net.Conn.(*guardedConn).session }

// nothing is a packet of which mochi does nothing: the acknowledgement of what
// was never sent.
var nothing = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}}

// OnPacketRead sees each packet before mochi acts on it. A PUBLISH never comes
// here (guard.go).
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	s := sessionOf(cl)
	if s.guest != nil {
		return s.guestPacket(pk)
	}
	switch pk.FixedHeader.Type {
	case packets.Connect:
		s.client = cl
		return s.takeLogin(pk), nil
	case packets.Puback:
		s.desk.acknowledge(s, pk.PacketID, pk.ReasonCode)
		return nothing, nil
	case packets.Subscribe:
		return nothing, s.subscribe(&pk)
	case packets.Unsubscribe:
		return nothing, s.unsubscribe(&pk)
	case packets.Disconnect:
		err := s.leaving(&pk)
		return pk, err
	}
	return pk, nil
}

// OnConnect is the login. mochi closes the connection on an error, without a
// word to the leaf.
func (h *hook) OnConnect(cl *mqtt.Client, _ packets.Packet) error {
	s := sessionOf(cl)
	if refused := s.logIn(); refused != nil {
		h.b.counters.connect(refused.result)
		attrs := []slog.Attr{slog.String("source", s.source), slog.String("listener", s.listener), slog.String("result", string(refused.result)), slog.String("user", s.login.username)}
		h.b.notices.warn(s.source+" "+string(refused.result), "login refused", append(attrs, certificateFacts(s.certs)...)...)
		s.conn.Write(connack(s.version(), refused)) // it is closed next
		return refused
	}
	h.b.counters.connect(ConnectAccepted)
	seconds, idle := keepalive(cl.State.Keepalive, h.b.cfg.Load().MaxKeepalive.D())
	cl.State.ServerKeepalive = seconds != cl.State.Keepalive
	cl.State.Keepalive = seconds
	if s.guest != nil { // it stays no longer than the window is open, and small
		s.conn.admit(maxConnectPacket, min(idle, time.Until(s.guest.Until())+guestFarewell))
		return nil
	}
	s.conn.admit(int(h.b.cfg.Load().MaxPacketSize), idle)
	return nil
}

// OnConnectAuthenticate repeats the verdict of OnConnect.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	s := sessionOf(cl)
	return s.leaf != "" || s.guest != nil
}

// OnSessionEstablished comes after CONNACK and before the next packet is read.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	s := sessionOf(cl)
	if s.guest != nil {
		return
	}
	s.writing.Go(func() { s.acknowledge(s.stopping) })
	s.desk.serve(s)
	if s.present {
		s.resume()
	}
}

// OnACLCheck refuses everything: publications and subscriptions never come here.
func (h *hook) OnACLCheck(*mqtt.Client, string, bool) bool { return false }

// OnPacketEncode completes CONNACK: mochi keeps no sessions, and does not know
// all limits that an MQTT 5 leaf is told (section 3.2.2.3).
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	s := sessionOf(cl)
	if pk.FixedHeader.Type != packets.Connack {
		return pk
	}
	pk.SessionPresent = s.present
	if s.version() < version5 {
		return pk
	}
	pk.Properties.MaximumPacketSize = uint32(h.b.cfg.Load().MaxPacketSize)
	pk.Properties.SharedSubAvailable, pk.Properties.SharedSubAvailableFlag = 0, true
	if granted := s.grantedExpiry(); granted != s.login.sessionExpiry {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = granted, true
	}
	return pk
}
