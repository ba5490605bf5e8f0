package files_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/files"
)

// key is the one with which the addresses below were signed.
const key = "0123456789abcdef0123456789abcdef"

// Queries of addresses for the blob "pump 1/a+b.txt" and its container
// "uploads" of the account "bench". The first four are from @azure/storage-blob
// 12.8.0, the last from the code of Azurite 3.35.0.
var signed = []string{
	"sv=2018-11-09&spr=https&st=2026-01-01T00%3A00%3A00Z&se=2026-01-01T01%3A00%3A00Z&sr=b&sp=rw&sig=4Ixm87f0Hhwxv%2BauF3YyT5Teqy%2FZqjvrTrdkXjjCABc%3D&rsct=text%2Fplain",
	"sv=2018-11-09&se=2026-01-01T01%3A00%3A00Z&sr=c&sp=r&sig=un5aNI7mgc08R5olnGefx7FzRVDTQrTIKSMzFXTRkAg%3D",
	"sv=2019-12-12&spr=https&st=2026-01-01T00%3A00%3A00Z&se=2026-01-01T01%3A00%3A00Z&sr=b&sp=rw&sig=Op5ZerhFZ8WjHUiFZ%2FYjL13iROwX6HnVuOZwNtwtTAY%3D&rsct=text%2Fplain",
	"sv=2019-12-12&se=2026-01-01T01%3A00%3A00Z&sr=c&sp=r&sig=qZsLRtJKZeCEshqL6bDkYEHvAsvswUR42to2VImWSOk%3D",
	"sv=2020-12-06&spr=https&se=2026-01-01T01%3A00%3A00Z&sr=b&sp=rw&sig=sL6lysvUhsGBoHVs%2BJ3ToxZI6qzkO6H2GVMYyas2wm8%3D",
}

func parse(t *testing.T, query string) files.SAS {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	s, ok, err := files.ParseSAS(values)
	if err != nil || !ok {
		t.Fatalf("%s: found %v, error %v", query, ok, err)
	}
	return s
}

func TestSignatures(t *testing.T) {
	for _, query := range signed {
		s := parse(t, query)
		if !s.SignedBy([]byte(key), "bench", "uploads", "pump 1/a+b.txt") {
			t.Errorf("%s: not taken as signed", query)
		}
		if s.SignedBy([]byte("another"), "bench", "uploads", "pump 1/a+b.txt") {
			t.Errorf("%s: taken as signed by another key", query)
		}
		if s.SignedBy([]byte(key), "bench", "others", "pump 1/a+b.txt") {
			t.Errorf("%s: taken as signed for another container", query)
		}
		if got := s.SignedBy([]byte(key), "bench", "uploads", "pump 2/a+b.txt"); got != (s.Resource == "c") {
			t.Errorf("%s: signed for another blob: %v", query, got)
		}
		s.Permissions += "d"
		if s.SignedBy([]byte(key), "bench", "uploads", "pump 1/a+b.txt") {
			t.Errorf("%s: taken as signed with one more permission", query)
		}
	}
}

func TestInForce(t *testing.T) {
	at := func(text string) time.Time {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, c := range []struct {
		start, expiry, now string
		want               bool
	}{
		{"", "2026-01-01T01:00:00Z", "2026-01-01T00:59:59Z", true},
		{"", "2026-01-01T01:00:00Z", "2026-01-01T01:00:00Z", false},
		{"", "2026-01-01T01:00:00.5000000Z", "2026-01-01T01:00:00Z", true},
		{"", "2026-01-01T01:00Z", "2026-01-01T00:59:59Z", true},
		{"", "2026-01-02", "2026-01-01T23:00:00Z", true},
		{"", "tomorrow", "2026-01-01T00:00:00Z", false},
		{"", "", "2026-01-01T00:00:00Z", false},
		{"2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z", "2026-01-01T00:29:59Z", false},
		{"2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z", "2026-01-01T00:30:00Z", true},
		{"soon", "2026-01-01T01:00:00Z", "2026-01-01T00:30:00Z", false},
	} {
		s := files.SAS{Start: c.start, Expiry: c.expiry}
		if got := s.InForce(at(c.now)); got != c.want {
			t.Errorf("from %q to %q at %s: %v", c.start, c.expiry, c.now, got)
		}
	}
}

func TestParseSAS(t *testing.T) {
	for _, query := range []string{"", "comp=block", "sv=2018-11-09&sr=b", "sv=2018-11-09&sig=AAAA"} {
		values, _ := url.ParseQuery(query)
		if _, ok, err := files.ParseSAS(values); ok || err != nil {
			t.Errorf("%q: found %v, error %v, want neither", query, ok, err)
		}
	}
	for _, more := range []string{"&si=policy", "&sip=10.0.0.1", "&ses=scope", "&sv=2015-04-05", "&snapshot=1", "&skoid=1"} {
		values, _ := url.ParseQuery("sr=b&sig=AAAA" + more)
		if _, ok, err := files.ParseSAS(values); ok || err == nil {
			t.Errorf("%q: found %v, want an error", more, ok)
		}
	}
}

// FuzzParseSAS checks that what is written of a SAS reads as the same again.
func FuzzParseSAS(f *testing.F) {
	for _, query := range signed {
		f.Add(query)
	}
	f.Add("sr=b&sig=%zz")
	f.Add("sr=b&sr=c&sig=AAAA&se=2026-01-01")
	f.Fuzz(func(t *testing.T, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		s, ok, err := files.ParseSAS(values)
		if err != nil || !ok {
			return
		}
		s.InForce(time.Unix(0, 0))
		s.SignedBy([]byte(key), "bench", "uploads", "blob")
		if strings.Contains(query, "rsc") {
			return // what Query does not write
		}
		if again := parse(t, s.Query()); again != s {
			t.Errorf("%+v became %+v", s, again)
		}
	})
}
