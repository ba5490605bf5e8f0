package broker

import (
	"log/slog"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook is where mochi asks us. What is left to mochi is decoding and encoding,
// CONNACK, SUBSCRIBE and PINGREQ, and the subscriptions of sessions.
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

// OnPacketRead sees each packet before mochi acts on it. A PUBLISH is taken
// over whole: mochi would acknowledge it before it is in custody, or pass over
// it without a word.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	s := sessionOf(cl)
	switch pk.FixedHeader.Type {
	case packets.Connect:
		s.client = cl
		return s.takeLogin(pk), nil
	case packets.Publish:
		return nothing, s.publish(&pk)
	}
	return pk, nil
}

// OnConnect is the login. mochi closes the connection on an error, without a
// word to the leaf.
func (h *hook) OnConnect(cl *mqtt.Client, _ packets.Packet) error {
	s := sessionOf(cl)
	if refused := s.logIn(); refused != nil {
		h.b.counters.connect(refused.result)
		h.b.notices.warn(s.source+" "+string(refused.result), "login refused",
			slog.String("source", s.source), slog.String("result", string(refused.result)), slog.String("user", s.login.username))
		s.conn.Write(connack(s.version(), refused)) // it is closed next
		return refused
	}
	h.b.counters.connect(ConnectAccepted)
	seconds, idle := keepalive(cl.State.Keepalive, h.b.cfg.MaxKeepalive.D())
	cl.State.ServerKeepalive = seconds != cl.State.Keepalive
	cl.State.Keepalive = seconds
	s.conn.admit(int(h.b.cfg.MaxPacketSize), idle)
	return nil
}

// OnConnectAuthenticate repeats the verdict of OnConnect.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	return sessionOf(cl).leaf != ""
}

// OnSessionEstablished comes after CONNACK and before the next packet is read.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	s := sessionOf(cl)
	s.writing.Go(func() { s.acknowledge(s.stopping) })
}

// OnACLCheck decides about subscriptions. Publications never come here.
func (h *hook) OnACLCheck(cl *mqtt.Client, filter string, write bool) bool {
	s := sessionOf(cl)
	if write || !maySubscribe(s.leaf, filter) {
		h.b.notices.warn(s.leaf+" filter", "subscription refused", slog.String("leaf", s.leaf), slog.String("filter", filter))
		return false
	}
	_, renewed := cl.State.Subscriptions.Get(filter)
	return renewed || cl.State.Subscriptions.Len() < h.b.cfg.MaxSubscriptions
}

// OnPacketEncode completes what CONNACK tells an MQTT 5 leaf (section 3.2.2.3).
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	s := sessionOf(cl)
	if pk.FixedHeader.Type != packets.Connack || s.version() < version5 {
		return pk
	}
	pk.Properties.MaximumPacketSize = uint32(h.b.cfg.MaxPacketSize)
	pk.Properties.SharedSubAvailable, pk.Properties.SharedSubAvailableFlag = 0, true
	if !s.login.keep {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 0, true
	}
	return pk
}
