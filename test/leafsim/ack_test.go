package leafsim

import (
	"strings"
	"testing"
)

func TestParseAcks(t *testing.T) {
	const line = `{"leaf":"pump","lane":"telemetry","n":7,"sent":"2026-01-02T03:04:05Z","at":"2026-01-02T03:04:06Z"}` + "\n"
	for _, c := range []struct {
		name, text string
		want       int
		fails      string
	}{
		{"empty", "", 0, ""},
		{"two", line + line, 2, ""},
		{"stopped while writing", line + line[:20], 1, ""},
		{"damaged", line + "{]\n" + line, 0, "acks.jsonl:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			acks, err := parseAcks("acks.jsonl", strings.NewReader(c.text))
			if len(acks) != c.want || (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("got %d acknowledgements and %v, want %d and %q", len(acks), err, c.want, c.fails)
			}
		})
	}
}

func FuzzParseAcks(f *testing.F) {
	f.Add(`{"leaf":"pump","lane":"telemetry","n":7}` + "\n")
	f.Add("{\n")
	f.Add("null\n[]\n")
	f.Fuzz(func(t *testing.T, text string) {
		acks, err := parseAcks("fuzz", strings.NewReader(text))
		if complete := strings.Count(text, "\n"); err == nil && len(acks) != complete {
			t.Errorf("%d acknowledgements of %d lines", len(acks), complete)
		}
	})
}

func FuzzParseBody(f *testing.F) {
	f.Add(newMessage("pump", Telemetry, 3, 100).Body)
	f.Add([]byte(`{"n":-1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := ParseBody(text)
		if err != nil {
			return
		}
		if again, err := ParseBody(b.encode()); err != nil || again != b {
			t.Errorf("%+v became %+v, %v", b, again, err)
		}
	})
}
