package faults_test

import (
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

func TestAllOff(t *testing.T) {
	var s faults.Switches
	if s.Settling() != (faults.Settling{}) || s.Refusal("a") != nil || s.TokenRefusal("a") != nil {
		t.Error("a switch is on that nobody touched")
	}
}

func TestRejectCounts(t *testing.T) {
	var s faults.Switches
	s.Reject("a", "amqp:internal-error", 2)
	for i, want := range []bool{true, true, false} {
		err := s.Refusal("a")
		if (err != nil) != want {
			t.Fatalf("message %d: %v", i, err)
		}
		if err != nil && refusal.Of(err).Condition != "amqp:internal-error" {
			t.Errorf("message %d: %+v", i, err)
		}
	}
	if s.Reject("a", "x", 1); s.Refusal("b") != nil {
		t.Error("another device is refused")
	}
}

func TestTokens(t *testing.T) {
	var s faults.Switches
	s.RefuseToken("a", true)
	if !refusal.Is(s.TokenRefusal("a"), 401003) || s.TokenRefusal("b") != nil {
		t.Error("the token of one device should be refused, and no other")
	}
	s.RefuseToken("a", false)
	if s.TokenRefusal("a") != nil {
		t.Error("the switch is off")
	}
	s.Throttle(true)
	if !refusal.Is(s.TokenRefusal(""), 429001) || !refusal.Is(s.Refusal("a"), 429001) {
		t.Error("throttling refuses tokens and telemetry")
	}
	s.Throttle(false)
	s.Quota(true)
	if s.TokenRefusal("") != nil || !refusal.Is(s.Refusal("a"), 403002) {
		t.Error("the quota is one of messages")
	}
}

func TestClock(t *testing.T) {
	var s faults.Switches
	s.ClockSkew(-time.Hour)
	if now := s.Now(); now.After(time.Now().Add(-time.Hour)) {
		t.Errorf("the clock says %v", now)
	}
	s.ClockSkew(0)
	if before := time.Now(); s.Now().Before(before) {
		t.Error("the clock is still wrong")
	}
}

func TestParseOrder(t *testing.T) {
	properties := map[string]string{
		"AzIoTHub_FaultOperationType":           "KillTcp",
		"AzIoTHub_FaultOperationCloseReason":    "boom",
		"AzIoTHub_FaultOperationDelayInSecs":    "1.5",
		"AzIoTHub_FaultOperationDurationInSecs": "1e300",
	}
	property := func(name string) (string, bool) { v, ok := properties[name]; return v, ok }
	o, ok := faults.ParseOrder(property)
	if !ok || o != (faults.Order{Operation: "KillTcp", Reason: "boom", Delay: 1500 * time.Millisecond, Duration: 24 * time.Hour}) {
		t.Errorf("got %+v, %t", o, ok)
	}
	delete(properties, "AzIoTHub_FaultOperationType")
	if _, ok := faults.ParseOrder(property); ok {
		t.Error("an ordinary message counts as an order")
	}
}

func FuzzParseOrder(f *testing.F) {
	f.Add("KillTcp", "-1", "NaN")
	f.Add("", "1e309", "99999999999999999999")
	f.Fuzz(func(t *testing.T, operation, delay, duration string) {
		o, ok := faults.ParseOrder(func(name string) (string, bool) {
			switch name {
			case "AzIoTHub_FaultOperationType":
				return operation, true
			case "AzIoTHub_FaultOperationDelayInSecs":
				return delay, true
			case "AzIoTHub_FaultOperationDurationInSecs":
				return duration, true
			}
			return "", false
		})
		if !ok || o.Delay < 0 || o.Duration < 0 || o.Delay > 24*time.Hour || o.Duration > 24*time.Hour {
			t.Errorf("got %+v, %t", o, ok)
		}
	})
}
