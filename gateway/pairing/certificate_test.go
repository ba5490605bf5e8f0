package pairing

import (
	"strings"
	"testing"
)

func TestParseThumbprint(t *testing.T) {
	sha1, sha256 := strings.Repeat("0a", 20), strings.Repeat("FF", 32)
	for text, ok := range map[string]bool{
		sha1: true, sha256: true, " " + strings.ToUpper(sha1) + "\n": true, strings.TrimSuffix(strings.Repeat("0a:", 20), ":"): true,
		"": false, sha1[2:]: false, sha1 + "00": false, "zz" + sha1[2:]: false, sha256 + sha256: false,
	} {
		p, err := ParseThumbprint(text)
		if (err == nil) != ok || p.IsZero() == ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// The count of pinned leaves follows what is put and removed.
func TestWantsCertificates(t *testing.T) {
	table := NewTable("hub", nil, nil)
	pin, err := ParseThumbprint(strings.Repeat("0a", 20))
	if err != nil {
		t.Fatal(err)
	}
	pinned := Leaf{ID: "a", Thumbprints: [2]Thumbprint{1: pin}}
	for i, step := range []struct {
		do   func()
		want bool
	}{
		{func() {}, false},
		{func() { table.Put(pinned) }, true},
		{func() { table.Put(pinned) }, true},
		{func() { table.Put(Leaf{ID: "b"}) }, true},
		{func() { table.Put(Leaf{ID: "a"}) }, false},
		{func() { table.Put(pinned); table.Remove("a") }, false},
		{func() { table.Remove("a") }, false},
	} {
		step.do()
		if got := table.WantsCertificates(); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}
