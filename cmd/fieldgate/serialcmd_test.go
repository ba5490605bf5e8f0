package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A port that is plugged in is seen, and so is one that is pulled out.
func TestWatchPorts(t *testing.T) {
	root := t.TempDir()
	plug := func(name string) {
		if err := os.MkdirAll(filepath.Join(root, "sys/class/tty", name, "device"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	plug("ttyS1")
	ctx, cancel := context.WithCancel(t.Context())
	var out writer
	ended := make(chan error, 1)
	go func() { ended <- watchPorts(ctx, &out, &ports{root: root, file: "none"}, 0) }()
	says := func(line string) {
		t.Helper()
		for limit := time.Now().Add(time.Minute); !slices.Contains(out.lines(), line+"\n"); time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("it does not say %q, but %q", line, out.lines())
			}
		}
	}
	says("= /dev/ttyS1 /dev/ttyS1")
	plug("ttyS2")
	says("+ /dev/ttyS2 /dev/ttyS2")
	if err := os.RemoveAll(filepath.Join(root, "sys/class/tty/ttyS1")); err != nil {
		t.Fatal(err)
	}
	says("- /dev/ttyS1 /dev/ttyS1")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
