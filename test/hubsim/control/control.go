// Package control works a running hubsim over a unix socket in the hub's
// directory: its switches, counts and arrivals, and a service's everyday acts. It
// is HTTP and JSON, for people, scripts and tests; nothing of it exists on a real
// hub.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// socketName is the socket's name in the hub's directory.
const socketName = "control.sock"

// Listen takes dir for one hub: it is refused while another serves there. What
// is asked through it before Serve waits. The caller closes it, or lets Serve.
func Listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, socketName)
	if other, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("a hub serves in %q already: end it, or give --dir another directory", dir), other.Close())
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// What is left belongs to a hub that was killed.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

// Serve offers the switches of hub on what Listen returned until ctx ends, and
// closes it.
func Serve(ctx context.Context, listener net.Listener, hub *hubsim.Hub) error {
	server := &http.Server{
		Handler:           handler(hub),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	<-ctx.Done()
	err := server.Close()
	<-ended
	return err
}

func handler(hub *hubsim.Hub) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /fault/{name}", func(w http.ResponseWriter, r *http.Request) {
		text, err := pull(hub, r.PathValue("name"), r.URL.Query()["arg"])
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, text)
	})
	actions(mux, hub)
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(hub.Stats()) // a reader that is gone needs no answer
	})
	mux.HandleFunc("GET /arrivals", func(w http.ResponseWriter, r *http.Request) {
		out := json.NewEncoder(w)
		arrivals := hub.Arrivals()
		follow := r.URL.Query().Has("follow")
		if follow {
			arrivals = hub.Watch(r.Context(), hub.Stats().Messages)
			_ = http.NewResponseController(w).Flush()
		}
		for a := range arrivals {
			if out.Encode(a) != nil {
				return
			}
			if follow {
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
	return mux
}
