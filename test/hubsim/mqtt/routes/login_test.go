package routes_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/x509test"
)

func TestConnackCodes(t *testing.T) {
	type edit = func(b *bench, p *packets.ConnectPacket)
	password := func(text string) edit {
		return func(_ *bench, p *packets.ConnectPacket) { p.Password = []byte(text) }
	}
	signed := func(policy, resource string) edit {
		return func(b *bench, p *packets.ConnectPacket) { p.Password = []byte(b.policyToken(policy, resource)) }
	}
	for _, v := range []struct {
		what string
		id   registry.ID
		edit edit
		want byte
	}{
		{"a device", pump, func(*bench, *packets.ConnectPacket) {}, mqtt.Accepted},
		{"a module", valve, func(*bench, *packets.ConnectPacket) {}, mqtt.Accepted},
		{"a policy for all devices", pump, signed("device", hostName), mqtt.Accepted},
		{"a policy for a module's device", valve, signed("iothubowner", hostName+"/devices/pump-1"), mqtt.Accepted},
		{"MQTT 5", pump, func(_ *bench, p *packets.ConnectPacket) { p.ProtocolVersion = 5 }, mqtt.BadProtocol},
		{"another client id", pump, func(_ *bench, p *packets.ConnectPacket) { p.ClientIdentifier = "pump-2" }, mqtt.BadIdentifier},
		{"a malformed user name", pump, func(_ *bench, p *packets.ConnectPacket) { p.Username = "pump-1" }, mqtt.BadUserOrPassword},
		{"no user name", pump, func(_ *bench, p *packets.ConnectPacket) { p.UsernameFlag, p.PasswordFlag = false, false }, mqtt.BadUserOrPassword},
		{"no password and no certificate", pump, func(_ *bench, p *packets.ConnectPacket) { p.PasswordFlag = false }, mqtt.NotAuthorized},
		{"a password that is no token", pump, password("secret"), mqtt.NotAuthorized},
		{"another device's token", pump, func(b *bench, p *packets.ConnectPacket) { p.Password = []byte(b.token(other, time.Hour)) }, mqtt.NotAuthorized},
		{"a device's token for its module", valve, func(b *bench, p *packets.ConnectPacket) { p.Password = []byte(b.token(pump, time.Hour)) }, mqtt.NotAuthorized},
		{"an expired token", pump, func(b *bench, p *packets.ConnectPacket) { p.Password = []byte(b.token(pump, -time.Second)) }, mqtt.NotAuthorized},
		{"a policy without the right", pump, signed("service", hostName), mqtt.NotAuthorized},
		{"an unknown device", registry.ID{Device: "ghost"}, signed("device", hostName), mqtt.NotAuthorized},
		{"an unknown module", registry.ID{Device: "pump-1", Module: "ghost"}, signed("device", hostName), mqtt.NotAuthorized},
		{"a disabled device", pump, func(b *bench, _ *packets.ConnectPacket) { b.hub.Registry.SetEnabled("pump-1", false) }, mqtt.NotAuthorized},
		{"a disabled device by policy", pump, func(b *bench, p *packets.ConnectPacket) {
			signed("device", hostName)(b, p)
			b.hub.Registry.SetEnabled("pump-1", false)
		}, mqtt.NotAuthorized},
		{"a module of a disabled device", valve, func(b *bench, p *packets.ConnectPacket) {
			signed("device", hostName)(b, p)
			b.hub.Registry.SetEnabled("pump-1", false)
		}, mqtt.NotAuthorized},
		{"a refused token", pump, func(b *bench, _ *packets.ConnectPacket) { b.hub.Faults.RefuseToken("pump-1", true) }, mqtt.NotAuthorized},
		{"a wrong clock", pump, func(b *bench, _ *packets.ConnectPacket) { b.hub.Faults.ClockSkew(48 * time.Hour) }, mqtt.NotAuthorized},
		{"a throttled hub", pump, func(b *bench, _ *packets.ConnectPacket) { b.hub.Faults.Throttle(true) }, mqtt.ServerUnavailable},
		{"a hub that closes", pump, func(b *bench, _ *packets.ConnectPacket) { b.server.Close(errors.New("closing")) }, mqtt.ServerUnavailable},
	} {
		t.Run(v.what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				p := b.helloFor(v.id)
				v.edit(b, p)
				c := b.dial()
				c.send(p)
				got, ok := c.next().(*packets.ConnackPacket)
				if !ok || got.ReturnCode != v.want {
					t.Fatalf("got %v, want code %d; log:\n%s", got, v.want, b.log)
				}
				if want := v.want == mqtt.Accepted; b.hub.Presence.State(v.id).Connected != want {
					t.Errorf("connected: got %v, want %v", !want, want)
				}
				if v.want != mqtt.Accepted {
					c.ended()
				}
			})
		})
	}
}

// helloFor is hello for identities that may not exist.
func (b *bench) helloFor(id registry.ID) *packets.ConnectPacket {
	b.t.Helper()
	p := b.hello(pump)
	p.ClientIdentifier, p.Username = id.String(), strings.Replace(p.Username, pump.String(), id.String(), 1)
	if _, ok := b.hub.Registry.Get(id); ok {
		p.Password = []byte(b.token(id, 24*time.Hour))
	}
	return p
}

// Connections are throttled with code 3, after which clients try again.
func TestConnectionRate(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		if err := b.hub.Limits.SetTier("S1", 1); err != nil {
			t.Fatal(err)
		}
		codes := make(map[byte]int)
		for range 101 { // 100 a second at S1 (section 6.1)
			c := b.dial()
			c.send(b.hello(pump))
			codes[c.next().(*packets.ConnackPacket).ReturnCode]++
		}
		if codes[mqtt.Accepted] != 100 || codes[mqtt.ServerUnavailable] != 1 {
			t.Errorf("got codes %v, want 100 of 0 and one of 3", codes)
		}
	})
}

func TestCertificate(t *testing.T) {
	own, another := x509test.New(t, x509test.Wish{Name: "any"}), x509test.New(t, x509test.Wish{Name: "any"})
	for name, v := range map[string]struct {
		chain []*x509.Certificate
		want  byte
	}{
		"its own": {[]*x509.Certificate{own.Certificate}, mqtt.Accepted},
		"another": {[]*x509.Certificate{another.Certificate}, mqtt.NotAuthorized},
		"none":    {nil, mqtt.NotAuthorized},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t) // not in a bubble: certificates go by the clock of the world
			sum := sha256.Sum256(own.Raw)
			id := registry.ID{Device: "shown"}
			b.add(registry.Identity{ID: id, Auth: registry.Auth{
				Type: registry.AuthSelfSigned, PrimaryThumbprint: hex.EncodeToString(sum[:]),
			}})
			p := b.hello(pump)
			p.ClientIdentifier, p.Username, p.PasswordFlag = "shown", hostName+"/shown/?api-version=2021-04-12", false
			c := b.dial(v.chain...)
			c.send(p)
			if got, ok := c.next().(*packets.ConnackPacket); !ok || got.ReturnCode != v.want {
				t.Fatalf("got %v, want code %d", got, v.want)
			}
			if v.want != mqtt.Accepted {
				return
			}
			c.send(publish("devices/shown/messages/events/", "x", 1))
			c.next()
			if got := b.events()[0].Auth; !strings.Contains(got, "x509Certificate") {
				t.Errorf("auth method: got %s", got)
			}
		})
	}
}

// However many connections of an identity come at once, one stays.
func TestDisplacement(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const n = 20
		var all []*client
		var joining sync.WaitGroup
		for range n {
			c, p := b.dial(), b.hello(pump)
			all = append(all, c)
			joining.Go(func() { c.send(p) })
		}
		joining.Wait()
		synctest.Wait()
		if got := b.server.Stats(); got.ConnectionsOpen != 1 || got.Sessions != 1 {
			t.Errorf("got %+v, want one connection and one session", got)
		}
		open := 0
		for _, c := range all {
			accepted := false
			for len(c.in) > 0 {
				p, ok := (<-c.in).(*packets.ConnackPacket)
				accepted = accepted || (ok && p.ReturnCode == mqtt.Accepted)
			}
			select {
			case <-c.in: // closed
			default:
				open++
				if !accepted {
					t.Error("a connection is open that was not accepted")
				}
			}
		}
		if open != 1 {
			t.Errorf("%d connections are open, want 1", open)
		}
		if !b.hub.Presence.State(pump).Connected {
			t.Error("the device does not count as connected")
		}
	})
}
