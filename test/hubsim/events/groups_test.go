package events

import (
	"fmt"
	"testing"
)

func TestGroups(t *testing.T) {
	l := New(1, Bounds{})
	for _, name := range []string{"b", "A"} {
		if !l.AddGroup(name) {
			t.Errorf("%s is not new", name)
		}
	}
	for _, name := range []string{"B", "a", "$default"} {
		if l.AddGroup(name) {
			t.Errorf("%s is new", name)
		}
		if !l.HasGroup(name) {
			t.Errorf("%s is not there", name)
		}
	}
	if got := fmt.Sprint(l.Groups()); got != "[$Default A b]" {
		t.Errorf("groups: got %s, want [$Default A b]", got)
	}
	if !l.RemoveGroup("B") || l.RemoveGroup("b") || l.RemoveGroup("$Default") {
		t.Error("b can be removed once, and $Default never")
	}
	if got := fmt.Sprint(l.Groups()); got != "[$Default A]" || l.HasGroup("b") {
		t.Errorf("groups: got %s, want [$Default A]", got)
	}
}
