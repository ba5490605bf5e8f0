package hubsim_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/provisioning"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/x509test"
)

// The vendor's provisioning SDK registers a device of the enrolment group over
// every protocol it has, and the vendor's device SDK then sends with the same
// key. With another device's key it gets nowhere.
func TestStockProvisioning(t *testing.T) {
	h := benchHub(t, hubsim.Config{})
	info := h.Info()
	env := []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}
	for _, protocol := range []string{"mqtt", "mqtt-ws", "amqp", "amqp-ws", "http"} {
		t.Run(protocol, func(t *testing.T) {
			id := "press-" + protocol
			said := node(t, env, "hub-provision.js", info.DPS.Host, info.DPS.IDScope, id, info.DPS.GroupKey, protocol, "group")
			if len(said) != 3 || said[0]["step"] != "failed" {
				t.Fatalf("got %v", said)
			}
			for path, want := range map[string]string{
				"step": "registered", "result.status": "assigned", "result.assignedHub": info.Host,
				"result.deviceId": id, "result.symmetricKey.enrollmentGroupId": info.DPS.Group,
			} {
				if got := look(said[1], path); got != want {
					t.Errorf("%s is %v, want %s", path, got, want)
				}
			}
			if list := arrivals(t, h, id); len(list) != 1 || string(list[0].Body) != `{"registered":"`+id+`"}` {
				t.Errorf("%d messages have arrived: %v", len(list), list)
			}
		})
	}
}

// A device that is enrolled by itself has its own key and perhaps another name
// in the hub. While the service is busy the vendor's SDK waits and asks again,
// and a disabled enrolment is an error to it.
func TestStockEnrolment(t *testing.T) {
	h := benchHub(t, hubsim.Config{})
	info := h.Info()
	e, err := h.Provisioning().Enrol(provisioning.Enrolment{
		RegistrationID: "serial-0815", DeviceID: "press", Payload: json.RawMessage(`{"hall":3}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	register := func() []map[string]any {
		return node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile},
			"hub-provision.js", info.DPS.Host, info.DPS.IDScope, e.RegistrationID, e.PrimaryKey, "mqtt", "device")
	}
	h.Provisioning().ThrottleNext(1)
	said := register()
	if len(said) != 2 || look(said[0], "result.deviceId") != "press" || look(said[0], "result.payload.hall") != 3.0 {
		t.Errorf("got %v", said)
	}
	if list := arrivals(t, h, "press"); len(list) != 1 {
		t.Errorf("%d messages have arrived", len(list))
	}
	e.Disabled = true
	if _, err := h.Provisioning().Enrol(e); err != nil {
		t.Fatal(err)
	}
	if said := register(); len(said) != 1 || said[0]["result"] != "status is disabled" {
		t.Errorf("got %v", said)
	}
}

// A device that is enrolled with a certificate shows it to the service and then
// to the hub.
func TestStockEnrolmentWithCertificate(t *testing.T) {
	h := benchHub(t, hubsim.Config{})
	info := h.Info()
	own := x509test.New(t, x509test.Wish{Name: "press"})
	sum := sha256.Sum256(own.Raw)
	if _, err := h.Provisioning().Enrol(provisioning.Enrolment{RegistrationID: "press", Thumbprint: hex.EncodeToString(sum[:])}); err != nil {
		t.Fatal(err)
	}
	other := x509test.New(t, x509test.Wish{Name: "press"})
	for _, c := range []struct {
		protocol    string
		certificate *x509test.Certificate
		steps, sent int
	}{
		{"mqtt", other, 1, 0}, // over AMQP the SDK takes 45 s to say that it was refused
		{"mqtt", own, 2, 1},
		{"amqp", own, 2, 2},
	} {
		certificate, key := certificateFiles(t, c.certificate)
		said := node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile},
			"hub-provision.js", info.DPS.Host, info.DPS.IDScope, "press", key, c.protocol, "x509", certificate)
		if list := arrivals(t, h, "press"); len(said) != c.steps || len(list) != c.sent {
			t.Errorf("%s: got %v and %d messages, want %d steps and %d messages", c.protocol, said, len(list), c.steps, c.sent)
		}
	}
}
