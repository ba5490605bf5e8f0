package leafsim

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

// The signature is computed with another tool: printf
// 'h.test%%2Fdevices%%2Fpump\n1767323045' | openssl dgst -sha256 -hmac
// 0123456789abcdef -binary | base64.
func TestDeviceToken(t *testing.T) {
	got := deviceToken("h.test", "pump", []byte("0123456789abcdef"), time.Unix(1767323045, 0))
	want := "SharedAccessSignature sr=h.test%2Fdevices%2Fpump" +
		"&sig=2RmOAN%2FH5q4VyW%2B1waTiIS8b7sKbRpiwkczsDXq0yRE%3D&se=1767323045"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTokenLogin(t *testing.T) {
	if _, err := TokenLogin("h.test", "no base64!"); err == nil {
		t.Error("a key that is not Base64 passes")
	}
	login, err := TokenLogin("h.test", base64.StdEncoding.EncodeToString([]byte("0123456789abcdef")))
	if err != nil {
		t.Fatal(err)
	}
	user, password := login("pump")
	if user != "h.test/pump/?api-version=2021-04-12" || !strings.HasPrefix(password, "SharedAccessSignature sr=h.test%2Fdevices%2Fpump&") {
		t.Errorf("got %q, %q", user, password)
	}
}
