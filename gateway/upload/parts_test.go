package upload

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

func TestParts(t *testing.T) {
	b := newBench(t)
	now := time.Now()
	part := func(name string, n int, text string) error { return b.Part("pump-1", name, n, []byte(text), now) }
	if err := part("f", 2, "x"); !errors.Is(err, ErrPart) {
		t.Errorf("part 2 of nothing: %v", err)
	}
	must(t, part("f", 1, "old"))
	must(t, part("f", 2, "old"))
	must(t, part("f", 1, "one ")) // begun anew: the second is not that of before
	if err := part("f", 3, "x"); !errors.Is(err, ErrPart) {
		t.Errorf("part 3 behind part 1: %v", err)
	}
	must(t, part("f", 2, "two "))
	must(t, part("f", 3, "three"))
	must(t, part("f", 2, "TWO ")) // said again
	must(t, part("other", 1, "y"))
	must(t, b.GiveUp("pump-1", "other"))
	must(t, b.GiveUp("pump-1", "other"))
	for _, want := range []bool{true, false} {
		if begun, err := b.End("pump-1", "f"); err != nil || begun != want {
			t.Errorf("end: %v, %v; want %v", begun, err, want)
		}
	}
	b.awaitSent(1)
	if got := b.stored(); got != "one TWO three" {
		t.Errorf("stored %q", got)
	}
	if err := part("../x", 1, "x"); !errors.Is(err, ErrName) {
		t.Errorf("a name that leads out: %v", err)
	}
	if err := part("big", 1, strings.Repeat("x", maxBlock+1)); !errors.Is(err, gateway.ErrTooLarge) {
		t.Errorf("a part that is too large: %v", err)
	}
}
