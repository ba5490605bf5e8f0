package hubsim_test

import (
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"
)

// heard waits until the hub has n messages.
func heard(t *testing.T, c *client, n uint64) {
	t.Helper()
	seen := uint64(0)
	for range c.hub.Watch(within(t), 0) {
		if seen++; seen == n {
			return
		}
	}
	t.Fatalf("the hub has %d messages, want %d", seen, n)
}

// Half open: the hub hears the client, the client hears nothing.
func TestHalfOpen(t *testing.T) {
	hub, c, s := pump(t)
	c.send(s, "before")
	hub.HalfOpen()
	sent := make(chan error, 1)
	go func() {
		sent <- s.Send(context.WithoutCancel(t.Context()), goamqp.NewMessage([]byte("into the dark")), nil)
	}()
	heard(t, c, 2)
	select {
	case err := <-sent:
		t.Fatalf("the client heard something: %v", err)
	default:
	}
	hub.Restore()
	select {
	case err := <-sent:
		if _, ok := errors.AsType[*goamqp.ConnError](err); !ok {
			t.Errorf("after it: got %v, want a connection error", err)
		}
	case <-within(t).Done():
		t.Fatal("the old socket was not closed")
	}
	again := dial(t, hub, nil)
	again.login("pump-1")
	again.send(again.sender("pump-1"), "after")
}

// Clients that come while the certificate has expired refuse it; those that are
// there stay.
func TestExpireCertificate(t *testing.T) {
	hub, c, s := pump(t)
	hub.ExpireCertificate(true)
	_, err := goamqp.Dial(within(t), address(hub), &goamqp.ConnOptions{TLSConfig: clientTLS(t, hub.Info())})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || invalid.Reason != x509.Expired {
		t.Errorf("got %v, want an expired certificate", err)
	}
	c.send(s, "still here")
	hub.ExpireCertificate(false)
	dial(t, hub, nil)
}

// A hub whose clock runs ahead takes good tokens for expired.
func TestClockSkew(t *testing.T) {
	hub, c, _ := pump(t)
	good := token(t, hub, "pump-2", time.Now().Add(10*time.Minute))
	hub.ClockSkew(time.Hour)
	if status := c.put(good); status != 401 {
		t.Errorf("an hour ahead: put-token gives %d, want 401", status)
	}
	old := token(t, hub, "pump-2", time.Now().Add(-10*time.Minute))
	hub.ClockSkew(-time.Hour)
	if status := c.put(old); status != 200 {
		t.Errorf("an hour behind: put-token gives %d, want 200", status)
	}
	hub.ClockSkew(0)
	if status := c.put(good); status != 200 {
		t.Errorf("on time: put-token gives %d, want 200", status)
	}
}

// The daily quota costs messages, not links.
func TestQuota(t *testing.T) {
	hub, c, s := pump(t)
	hub.Quota(true)
	if got := c.refused(s); got != "amqp:resource-limit-exceeded" {
		t.Errorf("got %s, want amqp:resource-limit-exceeded", got)
	}
	hub.Quota(false)
	c.send(s, "next day")
}

// With a tier the hub throttles whoever sends more than it allows: a hundred
// messages a second for S1. Nothing that was refused is stored.
func TestTier(t *testing.T) {
	hub, c, s := pump(t)
	if err := hub.SetTier("S1", 1); err != nil {
		t.Fatal(err)
	}
	var receipts []goamqp.SendReceipt
	const n = 5000
	for range n {
		r, err := s.SendWithReceipt(within(t), goamqp.NewMessage([]byte("x")), nil)
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, r)
	}
	accepted := uint64(0)
	for _, r := range receipts {
		state, err := r.Wait(within(t))
		if err != nil {
			t.Fatal(err)
		}
		switch state := state.(type) {
		case *goamqp.StateAccepted:
			accepted++
		case *goamqp.StateRejected:
			if got := string(state.Error.Condition); got != "com.microsoft:device-container-throttled" {
				t.Fatalf("rejected with %s", got)
			}
		}
	}
	if accepted < 100 || accepted == n {
		t.Errorf("%d of %d accepted at once, want a hundred and a few more", accepted, n)
	}
	if got := hub.Stats().Messages; got != accepted {
		t.Errorf("%d stored, %d accepted", got, accepted)
	}
	if err := hub.SetTier("", 1); err != nil {
		t.Fatal(err)
	}
	c.send(s, "free again")
}

// A client must bear to be told twice.
func TestSettleTwice(t *testing.T) {
	hub, c, s := pump(t)
	hub.SettleTwice(true)
	for range 50 {
		c.send(s, "twice")
	}
	if n := hub.Stats().Messages; n != 50 {
		t.Errorf("%d messages stored, want 50", n)
	}
}

// A broken frame costs the connections of that device, and no others.
func TestMalform(t *testing.T) {
	hub, c, s := pump(t)
	other := dial(t, hub, nil)
	other.login("pump-2")
	otherSender := other.sender("pump-2")
	c.send(s, "before")
	if n := hub.Malform("pump-1"); n != 1 {
		t.Errorf("%d connections of the device, want 1", n)
	}
	select {
	case <-c.conn.Done():
	case <-within(t).Done():
		t.Fatal("the client did not mind a broken frame")
	}
	other.send(otherSender, "unharmed")
}
