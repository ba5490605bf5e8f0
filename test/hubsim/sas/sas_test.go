package sas

import (
	"encoding/base64"
	"net/url"
	"testing"
	"time"
)

// A token is proven by the key that signed it and by no other, and what is no
// token is not taken for one.
func TestTokens(t *testing.T) {
	key, _ := base64.StdEncoding.DecodeString("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	for name, text := range map[string]string{
		"sr first": New("hub.test/devices/pump-1", "", key, time.Unix(2e9, 0)),
		"policy":   New("hub.test", "service", key, time.Unix(2e9, 0)),
	} {
		token, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !token.SignedBy(key) {
			t.Errorf("%s: not signed by its own key", name)
		}
		if token.SignedBy(key[:31]) {
			t.Errorf("%s: signed by another key as well", name)
		}
	}
	for _, text := range []string{
		"", "SharedAccessSignature ", "sr=a&sig=b&se=1",
		"SharedAccessSignature sr=a&se=1", "SharedAccessSignature sr=a&sig=%zz&se=1",
		"SharedAccessSignature sr=a&sig=YQ%3D%3D&se=tomorrow",
	} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q was taken for a token", text)
		}
	}
}

// What is signed is the text of sr as it came, however it is escaped (trap 9.3).
func TestResourceAsItCame(t *testing.T) {
	key := []byte("0123456789abcdef")
	for _, sr := range []string{"hub.test/devices/a#b", "hub.test%2fdevices%2fa%23b", "hub.test%2Fdevices%2Fa%23b"} {
		signature := url.QueryEscape(base64.StdEncoding.EncodeToString(sign(key, sr+"\n2000000000")))
		token, err := Parse("SharedAccessSignature sr=" + sr + "&sig=" + signature + "&se=2000000000")
		if err != nil {
			t.Fatalf("%s: %v", sr, err)
		}
		if !token.SignedBy(key) || token.Resource != "hub.test/devices/a#b" {
			t.Errorf("%s: signed %v, resource %q", sr, token.SignedBy(key), token.Resource)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("SharedAccessSignature sr=hub.test%2Fdevices%2Fd&sig=YQ%3D%3D&se=2000000000")
	f.Add("SharedAccessSignature se=1&skn=p&sig=YQ==&sr=a")
	f.Fuzz(func(_ *testing.T, text string) {
		if token, err := Parse(text); err == nil {
			token.SignedBy([]byte("0123456789abcdef"))
		}
	})
}
