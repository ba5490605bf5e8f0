// Package control works the switches of a running hubsim over a unix socket in
// the hub's directory: faults, counts and arrivals. It is HTTP and JSON, for
// people, scripts and tests; nothing of it exists on a real hub.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// socketName is the socket's name in the hub's directory.
const socketName = "control.sock"

// Fault is one switch of the hub.
type Fault struct {
	Name string
	Args []string // names of its arguments, all required
	Help string
	do   func(h *hubsim.Hub, args []string) (string, error)
}

// Faults are all switches, in the order of help texts.
var Faults = []Fault{
	{"cut", nil, "stop all traffic without closing a socket; new connections hang", func(h *hubsim.Hub, _ []string) (string, error) {
		h.Cut()
		return "", nil
	}},
	{"restore", nil, "end cut; the sockets of before are closed", func(h *hubsim.Hub, _ []string) (string, error) {
		h.Restore()
		return "", nil
	}},
	{"reset", nil, "close all sockets with RST", func(h *hubsim.Hub, _ []string) (string, error) {
		return count(h.Reset(), "connection"), nil
	}},
	{"detach", []string{"DEVICE", "CONDITION"}, "detach the device's links with an AMQP condition", func(h *hubsim.Hub, a []string) (string, error) {
		return count(h.DetachLink(a[0], a[1]), "link"), nil
	}},
	{"end-session", []string{"DEVICE"}, "end the sessions that carry the device's links", func(h *hubsim.Hub, a []string) (string, error) {
		return count(h.EndSession(a[0]), "link"), nil
	}},
	{"slow-settle", []string{"DURATION"}, "settle telemetry only after this time; 0s ends it", func(h *hubsim.Hub, a []string) (string, error) {
		d, err := time.ParseDuration(a[0])
		if err == nil {
			h.SlowSettle(d)
		}
		return "", err
	}},
	{"settle-never", []string{"on|off"}, "take telemetry and never settle it", onOff(0, func(h *hubsim.Hub, _ []string, on bool) {
		h.SettleNever(on)
	})},
	{"refuse-token", []string{"DEVICE", "on|off"}, "answer the device's put-token with 401", onOff(1, func(h *hubsim.Hub, a []string, on bool) {
		h.RefuseToken(a[0], on)
	})},
	{"reject", []string{"DEVICE", "CONDITION", "N"}, "reject the device's next N telemetry transfers", func(h *hubsim.Hub, a []string) (string, error) {
		n, err := strconv.Atoi(a[2])
		if err == nil {
			h.Reject(a[0], a[1], n)
		}
		return "", err
	}},
	{"throttle", []string{"on|off"}, "answer 429 and amqp:resource-limit-exceeded", onOff(0, func(h *hubsim.Hub, _ []string, on bool) {
		h.Throttle(on)
	})},
	{"enable", []string{"DEVICE"}, "enable a device", setEnabled(true)},
	{"disable", []string{"DEVICE"}, "disable a device, at once on live connections too", setEnabled(false)},
}

func onOff(arg int, set func(h *hubsim.Hub, args []string, on bool)) func(*hubsim.Hub, []string) (string, error) {
	return func(h *hubsim.Hub, args []string) (string, error) {
		if args[arg] != "on" && args[arg] != "off" {
			return "", fmt.Errorf("%q: write on or off", args[arg])
		}
		set(h, args, args[arg] == "on")
		return "", nil
	}
}

func setEnabled(enabled bool) func(*hubsim.Hub, []string) (string, error) {
	return func(h *hubsim.Hub, a []string) (string, error) {
		if !h.SetEnabled(a[0], enabled) {
			return "", fmt.Errorf("there is no device %q", a[0])
		}
		return "", nil
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// FindFault returns the switch of that name.
func FindFault(name string) (Fault, bool) {
	i := slices.IndexFunc(Faults, func(f Fault) bool { return f.Name == name })
	if i < 0 {
		return Fault{}, false
	}
	return Faults[i], true
}

// Serve offers the switches of hub in dir until ctx ends.
func Serve(ctx context.Context, dir string, hub *hubsim.Hub) error {
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           handler(hub),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	<-ctx.Done()
	err = server.Close()
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

// pull works one switch and returns what it did, in words.
func pull(hub *hubsim.Hub, name string, args []string) (string, error) {
	f, ok := FindFault(name)
	if !ok {
		return "", fmt.Errorf("there is no fault %q", name)
	}
	if len(args) != len(f.Args) {
		return "", fmt.Errorf("fault %s wants %d arguments (%s), not %d", name, len(f.Args), strings.Join(f.Args, " "), len(args))
	}
	did, err := f.do(hub, args)
	if err != nil {
		return "", fmt.Errorf("fault %s: %w", name, err)
	}
	return strings.TrimSpace(name + " " + strings.Join(args, " ") + " " + did), nil
}

// Client works the switches of the hub that serves in a directory. Safe for
// concurrent use.
type Client struct{ http http.Client }

// NewClient makes a client for the hub in dir. It connects when it is used.
func NewClient(dir string) *Client {
	path := filepath.Join(dir, socketName)
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}}
}

// Fault works a switch and returns what it did, in words.
func (c *Client) Fault(ctx context.Context, name string, args ...string) (string, error) {
	body, err := c.do(ctx, http.MethodPost, "/fault/"+url.PathEscape(name)+"?"+url.Values{"arg": args}.Encode())
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	return strings.TrimSpace(string(text)), err
}

// Stats returns the hub's counts.
func (c *Client) Stats(ctx context.Context) (hubsim.Stats, error) {
	var s hubsim.Stats
	body, err := c.do(ctx, http.MethodGet, "/stats")
	if err != nil {
		return s, err
	}
	defer body.Close()
	return s, json.NewDecoder(body).Decode(&s)
}

// Arrivals calls use for everything that has arrived, in order; with follow
// only for what arrives from now on, until ctx ends or use returns an error.
func (c *Client) Arrivals(ctx context.Context, follow bool, use func(hubsim.Arrival) error) error {
	path := "/arrivals"
	if follow {
		path += "?follow"
	}
	body, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer body.Close()
	in := json.NewDecoder(body)
	for {
		var a hubsim.Arrival
		switch err := in.Decode(&a); {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := use(a); err != nil {
			return err
		}
	}
}

func (c *Client) do(ctx context.Context, method, path string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://hubsim"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("hubsim does not answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // the status says enough without it
		return nil, fmt.Errorf("hubsim: %s", strings.TrimSpace(string(text)))
	}
	return resp.Body, nil
}
