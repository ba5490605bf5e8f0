package faultproxy_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/faultproxy"
)

// What a client says to a deaf proxy is not heard, and comes when it hears again;
// what the server says goes through.
func TestDeafProxyTalks(t *testing.T) {
	b := newBench(t, faultproxy.Config{})
	client, server := b.connect()
	if err := b.proxy.Deafen(true); err != nil {
		t.Fatal(err)
	}
	for from, text := range map[io.Writer]string{client: "up", server: "down"} {
		if _, err := io.WriteString(from, text); err != nil {
			t.Fatal(err)
		}
	}
	_ = client.SetDeadline(time.Now().Add(patience))
	got := make([]byte, 4)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "down" {
		t.Fatalf("read %q, %v", got, err)
	}
	_ = server.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := server.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes were heard, %v", n, err)
	}
	if err := b.proxy.Deafen(false); err != nil {
		t.Fatal(err)
	}
	_ = server.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(server, got[:2]); err != nil || string(got[:2]) != "up" {
		t.Errorf("read %q, %v", got[:2], err)
	}
}
