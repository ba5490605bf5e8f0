package pairing

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
)

func hashOf(t *testing.T, password string) PasswordHash {
	t.Helper()
	text, err := HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParsePasswordHash(" " + text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newTable(t *testing.T) (*Table, *identity.Keyring) {
	t.Helper()
	keys := identity.NewKeyring("hub.example")
	return NewTable("hub.example", []string{"gw.local", "gateway"}, keys), keys
}

func TestCheckPassword(t *testing.T) {
	table, _ := newTable(t)
	hash := hashOf(t, "open sesame")
	table.Put(Leaf{ID: "pump-1", Password: hash})
	table.Put(Leaf{ID: "off-1", Password: hash, Disabled: true})
	table.Put(Leaf{ID: "key-only"})
	for range 2 { // computed, then remembered
		for _, tc := range []struct {
			id, password string
			want         error
		}{
			{"pump-1", "open sesame", nil},
			{"pump-1", "open sesam", ErrCredentials},
			{"pump-1", "", ErrCredentials},
			{"pump-1", strings.Repeat("x", 73), ErrCredentials},
			{"off-1", "open sesame", ErrUnknown},
			{"off-1", "guess", ErrCredentials},
			{"key-only", "", ErrCredentials},
			{"key-only", "open sesame", ErrCredentials},
			{"ghost", "open sesame", ErrCredentials},
			{"Pump-1", "open sesame", ErrCredentials},
		} {
			if err := table.CheckPassword(t.Context(), tc.id, tc.password); err != tc.want {
				t.Errorf("%s, %s: %v, want %v", tc.id, tc.password, err, tc.want)
			}
		}
	}
}

// A new password, a disabled leaf and a removed one count at once, whatever is
// remembered.
func TestCheckPasswordAfterChange(t *testing.T) {
	table, _ := newTable(t)
	check := func(password string, want error) {
		t.Helper()
		if err := table.CheckPassword(t.Context(), "pump-1", password); err != want {
			t.Errorf("%s: %v, want %v", password, err, want)
		}
	}
	old, changed := hashOf(t, "old"), hashOf(t, "new")
	table.Put(Leaf{ID: "pump-1", Password: old})
	check("old", nil)
	check("new", ErrCredentials)
	table.Put(Leaf{ID: "pump-1", Password: changed})
	check("old", ErrCredentials)
	check("new", nil)
	table.Put(Leaf{ID: "pump-1", Password: changed, Disabled: true})
	check("new", ErrUnknown)
	table.Remove("pump-1")
	check("new", ErrCredentials)
}

// A password that was checked before needs no hasher, so that all leaves can
// come back at once; another one waits for a free one as long as it may.
func TestRemembered(t *testing.T) {
	table, _ := newTable(t)
	table.Put(Leaf{ID: "pump-1", Password: hashOf(t, "open sesame")})
	for _, password := range []string{"open sesame", "guess"} {
		table.CheckPassword(t.Context(), "pump-1", password)
	}
	for range hashers {
		table.hashing <- struct{}{} // all busy
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for password, want := range map[string]error{"open sesame": nil, "guess": ErrCredentials, "other": ErrBusy} {
		if err := table.CheckPassword(ended, "pump-1", password); err != want {
			t.Errorf("%s: %v, want %v", password, err, want)
		}
	}
}

func TestRejectedBounded(t *testing.T) {
	table, _ := newTable(t)
	for i := range 3 * maxRejected {
		table.remember("x", table.verdict("x", nobody, fmt.Sprint(i)), false)
	}
	if n := len(table.rejected); n > maxRejected {
		t.Errorf("%d wrong passwords remembered, at most %d", n, maxRejected)
	}
}

// An unknown leaf costs a hash as a wrong password does: both need a hasher.
func TestUnknownLeafCostsTheSame(t *testing.T) {
	table, _ := newTable(t)
	for range hashers {
		table.hashing <- struct{}{}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	table.Put(Leaf{ID: "pump-1", Password: nobody})
	for _, id := range []string{"pump-1", "ghost"} {
		if err := table.CheckPassword(ended, id, "x"); err != ErrBusy {
			t.Errorf("%s: %v, want %v", id, err, ErrBusy)
		}
	}
	if _, err := ParsePasswordHash(nobody.text); err != nil {
		t.Errorf("the hash of nobody: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	table, _ := newTable(t)
	table.Put(Leaf{ID: "pump-1", Password: hashOf(t, "open sesame")})
	var all errgroup.Group
	for i := range 20 {
		all.Go(func() error {
			table.Put(Leaf{ID: fmt.Sprint(i)})
			table.Known("pump-1")
			return table.CheckPassword(t.Context(), "pump-1", "open sesame")
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}

func TestCheckToken(t *testing.T) {
	table, keys := newTable(t)
	for i, id := range []string{"pump-1", "pump-2", "off-1"} {
		k, err := identity.ParseKey(base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%016d", i)))
		if err != nil {
			t.Fatal(err)
		}
		keys.Put(id, k)
		table.Put(Leaf{ID: id, Disabled: id == "off-1"})
	}
	keys.Put("ghost", keys.Key("pump-1"))
	table.Put(Leaf{ID: "no-key"})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := gateway.Instant{Wall: at, Quality: gateway.Synced}
	unsynced := gateway.Instant{Wall: at, Quality: gateway.Unsynced}
	estimated := gateway.Instant{Wall: at, Quality: gateway.Estimated}
	valid, past := at.Add(time.Hour), at.Add(-time.Second)
	sign := func(leaf, resource string, expiry time.Time) string { return keys.Key(leaf).Token(resource, expiry) }
	for _, tc := range []struct {
		name, leaf, token string
		now               gateway.Instant
		expiry            time.Time
		want              error
	}{
		{"good", "pump-1", sign("pump-1", "hub.example/devices/pump-1", valid), now, valid, nil},
		{"host in capitals", "pump-1", sign("pump-1", "HUB.example/devices/pump-1", valid), now, valid, nil},
		{"gateway's name", "pump-1", sign("pump-1", "gw.local/devices/pump-1", valid), now, valid, nil},
		{"gateway's second name", "pump-1", sign("pump-1", "gateway/devices/pump-1", valid), now, valid, nil},
		{"other host", "pump-1", sign("pump-1", "other/devices/pump-1", valid), now, time.Time{}, ErrCredentials},
		{"other leaf's key", "pump-1", sign("pump-2", "hub.example/devices/pump-1", valid), now, time.Time{}, ErrCredentials},
		{"other leaf's token", "pump-1", sign("pump-2", "hub.example/devices/pump-2", valid), now, time.Time{}, ErrCredentials},
		{"own key, other leaf", "pump-1", sign("pump-1", "hub.example/devices/pump-2", valid), now, time.Time{}, ErrCredentials},
		{"expired", "pump-1", sign("pump-1", "hub.example/devices/pump-1", past), now, time.Time{}, ErrExpired},
		{"expires now", "pump-1", sign("pump-1", "hub.example/devices/pump-1", at), now, time.Time{}, ErrExpired},
		{"expired, clock estimated", "pump-1", sign("pump-1", "hub.example/devices/pump-1", past), estimated, time.Time{}, ErrExpired},
		{"expired, clock not trusted", "pump-1", sign("pump-1", "hub.example/devices/pump-1", past), unsynced, past, nil},
		{"disabled", "off-1", sign("off-1", "hub.example/devices/off-1", valid), now, time.Time{}, ErrUnknown},
		{"not in the table", "ghost", sign("ghost", "hub.example/devices/ghost", valid), now, time.Time{}, ErrUnknown},
		{"no key", "no-key", sign("pump-1", "hub.example/devices/no-key", valid), now, time.Time{}, ErrCredentials},
		{"no token", "pump-1", "open sesame", now, time.Time{}, identity.ErrToken},
	} {
		expiry, err := table.CheckToken(tc.leaf, tc.token, tc.now)
		if !errors.Is(err, tc.want) || !expiry.Equal(tc.expiry) {
			t.Errorf("%s: %v, %v; want %v, %v", tc.name, expiry, err, tc.expiry, tc.want)
		}
	}
}

func TestPasswordHash(t *testing.T) {
	for _, password := range []string{"", strings.Repeat("x", 73)} {
		if _, err := HashPassword(password); err == nil {
			t.Errorf("a password of %d bytes is hashed", len(password))
		}
	}
	for _, text := range []string{"", "open sesame", "$2a$04$" + nobody.text[7:], "$2a$15$" + nobody.text[7:]} {
		if _, err := ParsePasswordHash(text); err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
	h := nobody
	for _, shown := range []string{fmt.Sprint(h), fmt.Sprintf("%+v", Leaf{Password: h}), fmt.Sprintf("%#v", h), h.LogValue().String()} {
		if strings.Contains(shown, "$2a$") {
			t.Errorf("shown as %s", shown)
		}
	}
}

func FuzzParsePasswordHash(f *testing.F) {
	f.Add(nobody.text)
	f.Add("$2a$10$")
	f.Add("$2b$14$short")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParsePasswordHash(text)
		if (err == nil) == h.IsZero() {
			t.Errorf("%q: %v, %v", text, h.IsZero(), err)
		}
	})
}
