package site

import (
	"strings"
	"testing"
)

func TestParseMetrics(t *testing.T) {
	m, err := parseMetrics(strings.NewReader(`# HELP fieldgate_store_messages Messages on flash.
# TYPE fieldgate_store_messages gauge
fieldgate_store_messages{lane="alarm"} 2
fieldgate_store_messages{lane="telemetry"} 40
fieldgate_store_messages_more 1000

fieldgate_uplink_up 1
fieldgate_start_time_seconds 1.7953968e+09
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Sum("fieldgate_store_messages"); got != 42 {
		t.Errorf("sum over lanes is %v, want 42", got)
	}
	if got := m[`fieldgate_store_messages{lane="alarm"}`]; got != 2 {
		t.Errorf("one series is %v, want 2", got)
	}
	if !m.Has("fieldgate_uplink_up") || m.Has("fieldgate_uplink") {
		t.Error("Has finds the beginning of a name, or not the whole")
	}
	for _, bad := range []string{"fieldgate_uplink_up", "fieldgate_uplink_up one"} {
		if m, err := parseMetrics(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, m)
		}
	}
}

func FuzzParseMetrics(f *testing.F) {
	f.Add("a 1\nb{c=\"d e\"} 2.5e3\n# comment\n")
	f.Add("a\n")
	f.Add(" 1\n{ NaN\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMetrics(strings.NewReader(text))
		if err == nil && len(m) > strings.Count(text, "\n")+1 {
			t.Errorf("%d series of %d lines", len(m), strings.Count(text, "\n")+1)
		}
	})
}
