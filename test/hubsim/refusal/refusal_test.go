package refusal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

func TestOf(t *testing.T) {
	e := refusal.New(404001, "pump-1")
	if got := refusal.Of(fmt.Errorf("cannot read twin: %w", e)); got != e {
		t.Errorf("a wrapped refusal comes back as %v", got)
	}
	if got := refusal.Of(errors.New("broken")); got.Code != 500001 || got.Status() != 500 {
		t.Errorf("a foreign error is %+v, want the hub's own fault", got)
	}
	if refusal.Of(nil) != nil {
		t.Error("no error is a refusal")
	}
	if !refusal.Is(e, 404001) || refusal.Is(e, 404010) {
		t.Error("Is does not compare the code")
	}
}

// Node takes the name between "ErrorCode:" and ";".
func TestForService(t *testing.T) {
	var body struct{ Message, ExceptionMessage string }
	if err := json.Unmarshal(refusal.New(404001, "pump-1").ForService(), &body); err != nil {
		t.Fatal(err)
	}
	if body.Message != "ErrorCode:DeviceNotFound;pump-1" || !strings.HasPrefix(body.ExceptionMessage, "Tracking ID:") {
		t.Errorf("the body is %+v", body)
	}
}

func TestForDevice(t *testing.T) {
	text, tracking := refusal.New(400004, "not JSON").ForDevice()
	var body map[string]any
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatal(err)
	}
	if body["errorCode"] != 400004.0 || body["trackingId"] != tracking || body["message"] != "ArgumentInvalid: not JSON" || body["timestampUtc"] == nil {
		t.Errorf("the body is %s", text)
	}
}
