package arm

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/x509test"
)

// uploaded is the body that uploads a certificate.
func uploaded(t *testing.T, text string, verified bool) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"properties": map[string]any{"certificate": text, "isVerified": verified}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func inBase64(c *x509test.Certificate) string { return base64.StdEncoding.EncodeToString(c.Raw) }

func inPEM(t testing.TB, c *x509test.Certificate) string {
	t.Helper()
	text, _ := c.PEM(t)
	return string(text)
}

func newAuthority(t testing.TB) *x509test.Certificate {
	t.Helper()
	return x509test.New(t, x509test.Wish{Name: "factory", CA: true})
}

// signed returns a certificate for a name.
func signed(t testing.TB, ca *x509test.Certificate, name string) *x509test.Certificate {
	t.Helper()
	return x509test.New(t, x509test.Wish{Name: name, Signer: ca})
}

// An authority is believed once its owner has proved that the key is his.
func TestProofOfPossession(t *testing.T) {
	p, h := bench(t, Config{})
	ca, stranger := newAuthority(t), newAuthority(t)
	id := registry.ID{Device: "pump-1"}
	if _, err := h.Registry.Create(registry.Identity{ID: id, Auth: registry.Auth{Type: registry.AuthAuthority}}); err != nil {
		t.Fatal(err)
	}
	device := []*x509.Certificate{signed(t, ca, "pump-1").Certificate}
	believed := func() bool {
		_, err := h.Registry.AuthenticateCertificate(device, id)
		return err == nil
	}
	const path = served + "/certificates/factory"
	verify := func(proof *x509test.Certificate, etag any) answered {
		return ask(t, p, "POST", path+"/verify", `{"certificate":"`+inBase64(proof)+`"}`, "If-Match: "+etag.(string))
	}
	made := ask(t, p, "PUT", path, uploaded(t, inPEM(t, ca), false)).want(t, 201)
	if made.at("properties", "subject") != "factory" || made.at("properties", "isVerified") != false || believed() {
		t.Errorf("got %s, believed: %v", made.text, believed())
	}
	asked := ask(t, p, "POST", path+"/generateVerificationCode", "", "If-Match: "+made.at("etag").(string)).want(t, 200)
	code, etag := asked.at("properties", "verificationCode").(string), asked.at("etag")
	ask(t, p, "POST", path+"/generateVerificationCode", "", "If-Match: "+made.at("etag").(string)).want(t, 412)
	verify(signed(t, ca, "something else"), etag).want(t, 400)
	verify(signed(t, stranger, code), etag).want(t, 400)
	if believed() {
		t.Error("the authority is believed without proof")
	}
	if a := verify(signed(t, ca, code), etag).want(t, 200); a.at("properties", "isVerified") != true || !believed() {
		t.Errorf("got %s, believed: %v", a.text, believed())
	}
	if a := ask(t, p, "GET", served+"/certificates", "").want(t, 200); len(a.at("value").([]any)) != 1 {
		t.Errorf("got %s", a.text)
	}
	ask(t, p, "PUT", served+"/certificates/again", uploaded(t, inBase64(ca), true)).want(t, 201)
	ask(t, p, "DELETE", path, "").want(t, 200)
	ask(t, p, "GET", path, "").want(t, 404)
	if !believed() {
		t.Error("the authority is there under another name, but not believed")
	}
	ask(t, p, "PUT", served+"/certificates/again", uploaded(t, inBase64(stranger), true)).want(t, 200)
	if believed() {
		t.Error("the authority is believed though it is gone")
	}
}

func TestUpload(t *testing.T) {
	p, _ := bench(t, Config{})
	ca := newAuthority(t)
	for _, c := range []struct {
		what, name, body string
		status           int
	}{
		{"PEM", "a", uploaded(t, inPEM(t, ca), false), 201},
		{"PEM in Base64", "b", uploaded(t, base64.StdEncoding.EncodeToString([]byte(inPEM(t, ca))), false), 201},
		{"DER in Base64, believed at once", "c", uploaded(t, inBase64(ca), true), 201},
		{"again", "c", uploaded(t, inBase64(ca), true), 200},
		{"no authority", "d", uploaded(t, inBase64(signed(t, ca, "x")), true), 400},
		{"a key", "e", uploaded(t, "-----BEGIN PRIVATE KEY-----\nYQ==\n-----END PRIVATE KEY-----", false), 400},
		{"no certificate", "f", uploaded(t, "", false), 400},
		{"no JSON", "g", "x", 400},
		{"bad name", "h h", uploaded(t, inPEM(t, ca), false), 400},
	} {
		if a := ask(t, p, "PUT", served+"/certificates/"+url.PathEscape(c.name), c.body); a.status != c.status {
			t.Errorf("%s: got %d with %s, want %d", c.what, a.status, a.text, c.status)
		}
	}
}

func FuzzParseCertificate(f *testing.F) {
	ca := newAuthority(f)
	f.Add(inPEM(f, ca))
	f.Add(inBase64(ca))
	f.Add("-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseCertificate(text); (c == nil) != (err != nil) {
			t.Fatalf("%q: got %v and %v", text, c, err)
		}
	})
}
