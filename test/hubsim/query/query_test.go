package query_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/query"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// document decodes what a twin is given as.
func document(t testing.TB, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

const twin = `{
	"deviceId": "pump-1", "status": "enabled", "version": 4, "capabilities": {"iotEdge": false},
	"tags": {"plant": {"hall": 3, "name": "Süd"}, "group": "a", "my tag": 1, "2nd": true, "it's": "so", "back": "a\\b"},
	"properties": {
		"desired": {"rate": 1.50, "$version": 7},
		"reported": {"rate": 1.5, "temperature": -12.25, "on": true, "list": [1, 2], "nested": {}, "none": null}
	}
}`

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		``:                                               `the end stands where SELECT should at character 1`,
		`FROM devices`:                                   `"FROM" stands where SELECT should at character 1`,
		`SELECT * FROM twins`:                            `there is no collection "twins" at character 15`,
		`SELECT * devices`:                               `"devices" stands where FROM should at character 10`,
		`SELECT * FROM devices WHERE`:                    `the end stands where a name should at character 28`,
		`SELECT * FROM devices WHERE tags.x = `:          `the end stands where a name should at character 38`,
		`SELECT * FROM devices WHERE tags. = 1`:          `"=" stands where a name should at character 35`,
		`SELECT * FROM devices WHERE tags[1] = 1`:        `"1" stands where a name in quotes should at character 34`,
		`SELECT * FROM devices WHERE 'ü' = # 1`:          `'#' means nothing at character 35`,
		`SELECT * FROM devices WHERE x = 'open`:          `the string does not end at character 33`,
		`SELECT * FROM devices WHERE x = 1.2.3`:          `"1.2.3" is not a number at character 33`,
		`SELECT * FROM devices WHERE x = 1_0`:            `"1_0" is not a number at character 33`,
		`SELECT * FROM devices WHERE x = 0xg`:            `"0xg" is not a number at character 33`,
		`SELECT * FROM devices WHERE (x = 1`:             `the end stands where ) should at character 35`,
		`SELECT * FROM devices WHERE x IN 'a'`:           `"a" stands where [ should at character 34`,
		`SELECT * FROM devices WHERE x IN ['a' 'b']`:     `"b" stands where ] should at character 39`,
		`SELECT * FROM devices WHERE sleep(1)`:           `there is no function "sleep" at character 29`,
		`SELECT * FROM devices WHERE power(1) = 1`:       `power does not take 1 values at character 29`,
		`SELECT * FROM devices WHERE x = 1 x`:            `"x" stands where the end should at character 35`,
		`SELECT * FROM devices; DROP`:                    `';' means nothing at character 22`,
		`SELECT TOP 0 * FROM devices`:                    `TOP needs a number from 1, not "0" at character 12`,
		`SELECT TOP x * FROM devices`:                    `TOP needs a number from 1, not "x" at character 12`,
		`SELECT a AS 1 FROM devices`:                     `"1" stands where a name should at character 13`,
		`SELECT tags.a, tags.b AS a FROM devices`:        `two columns are called "a"`,
		`SELECT * FROM devices GROUP BY tags.a`:          `SELECT * cannot be grouped`,
		`SELECT tags.a, COUNT() FROM devices`:            `"a" is neither counted nor named in GROUP BY`,
		`SELECT COUNT() FROM devices GROUP tags.a`:       `"tags" stands where BY should at character 35`,
		`SELECT AVG() FROM devices`:                      `")" stands where a name should at character 12`,
		`SELECT jobId FROM devices.jobs`:                 `devices.jobs can only be asked with SELECT *`,
		`SELECT * FROM devices WHERE ` + nest("(", 101):  `it is nested deeper than 100`,
		`SELECT * FROM devices WHERE ` + nest("NOT", 99): `the end stands where a name should`,
		`SELECT * FROM devices WHERE ` + nest("-", 101):  `it is nested deeper than 100`,
		"SELECT * FROM devices WHERE x = '\xff'":         `it is not UTF-8`,
		`SELECT ` + strings.Repeat("x", query.MaxText):   `it has 8199 characters and may have 8192`,
	} {
		q, err := query.Parse(text)
		if !refusal.Is(err, 400004) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s gives %v, want %s", text, err, want)
		}
		if q != nil {
			t.Errorf("%.60s gives a query beside its error", text)
		}
	}
}

func nest(s string, n int) string { return strings.Repeat(s+" ", n) }

func TestParseCondition(t *testing.T) {
	doc := document(t, twin)
	for _, c := range []struct {
		text    string
		source  query.Source
		matches bool
	}{
		{`*`, query.Devices, true},
		{`deviceId IN ['pump-1']`, query.Devices, true},
		{`tags.group = 'b'`, query.Devices, false},
		{`FROM devices.modules WHERE deviceId = 'pump-1'`, query.Modules, true},
		{`from devices.modules`, query.Modules, true},
	} {
		q, err := query.ParseCondition(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if q.Source != c.source || q.Matches(doc) != c.matches {
			t.Errorf("%s is about %s and matches: %v", c.text, q.Source, q.Matches(doc))
		}
	}
	for _, text := range []string{``, `* x`, `SELECT *`, `FROM devices GROUP BY x`, `FROM devices.jobs`, `x = `} {
		if _, err := query.ParseCondition(text); !refusal.Is(err, 400004) {
			t.Errorf("%s gives %v, want 400004", text, err)
		}
	}
}

func TestItemType(t *testing.T) {
	for text, want := range map[string]string{
		`SELECT * FROM devices`:         "Twin",
		`SELECT * FROM devices.modules`: "Twin",
		`SELECT * FROM devices.jobs`:    "DeviceJob",
		`SELECT deviceId FROM devices`:  "Raw",
		`SELECT COUNT() FROM devices`:   "Raw",
	} {
		q, err := query.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := q.ItemType(); got != want {
			t.Errorf("%s gives %s, want %s", text, got, want)
		}
	}
}

// Whatever a query says, it is answered or refused.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`SELECT * FROM devices WHERE tags.plant.hall IN [1, 'x'] AND NOT is_defined(tags.no)`,
		`SELECT TOP 3 tags.group AS g, COUNT(), AVG(tags.n) FROM devices GROUP BY tags.group`,
		`SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'it''s \u00fc'`,
		`SELECT * FROM devices WHERE -0x1F + 1e3 % 2 >= substring(tags['my tag'], 1, 2)`,
		`FROM devices.modules WHERE "a" <> null`,
	} {
		f.Add(seed)
	}
	docs := newFleet(f)
	docs["pump-1"] = document(f, twin)
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string) (*query.Query, error){query.Parse, query.ParseCondition} {
			q, err := parse(text)
			if err != nil {
				if !refusal.Is(err, 400004) {
					t.Errorf("%q gives %v, want 400004", text, err)
				}
				continue
			}
			results, _ := q.Page(docs.rows, query.Position{}, 5)
			if _, err := json.Marshal(results); err != nil {
				t.Errorf("%q gives what JSON cannot hold: %v", text, err)
			}
		}
	})
}
