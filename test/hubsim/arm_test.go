package hubsim_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/arm"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/x509test"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// provided is what hub-arm.js should say of a hub called hub.test with one device,
// by step and path into its result.
var provided = map[string]any{
	"served.properties.hostName":     "hub.test",
	"served.properties.state":        "Active",
	"served.sku.tier":                "Standard",
	"stale":                          "412 PreconditionFailed",
	"settings.maxDeliveryCount":      3.0,
	"settings.defaultTtlAsIso8601":   "PT1H30M",
	"settings.feedback.ttlAsIso8601": "PT1H",
	"group":                          "alarms",
	"groups":                         []any{"$Default", "alarms"},
	"stats.totalDeviceCount":         1.0,
	"tiers":                          []any{"B1", "B2", "B3", "S1", "S2", "S3"},
	"usages":                         []any{[]any{"F1", 0.0}, []any{"Paid", 1.0}},
	"job":                            map[string]any{"type": "export", "status": "failed", "reason": true},
	"jobs":                           1.0,
	"free.nameAvailable":             true,
	"made.host":                      "another-hub.not-served.invalid",
	"made.state":                     "Active",
	"made.policies":                  5.0,
	"taken.reason":                   "AlreadyExists",
	"tags.line":                      "8",
	"by group":                       []any{"another-hub", "hub"},
	"gone":                           "404 ResourceNotFound",
	"by subscription":                []any{"hub"},
	"uploaded.subject":               "factory",
	"uploaded.isVerified":            false,
	"served.properties.eventHubEndpoints.events.path": "messages/events",
}

// The vendor's resource provider SDK manages the hub that is served and one that
// is not; what it does to the served one takes effect there.
func TestStockResourceProvider(t *testing.T) {
	h := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	info := h.Info()
	ca := x509test.New(t, x509test.Wish{Name: "factory", CA: true})
	authority := certificateFile(t, ca)
	before := h.Domain().Registry.Policy("iothubowner").PrimaryKey
	manage := func(verb, file string) map[string]any {
		t.Helper()
		env := []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}
		said := make(map[string]any)
		for _, line := range node(t, env, "hub-arm.js", info.ARMEndpoint, arm.DefaultGroup, "hub", verb, file) {
			said[line["step"].(string)] = line["result"]
		}
		return said
	}
	said := manage("manage", authority)
	for path, want := range provided {
		if got := look(said, path); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	after := h.Domain().Registry.Policy("iothubowner").PrimaryKey
	if got, put := look(said, "regenerated.got.primaryKey"), look(said, "regenerated.put.primaryKey"); got != after || put != after {
		t.Errorf("the key is %s, but %v was put and %v listed", after, put, got)
	}
	for key, want := range map[string]int{before: 401, after: 200} {
		if got := listDevices(t, info, key); got != want {
			t.Errorf("with key %s: got %d, want %d", key, got, want)
		}
	}
	if !h.Domain().Events.HasGroup("alarms") || h.Domain().Events.HasGroup("short") {
		t.Errorf("the consumer groups are %v", h.Domain().Events.Groups())
	}
	code := look(said, "uploaded.verificationCode").(string)
	proof := certificateFile(t, x509test.New(t, x509test.Wish{Name: code, Signer: ca}))
	want := "map[deleted:404 NotFound names:[factory] verified:true]"
	if said := manage("verify", proof); fmt.Sprint(said) != want {
		t.Errorf("got %v, want %s", said, want)
	}
}

// certificateFile writes a certificate where a client reads it.
func certificateFile(t *testing.T, c *x509test.Certificate) string {
	t.Helper()
	text, _ := c.PEM(t)
	file := filepath.Join(t.TempDir(), "certificate.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// listDevices asks the hub for its devices as iothubowner with a key, and
// returns the status.
func listDevices(t *testing.T, info hubsim.Info, key string) int {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("https://%s:%d/devices?api-version=2021-04-12", info.Bind, info.HTTPSPort)
	r, err := http.NewRequestWithContext(within(t), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", sas.New(info.Host, "iothubowner", b, time.Now().Add(time.Hour)))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS(t, info)}}
	defer client.CloseIdleConnections()
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}
