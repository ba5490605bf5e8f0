package query_test

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/query"
)

// fleet is a collection of twins.
type fleet map[string]map[string]any

func (f fleet) rows(after string) iter.Seq2[string, map[string]any] {
	var keys []string
	for key := range f {
		if key > after {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return func(yield func(string, map[string]any) bool) {
		for _, key := range keys {
			if !yield(key, f[key]) {
				return
			}
		}
	}
}

// newFleet has leaf-0 to leaf-9; leaf-n has the tag n, the group n%3, and, when
// n is even, a temperature of n degrees.
func newFleet(t testing.TB) fleet {
	f := make(fleet)
	for n := range 10 {
		temperature := ""
		if n%2 == 0 {
			temperature = fmt.Sprintf(`"temperature": %d.0`, n)
		}
		id := fmt.Sprintf("leaf-%d", n)
		f[id] = document(t, fmt.Sprintf(`{"deviceId":%q,"tags":{"n":%d,"group":%d},"properties":{"reported":{%s}}}`, id, n, n%3, temperature))
	}
	return f
}

// all asks for pages until there are no more, and joins their results as JSON.
func all(t *testing.T, f fleet, text string, size int) (results []string, pages int) {
	t.Helper()
	q, err := query.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var at query.Position
	for {
		page, next := q.Page(f.rows, at, size)
		pages++
		if len(page) > size {
			t.Errorf("%s: a page of %d, want at most %d", text, len(page), size)
		}
		for _, result := range page {
			b, err := json.Marshal(result)
			if err != nil {
				t.Fatal(err)
			}
			results = append(results, string(b))
		}
		if next == nil {
			return results, pages
		}
		at = *next
	}
}

func TestResults(t *testing.T) {
	f := newFleet(t)
	for _, c := range []struct{ text, want string }{
		{`SELECT deviceId FROM devices WHERE tags.n < 2`, `{"deviceId":"leaf-0"} {"deviceId":"leaf-1"}`},
		{`SELECT TOP 1 tags.n AS x, properties.reported.temperature FROM devices WHERE tags.n > 3`, `{"temperature":4.0,"x":4}`},
		{`SELECT tags.n * 2 AS twice, tags.no FROM devices WHERE tags.n = 3`, `{"twice":6}`},
		{`SELECT tags.n + 1 FROM devices WHERE tags.n = 3`, `{"$1":4}`},
		{`SELECT COUNT() AS n FROM devices`, `{"n":10}`},
		{`SELECT count(*) AS n FROM devices WHERE tags.n > 7`, `{"n":2}`},
		{`SELECT COUNT() AS n FROM devices WHERE tags.n > 70`, `{"n":0}`},
		{`SELECT COUNT(properties.reported.temperature) FROM devices`, `{"$1":5}`},
		{
			`SELECT AVG(properties.reported.temperature) AS a, SUM(tags.n) AS s, MIN(tags.n) AS l, MAX(properties.reported.temperature) AS h FROM devices`,
			`{"a":4,"h":8,"l":0,"s":45}`,
		},
		{`SELECT AVG(tags.no) AS a, SUM(tags.no) AS s, MIN(deviceId) AS l FROM devices`, `{"s":0}`},
		{
			`SELECT tags.group AS g, COUNT() AS n FROM devices GROUP BY tags.group`,
			`{"g":0,"n":4} {"g":1,"n":3} {"g":2,"n":3}`,
		},
		{
			`SELECT properties.reported.temperature, COUNT() AS n FROM devices WHERE tags.n < 3 GROUP BY properties.reported.temperature`,
			`{"n":1} {"n":1,"temperature":0.0} {"n":1,"temperature":2.0}`,
		},
		{`SELECT tags.group FROM devices GROUP BY tags.group, devices.status`, `{"group":0} {"group":1} {"group":2}`},
		{`SELECT TOP 2 tags.group FROM devices GROUP BY tags.group`, `{"group":0} {"group":1}`},
		{`SELECT deviceId FROM devices WHERE tags.n = 50`, ``},
	} {
		for _, size := range []int{1, 2, 1000} {
			got, pages := all(t, f, c.text, size)
			if strings.Join(got, " ") != c.want {
				t.Errorf("%s, %d a page: %s, want %s", c.text, size, got, c.want)
			}
			if want := max(1, (len(got)+size-1)/size); pages != want {
				t.Errorf("%s, %d a page: %d pages, want %d", c.text, size, pages, want)
			}
		}
	}
}

// What comes or goes between two pages neither repeats nor hides other results.
func TestPagesUnderChange(t *testing.T) {
	f := newFleet(t)
	q, err := query.Parse(`SELECT deviceId FROM devices`)
	if err != nil {
		t.Fatal(err)
	}
	first, next := q.Page(f.rows, query.Position{}, 4)
	delete(f, "leaf-0")
	delete(f, "leaf-3") // on which the position stands
	f["leaf-00"] = document(t, `{"deviceId":"leaf-00"}`)
	f["leaf-35"] = document(t, `{"deviceId":"leaf-35"}`)
	second, last := q.Page(f.rows, *next, 100)
	var ids []string
	for _, result := range append(first, second...) {
		ids = append(ids, result.(map[string]any)["deviceId"].(string))
	}
	want := "leaf-0 leaf-1 leaf-2 leaf-3 leaf-35 leaf-4 leaf-5 leaf-6 leaf-7 leaf-8 leaf-9"
	if got := strings.Join(ids, " "); got != want || last != nil {
		t.Errorf("the pages give %s and then %v, want %s", got, last, want)
	}
}
