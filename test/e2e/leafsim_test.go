package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// leafsim's own command line, as somebody uses it at a bench: be a leaf, then
// check. The check must be able to fail.
func TestLeafsimRunAndCheck(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	list := []site.Device{{ID: "pump", Kind: site.MQTT3}, {ID: "valve", Kind: site.MQTT5}, {ID: "sdk-1", Kind: site.SDK}, {ID: "sdk-2", Kind: site.SDK}, {ID: "meter", Kind: site.Serial}}
	s := running(ctx, t, site.Plan{Leaves: list})
	own := folder(t)
	password := func(leaf string) string {
		file := filepath.Join(own, leaf+".password")
		must(t, os.WriteFile(file, []byte(site.Password(leaf)+"\n"), 0o600))
		return file
	}
	acks := filepath.Join(own, "acks.jsonl")
	mqtt := []string{"--broker", s.Broker(), "--ca", s.CAFile()}
	for leaf, args := range map[string][]string{
		"pump":  append(mqtt, "--password-file", password("pump"), "--alarm-every", "5"),
		"valve": append(mqtt, "--password-file", password("valve"), "--protocol", "mqtt5"),
		// Two at once, each with its own key.
		"sdk-1,sdk-2": append(mqtt, "--key-file", filepath.Join(s.Dir(), "gateway", "{leaf}.key"), "--hub", site.HubHost),
		"meter":       {"--protocol", "serial", "--port", filepath.Join(s.Dir(), "leaf", "tty-meter")},
	} {
		args = append([]string{"run", "--leaf", leaf, "--acks", acks, "--count", "20", "--rate", "0"}, args...)
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "leafsim"), args...).CombinedOutput()
		if want := 1 + strings.Count(leaf, ","); err != nil || strings.Count(string(out), "20 acknowledged") != want {
			t.Errorf("leafsim %q: %v\n%s", args, err, out)
		}
	}
	check := func() (string, error) {
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "leafsim"), "check", "--acks", acks, "--hub", s.HubDir()).CombinedOutput()
		return string(out), err
	}
	row := regexp.MustCompile(`(?m)^ *total +100 +100 +0 +\d+ +0$`)
	if out, err := check(); err != nil || !row.MatchString(out) {
		t.Errorf("leafsim check: %v\n%s", err, out)
	}

	// One acknowledgement more than there were messages.
	log, err := leafsim.OpenAckLog(acks)
	must(t, err)
	must(t, log.Write(leafsim.Ack{Leaf: "pump", Lane: leafsim.Alarm, N: 5, At: time.Now()}))
	must(t, log.Close())
	if out, err := check(); !failed(err) || !strings.Contains(out, "alarm 5 was acknowledged and never arrived") {
		t.Errorf("leafsim check did not miss what is lost: %v\n%s", err, out)
	}
}
