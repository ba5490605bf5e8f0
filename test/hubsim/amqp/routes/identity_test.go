package routes_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

const telemetryAddress = "/devices/pump-1/messages/events"

// An identity is connected from its first link to its last.
func TestPresence(t *testing.T) {
	b := newBench(t)
	connected := func(id registry.ID) bool { return b.hub.Presence.State(id).Connected }
	c := b.device(pump)
	if connected(pump) {
		t.Error("a token alone must not count as a connection")
	}
	telemetry := c.sender(telemetryAddress, nil)
	commands := c.receiver(commandAddress, nil)
	if !connected(pump) || connected(module) {
		t.Error("the device must be connected, and its module not")
	}
	if err := telemetry.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if !connected(pump) {
		t.Error("one link is left")
	}
	if err := commands.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	b.eventually("the device is away", func() bool { return !connected(pump) })
	c.sender(telemetryAddress, nil)
	_ = c.conn.Close() // the hub may be the first to close the pipe
	b.eventually("the device is away", func() bool { return !connected(pump) })
}

// A newer connection of an identity costs the older one that identity's links,
// and nothing else.
func TestDisplaced(t *testing.T) {
	b := newBench(t)
	older := b.device(pump)
	older.login(b.token(other, time.Hour))
	stolen := older.receiver(commandAddress, nil)
	neighbour := older.sender("/devices/pump-2/messages/events", nil)
	newer := b.device(pump)
	newer.sender(telemetryAddress, nil)
	_, err := stolen.Receive(within(t), nil)
	if got := condition(err); got != "amqp:link:stolen" || !strings.Contains(err.Error(), "400027") {
		t.Errorf("got %v, want amqp:link:stolen with 400027", err)
	}
	older.send(neighbour, text("the neighbour goes on"))
	if !b.hub.Presence.State(pump).Connected {
		t.Error("the device is on its newer connection")
	}
	older.receiver(commandAddress, nil) // and back again
}

// Disabling or deleting an identity costs its links, and no others.
func TestDisabledAndDeleted(t *testing.T) {
	for what, c := range map[string]struct {
		act  func(*bench) error
		link string // condition of the links that end
		put  int32  // status of a new token
	}{
		"disabled": {func(b *bench) error {
			i, err := b.hub.Registry.Find(pump)
			if err != nil {
				return err
			}
			i.Disabled = true
			_, err = b.hub.Registry.Update(i, "*")
			return err
		}, "amqp:unauthorized-access", 401},
		"deleted": {func(b *bench) error { return b.hub.Registry.Delete(pump, "*") }, "amqp:not-found", 404},
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t)
			client := b.device(pump)
			client.login(b.token(other, time.Hour))
			client.login(b.token(module, time.Hour))
			token := b.token(pump, time.Hour)
			client.login(b.policyToken("device", hostName)) // does not help
			neighbour := client.sender("/devices/pump-2/messages/events", nil)
			r := client.receiver(commandAddress, nil)
			if err := c.act(b); err != nil {
				t.Fatal(err)
			}
			if got := client.ended(r); got != c.link {
				t.Errorf("link: got %q, want %s", got, c.link)
			}
			if _, got := client.refused(commandAddress); got != c.link {
				t.Errorf("new link: got %q, want %s", got, c.link)
			}
			if got, reason := client.put(token); got != c.put {
				t.Errorf("new token: got %d %s, want %d", got, reason, c.put)
			}
			client.send(neighbour, text("goes on"))
			if got := b.routes.Stats().Identities; got != 2 {
				t.Errorf("identities: got %d, want the neighbour and the policy", got)
			}
		})
	}
}

// One token of a policy lets its bearer act as every identity, and one that it
// signed for a device as the device's modules too.
func TestPolicyTokens(t *testing.T) {
	b := newBench(t)
	addresses := map[registry.ID]string{}
	for _, id := range []registry.ID{pump, other, module} {
		addresses[id] = "/" + id.Path() + "/messages/events"
	}
	for resource, want := range map[string][]registry.ID{
		hostName:                     {pump, other, module},
		hostName + "/devices":        {pump, other, module},
		hostName + "/devices/pump-1": {pump, module},
	} {
		c := b.dial()
		c.login(b.policyToken("device", resource))
		allowed := map[registry.ID]bool{}
		for _, id := range want {
			allowed[id] = true
			c.send(c.sender(addresses[id], nil), text(id.String()))
		}
		for id, address := range addresses {
			if got, _ := c.refused(address); (got == "") != allowed[id] {
				t.Errorf("%s with a token for %s: got %q", id, resource, got)
			}
		}
	}
	for e := range b.hub.Events.All() {
		if !strings.Contains(e.Auth, `"scope":"hub"`) || (registry.ID{Device: e.Device, Module: e.Module}).String() == "" {
			t.Errorf("event of %s/%s: got %s", e.Device, e.Module, e.Auth)
		}
	}
}

// A connection carries 999 tokens; a renewal is not one more, and the refusal of
// another one costs nothing.
func TestTokenLimit(t *testing.T) {
	b := newBench(t)
	c := b.dial()
	id := func(n int) registry.ID { return registry.ID{Device: fmt.Sprintf("d%d", n)} }
	for n := range routes.MaxTokens + 1 {
		b.add(id(n))
	}
	for n := range routes.MaxTokens {
		c.login(b.token(id(n), time.Hour))
	}
	status, reason := c.put(b.token(id(routes.MaxTokens), time.Hour))
	if status != 403 || !strings.Contains(reason, "403005 IotHubMaxCbsTokenExceeded") {
		t.Errorf("token 1000: got %d %s, want 403 with 403005", status, reason)
	}
	c.login(b.token(id(0), time.Hour))
	if got := b.routes.Stats().Identities; got != routes.MaxTokens {
		t.Errorf("identities: got %d, want %d", got, routes.MaxTokens)
	}
}

func TestPlain(t *testing.T) {
	b := newBench(t)
	device := b.token(pump, time.Hour)
	ofModule := b.token(module, time.Hour)
	policy := b.policyToken("device", hostName)
	for _, c := range []struct {
		user, password, address string
	}{
		{"pump-1@sas.bench", device, telemetryAddress},
		{"pump-1@bench", device, telemetryAddress},
		{"pump-1/modules/valve@sas.bench", ofModule, "/devices/pump-1/modules/valve/messages/events"},
		{"device@sas.root.bench", policy, telemetryAddress},
	} {
		client, err := b.connect(&goamqp.ConnOptions{SASLType: goamqp.SASLTypePlain(c.user, c.password)})
		if err != nil {
			t.Errorf("%s: %v", c.user, err)
			continue
		}
		client.sender(c.address, nil)
	}
	for _, c := range []struct{ user, password string }{
		{"pump-2@sas.bench", device},
		{"pump-1@sas.elsewhere", device},
		{"service@sas.root.bench", policy},
		{"pump-1@sas.root.bench", device},
		{"pump-1@sas.bench", ofModule},
		{"pump-1@sas.bench", "no token"},
		{"", ""},
	} {
		if _, err := b.connect(&goamqp.ConnOptions{SASLType: goamqp.SASLTypePlain(c.user, c.password)}); err == nil {
			t.Errorf("%s was let in", c.user)
		}
	}
}

// A connection that stands on SASL PLAIN ends with its token.
func TestPlainExpires(t *testing.T) {
	b := newBench(t)
	c, err := b.connect(&goamqp.ConnOptions{SASLType: goamqp.SASLTypePlain("pump-1@sas.bench", b.token(pump, 2*time.Second))})
	if err != nil {
		t.Fatal(err)
	}
	r := c.receiver(commandAddress, nil)
	if got := c.ended(r); got != "amqp:unauthorized-access" {
		t.Errorf("got %q, want amqp:unauthorized-access", got)
	}
	select {
	case <-c.conn.Done():
	case <-within(t).Done():
		t.Error("the connection is still there")
	}
}

// selfSigned makes a certificate and the thumbprint under which a device is
// known by it.
func selfSigned(t *testing.T) (*x509.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pump-x"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return certificate, hex.EncodeToString(sum[:])
}

// A device with a certificate needs no token, whatever the SASL mechanism.
func TestCertificate(t *testing.T) {
	b := newBench(t)
	certificate, thumbprint := selfSigned(t)
	id := registry.ID{Device: "pump-x"}
	_, err := b.hub.Registry.Create(registry.Identity{ID: id, Auth: registry.Auth{
		Type: registry.AuthSelfSigned, PrimaryThumbprint: thumbprint,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for what, mechanism := range map[string]goamqp.SASLType{
		"no SASL": nil, "anonymous": goamqp.SASLTypeAnonymous(), "external": goamqp.SASLTypeExternal(""),
	} {
		c, err := b.connect(&goamqp.ConnOptions{SASLType: mechanism}, certificate)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		c.send(c.sender("/devices/pump-x/messages/events", nil), text(what))
		if got, _ := c.refused(telemetryAddress); got != "amqp:unauthorized-access" {
			t.Errorf("%s: another device's link: got %q, want amqp:unauthorized-access", what, got)
		}
	}
	for e := range b.hub.Events.All() {
		if !strings.Contains(e.Auth, "x509Certificate") {
			t.Errorf("auth method: got %s", e.Auth)
		}
	}
	strange, _ := selfSigned(t)
	if got, _ := b.dial(strange).refused("/devices/pump-x/messages/events"); got != "amqp:unauthorized-access" {
		t.Errorf("another certificate: got %q, want amqp:unauthorized-access", got)
	}
	if _, err := b.connect(&goamqp.ConnOptions{SASLType: goamqp.SASLTypeExternal("")}); err == nil {
		t.Error("EXTERNAL without a certificate was let in")
	}
}
