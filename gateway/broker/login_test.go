package broker

import (
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// Who may come in, and what the others are told in both versions.
func TestLogin(t *testing.T) {
	b := newBench(t, nil)
	b.addLeaf("off-1")
	b.table.Put(pairing.Leaf{ID: "off-1", Password: secretHash(), Disabled: true})
	past := b.keys.Key("pump-1").Token(hubHost+"/devices/pump-1", time.Now().Add(-time.Minute))
	gatewayToken := b.keys.Key("pump-1").Token("gw.local/devices/pump-1", time.Now().Add(time.Hour))
	otherHost := b.keys.Key("pump-1").Token("evil.example/devices/pump-1", time.Now().Add(time.Hour))
	for _, tc := range []struct {
		name                 string
		client, user, secret string
		code, code5          byte
		result               ConnectResult
	}{
		{"password", "pump-1", "pump-1", secret, 0, 0, ConnectAccepted},
		{"password, any client id", "mosq-4711", "pump-1", secret, 0, 0, ConnectAccepted},
		{"password, no client id", "", "pump-1", secret, 0, 0, ConnectAccepted},
		{"wrong password", "pump-1", "pump-1", "guess", 5, 0x87, ConnectCredentials},
		{"no password", "pump-1", "pump-1", "", 5, 0x87, ConnectCredentials},
		{"unknown leaf", "ghost", "ghost", secret, 5, 0x87, ConnectCredentials},
		{"disabled leaf", "off-1", "off-1", secret, 5, 0x87, ConnectCredentials},
		{"no user name", "pump-1", "", "", 4, 0x86, ConnectUsername},
		{"client id of another leaf", "pump-2", "pump-1", secret, 2, 0x85, ConnectClientID},
		{"token", "pump-1", hubUser("pump-1"), b.token("pump-1"), 0, 0, ConnectAccepted},
		{"token for the gateway's name", "pump-1", hubUser("pump-1"), gatewayToken, 0, 0, ConnectAccepted},
		{"token for another host", "pump-1", hubUser("pump-1"), otherHost, 5, 0x87, ConnectCredentials},
		{"token of another leaf", "pump-1", hubUser("pump-1"), b.token("pump-2"), 5, 0x87, ConnectCredentials},
		{"expired token", "pump-1", hubUser("pump-1"), past, 5, 0x87, ConnectExpired},
		{"no token", "pump-1", hubUser("pump-1"), "x", 5, 0x87, ConnectCredentials},
		{"token as plain password", "pump-1", "pump-1", b.token("pump-1"), 5, 0x87, ConnectCredentials},
		{"password in hub form", "pump-1", hubUser("pump-1"), secret, 5, 0x87, ConnectCredentials},
		{"client id is not the device", "pump-2", hubUser("pump-1"), b.token("pump-1"), 2, 0x85, ConnectClientID},
		{"hub form, other client id", "pump-1x", hubUser("pump-1"), b.token("pump-1"), 2, 0x85, ConnectClientID},
		{"disabled leaf's token", "off-1", hubUser("off-1"), b.token("off-1"), 5, 0x87, ConnectCredentials},
		{"module", "pump-1/m", hubHost + "/pump-1/m/?api-version=1", b.token("pump-1"), 5, 0x87, ConnectCredentials},
		{"malformed user name", "pump-1", "a/b", b.token("pump-1"), 4, 0x86, ConnectUsername},
	} {
		for version, want := range map[byte]byte{version311: tc.code, version5: tc.code5} {
			before := b.b.State().Connects[tc.result]
			w := b.dial()
			code, _ := w.connect(hello{version: version, clientID: tc.client, user: tc.user, password: tc.secret})
			if code != want {
				t.Errorf("%s, level %d: code %#x, want %#x", tc.name, version, code, want)
			}
			if got := b.b.State().Connects[tc.result]; got != before+1 {
				t.Errorf("%s, level %d: %s is %d after %d", tc.name, version, tc.result, got, before)
			}
			if want == 0 {
				w.alive()
			} else {
				w.expectClosed()
			}
			w.c.Close()
		}
	}
}

func TestEmptyClientID311(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	if code, _ := w.connect(hello{user: "pump-1", password: secret, keep: true}); code != 2 {
		t.Errorf("empty client id with a session to keep: code %d, want 2", code)
	}
}

func TestAuthenticationMethod(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	method := append([]byte{21}, text("SCRAM-SHA-1")...)
	if code, _ := w.connect(hello{version: version5, clientID: "pump-1", user: "pump-1", password: secret, props: method}); code != 0x8c {
		t.Errorf("code %#x, want 0x8c", code)
	}
}

// With a clock that is not to be trusted, a token is taken whatever its expiry,
// and judged when the clock is.
func TestUnsyncedClock(t *testing.T) {
	b := newBench(t, nil)
	past := b.keys.Key("pump-1").Token(hubHost+"/devices/pump-1", time.Now().Add(-time.Minute))
	b.setClock(gateway.Instant{Wall: time.Unix(0, 0), Quality: gateway.Unsynced})
	w := b.dial()
	if code, _ := w.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: past}); code != 0 {
		t.Fatalf("code %d", code)
	}
	w.alive()
	b.setClock(gateway.Instant{Wall: time.Now(), Quality: gateway.Synced})
	w.expectClosed()
}

// A connection ends with its token, and with its leaf.
func TestExpiryAndRemoval(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	if code, _ := w.connect(hello{version: version5, clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1")}); code != 0 {
		t.Fatalf("code %d", code)
	}
	other := b.dial()
	if code, _ := other.connect(hello{clientID: "pump-2", user: "pump-2", password: secret}); code != 0 {
		t.Fatalf("code %d", code)
	}
	b.setClock(gateway.Instant{Wall: time.Now().Add(2 * time.Hour), Quality: gateway.Synced})
	w.expect("DISCONNECT, not authorized", 0xe0, 0x87)
	w.expectClosed()
	other.alive()
	b.table.Put(pairing.Leaf{ID: "pump-2", Password: secretHash(), Disabled: true})
	other.expectClosed()
}

// No credential reaches another leaf's session: neither by its client id nor
// by a client id that looks like the inner name of its session.
func TestHijack(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		victim := b.leaf("pump-2", version)
		victim.subscribe(1, "leaf/pump-2/#")
		victim.expect("SUBACK", 0x90, 0, 1)
		for _, id := range []string{"pump-2", "/pump-2", "pump-2/", "pump-2/x"} {
			for _, keep := range []bool{true, false} {
				w := b.dial()
				_, present := w.connect(hello{version: version, clientID: id, user: "pump-1", password: secret, keep: keep})
				if present {
					t.Errorf("client id %q finds a session", id)
				}
				victim.alive()
				w.c.Close()
			}
		}
	})
}

// The session of client id = leaf id outlives the connection, with its
// subscriptions; the older of two connections is closed. Other client ids leave
// nothing behind.
func TestSessions(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	if code, present := w.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true}); code != 0 || present {
		t.Fatalf("first: code %d, present %v", code, present)
	}
	for i, filter := range []string{
		"devices/pump-1/messages/devicebound/#", "$iothub/twin/res/#",
		"$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#",
	} {
		w.subscribe(uint16(i+1), filter)
		w.expect("SUBACK "+filter, 0x90, 0, byte(i+1), 1)
	}
	second := b.dial()
	if _, present := second.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true}); !present {
		t.Error("session is not present at the second connection")
	}
	w.expectClosed()
	second.send([]byte{0xe0, 0})
	second.expectClosed()
	third := b.dial()
	if _, present := third.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1"), keep: true}); !present {
		t.Error("session is not present after a goodbye")
	}
	if box := b.box("pump-1"); box == nil || len(box.subs) != 4 {
		t.Error("subscriptions are not kept")
	}

	for range 2 {
		w := b.dial()
		if code, present := w.connect(hello{clientID: "other", user: "pump-1", password: secret, keep: true}); code != 0 || present {
			t.Errorf("other client id: code %d, present %v", code, present)
		}
		w.send([]byte{0xe0, 0})
		w.expectClosed()
		b.until("forgotten", func() bool { return b.box("pump-1/other") == nil })
	}
}

// An MQTT 5 leaf learns the limits, and that a session is not kept.
func TestConnackProperties(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	w.version = version5
	expiry := []byte{17, 0, 0, 1, 0}
	w.send(hello{version: version5, clientID: "other", user: "pump-1", password: secret, props: expiry}.packet())
	_, body := w.packet()
	for name, property := range map[string]string{
		"receive maximum":      "\x21\x01\x00",
		"maximum QoS":          "\x24\x01",
		"maximum packet size":  "\x27\x00\x05\x00\x00",
		"shared subscriptions": "\x2a\x00",
		"session expiry":       "\x11\x00\x00\x00\x00",
		"server keep alive":    "\x13\x04\x9a",
	} {
		if !strings.Contains(string(body), property) {
			t.Errorf("%s is missing in % x", name, body)
		}
	}
}

// A will is checked at CONNECT as if it were published.
func TestWillRefused(t *testing.T) {
	b := newBench(t, nil)
	for topic, code := range map[string]byte{
		topic1:                            0,
		"devices/pump-1/messages/events/": 0,
		"leaf/pump-2/telemetry":           5,
		"devices/pump-2/messages/events/": 5,
		"$iothub/twin/GET/?$rid=1":        5,
		"$SYS/broker":                     5,
		"anything":                        5,
	} {
		w := b.dial()
		got, _ := w.connect(hello{clientID: "pump-1", user: "pump-1", password: secret, will: &will{topic: topic, payload: "x"}})
		if got != code {
			t.Errorf("%s: code %d, want %d", topic, got, code)
		}
		w.send([]byte{0xe0, 0})
		w.expectClosed()
	}
	w := b.dial()
	if got, _ := w.connect(hello{version: version5, clientID: "pump-1", user: "pump-1", password: secret, will: &will{topic: topic1, qos: 2}}); got != 0x9b {
		t.Errorf("QoS 2: code %#x, want 0x9b", got)
	}
	if n := b.path.count(); n != 0 {
		t.Errorf("%d messages handed over", n)
	}
}

// A will is sent when the leaf vanishes, and not after a goodbye.
func TestWillSent(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b := newBench(t, nil)
		connect := func() *wire {
			w := b.dial()
			code, _ := w.connect(hello{
				version: version, clientID: "pump-1", user: "pump-1", password: secret,
				will: &will{topic: "leaf/pump-1/alarm/state", retain: true}, // empty payload: a will all the same
			})
			if code != 0 {
				t.Fatalf("code %d", code)
			}
			return w
		}
		polite := connect()
		polite.send([]byte{0xe0, 0})
		polite.expectClosed()
		b.until("polite one gone", func() bool { return len(b.b.State().Leaves) == 0 })

		w := connect()
		w.publish(1, topic1, "last")
		w.puback(1)
		w.c.Close()
		b.untilHanded(2)
		m := b.path.message(1)
		if m.Kind != gateway.Will || m.Leaf != "pump-1" || m.Lane != gateway.LaneAlarm || m.Channel != "state" || len(m.Body) != 0 {
			t.Errorf("got %+v", m)
		}
		want := []gateway.Property{{Name: "mqtt-retain", Value: "true"}, {Name: "iothub-MessageType", Value: "Will"}}
		if len(m.Properties) != 2 || m.Properties[0] != want[0] || m.Properties[1] != want[1] {
			t.Errorf("properties %v, want %v", m.Properties, want)
		}
		if version == version5 {
			w = connect()
			w.send([]byte{0xe0, 1, 4}) // disconnect with will message
			w.expectClosed()
			b.untilHanded(3)
		}
		if n := b.b.State().Wills; n != uint64(b.path.count()-1) {
			t.Errorf("counted %d wills", n)
		}
	})
}

// A delayed will is not sent if the leaf is back in time.
func TestWillDelayed(t *testing.T) {
	b := newBench(t, nil)
	connect := func(payload string, delay byte) *wire {
		w := b.dial()
		code, _ := w.connect(hello{
			version: version5, clientID: "pump-1", user: "pump-1", password: secret, keep: true,
			props: []byte{17, 0, 0, 0, 200}, will: &will{topic: topic1, payload: payload, props: []byte{24, 0, 0, 0, delay}},
		})
		if code != 0 {
			t.Fatalf("code %d", code)
		}
		return w
	}
	pending := func(n int) func() bool {
		return func() bool {
			b.b.mu.Lock()
			defer b.b.mu.Unlock()
			return len(b.b.wills) == n
		}
	}
	connect("first", 100).c.Close()
	b.until("will waits", pending(1))
	w := connect("second", 1)
	if !pending(0)() {
		t.Error("will still waits although the leaf is back")
	}
	w.c.Close()
	b.untilHanded(1)
	if got := string(b.path.message(0).Body); got != "second" {
		t.Errorf("will %q sent, want second", got)
	}
}

// A gateway that stops does not say that its leaves have vanished.
func TestNoWillOnShutdown(t *testing.T) {
	b := newBench(t, nil)
	w := b.dial()
	w.connect(hello{clientID: "pump-1", user: "pump-1", password: secret, will: &will{topic: topic1, payload: "x"}})
	b.end()
	if n := b.path.count(); n != 0 {
		t.Errorf("%d messages handed over", n)
	}
}
