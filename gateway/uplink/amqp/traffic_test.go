package amqp_test

import (
	"testing"
)

func TestBytesAreCountedByCause(t *testing.T) {
	b := newBench(t, names(1), impatient)
	b.publishLarge("leaf-001", 100, 997)
	b.await("all settled", func() bool { return b.uplink.State().Accepted == 100 })
	bodies := int64(9*998 + 90*999 + 1*1000)
	s := b.uplink.State().Bytes
	if s.Payload != bodies || s.Retry != 0 {
		t.Errorf("%+v, want %d of payload and no retry", s, bodies)
	}
	if s.TLS < 1000 || s.Protocol < 100*100 || s.Protocol > 100*1000 {
		t.Errorf("%+v: TLS takes a handshake at least, protocol 100 to 1000 bytes a message", s)
	}
	b.hub.SettleNever(true)
	b.publishLarge("leaf-001", 1, 996)
	b.await("it is given up", func() bool { return b.uplink.State().Bytes.Retry > 0 })
	b.hub.SettleNever(false)
	b.await("it is settled", func() bool { return b.uplink.State().Accepted == 101 })
	last := s
	s = b.uplink.State().Bytes
	if s.Payload != bodies+999 || s.Retry < 999 || s.Retry%999 != 0 || s.TLS < last.TLS || s.Protocol < last.Protocol {
		t.Errorf("%+v after %+v: want 999 more of payload, and a multiple of it sent again", s, last)
	}
}

func TestKeepAliveIsCounted(t *testing.T) {
	t.Parallel() // it waits most of the time
	b := newBench(t, names(1), func(s *settings) { s.amqp.KeepAlive = 1e9 })
	b.await("a keep-alive", func() bool { return b.uplink.State().Bytes.KeepAlive >= 8 })
}
