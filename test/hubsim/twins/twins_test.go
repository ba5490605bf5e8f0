package twins_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

var (
	pump  = registry.ID{Device: "pump-1"}
	valve = registry.ID{Device: "pump-1", Module: "valve"}
)

// newStore returns a store with the twins of pump and valve.
func newStore(t *testing.T) (*registry.Registry, *twins.Store) {
	t.Helper()
	r := registry.New([]string{"hub"}, nil)
	s := twins.New(r, func(registry.ID) twins.Status {
		return twins.Status{Connected: true, LastActivity: "2026-01-02T03:04:05Z", Queued: 3}
	})
	for _, id := range []registry.ID{pump, valve} {
		if _, err := r.Create(registry.Identity{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	return r, s
}

// object decodes what the store returns.
func object(t *testing.T, text json.RawMessage, err error) map[string]any {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// at follows names into objects.
func at(v any, names ...string) any {
	for _, name := range names {
		v = v.(map[string]any)[name]
	}
	return v
}

// forDevice is the text the device reads.
func forDevice(t *testing.T, s *twins.Store, id registry.ID) string {
	t.Helper()
	text, err := s.ForDevice(id)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func update(t *testing.T, s *twins.Store, body string) map[string]any {
	t.Helper()
	text, err := s.Update(pump, []byte(body), false, "")
	return object(t, text, err)
}

func TestUpdateMerges(t *testing.T) {
	_, s := newStore(t)
	update(t, s, `{"tags":{"plant":{"hall":1,"row":"b"}},"properties":{"desired":{"rate":{"on":1.0,"off":5},"mode":"<a&b>"}}}`)
	v := update(t, s, `{"tags":{"plant":{"row":null}},"properties":{"desired":{"rate":{"on":2.50},"mode":null,"list":[1,{"a":true}]}}}`)
	if want := map[string]any{"plant": map[string]any{"hall": 1.0}}; !reflect.DeepEqual(v["tags"], want) {
		t.Errorf("tags are %v, want %v", v["tags"], want)
	}
	// Numbers keep their text.
	want := `{"desired":{"$version":3,"list":[1,{"a":true}],"rate":{"off":5,"on":2.50}},"reported":{"$version":1}}`
	if got := forDevice(t, s, pump); got != want {
		t.Errorf("the device reads %s, want %s", got, want)
	}
	if v["version"] != 3.0 {
		t.Errorf("version is %v after two updates, want 3", v["version"])
	}
}

func TestReplaceWritesEverythingButReported(t *testing.T) {
	_, s := newStore(t)
	update(t, s, `{"tags":{"a":1},"properties":{"desired":{"b":2}}}`)
	if _, err := s.PatchReported(pump, []byte(`{"c":3}`), 0); err != nil {
		t.Fatal(err)
	}
	text, err := s.Update(pump, []byte(`{"properties":{"desired":{"d":{"e":4,"f":null},"g":null}}}`), true, "")
	v := object(t, text, err)
	if got := at(v, "tags"); len(got.(map[string]any)) != 0 {
		t.Errorf("tags are %v, want none", got)
	}
	want := `{"desired":{"$version":3,"d":{"e":4}},"reported":{"$version":2,"c":3}}`
	if got := forDevice(t, s, pump); got != want {
		t.Errorf("the device reads %s, want %s", got, want)
	}
}

func TestVersionsAndETag(t *testing.T) {
	_, s := newStore(t)
	first := update(t, s, `{}`)
	if first["etag"] != "AAAAAAAAAAE=" || first["version"] != 1.0 {
		t.Errorf("a new twin has ETag %v and version %v", first["etag"], first["version"])
	}
	version, err := s.PatchReported(pump, []byte(`{"a":1}`), 1)
	if err != nil || version != 2 {
		t.Errorf("the first patch gives version %d, %v; want 2", version, err)
	}
	if version, err = s.PatchReported(pump, []byte(`{}`), 0); err != nil || version != 2 {
		t.Errorf("an empty patch gives version %d, %v; want 2", version, err)
	}
	if _, err := s.PatchReported(pump, []byte(`{"a":2}`), 1); !refusal.Is(err, 412001) {
		t.Errorf("a patch for an old version gives %v, want 412001", err)
	}
	if v := update(t, s, `{}`); v["etag"] != first["etag"] {
		t.Error("a reported patch changed the ETag")
	}
	v := update(t, s, `{"tags":{"a":1}}`)
	if v["etag"] == first["etag"] || at(v, "properties", "desired", "$version") != 1.0 {
		t.Errorf("after a change of tags: ETag %v, desired version %v", v["etag"], at(v, "properties", "desired", "$version"))
	}
	for _, c := range []struct {
		ifMatch string
		fails   bool
	}{{first["etag"].(string), true}, {`"` + v["etag"].(string) + `"`, false}, {`"*"`, false}, {"*", false}, {"", false}} {
		_, err := s.Update(pump, []byte(`{}`), false, c.ifMatch)
		if refusal.Is(err, 412001) != c.fails {
			t.Errorf("If-Match %s gives %v", c.ifMatch, err)
		}
	}
}

func TestMetadata(t *testing.T) {
	_, s := newStore(t)
	update(t, s, `{"properties":{"desired":{"a":{"b":1,"c":2}}}}`)
	v := update(t, s, `{"properties":{"desired":{"a":{"b":null}}}}`)
	meta := at(v, "properties", "desired", "$metadata")
	for _, c := range []struct {
		path []string
		want any
	}{
		{[]string{"$lastUpdatedVersion"}, 3.0},
		{[]string{"a", "$lastUpdatedVersion"}, 3.0}, // a removal is traced in the object around it
		{[]string{"a", "c", "$lastUpdatedVersion"}, 2.0},
		{[]string{"a", "b"}, nil},
	} {
		if got := at(meta, c.path...); got != c.want {
			t.Errorf("%v is %v, want %v", c.path, got, c.want)
		}
	}
	if _, err := s.PatchReported(pump, []byte(`{"d":1}`), 0); err != nil {
		t.Fatal(err)
	}
	text, err := s.Get(pump)
	reported := at(object(t, text, err), "properties", "reported", "$metadata")
	if at(reported, "d", "$lastUpdated") == nil || at(reported, "d", "$lastUpdatedVersion") != nil {
		t.Errorf("metadata of reported is %v, want times without versions", reported)
	}
}

func TestViewOfIdentity(t *testing.T) {
	r, s := newStore(t)
	thumbprint := strings.Repeat("ab", 20)
	if _, err := r.Update(registry.Identity{
		ID: pump, Disabled: true, StatusReason: "leaks", Edge: true,
		Scope: "ms-azure-iot-edge://x", ParentScopes: []string{"ms-azure-iot-edge://y"},
		Auth: registry.Auth{Type: registry.AuthSelfSigned, PrimaryThumbprint: thumbprint},
	}, "*"); err != nil {
		t.Fatal(err)
	}
	text, err := s.Get(pump)
	v := object(t, text, err)
	identity, _ := r.Get(pump)
	for name, want := range map[string]any{
		"deviceId": "pump-1", "moduleId": nil, "deviceEtag": identity.ETag, "status": "disabled", "statusReason": "leaks",
		"connectionState": "Connected", "lastActivityTime": "2026-01-02T03:04:05Z", "cloudToDeviceMessageCount": 3.0,
		"authenticationType": "selfSigned", "deviceScope": "ms-azure-iot-edge://x", "parentScopes": []any{"ms-azure-iot-edge://y"},
		"capabilities":   map[string]any{"iotEdge": true},
		"x509Thumbprint": map[string]any{"primaryThumbprint": thumbprint, "secondaryThumbprint": nil},
	} {
		if !reflect.DeepEqual(v[name], want) {
			t.Errorf("%s is %v, want %v", name, v[name], want)
		}
	}
	text, err = s.Get(valve)
	if v := object(t, text, err); v["moduleId"] != "valve" || v["statusUpdateTime"] != "0001-01-01T00:00:00Z" {
		t.Errorf("the module's twin is %v", v)
	}
}

func BenchmarkPatchReported(b *testing.B) {
	r := registry.New([]string{"hub"}, nil)
	s := twins.New(r, func(registry.ID) twins.Status { return twins.Status{} })
	s.OnChange(func(twins.Change) {})
	ids := make([]registry.ID, 1000)
	for n := range ids {
		ids[n] = registry.ID{Device: fmt.Sprintf("leaf-%d", n)}
		if _, err := r.Create(registry.Identity{ID: ids[n]}); err != nil {
			b.Fatal(err)
		}
	}
	patch := []byte(`{"temperature":{"value":21.5,"unit":"C"},"count":17}`)
	n := 0
	for b.Loop() {
		if _, err := s.PatchReported(ids[n%len(ids)], patch, 0); err != nil {
			b.Fatal(err)
		}
		n++
	}
}
