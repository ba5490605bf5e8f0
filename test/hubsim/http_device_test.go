package hubsim_test

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// arrivals returns the telemetry of a device, in order.
func arrivals(t *testing.T, h *hubsim.Hub, device string) []*message.Message {
	t.Helper()
	var list []*message.Message
	for e := range h.Domain().Events.All() {
		if e.Device != device {
			continue
		}
		m, err := amqp.ParseMessage(e.Message)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, message.FromAMQP(m))
	}
	return list
}

// The vendor's device SDK sends over HTTPS, also from a device whose id has
// characters with a meaning in addresses.
func TestStockDeviceHTTPTelemetry(t *testing.T) {
	const odd = "50%#1?+x"
	h := benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": "", odd: ""}})
	info := h.Info()
	for _, device := range []string{"pump-1", odd} {
		node(t, nil, "hub-http.js", "send", info.Devices[device].ConnectionString, info.CAFile)
		got := arrivals(t, h, device)
		if len(got) != 3 {
			t.Fatalf("%s: %d messages have arrived", device, len(got))
		}
		first := got[0]
		if life := time.Until(first.Expiry); life <= 0 || life > time.Hour {
			t.Errorf("%s: the first message expires in %v", device, life)
		}
		if first.ID != "message-1" || first.CorrelationID != "of-the-test" || first.UserID != "someone" ||
			first.ContentType != "application/json" || first.ContentEncoding != "utf-8" ||
			!slices.Equal(first.Properties, []message.Property{{Name: "color", Value: "red & blue"}}) {
			t.Errorf("%s: the first message is %+v", device, first)
		}
		if !slices.Equal(got[1].Properties, []message.Property{{Name: "Color", Value: "green"}}) || len(got[2].Properties) != 0 {
			t.Errorf("%s: the batch is %+v, %+v", device, got[1], got[2])
		}
		for n, want := range []string{`{"n":1}`, `{"n":2}`, `{"n":3}`} {
			if string(got[n].Body) != want {
				t.Errorf("%s: message %d is %s", device, n, got[n].Body)
			}
		}
	}
}

// A device with a certificate needs no token.
func TestStockDeviceHTTPCertificate(t *testing.T) {
	h := benchHub(t, hubsim.Config{})
	info, dir := h.Info(), t.TempDir()
	certFile, keyFile := filepath.Join(dir, "pump.pem"), filepath.Join(dir, "pump-key.pem")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pump-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	writePair(t, certFile, keyFile, template, template, nil)
	text, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	thumbprint := sha256.Sum256(block.Bytes)
	identity := registry.Identity{
		ID:   registry.ID{Device: "pump-1"},
		Auth: registry.Auth{Type: registry.AuthSelfSigned, PrimaryThumbprint: hex.EncodeToString(thumbprint[:])},
	}
	if _, err := h.Domain().Registry.Create(identity); err != nil {
		t.Fatal(err)
	}
	device := "HostName=" + info.Host + ";DeviceId=pump-1;x509=true"
	node(t, nil, "hub-http.js", "send", device, info.CAFile, certFile, keyFile)
	if got := arrivals(t, h, "pump-1"); len(got) != 3 {
		t.Errorf("%d messages have arrived", len(got))
	}
}

// The vendor's device SDK fetches and settles commands over HTTPS.
func TestStockDeviceHTTPCommands(t *testing.T) {
	h := benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	info := h.Info()
	queues, pump := h.Domain().Commands, registry.ID{Device: "pump-1"}
	for _, id := range []string{"complete", "reject", "abandon"} {
		m := &message.Message{ID: id, Body: []byte("please " + id), Properties: []message.Property{{Name: "color", Value: "red"}}}
		if err := queues.Send(pump, m); err != nil {
			t.Fatal(err)
		}
	}
	acts := make(map[string][]any)
	for _, step := range node(t, nil, "hub-http.js", "settle", info.Devices["pump-1"].ConnectionString, info.CAFile) {
		id := step["id"].(string)
		if step["body"] != "please "+id || step["color"] != "red" {
			t.Errorf("the device got %v", step)
		}
		acts[id] = append(acts[id], step["act"])
	}
	for id, want := range map[string][]any{
		"complete": {"complete"}, "reject": {"reject"}, "abandon": {"abandon", "complete"},
	} {
		if !slices.Equal(acts[id], want) {
			t.Errorf("%s: the device did %v, want %v", id, acts[id], want)
		}
	}
	if n := queues.Len(pump); n != 0 {
		t.Errorf("%d commands are left", n)
	}
}
