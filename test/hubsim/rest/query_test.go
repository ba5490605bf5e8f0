package rest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// page asks for one page: of a query, or of jobs when text is a path.
func (b *registryBench) page(text, size, continuation string) *httptest.ResponseRecorder {
	b.t.Helper()
	method, path, body := "GET", text, []byte(nil)
	if !strings.HasPrefix(text, "/") {
		var err error
		if body, err = json.Marshal(map[string]string{"query": text}); err != nil {
			b.t.Fatal(err)
		}
		method, path = "POST", "/devices/query?api-version=2021-04-12"
	}
	r := httptest.NewRequestWithContext(b.t.Context(), method, "https://hub.test"+path, strings.NewReader(string(body)))
	r.Header.Set("Authorization", b.token())
	for name, value := range map[string]string{"x-ms-max-item-count": size, "x-ms-continuation": continuation} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	b.api.ServeHTTP(w, r)
	return w
}

// results decodes a good page.
func (b *registryBench) results(w *httptest.ResponseRecorder) []map[string]any {
	b.t.Helper()
	var list []map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK || list == nil {
		b.t.Fatalf("%d %s (%v)", w.Code, w.Body, err)
	}
	return list
}

// newFleet is a hub of the devices leaf-00 to leaf-11, each with the module m,
// whose tags are their numbers.
func newFleet(t testing.TB) *registryBench {
	t.Helper()
	b := newRegistryBench(t)
	b.as = "service"
	for n := range 12 {
		for _, module := range []string{"", "m"} {
			id := registry.ID{Device: fmt.Sprintf("leaf-%02d", n), Module: module}
			if _, err := b.hub.Registry.Create(registry.Identity{ID: id}); err != nil {
				t.Fatal(err)
			}
			if _, err := b.hub.Twins.Update(id, fmt.Appendf(nil, `{"tags":{"n":%d,"odd":%v}}`, n, n%2 == 1), false, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b
}

func TestQueryPages(t *testing.T) {
	b := newFleet(t)
	const text = `SELECT * FROM devices WHERE tags.n >= 2`
	var ids []string
	var sizes []int
	continuation := ""
	for {
		w := b.page(text, "4", continuation)
		list := b.results(w)
		sizes = append(sizes, len(list))
		for _, twin := range list {
			ids = append(ids, twin["deviceId"].(string))
			if twin["etag"] == nil || member(twin, "properties", "desired", "$metadata") == nil {
				t.Errorf("a twin without its marks: %v", twin)
			}
		}
		if got := header(w, "x-ms-item-type"); got != "Twin" {
			t.Errorf("the items are %s, want Twin", got)
		}
		if continuation = header(w, "x-ms-continuation"); continuation == "" {
			break
		}
		// What comes and goes meanwhile does not shift the pages.
		if _, err := b.hub.Registry.Create(registry.Identity{ID: registry.ID{Device: "leaf-" + strings.Repeat("0", 2+len(ids))}}); err != nil {
			t.Fatal(err)
		}
		if err := b.hub.Registry.Delete(registry.ID{Device: ids[len(ids)-1]}, ""); err != nil {
			t.Fatal(err)
		}
	}
	want := "leaf-02 leaf-03 leaf-04 leaf-05 leaf-06 leaf-07 leaf-08 leaf-09 leaf-10 leaf-11"
	if strings.Join(ids, " ") != want || !slices.Equal(sizes, []int{4, 4, 2}) {
		t.Errorf("pages of %v with %v, want %s", sizes, ids, want)
	}
}

func TestQueryForms(t *testing.T) {
	b := newFleet(t)
	for _, c := range []struct{ text, itemType, want string }{
		{`SELECT COUNT() AS n FROM devices`, "Raw", `[{"n":12}]`},
		{`SELECT tags.odd AS odd, COUNT() AS n FROM devices.modules GROUP BY tags.odd`, "Raw", `[{"n":6,"odd":false},{"n":6,"odd":true}]`},
		{`SELECT TOP 1 deviceId, moduleId FROM devices.modules WHERE tags.n = 7`, "Raw", `[{"deviceId":"leaf-07","moduleId":"m"}]`},
		{`SELECT deviceId FROM devices WHERE connectionState = 'Connected'`, "Raw", `[]`},
		{`SELECT * FROM devices.jobs`, "DeviceJob", `[]`},
	} {
		w := b.page(c.text, "", "")
		if got := w.Body.String(); got != c.want || header(w, "x-ms-item-type") != c.itemType {
			t.Errorf("%s gives %d %s %s, want %s %s", c.text, w.Code, header(w, "x-ms-item-type"), got, c.itemType, c.want)
		}
	}
}

func TestBadQueries(t *testing.T) {
	b := newFleet(t)
	next := header(b.page(`SELECT * FROM devices`, "1", ""), "x-ms-continuation")
	for _, c := range []struct{ text, size, continuation string }{
		{`SELECT`, "", ""},
		{``, "", ""},
		{`SELECT * FROM devices`, "0", ""},
		{`SELECT * FROM devices`, "-1", ""},
		{`SELECT * FROM devices`, "many", ""},
		{`SELECT * FROM devices`, "", "made up"},
		{`SELECT * FROM devices`, "", next[1:]},
		{`SELECT deviceId FROM devices`, "", next}, // of another query
	} {
		w := b.page(c.text, c.size, c.continuation)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "ErrorCode:"+refusal.New(400004, "").Name) {
			t.Errorf("%+v gives %d %s", c, w.Code, w.Body)
		}
	}
	b.refused(400004, "POST", "/devices/query", "", `[]`)
}

// Whatever a client asks, and wherever it wants to go on, it is answered or told
// what is wrong.
func FuzzQueryRequest(f *testing.F) {
	fleet := newFleet(f)
	const text = `SELECT * FROM devices WHERE tags.n > 1`
	f.Add(text, "5", header(fleet.page(text, "5", ""), "x-ms-continuation"))
	f.Add(`SELECT COUNT() FROM devices GROUP BY tags.odd`, "", "")
	f.Add(`SELECT`, "-1", "e30")
	f.Fuzz(func(t *testing.T, text, size, continuation string) {
		b := &registryBench{t, fleet.hub, fleet.api, fleet.as}
		if strings.HasPrefix(text, "/") {
			t.Skip("a path")
		}
		w := b.page(text, size, continuation)
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Errorf("%q, %q, %q gives %d %s", text, size, continuation, w.Code, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%q gives %s, which is not JSON", text, w.Body)
		}
	})
}
