package identity_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway/identity"
)

// The key is the bytes 0 to 31; the tokens were computed with Python's hmac.
const keyText = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

var expiry = time.Unix(1767225600, 0).UTC()

func parseKey(t testing.TB, text string) identity.Key {
	t.Helper()
	k, err := identity.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTokenIsWhatOthersCompute(t *testing.T) {
	for resource, want := range map[string]string{
		"myhub.azure-devices.net/devices/pump-1": "SharedAccessSignature sr=myhub.azure-devices.net%2Fdevices%2Fpump-1&sig=rnOnQKMwgg9fdEMdEhAhOcoGFa1qd0UrVn3C%2Bt6ktdM%3D&se=1767225600",
		"h.test/devices/a b+c%1":                 "SharedAccessSignature sr=h.test%2Fdevices%2Fa%20b%2Bc%251&sig=6FXmuzC2E7Rir%2F75u47qyowzz6Udi4Oed8nqqXek2Rc%3D&se=1767225600",
	} {
		k := parseKey(t, keyText)
		got := k.Token(resource, expiry)
		if got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", resource, got, want)
		}
		parsed, err := identity.ParseToken(got)
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Resource != resource || !parsed.Expiry.Equal(expiry) || parsed.Policy != "" || !parsed.SignedBy(k) {
			t.Errorf("%s: read back as %+v", resource, parsed)
		}
	}
}

func TestKeyTexts(t *testing.T) {
	for _, c := range []struct{ text, problem string }{
		{keyText, ""},
		{" " + keyText + "\r\n", ""},
		{"", "0 bytes"},
		{"AAECAw==", "4 bytes"},
		{base64.StdEncoding.EncodeToString(make([]byte, 65)), "65 bytes"},
		{"not base64!", "not Base64"},
	} {
		_, err := identity.ParseKey(c.text)
		if (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.problem)
		}
	}
}

func TestKeyFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if _, err := identity.ReadKeyFile(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	for text, good := range map[string]bool{keyText + "\n": true, "secret-but-wrong": false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := identity.ReadKeyFile(file)
		if (err == nil) != good || k.IsZero() == good {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), file)) {
			t.Errorf("error must name the file and not what is in it: %v", err)
		}
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	k := parseKey(t, base64.StdEncoding.EncodeToString([]byte("a very secret key indeed")))
	ring := identity.NewKeyring("h.test")
	ring.Put("pump", k)
	holder := struct {
		Public identity.Key
		hidden identity.Key
		byName map[string]identity.Key
	}{k, k, map[string]identity.Key{"pump": k}}
	var out bytes.Buffer
	for _, v := range []any{k, &k, holder, &holder, ring, []identity.Key{k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		text, _ := json.Marshal(v)
		out.Write(text)
	}
	for _, spelling := range []string{"secret", fmt.Sprintf("%x", "secret"), fmt.Sprint([]byte("secre"))[1:10]} {
		if bytes.Contains(out.Bytes(), []byte(spelling)) {
			t.Errorf("the key is printed as %q in:\n%s", spelling, &out)
		}
	}
}

func TestTokensInTheField(t *testing.T) {
	k := parseKey(t, keyText)
	good := k.Token("Hub.test/devices/pump-1", expiry)
	parts := strings.Split(strings.TrimPrefix(good, "SharedAccessSignature "), "&")
	sr, sig, se := parts[0], parts[1], parts[2]
	plain := strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(sig, "%2B", "+"), "%2F", "/"), "%3D", "=")
	for name, fields := range map[string][]string{
		"documented order": {sig, se, sr},
		"unknown field":    {sr, "x=1", sig, se},
		"plain signature":  {sr, plain, se},
	} {
		p, err := identity.ParseToken("SharedAccessSignature " + strings.Join(fields, "&"))
		if err != nil || !p.SignedBy(k) || !p.Names("pump-1", "hub.TEST") {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	p, err := identity.ParseToken("SharedAccessSignature " + sr + "&" + sig + "&" + se + "&skn=iothub%20owner")
	if err != nil || p.Policy != "iothub owner" {
		t.Errorf("policy %q, %v", p.Policy, err)
	}
}

// Whoever signs as the hub documents it is believed: any leaf, any order of the
// fields, escaped or not, in capitals or not. Nobody else is.
func TestAnyTokenOfAnotherSigner(t *testing.T) {
	id := rapid.StringMatching(`[A-Za-z0-9\-.%_*?!(),:=@$'+]{1,20}`)
	secret := rapid.SliceOfN(rapid.Byte(), 16, 64)
	escape := regexp.MustCompile("%[0-9A-F]{2}")
	spellings := rapid.SampledFrom([]func(string) string{
		url.QueryEscape,
		func(s string) string { return escape.ReplaceAllStringFunc(url.QueryEscape(s), strings.ToLower) },
		func(s string) string { return strings.ReplaceAll(s, "%", "%25") }, // as bare as it can be
	})
	rapid.Check(t, func(t *rapid.T) {
		leaf, other := id.Draw(t, "leaf"), id.Draw(t, "other leaf")
		key, foreign := secret.Draw(t, "key"), secret.Draw(t, "other key")
		host := rapid.SampledFrom([]string{"hub.test", "Hub.TEST"}).Draw(t, "host")
		sr := spellings.Draw(t, "spelling")(host + "/devices/" + leaf)
		fields := rapid.Permutation(append(sign(key, sr, expiry), "x=y")).Draw(t, "fields")
		text := "SharedAccessSignature " + strings.Join(fields, "&")

		p, err := identity.ParseToken(text)
		if err != nil || !p.SignedBy(keyOf(t, key)) || !p.Names(leaf, "gate.lan", "hub.test") || !p.Expiry.Equal(expiry) {
			t.Fatalf("%s for %q: %+v, %v", text, leaf, p, err)
		}
		if other != leaf && p.Names(other, "gate.lan", "hub.test") {
			t.Errorf("%s passes for %q", text, other)
		}
		// HMAC fills a short key up with zeros: keys that differ in those alone are one.
		if !bytes.Equal(bytes.TrimRight(key, "\x00"), bytes.TrimRight(foreign, "\x00")) && p.SignedBy(keyOf(t, foreign)) {
			t.Errorf("%s passes with another key", text)
		}
	})
}

// sign returns the fields of a token for sr, which is signed as it stands.
func sign(key []byte, sr string, expiry time.Time) []string {
	se := strconv.FormatInt(expiry.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(sr + "\n" + se))
	return []string{"sr=" + sr, "sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), "se=" + se}
}

// keyOf makes a key of its bytes.
func keyOf(t *rapid.T, secret []byte) identity.Key {
	k, err := identity.ParseKey(base64.StdEncoding.EncodeToString(secret))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestForgedTokens(t *testing.T) {
	k, other := parseKey(t, keyText), parseKey(t, base64.StdEncoding.EncodeToString(make([]byte, 32)))
	good := k.Token("hub.test/devices/pump-1", expiry)
	for name, text := range map[string]string{
		"another key":      other.Token("hub.test/devices/pump-1", expiry),
		"longer life":      strings.Replace(good, "se=1767225600", "se=1867225600", 1),
		"another leaf":     strings.Replace(good, "pump-1", "pump-2", 1),
		"re-encoded":       strings.Replace(good, "%2F", "%2f", 1),
		"cut signature":    good[:strings.Index(good, "&sig=")+10] + "%3D%3D" + good[strings.Index(good, "&se="):],
		"signature by two": strings.Replace(good, "&se=", "&sig=AAAA&se=", 1),
	} {
		if p, err := identity.ParseToken(text); err == nil && p.SignedBy(k) {
			t.Errorf("%s: accepted: %s", name, text)
		}
	}
	p, err := identity.ParseToken(good)
	if err != nil || !p.SignedBy(k) || p.SignedBy(identity.Key{}) {
		t.Errorf("the real one: %v", err)
	}
}

func TestTokenNames(t *testing.T) {
	k := parseKey(t, keyText)
	for _, c := range []struct {
		resource, leaf string
		want           bool
	}{
		{"hub.test/devices/pump-1", "pump-1", true},
		{"HUB.TEST/devices/pump-1", "pump-1", true},
		{"gate.lan/devices/pump-1", "pump-1", true},
		{"hub.test/devices/pump-1/api-version=2016-11-14", "pump-1", true},
		{"hub.test/devices/PUMP-1", "pump-1", false},
		{"hub.test/devices/pump-10", "pump-1", false},
		{"hub.test/devices/pump-1", "pump-10", false},
		{"hub.test/devices/", "", false},
		{"hub.test/devices", "pump-1", false},
		{"hub.test", "pump-1", false},
		{"evil.test/devices/pump-1", "pump-1", false},
		{"hub.test/modules/pump-1", "pump-1", false},
	} {
		p, err := identity.ParseToken(k.Token(c.resource, expiry))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Names(c.leaf, "hub.test", "gate.lan"); got != c.want {
			t.Errorf("%s for %q: got %v, want %v", c.resource, c.leaf, got, c.want)
		}
	}
}

func TestTextsThatAreNoTokens(t *testing.T) {
	for _, text := range []string{
		"", "SharedAccessSignature", "SharedAccessSignature ", "sr=a&sig=b&se=1",
		"SharedAccessSignature sr=a&sig=AAAA", "SharedAccessSignature sr=a&se=1", "SharedAccessSignature sig=AAAA&se=1",
		"SharedAccessSignature sr=%zz&sig=AAAA&se=1", "SharedAccessSignature sr=a&sig=%&se=1",
		"SharedAccessSignature sr=a&sig=!&se=1", "SharedAccessSignature sr=a&sig=AAAA&se=soon",
		"SharedAccessSignature sr=a&sig=AAAA&se=-1", "SharedAccessSignature sr=a&sig=AAAA&se=9223372036854775807",
	} {
		if _, err := identity.ParseToken(text); !errors.Is(err, identity.ErrToken) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestKeyring(t *testing.T) {
	ring := identity.NewKeyring("hub.test")
	if _, err := ring.DeviceToken("pump", expiry); !errors.Is(err, identity.ErrNoKey) {
		t.Errorf("no key yet: %v", err)
	}
	k := parseKey(t, keyText)
	ring.Put("pump", k)
	text, err := ring.DeviceToken("pump", expiry)
	if err != nil {
		t.Fatal(err)
	}
	p, err := identity.ParseToken(text)
	if err != nil || !p.SignedBy(k) || !p.Names("pump", "hub.test") || !p.Expiry.Equal(expiry) {
		t.Errorf("token %+v, %v", p, err)
	}
	ring.Put("pump", identity.Key{})
	if !ring.Key("pump").IsZero() {
		t.Error("the key is still there")
	}
}

// FuzzParseToken checks that no text panics, and that nothing is taken for
// signed that was not: the only signatures of this key are those made here.
func FuzzParseToken(f *testing.F) {
	k := parseKey(f, keyText)
	f.Add(k.Token("hub.test/devices/pump-1", expiry))
	f.Add("SharedAccessSignature sig=a%2Bb&se=1&sr=hub.test%2Fdevices%2Fx&skn=owner")
	f.Add("SharedAccessSignature sr=&&=&sig=%")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := identity.ParseToken(text)
		if err != nil {
			if !errors.Is(err, identity.ErrToken) {
				t.Errorf("%q: error %v is not ErrToken", text, err)
			}
			return
		}
		if p.Names("", "hub.test") {
			t.Errorf("%q names nobody and passes for somebody", text)
		}
		again, err := identity.ParseToken(k.Token(p.Resource, p.Expiry))
		if err != nil || again.Resource != p.Resource || !again.Expiry.Equal(p.Expiry) || !again.SignedBy(k) {
			t.Errorf("%q: signed again: %+v, %v", text, again, err)
		}
	})
}
