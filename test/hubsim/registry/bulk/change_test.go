package bulk_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/bulk"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// bench returns an empty hub's registry and twins.
func bench() bulk.Changer {
	r := registry.New([]string{"hub.test"}, nil)
	return bulk.Changer{Registry: r, Twins: twins.New(r, func(registry.ID) twins.Status { return twins.Status{} })}
}

// items reads a list as it comes in a request.
func items(t *testing.T, text string) (list []bulk.Item) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// etag returns the ETag of a device.
func etag(t *testing.T, c bulk.Changer, device string) string {
	t.Helper()
	i, err := c.Registry.Find(registry.ID{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	return i.ETag
}

// Each mode does what it says or fails with its name for the reason; names are
// read without regard to case.
func TestModes(t *testing.T) {
	for _, c := range []struct{ item, failure string }{
		{`{"id":"new","importMode":"create"}`, ""},
		{`{"id":"old","importMode":"Create"}`, "DeviceAlreadyExists"},
		{`{"id":"old","moduleId":"m","importMode":"create"}`, "ModuleAlreadyExistsOnDevice"},
		{`{"id":"new","moduleId":"m","importMode":"create"}`, "DeviceNotFound"},
		{`{"id":"new","importMode":"update"}`, "DeviceNotFound"},
		{`{"id":"old","moduleId":"n","importMode":"update"}`, "ModuleNotFound"},
		{`{"id":"old","importMode":"Update","status":"disabled"}`, ""},
		{`{"id":"old","importMode":"UpdateIfMatchETag","etag":"ETAG"}`, ""},
		{`{"id":"old","importMode":"updateIfMatchETag","eTag":"\"ETAG\""}`, ""},
		{`{"id":"old","importMode":"updateIfMatchETag","eTag":"another"}`, "PreconditionFailed"},
		{`{"id":"old","importMode":"updateIfMatchETag"}`, "PreconditionFailed"},
		{`{"id":"new","importMode":"createOrUpdate"}`, ""},
		{`{"id":"old"}`, ""},
		{`{"id":"new","importMode":"createOrUpdateIfMatchETag"}`, ""},
		{`{"id":"old","importMode":"createOrUpdateIfMatchETag","eTag":"another"}`, "PreconditionFailed"},
		{`{"id":"old","importMode":"Delete"}`, ""},
		{`{"id":"new","importMode":"delete"}`, "DeviceNotFound"},
		{`{"id":"old","importMode":"DeleteIfMatchETag","etag":"ETAG"}`, ""},
		{`{"id":"old","importMode":"deleteIfMatchETag","etag":"another"}`, "PreconditionFailed"},
		{`{"id":"old","importMode":"deleteIfMatchETag"}`, "ArgumentNull"},
		{`{"id":"old","importMode":"updateTwin","tags":{"a":1}}`, ""},
		{`{"id":"new","importMode":"updateTwin","tags":{"a":1}}`, "DeviceNotFound"},
		{`{"id":"old","importMode":"updateTwin"}`, "ArgumentNull"},
		{`{"id":"old","importMode":"updateTwinIfMatchETag","twinETag":"another","tags":{"a":1}}`, "PreconditionFailed"},
		{`{"id":"old","importMode":"updateTwinIfMatchETag","tags":{"a":1}}`, "ArgumentNull"},
		{`{"id":"old","importMode":"paint"}`, "ArgumentInvalid"},
		{`{"id":"old","importMode":"update","status":"asleep"}`, "ArgumentInvalid"},
		{`{"id":"","importMode":"create"}`, "ArgumentInvalid"},
		{`{"id":"new","authentication":{"symmetricKey":{"primaryKey":"short"}}}`, "ArgumentInvalid"},
	} {
		b := bench()
		b.ChangeAll(items(t, `[{"id":"old"},{"id":"old","moduleId":"m"}]`))
		item := strings.ReplaceAll(c.item, "ETAG", etag(t, b, "old"))
		result := b.ChangeAll(items(t, "["+item+"]"))
		switch {
		case c.failure == "" && !result.Successful:
			t.Errorf("%s: failed: %+v", c.item, result.Errors)
		case c.failure != "" && (result.Successful || len(result.Errors) != 1 || result.Errors[0].Code != c.failure):
			t.Errorf("%s: got %+v, want %s", c.item, result.Errors, c.failure)
		}
	}
}

// An item that fails stops no other, and the answer names it.
func TestChangeAll(t *testing.T) {
	b := bench()
	result := b.ChangeAll(items(t, `[
		{"id":"a","importMode":"create"},
		{"id":"a","importMode":"Delete"},
		{"id":"a","moduleId":"m","importMode":"create"},
		{"id":"gone","importMode":"Delete"},
		{"id":"b","importMode":"create","status":"disabled","statusReason":"spare","capabilities":{"iotEdge":true}}
	]`))
	text, err := json.Marshal(result.Errors)
	const want = `[{"deviceId":"a","errorCode":"DeviceDefinedMultipleTimes","errorStatus":"a is in the list already","operation":"Delete"},` +
		`{"deviceId":"gone","errorCode":"DeviceNotFound","errorStatus":"no such device: gone","operation":"Delete"}]`
	if err != nil || string(text) != want || result.Successful {
		t.Errorf("got %s, %v", text, err)
	}
	i, _ := b.Registry.Get(registry.ID{Device: "b"})
	if !i.Disabled || i.StatusReason != "spare" || !i.Edge {
		t.Errorf("got %+v", i)
	}
	if got := len(b.Registry.All()); got != 3 {
		t.Errorf("%d identities, want a, a/m and b", got)
	}
}

// Tags and desired properties go to the twin; when they cannot, the identity
// stays and there is a warning.
func TestTwins(t *testing.T) {
	b := bench()
	result := b.ChangeAll(items(t, `[
		{"id":"a","importMode":"create","tags":{"hall":3},"properties":{"desired":{"rpm":900,"$version":7,"$metadata":{}},"reported":{"x":1}}},
		{"id":"b","importMode":"create","tags":null,"properties":null},
		{"id":"c","importMode":"create","tags":"none"},
		{"id":"d","importMode":"create","properties":{"desired":[]}}
	]`))
	if !result.Successful || len(result.Warnings) != 2 || result.Warnings[0].Code != "DeviceRegisteredWithoutTwin" ||
		result.Warnings[0].Device != "c" || result.Warnings[1].Device != "d" {
		t.Errorf("got %+v", result)
	}
	view, err := b.Twins.Get(registry.ID{Device: "a"})
	if err != nil {
		t.Fatal(err)
	}
	var twin struct {
		Tags       map[string]any
		Properties struct{ Desired, Reported map[string]any }
	}
	if err := json.Unmarshal(view, &twin); err != nil {
		t.Fatal(err)
	}
	if twin.Tags["hall"] != 3.0 || twin.Properties.Desired["rpm"] != 900.0 || twin.Properties.Reported["x"] != nil {
		t.Errorf("got %s", view)
	}
}

// Whatever a list holds, it is carried out or refused item by item.
func FuzzChangeAll(f *testing.F) {
	f.Add([]byte(`[{"id":"a","importMode":"create","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"ab"}}}]`))
	f.Add([]byte(`[{"id":"old","importMode":"updateTwin","tags":{"a":null},"properties":{"desired":{"$version":1}}},{"ID":"old","IMPORTMODE":"DELETE"}]`))
	f.Add([]byte(`[{"id":"old","moduleId":"m","eTag":"*","importMode":"updateIfMatchETag"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var list []bulk.Item
		if json.Unmarshal(text, &list) != nil {
			return
		}
		b := bench()
		b.ChangeAll([]bulk.Item{{Device: "old"}})
		result := b.ChangeAll(list)
		if result.Successful != (len(result.Errors) == 0) || len(result.Errors) > len(list) {
			t.Errorf("got %+v", result)
		}
		for _, e := range result.Errors {
			if e.Code == "ServerError" {
				t.Errorf("an item is blamed on the hub: %+v", e)
			}
		}
		if _, err := json.Marshal(result); err != nil {
			t.Error(err)
		}
	})
}
