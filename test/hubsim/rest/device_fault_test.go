package rest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// A fault that delays settlements delays answers, and one that withholds them
// leaves the client waiting until it gives up.
func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newDeviceBench(t)
		b.hub.Faults.SlowSettle(3 * time.Second)
		start := time.Now()
		want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", "x"), http.StatusNoContent, "")
		if waited := time.Since(start); waited != 3*time.Second {
			t.Errorf("the answer came after %v", waited)
		}

		b.hub.Faults.SlowSettle(0)
		b.hub.Faults.SettleNever(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "https://hub.test/devices/pump-1/messages/events", strings.NewReader("x"))
		r.Header.Set("Authorization", sas.New("hub.test/devices/pump-1", "", deviceKey, time.Now().Add(time.Hour)))
		start = time.Now()
		b.api.ServeHTTP(httptest.NewRecorder(), r)
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("the hub let go after %v", waited)
		}
		if got := b.arrived(); len(got) != 2 {
			t.Errorf("%d messages have arrived", len(got))
		}
	})
}

// Faults that refuse telemetry or tokens are errors in HTTP's own terms, and
// nothing of what they refuse arrives.
func TestRefusals(t *testing.T) {
	b := newDeviceBench(t)
	faults := b.hub.Faults
	for _, c := range []struct {
		set    func(on bool)
		status int
		name   string
	}{
		{func(on bool) {
			if on {
				faults.Reject("pump-1", "amqp:not-allowed", 1)
			}
		}, http.StatusBadRequest, "GenericBadRequest"},
		{faults.Quota, http.StatusForbidden, "IotHubQuotaExceeded"},
		{faults.Throttle, http.StatusTooManyRequests, "ThrottlingException"},
		{func(on bool) { faults.RefuseToken("pump-1", on) }, http.StatusUnauthorized, "IotHubUnauthorized"},
		{func(on bool) {
			if faults.ClockSkew(0); on {
				faults.ClockSkew(2 * time.Hour)
			}
		}, http.StatusUnauthorized, "IotHubUnauthorized"},
	} {
		c.set(true)
		want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", "x"), c.status, c.name)
		c.set(false)
		want(t, b.pump(http.MethodPost, "/devices/pump-1/messages/events", "x"), http.StatusNoContent, "")
	}
	if got := b.arrived(); len(got) != 5 {
		t.Errorf("%d messages have arrived", len(got))
	}
}

// A message that orders a fault is obeyed and is nobody's telemetry, whatever
// case its properties arrive in.
func TestOrders(t *testing.T) {
	b := newDeviceBench(t)
	const events = "/devices/pump-1/messages/events"
	want(t, b.pump(http.MethodPost, events, "x", "iothub-app-AzIoTHub_FaultOperationType", "KillAmqpD2CLink"), http.StatusNoContent, "")
	want(t, b.pump(http.MethodPost, events, `[{"body":"b25l"},{"body":"dHdv","properties":{"iothub-app-AzIoTHub_FaultOperationType":"None"}}]`,
		"Content-Type", batchType), http.StatusNoContent, "")
	if got := b.arrived(); len(got) != 1 || string(got[0].Body) != "one" {
		t.Errorf("arrived: %v", got)
	}

	server := httptest.NewServer(b.api)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+events, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", sas.New("hub.test/devices/pump-1", "", deviceKey, time.Now().Add(time.Hour)))
	r.Header.Set("iothub-app-AzIoTHub_FaultOperationType", "KillTcp")
	if answer, err := server.Client().Do(r); err == nil {
		t.Errorf("the killed connection answered %s", answer.Status)
		_ = answer.Body.Close()
	}
}
