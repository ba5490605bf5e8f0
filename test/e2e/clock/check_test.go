package clock

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// "fieldgate check" names a wrong clock, it alone, and the command that sets it,
// however wrong it is: also where certificates cannot be judged any more.
func TestCheckNamesAWrongClock(t *testing.T) {
	for name, c := range map[string]struct {
		ahead   time.Duration
		steered bool
		what    string
	}{
		"right":          {0, true, ""},
		"unset":          {epoch(), false, "it has not been set since power-on"},
		"an hour ahead":  {time.Hour, true, "1h0m"},
		"a year ahead":   {year, true, "ahead of that of the hub"},
		"a month behind": {-30 * 24 * time.Hour, true, "behind that of the hub"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.shows(c.ahead, c.steered)
			check := exec.CommandContext(b.ctx, filepath.Join(bin, "fieldgate"), "check", "--config", b.ConfigFile(), "--ignore", "daemon", "--ignore", "serial", "--output", "json")
			check.Env = append(os.Environ(), "FIELDGATE_BENCH_CLOCK="+b.clockFile())
			out, err := check.Output()
			if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
				t.Fatal(err)
			}
			var all []struct{ ID, Result, What, Next string }
			must(t, json.Unmarshal(out, &all))
			named := false
			for _, f := range all {
				if f.Result != "error" {
					continue
				}
				if f.ID == "clock" && c.what != "" && strings.Contains(f.What, c.what) && strings.Contains(f.Next, "timedatectl set-ntp true") {
					named = true
				} else {
					t.Errorf("found %+v", f)
				}
			}
			if named != (c.what != "") {
				t.Errorf("found %s", out)
			}
		})
	}
}
