package provisioning

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// Names of the tests.
const (
	scope  = "0ne00123ABC"
	device = "pump-1"
)

// bench makes a service, and the hub it assigns devices to.
func bench(t testing.TB, cfg Config) (*Service, *hub.Hub) {
	t.Helper()
	h := hub.New(hub.Config{Host: "hub.test", Partitions: 1, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(h.Close)
	cfg.IDScope = scope
	if cfg.Group.ID == "" {
		cfg.Group = Group{ID: "line-7", PrimaryKey: registry.NewKey(), SecondaryKey: registry.NewKey()}
	}
	return New(h, cfg), h
}

// token makes a token as the vendor's clients do, which leave the resource
// unescaped and name a policy that is none.
func token(t testing.TB, resource, key string, life time.Duration) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	return sas.New(resource, "registration", b, time.Now().Add(life))
}

// derived is the token of a device of the group.
func derived(t testing.TB, s *Service, id string) string {
	t.Helper()
	key, err := DeriveKey(s.Group().PrimaryKey, id)
	if err != nil {
		t.Fatal(err)
	}
	return token(t, scope+"/registrations/"+id, key, time.Hour)
}

// identified is a device of the group that has proved who it is.
func identified(t testing.TB, s *Service, id string) *Registrant {
	t.Helper()
	r, err := s.Identify(scope, id, Proof{Token: derived(t, s, id)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reading is an answer's JSON, of a result or a state.
type reading struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       state  `json:"registrationState"`
	ErrorCode   int    `json:"errorCode"`
}

// read reads an answer that must have a status.
func read(t testing.TB, a Answer, status int) (r reading) {
	t.Helper()
	if a.Status != status {
		t.Fatalf("got %d with %s, want %d", a.Status, a.Body, status)
	}
	if err := json.Unmarshal(a.Body, &r); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
	return r
}

// register registers a device and polls once.
func register(t testing.TB, r *Registrant) reading {
	t.Helper()
	begun := read(t, r.Register(nil), 202)
	return read(t, r.Poll(begun.OperationID), 200)
}
