package arm

import (
	"math"
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"PT1H":           time.Hour,
		"PT1M":           time.Minute,
		"P2D":            48 * time.Hour,
		"P1W":            7 * 24 * time.Hour,
		"P1DT2H3M4S":     26*time.Hour + 3*time.Minute + 4*time.Second,
		"PT90M":          90 * time.Minute,
		"PT0.5S":         time.Second / 2,
		"PT0.000000001S": 1,
		"PT0S":           0,
	} {
		if got, err := ParseDuration(text); err != nil || time.Duration(got) != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "P", "PT", "T1H", "1H", "PT1", "P1H", "PT1D", "PT1M1H", "P1Y", "P1M", "-PT1H", "PT-1H", "PT+1H", "PT1.5H",
		"PT.5S", "PT1.S", "PT1H ", "pt1h", "PT99999999999H", "P106751991167300D", "PT0.0000000001S",
	} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q was taken for %s", text, got)
		}
	}
}

func TestDurationsAsText(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"PT0S": 0, "PT1H": time.Hour, "P2D": 48 * time.Hour, "PT1H30M": 90 * time.Minute,
		"P1DT0.25S": 24*time.Hour + time.Second/4, "P106751DT23H47M16.854775807S": math.MaxInt64,
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%s is written as %s, want %s", d, got, want)
		}
	}
}

// What can be read is written in a form that means the same.
func FuzzParseDuration(f *testing.F) {
	f.Add("PT1H")
	f.Add("P1W2DT3H4M5.678S")
	f.Add("P106751DT23H47M16.854775807S")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if d < 0 {
			t.Fatalf("%q is negative: %d", text, d)
		}
		if again, err := ParseDuration(d.String()); err != nil || again != d {
			t.Fatalf("%q: %d became %q, which is %d, %v", text, d, d, again, err)
		}
	})
}
