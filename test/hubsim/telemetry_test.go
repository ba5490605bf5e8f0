package hubsim_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"testing"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

func decode(t testing.TB, key string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTelemetry(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
	for name, sasl := range map[string]goamqp.SASLType{"no SASL layer": nil, "anonymous": goamqp.SASLTypeAnonymous()} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, hub, &goamqp.ConnOptions{SASLType: sasl})
			c.login("pump-1")
			s := c.sender("pump-1")
			before := hub.Stats().Messages
			for i := range 100 {
				m := goamqp.NewMessage(fmt.Appendf(nil, "%d", i))
				m.ApplicationProperties = map[string]any{"n": fmt.Sprint(i)}
				if err := s.Send(within(t), m, nil); err != nil {
					t.Fatal(err)
				}
			}
			got := slices.Collect(hub.Arrivals())[before:]
			if len(got) != 100 {
				t.Fatalf("arrivals: got %d, want 100", len(got))
			}
			for i, a := range got {
				if want := fmt.Sprint(i); string(a.Body) != want || a.Properties["n"] != want || a.Device != "pump-1" {
					t.Fatalf("arrival %d: got %+v", i, a)
				}
			}
		})
	}
}
