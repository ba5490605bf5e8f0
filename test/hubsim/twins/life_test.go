package twins_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

func TestLifeOfTwin(t *testing.T) {
	r, s := newStore(t)
	update(t, s, `{"tags":{"a":1}}`)
	if err := r.Delete(pump, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(pump); !refusal.Is(err, 404001) {
		t.Errorf("the twin of a deleted device gives %v", err)
	}
	if _, err := s.ForDevice(valve); !refusal.Is(err, 404010) {
		t.Errorf("the twin of a deleted module gives %v", err)
	}
	if _, err := s.PatchReported(pump, []byte(`{}`), 0); !refusal.Is(err, 404001) {
		t.Errorf("a patch of a deleted device's twin gives %v", err)
	}
	s.Watch(pump, func(twins.Change) { t.Error("a twin that is gone has changed") })()
	if _, err := r.Create(registry.Identity{ID: pump}); err != nil {
		t.Fatal(err)
	}
	if v := update(t, s, `{}`); len(v["tags"].(map[string]any)) != 0 {
		t.Errorf("a new device of the same name has the tags %v", v["tags"])
	}
}

// Identities that are older than the store have twins, and so have those that it
// has not been told of yet.
func TestTwinOfEveryIdentity(t *testing.T) {
	r, _ := newStore(t)
	var s *twins.Store
	r.OnChange(func(c registry.Change, i registry.Identity) {
		if c != registry.Created {
			return
		}
		text, err := s.Get(i.ID)
		if v := object(t, text, err); v["version"] != 1.0 {
			t.Errorf("a twin is born with version %v", v["version"])
		}
		if _, err := s.PatchReported(i.ID, []byte(`{"early":1}`), 0); err != nil {
			t.Error(err)
		}
	})
	s = twins.New(r, func(registry.ID) twins.Status { return twins.Status{} })
	for range s.Documents(true, "") {
		if err := r.Delete(pump, ""); err != nil { // the module too
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := r.Create(registry.Identity{ID: pump}); err != nil {
			t.Fatal(err)
		}
		if got := forDevice(t, s, pump); got != `{"desired":{"$version":1},"reported":{"$version":2,"early":1}}` {
			t.Errorf("the device reads %s", got)
		}
		if err := r.Delete(pump, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// However creations and deletions of an id overlap, its twin is that of the
// identity that is there: a new identity does not inherit.
func TestLivesOverlap(t *testing.T) {
	r, s := newStore(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				if _, err := s.Update(pump, []byte(`{"tags":{"of":"an earlier life"}}`), false, ""); err != nil && !refusal.Is(err, 404001) {
					t.Error(err)
				}
				if err := r.Delete(pump, ""); err != nil && !refusal.Is(err, 404001) {
					t.Error(err)
				}
				if _, err := r.Create(registry.Identity{ID: pump}); err != nil && !refusal.Is(err, 409001) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := r.Delete(pump, ""); err != nil {
		t.Fatal(err)
	}
	for range s.Documents(false, "") {
		t.Error("there is a twin without an identity")
	}
	if _, err := r.Create(registry.Identity{ID: pump}); err != nil {
		t.Fatal(err)
	}
	if v := update(t, s, `{}`); v["version"] != 1.0 || len(v["tags"].(map[string]any)) != 0 {
		t.Errorf("a new device has version %v and the tags %v", v["version"], v["tags"])
	}
}

func TestDocuments(t *testing.T) {
	r, s := newStore(t)
	for n := range 5 {
		if _, err := r.Create(registry.Identity{ID: registry.ID{Device: fmt.Sprintf("leaf-%d", n)}}); err != nil {
			t.Fatal(err)
		}
	}
	var keys []string
	for key, document := range s.Documents(false, "leaf-1") {
		if document["deviceId"] != key {
			t.Errorf("%s is the key of %v", key, document["deviceId"])
		}
		if key == "leaf-2" { // what goes while they are read is left out
			if err := r.Delete(registry.ID{Device: "leaf-3"}, ""); err != nil {
				t.Fatal(err)
			}
		}
		keys = append(keys, key)
	}
	if want := []string{"leaf-2", "leaf-4", "pump-1"}; !slices.Equal(keys, want) {
		t.Errorf("the devices are %v, want %v", keys, want)
	}
	for key, document := range s.Documents(true, "") {
		if key != "pump-1/valve" || document["moduleId"] != "valve" {
			t.Errorf("a module is %s: %v", key, document)
		}
	}
}
