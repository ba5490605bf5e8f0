package main

import (
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/faultproxy"
)

func newProxy(t testing.TB) *faultproxy.Proxy {
	t.Helper()
	p, err := faultproxy.Start(faultproxy.Config{To: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestPull(t *testing.T) {
	p := newProxy(t)
	for _, c := range []struct {
		line     string
		up, down faultproxy.Link // after it
	}{
		{"latency 300ms", faultproxy.Link{Latency: 300 * time.Millisecond}, faultproxy.Link{Latency: 300 * time.Millisecond}},
		{"latency 0s down", faultproxy.Link{Latency: 300 * time.Millisecond}, faultproxy.Link{}},
		{" preset  gprs ", presets["gprs"], presets["gprs"]},
		{"preset perfect", faultproxy.Link{}, faultproxy.Link{}},
		{"hole on up", faultproxy.Link{Hole: true}, faultproxy.Link{}},
		{"hole off", faultproxy.Link{}, faultproxy.Link{}},
		{"bandwidth 8000", faultproxy.Link{Bandwidth: 8000}, faultproxy.Link{Bandwidth: 8000}},
		{"loss 0.02", faultproxy.Link{Bandwidth: 8000, Loss: 0.02}, faultproxy.Link{Bandwidth: 8000, Loss: 0.02}},
		{"resend 1s", faultproxy.Link{Bandwidth: 8000, Loss: 0.02, Resend: time.Second}, faultproxy.Link{Bandwidth: 8000, Loss: 0.02, Resend: time.Second}},
		{"preset perfect", faultproxy.Link{}, faultproxy.Link{}},
		{"jitter 5ms down", faultproxy.Link{}, faultproxy.Link{Jitter: 5 * time.Millisecond}},
	} {
		if _, err := pull(p, c.line); err != nil {
			t.Errorf("%s: %v", c.line, err)
		}
		if up, down := p.Link(faultproxy.Up), p.Link(faultproxy.Down); up != c.up || down != c.down {
			t.Errorf("%s: up %+v, down %+v", c.line, up, down)
		}
	}
	for _, line := range []string{"", "latency", "latency 3", "latency -1s", "loss 2", "loss -0.1", "loss NaN", "loss some", "hole maybe", "preset moon", "reset now", "explode", "refuse"} {
		if _, err := pull(p, line); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
	for line, want := range map[string]string{"reset": "reset 0", "stats": "ever 0", "refuse on": "refuse on"} {
		if did, err := pull(p, line); err != nil || !strings.Contains(did, want) {
			t.Errorf("%s: %q, %v", line, did, err)
		}
	}
}

func FuzzPull(f *testing.F) {
	for _, line := range []string{"latency 3s up", "hole on", "preset gprs down", "bandwidth -9223372036854775808", "\x00"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p := newProxy(t)
		_, _ = pull(p, line) // it must only not panic
		for _, d := range []faultproxy.Direction{faultproxy.Up, faultproxy.Down} {
			if l := p.Link(d); l.Latency < 0 || l.Jitter < 0 || l.Bandwidth < 0 {
				t.Errorf("%q made %+v", line, l)
			}
		}
	})
}
