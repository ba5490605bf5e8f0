package twins_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// The device gets the form that the service used (section 5.4).
func TestWatch(t *testing.T) {
	_, s := newStore(t)
	var all []twins.Change
	s.OnChange(func(c twins.Change) { all = append(all, c) })
	update(t, s, `{"properties":{"desired":{"before":1}}}`)
	var got []twins.Change
	cancel := s.Watch(pump, func(c twins.Change) { got = append(got, c) })
	update(t, s, `{"properties":{"desired":{"a":{"b":1.0},"before":null}}}`)
	update(t, s, `{"tags":{"not":"for the device"}}`)
	if _, err := s.PatchReported(pump, []byte(`{"own":1}`), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(pump, []byte(`{"properties":{"desired":{"c":2}}}`), true, ""); err != nil {
		t.Fatal(err)
	}
	cancel()
	update(t, s, `{"properties":{"desired":{"after":1}}}`)
	if len(got) != 2 {
		t.Fatalf("%d changes of desired, want 2: %v", len(got), got)
	}
	if string(got[0].Desired) != `{"$version":3,"a":{"b":1.0},"before":null}` || got[0].Version != 3 || got[0].Replaced || got[0].ID != pump {
		t.Errorf("the patch is told as %+v %s", got[0], got[0].Desired)
	}
	if string(got[1].Desired) != `{"$version":4,"c":2}` || got[1].Version != 4 || !got[1].Replaced {
		t.Errorf("the replacement is told as %+v %s", got[1], got[1].Desired)
	}
	if len(all) != 6 {
		t.Errorf("%d changes of all kinds, want 6", len(all))
	}
}

// Bodies of twin-change events: what was written with its metadata, or the whole
// twin (section 5.10).
func TestEvent(t *testing.T) {
	_, s := newStore(t)
	var events []map[string]any
	s.OnChange(func(c twins.Change) { events = append(events, object(t, c.Event, nil)) })
	update(t, s, `{"tags":{"a":1},"properties":{"desired":{"b":{"c":2},"gone":null}}}`)
	if _, err := s.PatchReported(pump, []byte(`{"d":3}`), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(pump, []byte(`{"tags":{"e":4}}`), true, ""); err != nil {
		t.Fatal(err)
	}
	desired := at(events[0], "properties", "desired")
	if events[0]["version"] != 2.0 || at(events[0], "tags", "a") != 1.0 || at(desired, "b", "c") != 2.0 ||
		at(desired, "$version") != 2.0 || at(desired, "$metadata", "b", "c", "$lastUpdatedVersion") != 2.0 {
		t.Errorf("the update's event is %v", events[0])
	}
	if value, there := desired.(map[string]any)["gone"]; !there || value != nil {
		t.Errorf("the removal is not in the event %v", events[0])
	}
	reported := at(events[1], "properties", "reported")
	if events[1]["tags"] != nil || at(reported, "d") != 3.0 || at(reported, "$metadata", "d", "$lastUpdated") == nil {
		t.Errorf("the device's event is %v", events[1])
	}
	if at(events[2], "deviceId") != "pump-1" || at(events[2], "tags", "e") != 4.0 || at(events[2], "properties", "reported", "d") != 3.0 {
		t.Errorf("the replacement's event is %v", events[2])
	}
}

// Watchers hear of changes in the order of their versions, each once, however
// many goroutines make them; they may call the store meanwhile.
func TestOrderOfChanges(t *testing.T) {
	_, s := newStore(t)
	var versions []int64
	cancel := s.Watch(pump, func(c twins.Change) {
		versions = append(versions, c.Version)
		if _, err := s.ForDevice(pump); err != nil {
			t.Error(err)
		}
	})
	const writers, each = 8, 50
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range each {
				body := fmt.Sprintf(`{"properties":{"desired":{"w%d":%d}}}`, w, n)
				if _, err := s.Update(pump, []byte(body), false, ""); err != nil {
					t.Error(err)
				}
				if _, err := s.PatchReported(pump, []byte(`{"n":1}`), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	cancel() // and nobody writes to versions from here on
	if len(versions) != writers*each || !slices.IsSorted(versions) || versions[0] != 2 {
		t.Errorf("%d changes told, want %d in order: %v", len(versions), writers*each, versions)
	}
}

// A watcher may write to the twin it watches; it hears of that after.
func TestWatcherWrites(t *testing.T) {
	_, s := newStore(t)
	var got []int64
	defer s.Watch(pump, func(c twins.Change) {
		got = append(got, c.Version)
		if c.Version < 5 {
			update(t, s, `{"properties":{"desired":{"n":1}}}`)
		}
	})()
	update(t, s, `{"properties":{"desired":{"n":1}}}`)
	if want := []int64{2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("versions told are %v, want %v", got, want)
	}
}

// Cancelling waits for the call in progress.
func TestCancelWaits(t *testing.T) {
	_, s := newStore(t)
	for range 200 {
		var cancelled bool
		cancel := s.Watch(pump, func(twins.Change) {
			if cancelled {
				t.Error("a watcher was called after its cancelling")
			}
		})
		var writer sync.WaitGroup
		writer.Go(func() { update(t, s, `{"properties":{"desired":{"n":1}}}`) })
		cancel()
		cancelled = true // a race with the watcher, were it still running
		writer.Wait()
	}
}
