package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/test/hubsim"
)

// relayBench is a gateway that does not have its leaf's key.
type relayBench struct {
	enrolBench
	key identity.Key // the leaf's own
}

func newRelayBench(t *testing.T) *relayBench {
	t.Helper()
	b := &relayBench{enrolBench: enrolBench{t: t, dir: folder(t)}}
	var err error
	b.hub, err = hubsim.Start(hubsim.Config{Dir: filepath.Join(b.dir, "hub"), Host: "127.0.0.1", Devices: map[string]string{"pump-1": ""}})
	must(t, err)
	t.Cleanup(func() { b.hub.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	b.broker = l.Addr().String()
	must(t, l.Close())
	info := b.hub.Info()
	b.key, err = identity.ParseKey(keyText(b.hub))
	must(t, err)
	b.secret("fieldgate.toml", fmt.Sprintf(`[gateway]
data_dir = "data"
[hub]
host = %q
address = "127.0.0.1:%d"
ca_file = %q
keep_alive = "1s"
[uplink]
backoff_max = "1s"
%s[[leaf]]
id = "pump-1"
auth = "relay"
`, info.Host, info.AMQPPort, info.CAFile, b.rest()))
	b.start()
	return b
}

// token is what the leaf makes for itself.
func (b *relayBench) token(key identity.Key, life time.Duration) string {
	keys := identity.NewKeyring(b.hub.Info().Host)
	keys.Put("pump-1", key)
	text, err := keys.DeviceToken("pump-1", time.Now().Add(life))
	must(b.t, err)
	return text
}

// login connects once and returns the code of CONNACK; publish what it is accepted
// for.
func (b *relayBench) login(ctx context.Context, token string, bodies ...string) (code byte) {
	b.t.Helper()
	waitForPort(ctx, &b.enrolBench, b.broker)
	o := mqtt.NewClientOptions().AddBroker("tcp://" + b.broker).SetClientID("pump-1").SetProtocolVersion(4).
		SetUsername("127.0.0.1/pump-1/?api-version=2021-04-12").SetPassword(token).SetAutoReconnect(false)
	client := mqtt.NewClient(o)
	connect := client.Connect().(*mqtt.ConnectToken)
	select {
	case <-connect.Done():
	case <-ctx.Done():
		b.t.Fatal("no CONNACK")
	}
	if connect.ReturnCode() != 0 {
		return connect.ReturnCode()
	}
	must(b.t, connect.Error())
	defer client.Disconnect(100)
	for _, body := range bodies {
		sent := client.Publish("devices/pump-1/messages/events/", 1, false, body)
		select {
		case <-sent.Done():
			must(b.t, sent.Error())
		case <-ctx.Done():
			b.t.Fatal("the leaf waits in vain")
		}
	}
	return 0
}

// accepted logs in as soon as the hub can be asked.
func (b *relayBench) accepted(ctx context.Context, token string, bodies ...string) {
	b.t.Helper()
	b.await(ctx, "the hub to be asked for the token", func() bool {
		code := b.login(ctx, token, bodies...)
		if code != 0 && code != 3 {
			b.t.Fatalf("CONNACK %d, want 0, or 3 while the hub cannot be asked", code)
		}
		return code == 0
	})
}

func (b *relayBench) awaitArrived(ctx context.Context, want ...string) {
	b.t.Helper()
	for i := range want {
		want[i] = "pump-1:" + want[i]
	}
	b.await(ctx, "arrival of "+strings.Join(want, ", "), func() bool { return slices.Equal(b.enrolBench.arrived(), want) })
}

// A leaf whose key the gateway does not have: its own token goes to the hub. One
// that the hub has accepted is good while the hub is away, also after kill -9; no
// other is. When it has expired, what is in custody waits for a fresh one.
func TestRelayedToken(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	b := newRelayBench(t)
	good := b.token(b.key, time.Hour)
	b.accepted(ctx, good, "one")
	b.awaitArrived(ctx, "one")
	stranger, err := identity.ParseKey("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	must(t, err)
	forged := b.token(stranger, time.Hour)
	if code := b.login(ctx, forged); code != 5 {
		t.Errorf("a forged token: CONNACK %d, want 5", code)
	}

	b.hub.Cut()
	must(t, b.cmd.Process.Kill())
	_ = b.cmd.Wait() // it says that it was killed
	b.start()
	if code := b.login(ctx, good, "two"); code != 0 {
		t.Errorf("accepted before, and the hub is away: CONNACK %d, want 0", code)
	}
	for name, token := range map[string]string{"fresh": b.token(b.key, 2*time.Hour), "forged": forged} {
		if code := b.login(ctx, token); code != 3 {
			t.Errorf("a %s token while the hub is away: CONNACK %d, want 3", name, code)
		}
	}
	b.hub.Restore()
	b.awaitArrived(ctx, "one", "two")

	// The gateway starts anew and has nothing but a token that expires.
	// It lives longer where the start took too long for it.
	var brief string
	for life := 15 * time.Second; ; life *= 2 {
		expiry := time.Now().Add(life)
		brief = b.token(b.key, life)
		b.accepted(ctx, brief)
		b.hub.Cut()
		must(t, b.cmd.Process.Kill())
		_ = b.cmd.Wait()
		b.start()
		code := b.login(ctx, brief, "three")
		if code == 0 {
			break
		}
		if code != 5 || time.Now().Before(expiry.Truncate(time.Second)) {
			t.Fatalf("the brief token: CONNACK %d", code)
		}
		b.hub.Restore()
	}
	b.await(ctx, "the brief token to expire", func() bool { return b.login(ctx, brief) == 5 })
	b.hub.Restore()
	if got := b.enrolBench.arrived(); len(got) != 2 {
		t.Errorf("without a good token arrived %q", got)
	}
	b.accepted(ctx, b.token(b.key, time.Hour), "four")
	b.awaitArrived(ctx, "one", "two", "three", "four")
}
