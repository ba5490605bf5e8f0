package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// windowed is a daemon at a socket whose window is the test's to look at.
func windowed(t *testing.T) (*pairing.Window, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	w := &pairing.Window{
		Known: func(id string) bool { return id == "meter-1" },
		At:    func(string) string { return "usb:A1" },
		Log:   slog.New(slog.DiscardHandler),
	}
	s := New(Config{Socket: socket}, Parts{State: func() any { return 7 }, Window: w, Log: w.Log})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	state(t, socket)
	return w, socket
}

// await waits until a window is as it should be.
func await(t *testing.T, w *pairing.Window, what string, is func(pairing.WindowState) bool) {
	t.Helper()
	for begin := time.Now(); !is(w.State()); time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("%s: %+v", what, w.State())
		}
	}
}

func closed(s pairing.WindowState) bool { return !s.Open }

var meter2 = Claiming{Opening: Opening{Transport: pairing.OverSerial}, ID: "meter-2", Address: "usb:B2"}

// A claim is held as long as its command says so, and no longer than that lives: also
// when it is killed before it has read that it has the claim.
func TestClaimEndsWithItsHolder(t *testing.T) {
	w, socket := windowed(t)
	c := NewClient(socket)

	ctx, cancel := context.WithCancel(t.Context())
	claim, err := c.Claim(ctx, meter2)
	if err != nil {
		t.Fatal(err)
	}
	if s := w.State(); !claim.Opened || !claim.Until.Equal(s.Until) || s.Claim != "meter-2" {
		t.Errorf("claimed is %+v, and the state %+v", claim.Claimed, s)
	}
	cancel() // it is interrupted, and may still want to say why it has failed
	second, err := c.Claim(t.Context(), meter2)
	if err != nil || second.Opened {
		t.Fatalf("who shares it: %+v, %v", second, err)
	}
	second.Release(time.Minute)
	if s := w.State(); s.Claim != "meter-2" {
		t.Errorf("it was given up by another: %+v", s)
	}
	claim.Release(time.Minute)
	if s := w.State(); s.Open {
		t.Errorf("it was released, and then the state is %+v", s)
	}

	for _, read := range []bool{false, true} {
		if _, _, err = w.Open(pairing.Options{Transport: pairing.OverSerial}); err != nil {
			t.Fatal(err)
		}
		killed, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		const text = `{"transport":"serial","id":"meter-2","address":"usb:B2"}`
		fmt.Fprintf(killed, "POST /v1/pairing/claim HTTP/1.1\r\nHost: fieldgate\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		if read {
			if _, err = killed.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		await(t, w, "the claim to be made", func(s pairing.WindowState) bool { return s.Claim == "meter-2" })
		killed.Close()
		await(t, w, "the claim of a command that was killed to go", func(s pairing.WindowState) bool { return s.Open && s.Claim == "" })
		if err = w.Close(); err != nil {
			t.Fatal(err)
		}
	}

	// Interrupted at any moment of the request.
	for i := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		defer time.AfterFunc(time.Duration(i)*10*time.Microsecond, cancel).Stop()
		claim, err := c.Claim(ctx, meter2)
		if err == nil {
			claim.Release(time.Minute)
		} else if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		await(t, w, "the claim of a command that was interrupted to go", closed)
	}
}

// What cannot be claimed says so by its kind, and leaves nothing.
func TestClaimIsRefused(t *testing.T) {
	w, socket := windowed(t)
	c := NewClient(socket)
	for what, x := range map[string]struct {
		Claiming
		want error // nil: any
	}{
		"a leaf that is there": {Claiming{Opening{Transport: pairing.OverSerial}, "meter-1", "usb:C3"}, ErrConflict},
		"over MQTT":            {Claiming{Opening{}, "meter-2", "usb:B2"}, nil},
		"over no transport":    {Claiming{Opening{Transport: "pigeon"}, "meter-2", "usb:B2"}, nil},
		"for too long":         {Claiming{Opening{Transport: pairing.OverSerial, Seconds: 601}, "meter-2", "usb:B2"}, nil},
	} {
		if _, err := c.Claim(t.Context(), x.Claiming); err == nil || x.want != nil && !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", what, err, x.want)
		}
		if s := w.State(); s.Open {
			t.Errorf("%s: the window is open: %+v", what, s)
		}
	}
	if _, _, err := w.Open(pairing.Options{Transport: pairing.OverBLE}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Claim(t.Context(), meter2); !errors.Is(err, ErrTaken) {
		t.Errorf("in the window of another: %v", err)
	}
	ble := Claiming{Opening{Transport: pairing.OverBLE}, "valve-1", "C8:00:00:00:00:01"}
	claim, err := c.Claim(t.Context(), ble)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		w.Wrong(pairing.OverBLE, ble.Address)
	}
	claim.Release(time.Minute)
	if _, err := c.Claim(t.Context(), ble); !errors.Is(err, ErrTooEarly) {
		t.Errorf("after wrong codes: %v", err)
	}
	if _, err := c.OpenWindow(t.Context(), Opening{Transport: pairing.OverBLE}); !errors.Is(err, ErrTooEarly) {
		t.Errorf("a window after wrong codes: %v", err)
	}
}
