package main

import (
	"slices"
	"testing"

	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// What the hub has said of a former leaf is not said of a new one of its name, also where
// the former one's messages went after it; a leaf that only changes keeps it.
func TestANewLeafIsNotItsNamesake(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off") // the limit of this process stays as it is
	keys := identity.NewKeyring("hub.example")
	var forgotten []string
	r := &roster{
		cfg: new(config), table: pairing.NewTable("hub.example", nil, keys), keys: keys,
		proofs: identity.NewProofs(keys, "", nil, nil), leaves: make(map[string]leaf),
		forget: func(id string) { forgotten = append(forgotten, id) },
	}
	l := leaf{Leaf: pairing.Leaf{ID: "pump-1"}, auth: identity.AuthRelay}
	for range 2 {
		if err := r.admit(l); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(forgotten, []string{"pump-1"}) {
		t.Errorf("forgotten are %q", forgotten)
	}
}
