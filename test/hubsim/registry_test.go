package hubsim_test

import (
	"crypto/sha1"
	"crypto/tls"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/blob"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// look follows names and numbers into a decoded JSON value, for example
// "authentication.symmetricKey.primaryKey"; nil when there is nothing.
func look(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		object, _ := v.(map[string]any)
		v = object[name]
	}
	return v
}

// The vendor's service SDK goes through the whole registry and understands every
// answer and every error.
func TestStockRegistry(t *testing.T) {
	h := benchHub(t, hubsim.Config{})
	info := h.Info()
	thumbprint := strings.Repeat("ab", sha1.Size)
	got := node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}, "hub-registry.js", info.OwnerConnectionString, thumbprint)
	want := []struct {
		step string
		path string
		want any
	}{
		{"create", "status", "enabled"},
		{"create again", "error", "DeviceAlreadyExistsError"},
		{"create strange", "deviceId", "a#b%c"},
		{"create certified", "authentication.x509Thumbprint.primaryThumbprint", thumbprint},
		{"create bad", "error", "ArgumentError"},
		{"get", "connectionState", "Disconnected"},
		{"get strange", "deviceId", "a#b%c"},
		{"get nothing", "error", "DeviceNotFoundError"},
		{"list", "ids", "a#b%c certified pump-1"},
		{"update", "statusReason", "in repair"},
		{"statistics", "disabledDeviceCount", 1.0},
		{"add module", "moduleId", "filter"},
		{"update module", "managedBy", "operator"},
		{"update stale module", "error", "InvalidEtagError"},
		{"force stale module", "managedBy", "force"},
		{"modules", "ids", "filter"},
		{"remove stale module", "error", "InvalidEtagError"},
		{"remove module", "error", nil},
		{"get module", "error", "Error"}, // the SDK has no class for it
		{"add", "isSuccessful", true},
		{"add again", "error", "ArgumentError"},
		{"update", "isSuccessful", true},
		{"update stale", "error", "ArgumentError"},
		{"update by force", "isSuccessful", true},
		{"statistics", "disabledDeviceCount", 3.0},
		{"remove stale", "error", "ArgumentError"},
		{"remove", "isSuccessful", true},
		{"delete", "error", nil},
		{"delete again", "error", "DeviceNotFoundError"},
		{"list", "ids", "a#b%c certified"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d steps, want %d: %v", len(got), len(want), got)
	}
	for n, w := range want {
		if got[n]["step"] != w.step || look(got[n], w.path) != w.want {
			t.Errorf("step %q: %s is %v, want %v: %v", w.step, w.path, look(got[n], w.path), w.want, got[n])
		}
		if etag := got[n]["etag"]; etag != nil && got[n]["header"] != fmt.Sprintf("%q", etag) {
			t.Errorf("step %q: ETag header %v for %v", w.step, got[n]["header"], etag)
		}
	}
	const failure = `{"deviceId":"bulk-0","errorCode":"PreconditionFailed",`
	if text := got[22]["message"].(string); !strings.Contains(text, failure) {
		t.Errorf("an update with an old ETag says %s", text)
	}
	first, updated := got[0], got[9]
	const auth = "authentication.symmetricKey.primaryKey"
	if key := look(first, auth); key == "" || key == nil || look(updated, auth) != key {
		t.Errorf("the key was %v and is %v after the update", key, look(updated, auth))
	}
}

// A device that is disabled or deleted loses its connection at once and gets no
// other, until it may connect again.
func TestStockDeviceDisabled(t *testing.T) {
	for _, transport := range []string{"mqtt", "amqp"} {
		t.Run(transport, func(t *testing.T) {
			info := benchHub(t, hubsim.Config{}).Info()
			got := node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}, "hub-registry-live.js",
				info.OwnerConnectionString, "pump-1", info.CAFile, transport)
			const want = "[map[state:Connected step:connected] map[state:Disconnected step:disabled] " +
				"map[outcome:UnauthorizedError step:connect while disabled] map[state:Connected step:enabled] " +
				"map[step:deleted] map[outcome:UnauthorizedError step:connect after the end]]"
			if fmt.Sprint(got) != want {
				t.Errorf("got  %v\nwant %s", got, want)
			}
		})
	}
}

// blobServer starts the built-in blob server by itself and returns its endpoint.
func blobServer(t *testing.T, pair certificatePair) string {
	t.Helper()
	handler, err := blob.New(blob.Config{Account: azuriteAccount, Key: azuriteKey})
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.LoadX509KeyPair(pair.certFile, pair.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// The vendor's service SDK has the registry exported to a container and imported
// from it, whether the storage is the vendor's or our own.
func TestStockRegistryJobs(t *testing.T) {
	for name, storage := range map[string]func(*testing.T, certificatePair) string{"azurite": azurite, "built-in": blobServer} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pair := makeCertificate(t, dir) // the hub trusts whom it finds there
			h := benchHub(t, hubsim.Config{Dir: dir, Devices: map[string]string{"pump-1": "", "pump-2": "", "pump-3": ""}})
			_, err := h.Domain().Registry.Create(registry.Identity{ID: registry.ID{Device: "pump-2", Module: "filter"}})
			if err != nil {
				t.Fatal(err)
			}
			before := h.Domain().Registry.All()
			checkJobs(t, h, storage(t, pair), before[0].Auth.PrimaryKey)
			after := h.Domain().Registry.All()
			if len(after) != len(before) {
				t.Fatalf("%d identities after the import, want %d", len(after), len(before))
			}
			for n, i := range after {
				if i.ID != before[n].ID || i.Auth != before[n].Auth {
					t.Errorf("imported %+v, want %+v", i, before[n])
				}
			}
		})
	}
}

// checkJobs runs the script and looks at what the jobs have left. key is that of
// the first device.
func checkJobs(t *testing.T, h *hubsim.Hub, endpoint, key string) {
	t.Helper()
	info := h.Info()
	got := node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}, "hub-registry-jobs.js",
		info.OwnerConnectionString, endpoint, azuriteAccount, azuriteKey)
	for n, want := range []string{
		"export completed", "devices.txt", "import completed", "importErrors.log", "export without keys completed",
		"devices.txt", "export with a bad signature failed", "jobs",
	} {
		if n >= len(got) {
			t.Fatalf("no step %q", want)
		}
		step := fmt.Sprint(got[n]["step"])
		if status := got[n]["status"]; status != nil {
			step += fmt.Sprint(" ", status)
		}
		if step != want {
			t.Errorf("step %d is %q, want %q: %v", n, step, want, got[n])
		}
	}
	const keyPath = "authentication.symmetricKey.primaryKey"
	exported, failed, keyless := got[1]["lines"].([]any), got[3]["lines"].([]any), got[5]["lines"].([]any)
	if len(exported) != 4 || look(exported[0], "id") != "pump-1" || look(exported[2], "moduleId") != "filter" || look(exported[0], keyPath) != key {
		t.Errorf("exported %v", exported)
	}
	if len(failed) != 1 || look(failed[0], "errorCode") != "DeviceAlreadyExists" || look(failed[0], "deviceId") != "pump-1" {
		t.Errorf("import errors %v", failed)
	}
	if len(keyless) != 4 || look(keyless[0], keyPath) != nil {
		t.Errorf("exported without keys %v", keyless)
	}
	if want := "[export completed import completed export completed export failed]"; fmt.Sprint(got[7]["statuses"]) != want {
		t.Errorf("jobs %v, want %s", got[7]["statuses"], want)
	}
}
