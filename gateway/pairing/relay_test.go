package pairing_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// memory is small memory that outlives a relay.
type memory map[string][]byte

func (m memory) Note(kind, name string) ([]byte, error) { return m[kind+"/"+name], nil }

func (m memory) SetNotes(kind string, values map[string][]byte) error {
	for name, v := range values {
		m[kind+"/"+name] = v
	}
	return nil
}

func (m memory) EachNote(kind string, f func(string, []byte) error) error {
	for key, v := range maps.Clone(m) {
		if name, ok := strings.CutPrefix(key, kind+"/"); ok {
			if err := f(name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge stands where the hub is.
type judge struct {
	away  bool
	good  string // the one token that it accepts
	asked int
}

func (j *judge) prove(_ context.Context, _, token string, _ time.Time) (bool, error) {
	if j.away {
		return false, gateway.ErrLinkDown
	}
	j.asked++
	return token == j.good, nil
}

func TestRelay(t *testing.T) {
	keys := identity.NewKeyring("hub.example")
	key, err := identity.ParseKey("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	if err != nil {
		t.Fatal(err)
	}
	keys.Put("pump-1", key)
	keys.Put("pump-2", key)
	now := gateway.Instant{Wall: time.Now(), Quality: gateway.Synced}
	token := func(leaf string, life time.Duration) string {
		text, err := keys.DeviceToken(leaf, now.Wall.Add(life))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	table := pairing.NewTable("hub.example", nil, identity.NewKeyring("hub.example"))
	table.Put(pairing.Leaf{ID: "pump-1"})
	proofs := identity.NewProofs(identity.NewKeyring("hub.example"), "", nil, nil)
	proofs.Set("pump-1", identity.AuthRelay)
	good := token("pump-1", time.Hour)
	notes, hub := memory{}, &judge{good: good, away: true}
	open := func() *pairing.Relay {
		r, err := pairing.NewRelay(table, proofs, notes, hub.prove)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open()
	if !r.Relays("pump-1") || r.Relays("pump-2") {
		t.Error("it judges others' tokens than those that are relayed")
	}
	check := func(what, leaf, text string, want error) {
		t.Helper()
		if _, err := r.CheckToken(t.Context(), leaf, text, now); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	check("the hub is away", "pump-1", good, pairing.ErrBusy)
	hub.away = false
	check("accepted", "pump-1", good, nil)
	if text, _, err := proofs.Token(t.Context(), "pump-1", now.Wall, now.Wall); err != nil || text != good {
		t.Errorf("the uplink has %q, %v", text, err)
	}
	check("accepted before", "pump-1", good, nil)
	if hub.asked != 1 {
		t.Errorf("the hub was asked %d times, want once", hub.asked)
	}
	check("another", "pump-1", token("pump-1", 2*time.Hour), pairing.ErrCredentials)
	check("the next guess at once", "pump-1", token("pump-1", 3*time.Hour), pairing.ErrBusy)
	check("the good one meanwhile", "pump-1", good, nil)
	check("another leaf's", "pump-1", token("pump-2", time.Hour), pairing.ErrCredentials)
	check("of a leaf that is not admitted", "pump-2", token("pump-2", time.Hour), pairing.ErrUnknown)
	hub.away = true
	r = open()
	check("after a restart, the hub is away", "pump-1", good, nil)
	if strings.Contains(string(notes["token/pump-1"]), "sig") {
		t.Error("a token stands on flash")
	}
	now.Wall = now.Wall.Add(time.Hour)
	check("expired", "pump-1", good, pairing.ErrExpired)
	if _, _, err := proofs.Token(t.Context(), "pump-1", now.Wall, now.Wall); !errors.Is(err, identity.ErrNoToken) {
		t.Errorf("the uplink has a token that has expired: %v", err)
	}
}
