package provisioning

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/x509test"
)

// The check value of the documentation (section 8.1).
func TestDeriveKey(t *testing.T) {
	const group = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
	key, err := DeriveKey(group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
	if want := "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="; err != nil || key != want {
		t.Errorf("got %s, %v, want %s", key, err, want)
	}
	if _, err := DeriveKey("not Base64", device); err == nil {
		t.Error("a group's key that is none was taken")
	}
}

// A device asks, waits, and is told the hub, in which it then is.
func TestRegistration(t *testing.T) {
	s, h := bench(t, Config{Polls: 1, RetryAfter: 3 * time.Second})
	r := identified(t, s, device)
	if a := r.State(); a.Refusal == nil || a.Refusal.Code != 404201 {
		t.Errorf("before it has registered: %s", a.Body)
	}
	a := r.Register([]byte(`{"registrationId":"pump-1","payload":{"x":1}}`))
	begun := read(t, a, 202)
	if begun.Status != assigning || a.RetryAfter != 3 || begun.OperationID == "" {
		t.Fatalf("got %s, again after %d s", a.Body, a.RetryAfter)
	}
	if joined := read(t, r.Register([]byte(" ")), 202); joined.OperationID != begun.OperationID {
		t.Error("a second request began a second operation")
	}
	if waiting := read(t, r.Poll(begun.OperationID), 202); waiting.Status != assigning || waiting.State.AssignedHub != "" {
		t.Errorf("got %+v", waiting)
	}
	done := read(t, r.Poll(begun.OperationID), 200)
	if done.Status != assigned || done.State.Status != assigned || done.State.AssignedHub != "hub.test" ||
		done.State.DeviceID != device || done.State.SymmetricKey.ID != "line-7" || done.State.Substatus != "initialAssignment" {
		t.Errorf("got %+v", done)
	}
	i, err := h.Registry.Find(registry.ID{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	primary, _ := DeriveKey(s.Group().PrimaryKey, device)     // valid Base64
	secondary, _ := DeriveKey(s.Group().SecondaryKey, device) // valid Base64
	if i.Auth.PrimaryKey != primary || i.Auth.SecondaryKey != secondary {
		t.Errorf("the device has other keys than the derived ones: %+v", i.Auth)
	}
	var known state
	if a := r.State(); a.Status != 200 || json.Unmarshal(a.Body, &known) != nil || known.ETag != done.State.ETag {
		t.Errorf("got %s", a.Body)
	}
	if a := r.Poll("4.another"); a.Refusal == nil || a.Refusal.Code != 404201 {
		t.Errorf("an operation that there is not: %s", a.Body)
	}
}

// Registering again keeps the identity; keys are brought up to date, and a
// device that was deleted comes back as a new one.
func TestRegisteringAgain(t *testing.T) {
	s, h := bench(t, Config{})
	id := registry.ID{Device: device}
	identity := func() registry.Identity {
		t.Helper()
		if got := register(t, identified(t, s, device)); got.Status != assigned {
			t.Fatalf("got %+v", got)
		}
		i, err := h.Registry.Find(id)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	first := identity()
	if again := identity(); again.Generation != first.Generation || again.ETag != first.ETag {
		t.Errorf("nothing was new, but %+v became %+v", first, again)
	}
	s.SetGroup(Group{ID: "line-8", PrimaryKey: registry.NewKey()})
	rolled := identity()
	if rolled.Generation != first.Generation || rolled.Auth.PrimaryKey == first.Auth.PrimaryKey || rolled.Auth.SecondaryKey != first.Auth.SecondaryKey {
		t.Errorf("with a new group key %+v became %+v", first, rolled)
	}
	if !h.Registry.SetEnabled(device, false) {
		t.Fatal("no device to disable")
	}
	if i := identity(); !i.Disabled {
		t.Error("a device that the operator has disabled is enabled again")
	}
	if err := h.Registry.Delete(id, ""); err != nil {
		t.Fatal(err)
	}
	if i := identity(); i.Generation == first.Generation || i.Disabled {
		t.Errorf("a deleted device came back as it was: %+v", i)
	}
}

func TestProofs(t *testing.T) {
	s, h := bench(t, Config{})
	key, _ := DeriveKey(s.Group().PrimaryKey, device)      // valid Base64
	second, _ := DeriveKey(s.Group().SecondaryKey, device) // valid Base64
	const own = scope + "/registrations/" + device
	for _, c := range []struct {
		what, scope, id, token string
		code                   int // 0 for good
	}{
		{"good", scope, device, token(t, own, key, time.Hour), 0},
		{"secondary key", scope, device, token(t, own, second, time.Hour), 0},
		{"scope in other case", strings.ToLower(scope), device, token(t, own, key, time.Hour), 0},
		{"not escaped", scope, device, strings.ReplaceAll(token(t, own, key, time.Hour), "%2F", "/"), 401002}, // another text is signed then
		{"expired", scope, device, token(t, own, key, -time.Second), 401002},
		{"the group's own key", scope, device, token(t, own, s.Group().PrimaryKey, time.Hour), 401002},
		{"another device", scope, "pump-2", token(t, own, key, time.Hour), 401002},
		{"another resource", scope, device, token(t, "hub.test/devices/pump-1", key, time.Hour), 401002},
		{"no token", scope, device, "", 401002},
		{"another scope", "0ne00FFFFFF", device, token(t, own, key, time.Hour), 404201},
		{"no id", scope, "", token(t, own, key, time.Hour), 400004},
		{"bad id", scope, "a/b", token(t, own, key, time.Hour), 400004},
		{"long id", scope, strings.Repeat("a", 129), token(t, own, key, time.Hour), 400004},
	} {
		_, err := s.Identify(c.scope, c.id, Proof{Token: c.token})
		if (c.code == 0 && err != nil) || (c.code != 0 && !refusal.Is(err, c.code)) {
			t.Errorf("%s: got %v, want %d", c.what, err, c.code)
		}
	}
	r := identified(t, s, device)
	h.Faults.ClockSkew(2 * time.Hour)
	if a := r.Register(nil); a.Refusal == nil || a.Refusal.Code != 401002 {
		t.Errorf("after the token has expired: %s", a.Body)
	}
}

// The enrolment of one device counts before the group.
func TestEnrolmentOfOneDevice(t *testing.T) {
	s, h := bench(t, Config{})
	e, err := s.Enrol(Enrolment{RegistrationID: device, DeviceID: "press", Payload: json.RawMessage(`{"site":"north"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Identify(scope, device, Proof{Token: derived(t, s, device)}); !refusal.Is(err, 401002) {
		t.Errorf("the key of the group opens it: %v", err)
	}
	r, err := s.Identify(scope, device, Proof{Token: token(t, scope+"/registrations/"+device, e.SecondaryKey, time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	got := register(t, r)
	if got.State.DeviceID != "press" || string(got.State.Payload) != `{"site":"north"}` || got.State.SymmetricKey.ID != "" {
		t.Errorf("got %+v", got)
	}
	if i, err := h.Registry.Find(registry.ID{Device: "press"}); err != nil || i.Auth.PrimaryKey != e.PrimaryKey {
		t.Errorf("got %+v, %v", i, err)
	}
	if !s.Withdraw(device) || s.Withdraw(device) {
		t.Error("an enrolment can be withdrawn once")
	}
	identified(t, s, device)
	for _, bad := range []Enrolment{{}, {RegistrationID: "a b"}, {RegistrationID: "a", Payload: json.RawMessage("{")}} {
		if _, err := s.Enrol(bad); !refusal.Is(err, 400004) {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
}

func newCertificate(t *testing.T) *x509.Certificate {
	t.Helper()
	return x509test.New(t, x509test.Wish{Name: device}).Certificate
}

// A device may prove itself with the certificate that it is enrolled with, and
// does so at the hub too.
func TestEnrolmentWithCertificate(t *testing.T) {
	s, h := bench(t, Config{})
	own, stranger := newCertificate(t), newCertificate(t)
	sum := sha256.Sum256(own.Raw)
	thumbprint := strings.ToUpper(hex.EncodeToString(sum[:]))
	if _, err := s.Enrol(Enrolment{RegistrationID: device, Thumbprint: thumbprint}); err != nil {
		t.Fatal(err)
	}
	for what, proof := range map[string]Proof{
		"nothing": {}, "a token": {Token: derived(t, s, device)}, "another certificate": {Certificates: []*x509.Certificate{stranger, own}},
	} {
		if _, err := s.Identify(scope, device, proof); !refusal.Is(err, 401002) {
			t.Errorf("with %s: got %v", what, err)
		}
	}
	r, err := s.Identify(scope, device, Proof{Certificates: []*x509.Certificate{own}})
	if err != nil {
		t.Fatal(err)
	}
	if got := register(t, r); got.Status != assigned || got.State.X509 == nil || got.State.SymmetricKey != nil {
		t.Errorf("got %+v", got)
	}
	i, err := h.Registry.Find(registry.ID{Device: device})
	if err != nil || i.Auth.Type != registry.AuthSelfSigned || i.Auth.PrimaryThumbprint != thumbprint {
		t.Errorf("got %+v, %v", i, err)
	}
}

// A device of a disabled enrolment is told so, and does not get into the hub.
func TestDisabled(t *testing.T) {
	s, h := bench(t, Config{})
	g := s.Group()
	g.Disabled = true
	s.SetGroup(g)
	r := identified(t, s, device)
	if got := read(t, r.Register(nil), 200); got.Status != disabled || got.State.Status != disabled {
		t.Errorf("got %+v", got)
	}
	if _, err := h.Registry.Find(registry.ID{Device: device}); err == nil {
		t.Error("the device is in the hub")
	}
	g.Disabled = false
	s.SetGroup(g)
	begun := read(t, identified(t, s, device).Register(nil), 202)
	g.Disabled = true
	s.SetGroup(g)
	if got := read(t, identified(t, s, device).Poll(begun.OperationID), 200); got.Status != disabled {
		t.Errorf("disabled while it was waiting: %+v", got)
	}
	g.Disabled = false
	s.SetGroup(g)
	if got := register(t, identified(t, s, device)); got.Status != assigned {
		t.Errorf("got %+v", got)
	}
}

// What the hub says against a device becomes the result of the operation.
func TestFailed(t *testing.T) {
	s, _ := bench(t, Config{})
	e, err := s.Enrol(Enrolment{RegistrationID: device, DeviceID: "no blanks"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Identify(scope, device, Proof{Token: token(t, scope+"/registrations/"+device, e.PrimaryKey, time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if got := register(t, r); got.Status != failed || got.State.ErrorCode != 400004 || got.State.ErrorMessage == "" {
		t.Errorf("got %+v", got)
	}
}

func TestThrottled(t *testing.T) {
	s, _ := bench(t, Config{RetryAfter: 2 * time.Second})
	r := identified(t, s, device)
	s.ThrottleNext(1)
	if a := r.Register(nil); a.Status != 429 || a.RetryAfter != 2 {
		t.Errorf("got %d with %s, again after %d s", a.Status, a.Body, a.RetryAfter)
	}
	read(t, r.Register(nil), 202)
}

func TestBodies(t *testing.T) {
	s, _ := bench(t, Config{})
	r := identified(t, s, device)
	for body, status := range map[string]int{
		"": 202, " ": 202, "{}": 202, `{"registrationId":"PUMP-1"}`: 202,
		`{"registrationId":"other"}`: 400, "{": 400, "[]": 400, `{"registrationId":1}`: 400,
	} {
		if a := r.Register([]byte(body)); a.Status != status {
			t.Errorf("%q: got %d with %s, want %d", body, a.Status, a.Body, status)
		}
	}
}

// Whatever a device sends, the answer is JSON with a status of the contract.
func FuzzRegister(f *testing.F) {
	s, _ := bench(f, Config{})
	r := identified(f, s, device)
	f.Add([]byte(`{"registrationId":"pump-1","payload":{"a":[1]}}`))
	f.Add([]byte(" "))
	f.Fuzz(func(t *testing.T, body []byte) {
		a := r.Register(body)
		if !json.Valid(a.Body) || (a.Status != 202 && a.Status != 400) {
			t.Fatalf("%q: got %d with %s", body, a.Status, a.Body)
		}
	})
}
