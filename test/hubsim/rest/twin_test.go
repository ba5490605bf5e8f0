package rest_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// member follows names into objects.
func member(v any, names ...string) any {
	for _, name := range names {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[name]
	}
	return v
}

func TestTwinRequests(t *testing.T) {
	b := newMethodBench(t)
	for _, path := range []string{"/twins/d", "/twins/d/modules/m", "/twins/" + url.PathEscape(oddID)} {
		first := b.object("GET", path, "", "")
		if first["deviceId"] == nil || (first["moduleId"] == "m") != strings.HasSuffix(path, "/m") {
			t.Errorf("GET %s gives %v", path, first)
		}
		patched := b.object("PATCH", path, "", `{"tags":{"a":1},"properties":{"desired":{"b":{"c":1.0}}}}`)
		if member(patched, "tags", "a") != 1.0 || member(patched, "properties", "desired", "$version") != 2.0 {
			t.Errorf("PATCH %s gives %v", path, patched)
		}
		replaced := b.object("PUT", path, fmt.Sprintf("%q", patched["etag"]), `{"properties":{"desired":{"d":2}}}`)
		if member(replaced, "tags", "a") != nil || member(replaced, "properties", "desired", "b") != nil || member(replaced, "properties", "desired", "d") != 2.0 {
			t.Errorf("PUT %s gives %v", path, replaced)
		}
		b.refused(412001, "PATCH", path, `"AAAAAAAAAAE="`, `{"tags":{"a":2}}`)
		b.refused(412001, "PUT", path, `AAAAAAAAAAE=`, `{}`)
		b.refused(412001, "PATCH", path, `""`, `{"tags":{"a":2}}`)
		b.object("PATCH", path, `"*"`, `{"tags":{"a":2}}`)
		b.refused(400004, "PATCH", path, "", `{"tags":`)
		b.refused(400004, "PUT", path, "", `{"tags":{"$a":1}}`)
		b.refused(413001, "PATCH", path, "", `{"x":"`+strings.Repeat("x", 1<<20)+`"}`)
	}
	b.refused(404001, "GET", "/twins/other", "", "")
	b.refused(404010, "GET", "/twins/d/modules/other", "", "")
	b.refused(404001, "PATCH", "/twins/other", "", `{}`)
	for _, as := range []string{"device", "registryReadWrite"} {
		b.as = as
		b.refused(401002, "GET", "/twins/d", "", "")
		b.refused(401002, "PUT", "/twins/d", "", `{}`)
		b.refused(401002, "POST", "/devices/query", "", `{"query":"SELECT * FROM devices"}`)
	}
}

func TestTwinRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock stands still between the last one and the refused one
		b := newMethodBench(t)
		if err := b.hub.Limits.SetTier("S1", 1); err != nil {
			t.Fatal(err)
		}
		for b.hub.Limits.Take(limits.TwinRead, 0) == nil {
			continue
		}
		b.refused(429001, "GET", "/twins/d", "", "")
		for b.hub.Limits.Take(limits.TwinUpdate, 0) == nil {
			continue
		}
		b.refused(429001, "PATCH", "/twins/d", "", `{}`)
		for b.hub.Limits.Take(limits.Query, 0) == nil {
			continue
		}
		b.refused(429001, "POST", "/devices/query", "", `{"query":"SELECT * FROM devices"}`)
	})
}

// The device reads what the service wrote, without tags.
func TestTwinOfDevice(t *testing.T) {
	b := newMethodBench(t)
	b.object("PATCH", "/twins/d", "", `{"tags":{"a":1},"properties":{"desired":{"b":2.0}}}`)
	text, err := b.hub.Twins.ForDevice(registry.ID{Device: "d"})
	if want := `{"desired":{"$version":2,"b":2.0},"reported":{"$version":1}}`; err != nil || string(text) != want {
		t.Errorf("the device reads %s, %v; want %s", text, err, want)
	}
	if w := b.ask("DELETE", "/twins/d", "", ""); w.Code != http.StatusMethodNotAllowed && w.Code != http.StatusNotFound {
		t.Errorf("deleting a twin gives %d %s", w.Code, w.Body)
	}
}
