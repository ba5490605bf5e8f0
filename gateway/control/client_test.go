package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A connection that the other end has closed before anything was sent over it, as to a
// caller that a stalling machine has kept from speaking, is replaced by another one. A
// request that may have been heard is not made twice.
func TestAConnectionClosedBeforeTheRequest(t *testing.T) {
	answered := func(far net.Conn) {
		buf := make([]byte, 4096)
		_, _ = far.Read(buf)
		_, _ = io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"count\":1}")
	}
	for _, c := range []struct {
		name    string
		closed  int // connections, before the daemon has read anything
		then    func(far net.Conn)
		dials   int
		succeed bool
	}{
		{"at once", 0, answered, 1, true},
		{"later", attempts - 1, answered, attempts, true},
		{"never", attempts, answered, attempts, false},
		{"heard and not answered", 1, func(far net.Conn) { _, _ = far.Read(make([]byte, 4096)) }, 2, false},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			dials := 0
			client := newClient(func(context.Context) (net.Conn, error) {
				dials++
				near, far := net.Pipe() // a write to a closed one fails
				if dials <= c.closed {
					far.Close()
					return near, nil
				}
				go func() {
					defer far.Close()
					c.then(far)
				}()
				return near, nil
			})
			body, err := client.do(t.Context(), method, "/v1/state", []byte("{}"))
			if (err == nil) != c.succeed || dials != c.dials {
				t.Errorf("%s, %s: %v after %d connections, want %d", c.name, method, err, dials, c.dials)
			}
			if err == nil {
				body.Close()
			}
		}
	}
	nobody := newClient(func(context.Context) (net.Conn, error) { return nil, errors.New("nobody is there") })
	if _, err := nobody.do(t.Context(), http.MethodGet, "/", nil); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "nobody is there") {
		t.Errorf("without a daemon: %v", err)
	}
}

// Root asks a daemon that may have been taken over.
func TestAnEndlessAnswer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	blank := bytes.Repeat([]byte(" "), 1<<20)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = w.Write(blank)
		}
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	defer func() {
		server.Close()
		<-ended
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var state any
	if err := NewClient(socket).State(ctx, &state); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}
