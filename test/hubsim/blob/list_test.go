package blob

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"strings"
	"testing"
)

// FuzzBlockList checks that a list that can be read is the same after it was
// written again.
func FuzzBlockList(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0" encoding="utf-8"?><BlockList><Latest>b25l</Latest><Committed>dHdv</Committed></BlockList>`))
	f.Add([]byte(`<BlockList><Uncommitted> b25l </Uncommitted></BlockList>`))
	f.Add([]byte(`<BlockList xmlns="x"><a:Latest xmlns:a="y">&lt;</a:Latest></BlockList>`))
	f.Add([]byte(`<BlockList><Latest>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseBlockList(data)
		if err != nil {
			return
		}
		var text strings.Builder
		text.WriteString("<BlockList>")
		for _, ref := range list {
			kind := "Latest"
			if !ref.committed {
				kind = "Uncommitted"
			} else if !ref.waiting {
				kind = "Committed"
			}
			text.WriteString("<" + kind + ">")
			if err := xml.EscapeText(&text, []byte(ref.id)); err != nil {
				t.Fatal(err)
			}
			text.WriteString("</" + kind + ">")
		}
		text.WriteString("</BlockList>")
		again, err := parseBlockList([]byte(text.String()))
		if err != nil || len(again) != len(list) {
			t.Fatalf("%s: %d blocks became %d, error %v", text.String(), len(list), len(again), err)
		}
		for n, ref := range list {
			if again[n] != ref {
				t.Errorf("block %d is %+v, was %+v", n, again[n], ref)
			}
		}
	})
}

// A blob has a bounded number of blocks, in a list and before it.
func TestManyBlocks(t *testing.T) {
	list := "<BlockList>" + strings.Repeat("<Latest>AAAA</Latest>", maxBlocks+1) + "</BlockList>"
	if _, err := parseBlockList([]byte(list)); !errors.Is(err, errTooManyBlocks) {
		t.Errorf("a long list gives %v", err)
	}
	s := newStore(1 << 40)
	if err := s.create("c"); err != nil {
		t.Fatal(err)
	}
	for n := range maxBlocks {
		id := base64.StdEncoding.EncodeToString([]byte{byte(n), byte(n >> 8), byte(n >> 16)})
		if err := s.putBlock(object{"c", "b"}, id, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.putBlock(object{"c", "b"}, "////", nil); !errors.Is(err, errTooManyBlocks) {
		t.Errorf("one more block gives %v", err)
	}
}
