package registry

import (
	"encoding/base64"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// Keys of the tests.
var (
	pumpKey   = NewKey()
	secondKey = NewKey()
	policyKey = NewKey()
)

func bench(t testing.TB) *Registry {
	t.Helper()
	var policies []Policy
	for name, rights := range PolicyRights {
		policies = append(policies, Policy{Name: name, PrimaryKey: policyKey, Rights: rights})
	}
	r := New([]string{"hub.test", "127.0.0.1"}, policies)
	for _, i := range []Identity{
		{ID: ID{Device: "pump-1"}, Auth: Auth{PrimaryKey: pumpKey, SecondaryKey: secondKey}},
		{ID: ID{Device: "pump-1", Module: "m"}, Auth: Auth{PrimaryKey: secondKey}},
		{ID: ID{Device: "a#b"}, Auth: Auth{PrimaryKey: pumpKey}},
		{ID: ID{Device: "off"}, Auth: Auth{PrimaryKey: pumpKey}},
	} {
		if _, err := r.Create(i); err != nil {
			t.Fatal(err)
		}
	}
	r.SetEnabled("off", false)
	return r
}

func signed(t *testing.T, resource, policy, key string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	return sas.New(resource, policy, b, time.Unix(2_000_000_000, 0))
}

// asReader signs as readers of events do, with the text of the key.
func asReader(resource string) string {
	return sas.New(resource, "service", []byte(policyKey), time.Unix(2_000_000_000, 0))
}

// A good token allows what its key and its resource allow, and no more.
func TestGrants(t *testing.T) {
	r := bench(t)
	for _, c := range []struct {
		what, token, identity string
		pump, other           bool // acts as pump-1, as another device
		rights                Rights
	}{
		{"primary key", signed(t, "hub.test/devices/pump-1", "", pumpKey), "devices/pump-1", true, false, 0},
		{"secondary key", signed(t, "hub.test/devices/pump-1", "", secondKey), "devices/pump-1", true, false, 0},
		{"host in capitals", signed(t, "HUB.test/devices/pump-1", "", pumpKey), "devices/pump-1", true, false, 0},
		{"address with port", signed(t, "127.0.0.1:5671/devices/pump-1", "", pumpKey), "devices/pump-1", true, false, 0},
		{"more behind the id", signed(t, "hub.test/devices/pump-1/?api-version=1", "", pumpKey), "devices/pump-1", true, false, 0},
		{"escaped id", signed(t, "hub.test/devices/a%23b", "", pumpKey), "devices/a#b", false, false, 0},
		{"policy for a device", signed(t, "hub.test/devices/pump-1", "device", policyKey), "devices/pump-1", true, false, DeviceConnect},
		{"policy for all", signed(t, "hub.test/devices", "device", policyKey), "hub.test/devices", true, true, DeviceConnect},
		{"module", signed(t, "hub.test/devices/pump-1/modules/m", "", secondKey), "devices/pump-1/modules/m", false, false, 0},
		{"owner", signed(t, "hub.test", "iothubowner", policyKey), "hub.test", true, true, PolicyRights["iothubowner"]},
		{"service", signed(t, "hub.test", "service", policyKey), "hub.test", false, false, ServiceConnect},
		{"reader of events", asReader("sb://hub.test/messages/events"), "sb://hub.test/messages/events", false, false, ServiceConnect},
	} {
		g, err := r.Authenticate(c.token, time.Unix(1_999_999_999, 0))
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if g.Identity != c.identity || g.Rights != c.rights || g.Covers(ID{Device: "pump-1"}) != c.pump || g.Covers(ID{Device: "other"}) != c.other {
			t.Errorf("%s: got %+v", c.what, g)
		}
	}
}

func TestRefusals(t *testing.T) {
	r := bench(t)
	good := signed(t, "hub.test/devices/pump-1", "", pumpKey)
	for _, c := range []struct {
		what, token  string
		status, code int
	}{
		{"no token", "hello", 400, 400004},
		{"expired in this very second", good, 401, 401003},
		{"another key", signed(t, "hub.test/devices/pump-1", "", policyKey), 401, 401003},
		{"another hub", signed(t, "evil.test/devices/pump-1", "", pumpKey), 401, 401003},
		{"a device's key for all", signed(t, "hub.test", "", pumpKey), 401, 401003},
		{"unknown device", signed(t, "hub.test/devices/ghost", "", pumpKey), 404, 404001},
		{"disabled device", signed(t, "hub.test/devices/off", "", pumpKey), 401, 401003},
		{"unknown module", signed(t, "hub.test/devices/pump-1/modules/n", "", pumpKey), 404, 404010},
		{"unknown policy", signed(t, "hub.test", "nobody", policyKey), 401, 401003},
		{"policy with another key", signed(t, "hub.test", "service", pumpKey), 401, 401003},
		{"policy that may not connect devices", signed(t, "hub.test/devices/pump-1", "service", policyKey), 401, 401002},
		{"text of the key elsewhere than at the events", asReader("hub.test/messages/events"), 401, 401003},
	} {
		now := time.Unix(1_999_999_999, 0)
		if c.token == good {
			now = now.Add(time.Second)
		}
		_, err := r.Authenticate(c.token, now)
		refused, ok := errors.AsType[*refusal.Error](err)
		if !ok || refused.Status() != c.status || refused.Code != c.code {
			t.Errorf("%s: got %v, want %d with %d", c.what, err, c.status, c.code)
		}
	}
}

// What Create was not given it makes up, and what it returns is what is kept.
func TestCreate(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	made, err := r.Create(Identity{ID: ID{Device: "new"}})
	if err != nil {
		t.Fatal(err)
	}
	if kept, ok := r.Get(made.ID); !ok || !reflect.DeepEqual(kept, made) {
		t.Errorf("got %+v, want %+v", kept, made)
	}
	for _, key := range []string{made.Auth.PrimaryKey, made.Auth.SecondaryKey} {
		if b, err := base64.StdEncoding.DecodeString(key); err != nil || len(b) != 32 {
			t.Errorf("key %q: %d bytes, %v", key, len(b), err)
		}
	}
	if made.Auth.PrimaryKey == made.Auth.SecondaryKey || made.Generation == "" || made.ETag == "" {
		t.Errorf("got %+v, want two keys, a generation and an ETag", made)
	}
}

func FuzzAuthenticate(f *testing.F) {
	r := bench(f)
	key, _ := base64.StdEncoding.DecodeString(pumpKey) // made above
	f.Add(sas.New("hub.test/devices/off", "", key, time.Unix(2_000_000_000, 0)))
	f.Add("SharedAccessSignature sr=sb%3A%2F%2Fhub.test&sig=YQ%3D%3D&se=2000000000&skn=service")
	f.Fuzz(func(t *testing.T, text string) {
		if g, err := r.Authenticate(text, time.Unix(1_999_999_999, 0)); err == nil {
			t.Fatalf("%q was let in as %+v", text, g)
		} else if _, ok := errors.AsType[*refusal.Error](err); !ok {
			t.Fatalf("%q: %v is no refusal", text, err)
		}
	})
}
