package enrol_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/identity/enrol"
	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

func key(t *testing.T, text string) identity.Key {
	t.Helper()
	k, err := identity.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// bench is a hub with a provisioning service, and a client that trusts it.
func bench(t *testing.T) (*hubsim.Hub, *http.Client) {
	t.Helper()
	hub, err := hubsim.Start(hubsim.Config{Dir: t.TempDir(), Host: "hub.test", Devices: map[string]string{"known": ""}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.Close() })
	pem, err := os.ReadFile(hub.Info().CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "hub.test"}}}
	t.Cleanup(client.CloseIdleConnections)
	return hub, client
}

func address(i hubsim.Info) string { return net.JoinHostPort(i.Bind, strconv.Itoa(i.HTTPSPort)) }

func provisioning(t *testing.T, hub *hubsim.Hub, client *http.Client) *enrol.Provisioning {
	i := hub.Info()
	return &enrol.Provisioning{
		Host: address(i), IDScope: i.DPS.IDScope, Group: key(t, i.DPS.GroupKey), Hub: "HUB.test", Client: client, Now: time.Now,
	}
}

func owner(t *testing.T, hub *hubsim.Hub, client *http.Client) *enrol.Registry {
	i := hub.Info()
	_, text, _ := strings.Cut(i.OwnerConnectionString, "SharedAccessKey=")
	return &enrol.Registry{
		Address: address(i), Hub: "hub.test", Policy: "iothubowner", Key: key(t, text), Client: client, Now: time.Now,
		Keep: func(string, string) error { return nil },
	}
}

// sends shows that the hub knows the leaf by the key.
func sends(t *testing.T, hub *hubsim.Hub, client *http.Client, leaf string, k identity.Key) {
	t.Helper()
	url := "https://" + address(hub.Info()) + "/devices/" + leaf + "/messages/events?api-version=2021-04-12"
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", k.Token("hub.test/devices/"+leaf, time.Now().Add(time.Minute)))
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		t.Errorf("%s: the hub answers %s", leaf, res.Status)
	}
}

// The example of the documentation (wire contract, section 8.1).
func TestDerivedKey(t *testing.T) {
	group := key(t, "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==")
	want := key(t, "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=")
	got := group.Derive("sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
	expiry := time.Unix(1_800_000_000, 0)
	if got.Token("x", expiry) != want.Token("x", expiry) {
		t.Error("another key than in the example")
	}
}

func TestGroupEnrolment(t *testing.T) {
	hub, client := bench(t)
	p := provisioning(t, hub, client)
	for range 2 { // the second time it is known already
		k, err := p.Enrol(t.Context(), "pump-1")
		if err != nil {
			t.Fatal(err)
		}
		sends(t, hub, client, "pump-1", k)
	}
	p.Hub = "other.test"
	if _, err := p.Enrol(t.Context(), "pump-2"); !errors.Is(err, enrol.ErrOtherHub) {
		t.Errorf("another hub: got %v", err)
	}
	p.Group = key(t, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if _, err := p.Enrol(t.Context(), "pump-3"); !errors.Is(err, enrol.ErrRefused) || !strings.Contains(err.Error(), "401") {
		t.Errorf("wrong group key: got %v", err)
	}
}

func TestEnrolmentIsDisabled(t *testing.T) {
	hub, client := bench(t)
	g := hub.Provisioning().Group()
	g.Disabled = true
	hub.Provisioning().SetGroup(g)
	if _, err := provisioning(t, hub, client).Enrol(t.Context(), "pump-1"); !errors.Is(err, enrol.ErrRefused) {
		t.Errorf("got %v, want %v", err, enrol.ErrRefused)
	}
}

func TestRegistry(t *testing.T) {
	hub, client := bench(t)
	r := owner(t, hub, client)
	for _, leaf := range []string{"new", "new", "known"} {
		k, err := r.Enrol(t.Context(), leaf)
		if err != nil {
			t.Fatal(err)
		}
		sends(t, hub, client, leaf, k)
	}
	if _, err := hub.Domain().Registry.Create(registry.Identity{ID: registry.ID{Device: "by-ca"}, Auth: registry.Auth{Type: registry.AuthAuthority}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Enrol(t.Context(), "by-ca"); !errors.Is(err, enrol.ErrRefused) {
		t.Errorf("a device with a certificate: got %v", err)
	}
	r.Policy = "registryRead"
	if _, err := r.Enrol(t.Context(), "other"); !errors.Is(err, enrol.ErrRefused) {
		t.Errorf("wrong policy: got %v", err)
	}
}

// A service that is overloaded is asked again, with its own wait; one that talks
// nonsense is an error.
func TestServiceInTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string // status and body; the last one stays
		want    string
	}{
		"throttled":   {[]string{"429 {}", "503 {}", `200 {"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"a"}}`}, ""},
		"assigning":   {[]string{`202 {"operationId":"o/1","status":"assigning"}`, `200 {"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"a"}}`}, ""},
		"failed":      {[]string{`200 {"status":"failed","registrationState":{"errorCode":400209,"errorMessage":"no"}}`}, "400209"},
		"no json":     {[]string{"200 <html>"}, "invalid character"},
		"empty":       {[]string{"200 {}"}, "refused"},
		"other id":    {[]string{`200 {"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"b"}}`}, `"b"`},
		"endless":     {[]string{"503 {}"}, "503"},
		"endless 202": {[]string{`202 {"operationId":"o","status":"assigning"}`}, "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var n atomic.Int64
			srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				i := int(n.Add(1))
				if i == 2 && strings.HasPrefix(name, "endless") {
					cancel() // the service has been asked again: that is enough
				}
				i = min(i, len(c.answers))
				status, body, _ := strings.Cut(c.answers[i-1], " ")
				code, _ := strconv.Atoi(status)
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(code)
				fmt.Fprint(w, body)
			}))
			defer srv.Close()
			p := &enrol.Provisioning{
				Host: strings.TrimPrefix(srv.URL, "https://"), IDScope: "s", Hub: "h", Client: srv.Client(), Now: time.Now,
				Group: key(t, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
			}
			_, err := p.Enrol(ctx, "a")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzProvisioningAnswer(f *testing.F) {
	f.Add(200, []byte(`{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"a"}}`))
	f.Add(202, []byte(`{"operationId":1}`))
	f.Add(404, []byte(`{`))
	group, err := identity.ParseKey("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		p := &enrol.Provisioning{Host: "x", Hub: "h", Group: group, Now: time.Now, Client: answering{status, body}}
		k, err := p.Enrol(ctx, "a")
		var r struct{ Status string }
		if err == nil && (k.IsZero() || json.Unmarshal(body, &r) != nil || r.Status != "assigned") {
			t.Errorf("%d %q is a success", status, body)
		}
	})
}

// answering is a service that says one thing.
type answering struct {
	status int
	body   []byte
}

func (a answering) Do(*http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.Code = a.status
	w.Body.Write(a.body)
	return w.Result(), nil
}
