package main

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Whoever gives up while a secret is asked for need not press Enter for it, and sees
// again what is typed after that.
func TestGivenUpAtThePrompt(t *testing.T) {
	screen, keys, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	defer keys.Close()
	before, err := unix.IoctlGetTermios(int(keys.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := readHidden(ctx, streams{in: keys, err: prompt(asked)}, "Key of pump-1")
		ended <- err
	}()
	<-asked
	hidden, err := unix.IoctlGetTermios(int(keys.Fd()), unix.TCGETS)
	if err != nil || hidden.Lflag&unix.ECHO != 0 {
		t.Errorf("while it is asked for, what is typed is shown: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	after, err := unix.IoctlGetTermios(int(keys.Fd()), unix.TCGETS)
	if err != nil || after.Lflag != before.Lflag {
		t.Errorf("the terminal is left with %#x, %v, was %#x", after.Lflag, err, before.Lflag)
	}
	screen.Write([]byte("\n")) // for whoever still reads
}

// prompt tells when the secret is asked for.
type prompt chan struct{}

func (p prompt) Write(text []byte) (int, error) {
	if bytes.Contains(text, []byte(": ")) {
		close(p)
	}
	return len(text), nil
}
