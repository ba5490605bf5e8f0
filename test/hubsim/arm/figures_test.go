package arm

import (
	"fmt"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

func TestFigures(t *testing.T) {
	p, h := bench(t, Config{})
	for _, i := range []registry.Identity{{ID: registry.ID{Device: "a"}}, {ID: registry.ID{Device: "b"}, Disabled: true}} {
		i.Auth.Type = registry.AuthSAS
		if _, err := h.Registry.Create(i); err != nil {
			t.Fatal(err)
		}
	}
	if a := ask(t, p, "GET", served+"/IotHubStats", "").want(t, 200); fmt.Sprint(a.body) != "map[disabledDeviceCount:1 enabledDeviceCount:1 totalDeviceCount:2]" {
		t.Errorf("got %s", a.text)
	}
	quotas := ask(t, p, "GET", served+"/quotaMetrics", "").want(t, 200).at("value").([]any)
	if got := fmt.Sprint(quotas[1]); got != "map[currentValue:2 maxValue:1e+06 name:TotalDeviceCount]" {
		t.Errorf("got %s", got)
	}
	ask(t, p, "PUT", other, `{"location":"bench","sku":{"name":"F1","capacity":1}}`).want(t, 201)
	if got := ask(t, p, "GET", other+"/skus", "").want(t, 200).at("value").([]any); len(got) != 1 {
		t.Errorf("a free hub can become %v", got)
	}
	usages := ask(t, p, "GET", "/subscriptions/"+Subscription+"/providers/Microsoft.Devices/usages", "").want(t, 200).at("value").([]any)
	for i, want := range []float64{1, 1} {
		if got := usages[i].(map[string]any)["currentValue"]; got != want {
			t.Errorf("usage %d: got %v, want %v", i, got, want)
		}
	}
	if got := ask(t, p, "GET", served+"/routingEndpointsHealth", "").want(t, 200); string(got.text) != `{"value":[]}` {
		t.Errorf("got %s", got.text)
	}
}
