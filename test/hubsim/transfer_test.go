package hubsim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// pattern is a body in which every misplaced byte shows.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// Messages of many frames arrive whole, whatever the frame size, and next to
// each other.
func TestLargeMessages(t *testing.T) {
	for _, frame := range []uint32{512, 65536} {
		t.Run(fmt.Sprint(frame), func(t *testing.T) {
			hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": "", "pump-2": ""}})
			c := dial(t, hub, &goamqp.ConnOptions{MaxFrameSize: frame})
			body := pattern(200 << 10)
			var senders sync.WaitGroup
			for _, device := range []string{"pump-1", "pump-2"} {
				c.login(device)
				s := c.sender(device)
				senders.Go(func() {
					for range 5 {
						if err := s.Send(within(t), goamqp.NewMessage(body), nil); err != nil {
							t.Error(err)
						}
					}
				})
			}
			senders.Wait()
			got := slices.Collect(hub.Arrivals())
			if len(got) != 10 {
				t.Fatalf("arrivals: got %d, want 10", len(got))
			}
			for _, a := range got {
				if !bytes.Equal(a.Body, body) {
					t.Errorf("arrival %d of %s is not what was sent: %d bytes", a.Number, a.Device, len(a.Body))
				}
			}
		})
	}
}

func TestTooLarge(t *testing.T) {
	hub, c, s := pump(t)
	err := s.Send(within(t), goamqp.NewMessage(pattern(300<<10)), nil)
	if got := condition(err); got != "amqp:link:message-size-exceeded" {
		t.Errorf("300 KB: got %s, want amqp:link:message-size-exceeded", got)
	}
	c.send(s, "the link goes on")
	if got := fmt.Sprint(bodies(hub)); got != "[the link goes on]" {
		t.Errorf("arrivals: got %s", got)
	}
}

// batch packs messages as the vendor's C client does.
func batch(t *testing.T, list ...*goamqp.Message) *goamqp.Message {
	t.Helper()
	b := &goamqp.Message{Format: 0x80013700}
	for _, m := range list {
		encoded, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		b.Data = append(b.Data, encoded)
	}
	return b
}

// A batch is as many events as it has messages, or none when one of them is no
// message.
func TestBatch(t *testing.T) {
	hub, c, s := pump(t)
	var list []*goamqp.Message
	for i := range 10 {
		list = append(list, &goamqp.Message{
			Properties:            &goamqp.MessageProperties{MessageID: fmt.Sprint("id-", i)},
			ApplicationProperties: map[string]any{"n": fmt.Sprint(i)},
			Data:                  [][]byte{fmt.Append(nil, i)},
		})
	}
	if err := s.Send(within(t), batch(t, list...), nil); err != nil {
		t.Fatal(err)
	}
	bad := batch(t, list...)
	bad.Data = append(bad.Data, []byte{0xff})
	if got := condition(s.Send(within(t), bad, nil)); got != "amqp:decode-error" {
		t.Errorf("batch with garbage: got %s, want amqp:decode-error", got)
	}
	c.send(s, "the link goes on")
	got := slices.Collect(hub.Arrivals())
	if len(got) != 11 {
		t.Fatalf("arrivals: got %d, want 11", len(got))
	}
	for i, a := range got[:10] {
		if want := fmt.Sprint(i); string(a.Body) != want || a.MessageID != "id-"+want || a.Properties["n"] != want {
			t.Errorf("arrival %d: got %+v", i, a)
		}
	}
}

// Everything that telemetry may carry is seen in the arrival.
func TestProperties(t *testing.T) {
	hub, _, s := pump(t)
	kind, encoding, expiry := "application/json", "utf-8", time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	id := goamqp.UUID{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0x4d, 0xef, 0x81, 0, 0, 0, 0, 0, 0, 1}
	err := s.Send(within(t), &goamqp.Message{
		Properties: &goamqp.MessageProperties{
			MessageID: id, CorrelationID: "c-1", UserID: []byte("someone"),
			ContentType: &kind, ContentEncoding: &encoding, AbsoluteExpiryTime: &expiry,
		},
		ApplicationProperties: map[string]any{"site": "plant 7", "größe": "½", "count": int32(5)},
		Data:                  [][]byte{[]byte("in two "), []byte("sections")},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := slices.Collect(hub.Arrivals())[0]
	for _, c := range []struct{ what, got, want string }{
		{"message id", a.MessageID, "12345678-9abc-4def-8100-000000000001"},
		{"correlation id", a.CorrelationID, "c-1"},
		{"user id", a.UserID, "someone"},
		{"content type", a.ContentType, kind},
		{"content encoding", a.ContentEncoding, encoding},
		{"expiry", a.Expiry.UTC().String(), expiry.String()},
		{"properties", fmt.Sprint(a.Properties), "map[count:5 größe:½ site:plant 7]"},
		{"body", string(a.Body), "in two sections"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
		}
	}
}

// pipeline sends n numbered messages without waiting in between, and then for
// all of them to be accepted.
func pipeline(t *testing.T, s *goamqp.Sender, n int) {
	t.Helper()
	ctx := within(t)
	receipts := make([]goamqp.SendReceipt, 0, n)
	for i := range n {
		r, err := s.SendWithReceipt(ctx, goamqp.NewMessage(fmt.Append(nil, i)), nil)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		receipts = append(receipts, r)
	}
	for i, r := range receipts {
		state, err := r.Wait(ctx)
		if _, ok := state.(*goamqp.StateAccepted); !ok || err != nil {
			t.Fatalf("message %d: got %v, %v, want accepted", i, state, err)
		}
	}
}

// Many more messages than the session's window (5000) and the link's credit
// hold go through in one go, in order.
func TestBeyondTheWindows(t *testing.T) {
	for _, credit := range []uint32{1, 1000, 100_000} {
		t.Run(fmt.Sprint("credit ", credit), func(t *testing.T) {
			hub := start(t, hubsim.Config{Credit: credit, Devices: map[string]string{"pump-1": ""}})
			c := dial(t, hub, nil)
			c.login("pump-1")
			n := 12_000
			if credit == 1 {
				n = 200 // each message waits for the one before
			}
			pipeline(t, c.sender("pump-1"), n)
			got := bodies(hub)
			if len(got) != n {
				t.Fatalf("arrivals: got %d, want %d", len(got), n)
			}
			for i, body := range got {
				if body != fmt.Sprint(i) {
					t.Fatalf("arrival %d is %s", i, body)
				}
			}
		})
	}
}

// Unsettled deliveries use up the credit, so that a hub that does not settle
// holds its clients back.
func TestCreditHoldsBack(t *testing.T) {
	const credit = 10
	hub := start(t, hubsim.Config{Credit: credit, Devices: map[string]string{"pump-1": ""}})
	c := dial(t, hub, nil)
	c.login("pump-1")
	s := c.sender("pump-1")
	hub.SettleNever(true)
	for range credit {
		if _, err := s.SendWithReceipt(within(t), goamqp.NewMessage([]byte("x")), nil); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := s.SendWithReceipt(short, goamqp.NewMessage([]byte("x")), nil)
	// The client says so itself, when it has waited for credit in vain.
	if e, ok := errors.AsType[*goamqp.Error](err); !ok || e.Condition != goamqp.ErrCondTransferLimitExceeded {
		t.Errorf("message %d: got %v, want no credit", credit+1, err)
	}
	if got := len(bodies(hub)); got > credit {
		t.Errorf("arrivals: got %d, want at most %d", got, credit)
	}
}
