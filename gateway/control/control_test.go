package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhoMayDoWhat(t *testing.T) {
	ids := map[string]string{ReadGroup: "50", AdminGroup: "51"}
	group := func(name string) string { return ids[name] }
	none := func(string) string { return "" }
	for _, c := range []struct {
		name   string
		uid    uint32
		groups []string
		group  func(string) string
		want   access
	}{
		{"root", 0, nil, none, changing},
		{"the daemon's user", 7, nil, none, changing},
		{"an admin", 1000, []string{"1000", "51"}, group, changing},
		{"both groups", 1000, []string{"50", "51"}, group, changing},
		{"a reader", 1000, []string{"1000", "50"}, group, reading},
		{"a stranger", 1000, []string{"1000"}, group, nothing},
		{"no such groups here", 1000, []string{"", "50", "51"}, none, nothing},
	} {
		if got := judge(&unix.Ucred{Uid: c.uid}, c.groups, 7, c.group); got != c.want {
			t.Errorf("%s: may %d, want %d", c.name, got, c.want)
		}
	}
}

func serve(t *testing.T, socket string) {
	t.Helper()
	s := New(Config{Socket: socket}, Parts{
		State:  func() any { return 7 },
		Events: func() []Event { return []Event{{Message: "lost", Leaf: "pump-1", Count: 2}} },
		Log:    slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// state asks until a daemon answers.
func state(t *testing.T, socket string) (n int) {
	t.Helper()
	for {
		err := NewClient(socket).State(t.Context(), &n)
		if err == nil {
			return n
		}
		if !errors.Is(err, ErrNotRunning) {
			t.Fatal(err)
		}
	}
}

func TestStateOverTheSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sub", "s")
	if err := NewClient(socket).State(t.Context(), new(int)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("without a daemon: %v", err)
	}
	serve(t, socket)
	if n := state(t, socket); n != 7 {
		t.Errorf("state %d, want 7", n)
	}
	if e, err := NewClient(socket).Events(t.Context()); err != nil || len(e) != 1 || e[0].Leaf != "pump-1" || e[0].Count != 2 {
		t.Errorf("events %+v, %v", e, err)
	}
	if _, err := listen(t.Context(), socket); err == nil {
		t.Error("took the socket of a daemon that serves")
	}
}

func TestSocketOfADeadDaemonIsReplaced(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	serve(t, socket)
	state(t, socket)
}

func TestAFileIsNotReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(file, []byte("diary"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), file); err == nil {
		t.Error("replaced a file that is no socket")
	}
}
