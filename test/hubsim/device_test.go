package hubsim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// The vendor's device SDK does everything that devices do, over each of its
// transports with a connection of their own.
func TestStockDevice(t *testing.T) {
	for _, transport := range []string{"mqtt", "mqtt-ws", "amqp", "amqp-ws"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			h := benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
			s := &service{h: h, before: []func(){nothing}}
			checkDevice(t, h, s.with(t, transport))
		})
	}
}

// Over MQTT a device does not subscribe again when it has renewed its token, and
// only to some topics when it has lost its connection (trap 9.1). It need not.
func TestStockDeviceComesBack(t *testing.T) {
	const tokenLife = 12 // seconds; it is renewed at half of it
	for _, transport := range []string{"mqtt", "mqtt-ws"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			h := benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
			s := &service{h: h, before: []func(){
				nothing,
				nothing, // the token is renewed, sooner or later
				func() { h.Reset() },
			}}
			s.with(t, transport, fmt.Sprint(tokenLife))
		})
	}
}

// A broken frame costs a device its connection, over AMQP as over MQTT, and it
// comes back by itself.
func TestStockDeviceMalform(t *testing.T) {
	for _, transport := range []string{"mqtt", "amqp", "amqp-ws"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			h := benchHub(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}})
			s := &service{h: h, before: []func(){nothing, func() { h.Malform("pump-1") }}}
			s.with(t, transport)
		})
	}
}

func nothing() {}

// checkDevice compares what the device has seen, and what has arrived of it.
func checkDevice(t *testing.T, h *hubsim.Hub, seen []map[string]any) {
	t.Helper()
	for kind, want := range map[string]string{
		"accepted": `"message-1"`,
		"twin":     `{"desired":{"$version":1},"reported":{"$version":1}}`,
		"command":  `{"body":"stop","color":"grün & blau","id":"command-0","to":"/devices/pump-1/messages/devicebound"}`,
		"method":   `0`,
		"desired":  `0`,
	} {
		list := with(seen, kind)
		if len(list) != 1 {
			t.Fatalf("%s: got %v", kind, list)
		}
		got, err := json.Marshal(list[0][kind])
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.ReplaceAll(string(got), `\u0026`, "&"); !strings.EqualFold(text, want) { // MQTT and AMQP differ in "deviceBound"
			t.Errorf("%s: got %s, want %s", kind, text, want)
		}
	}
	if len(with(seen, "refused")) != 1 {
		t.Error("a bad patch was not refused")
	}
	twin, err := h.Domain().Twins.ForDevice(registry.ID{Device: "pump-1"})
	if err != nil || !strings.Contains(string(twin), `"speed":7`) {
		t.Errorf("the twin is %s, with %v", twin, err)
	}
	got := arrivals(t, h, "pump-1")[0]
	got.To = "" // over AMQP the device says where it sends to
	want := message.Message{
		ID: "message-1", CorrelationID: "of-the-test", ContentType: "application/json", ContentEncoding: "utf-8",
		Properties: []message.Property{{Name: "größe & zeichen", Value: "50 % = ½"}, {Name: "empty"}}, Body: []byte(`{"n":1}`),
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v, want %+v", *got, want)
	}
}

// service is what a service does while a device is there: in each round a
// command, a method call and a change of the desired properties.
type service struct {
	h      *hubsim.Hub
	before []func() // what happens to the connection before each round
}

// with runs the device's script and the service beside it, and returns what the
// device has seen.
func (s *service) with(t *testing.T, transport string, more ...string) (seen []map[string]any) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !t.Failed() {
			t.Errorf("the service's side: %v", err)
		}
	})
	info := s.h.Info()
	args := []string{transport, info.Devices["pump-1"].ConnectionString, info.CAFile, fmt.Sprint(len(s.before))}
	seen = node(t, nil, "hub-device.js", append(args, more...)...)
	for _, kind := range []string{"command", "method", "desired"} {
		if got := with(seen, kind); len(got) != len(s.before) {
			t.Errorf("the device has seen %v, want %d of %s", got, len(s.before), kind)
		}
	}
	return seen
}

// run does all rounds.
func (s *service) run(ctx context.Context) error {
	connection := uint64(0) // of the last round
	var repeating errgroup.Group
	defer func() { _ = repeating.Wait() }()
	for n, before := range s.before {
		before()
		var err error
		if connection, err = s.tick(ctx, connection); err != nil {
			return err
		}
		if err := s.round(ctx, n); err != nil {
			return err
		}
		repeating.Go(func() error { return s.repeat(ctx, n) })
	}
	return repeating.Wait()
}

// tick waits for a tick on a connection that came after another, and returns the
// connection's number: there the device has all its subscriptions.
func (s *service) tick(ctx context.Context, after uint64) (connection uint64, err error) {
	log, number := s.h.Domain().Events, uint64(0)
	for {
		for e := range log.Since(number) {
			if number = e.Number; e.Connection > after && bytes.Contains(e.Message, []byte("tick")) {
				return e.Connection, nil
			}
		}
		select {
		case <-log.Wait(number):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (s *service) round(ctx context.Context, n int) error {
	id, domain := registry.ID{Device: "pump-1"}, s.h.Domain()
	err := domain.Commands.Send(id, &message.Message{
		ID: fmt.Sprintf("command-%d", n), To: "/devices/pump-1/messages/devicebound", Body: []byte("stop"),
		Properties: []message.Property{{Name: "color", Value: "grün & blau"}},
	})
	if err != nil {
		return err
	}
	if _, err := domain.Twins.Update(id, change(n), false, ""); err != nil {
		return err
	}
	call := methods.Call{Name: "blink", Payload: json.RawMessage(fmt.Sprint(n)), ConnectTimeout: patience}
	answer, err := domain.Methods.Invoke(ctx, id, call)
	if err != nil {
		return err
	}
	if got, want := string(answer.Payload), fmt.Sprintf(`{"echo":%d}`, n); answer.Status != 200 || got != want {
		return fmt.Errorf("the method answered %d %s, want 200 %s", answer.Status, got, want)
	}
	return nil
}

// repeat makes the change of a round again and again until ctx ends: over AMQP the SDK
// listens to its twin some time after it has sent, and nobody tells it what it missed.
func (s *service) repeat(ctx context.Context, n int) error {
	for again := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			again.Stop()
			return nil
		case <-again.C:
		}
		if _, err := s.h.Domain().Twins.Update(registry.ID{Device: "pump-1"}, change(n), false, ""); err != nil {
			return err
		}
	}
}

func change(n int) []byte { return fmt.Appendf(nil, `{"properties":{"desired":{"round":%d}}}`, n) }
