package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeDaemon answers on a control socket as a daemon in some state does.
type fakeDaemon struct {
	mu     sync.Mutex
	state  state
	twin   int // status of a round trip
	probe  int // status of a probe of the store
	socket string
}

func newFakeDaemon(t *testing.T) *fakeDaemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "daemon") // short: the path of a socket has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeDaemon{socket: socket}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		json.NewEncoder(w).Encode(f.state)
	})
	answer := func(w http.ResponseWriter, status int) {
		w.WriteHeader(status)
		w.Write([]byte(`{"error": "so it is"}`))
	}
	mux.HandleFunc("POST /v1/round-trip", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		answer(w, f.twin)
	})
	mux.HandleFunc("POST /v1/store/probe", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		answer(w, f.probe)
	})
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return f
}

// Whether a start was good: what the daemon says, what was before, and what is said of
// it then.
func TestStartIsProven(t *testing.T) {
	rauc, daemon := newFakeRAUC(t), newFakeDaemon(t)
	rauc.socket = daemon.socket
	config := filepath.Join(t.TempDir(), "fieldgate.toml")
	t.Setenv("FIELDGATE_CONFIG", config)
	const taken, up, down = "taken", "up", "down"
	for name, c := range map[string]struct {
		unconfigured, confirmed bool
		hub                     string // taken: a message; up: connected, nothing taken
		twin, probe             int
		before                  string // note of the installation
		reached                 string
		code                    int
		says                    string
	}{
		"a message was taken": {hub: taken, before: "1.3.0 up", reached: "hub", code: exitOK, says: "confirmed: the hub has taken a message"},
		"a twin was read":     {hub: up, twin: 200, before: "1.3.0 up", reached: "hub", code: exitOK, says: "confirmed: the hub answers"},
		"connected, but the hub answers nothing": {
			hub: up, twin: 502, before: "1.3.0 up", reached: "hub", code: exitTimedOut, says: "the hub does not answer",
		},
		"a hub that cannot be asked": {hub: up, twin: 404, before: "1.3.0 up", reached: "hub", code: exitOK, says: "confirmed: the hub is connected, and nobody has sent"},
		"the hub was reached before the installation": {
			hub: down, probe: 200, before: "1.3.0 up", reached: "hub", code: exitTimedOut, says: "the hub is not reached",
		},
		"the hub was away before": {hub: down, probe: 200, before: "1.3.0 down", reached: "hub", code: exitOK, says: "kept on flash"},
		"away before, but nothing can be kept": {
			hub: down, probe: 500, before: "1.3.0 down", reached: "hub", code: exitTimedOut, says: "nothing can be kept on flash: so it is",
		},
		"the note is of another version": {hub: down, probe: 200, before: "1.2.0 down", reached: "hub", code: exitTimedOut, says: "the hub is not reached"},
		"nobody has noted anything":      {hub: down, probe: 200, reached: "hub", code: exitTimedOut, says: "the hub is not reached"},
		"the hub was never reached":      {hub: down, probe: 200, code: exitOK, says: "kept on flash"},
		"good before, the hub away":      {confirmed: true, hub: down, before: "1.3.0 up", reached: "hub", code: exitOK, says: "proven good before"},
		"no configuration":               {unconfigured: true, hub: down, code: exitOK, says: "no configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			for note, text := range map[string]string{noteBefore: c.before, noteReached: c.reached, "confirmed-A": map[bool]string{true: "1.3.0 "}[c.confirmed]} {
				if err := os.WriteFile(filepath.Join(rauc.kept, note), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			os.Remove(config)
			if !c.unconfigured {
				if err := os.WriteFile(config, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			rauc.set(func() { rauc.marked = nil })
			daemon.mu.Lock()
			daemon.state, daemon.twin, daemon.probe = state{}, c.twin, c.probe
			daemon.state.Uplink.Hub, daemon.state.Uplink.Connected = "hub", c.hub != down
			if c.hub == taken {
				daemon.state.Uplink.LastAccepted = time.Now()
			}
			daemon.mu.Unlock()
			out, said, code := rauc.run(t, "mark-good", "--await", "1ms")
			if code != c.code || !strings.Contains(out+said, c.says) {
				t.Errorf("%d, want %d and %q\n%s%s", code, c.code, c.says, out, said)
			}
			rauc.set(func() {
				if marked := len(rauc.marked) == 1; marked != (c.code == exitOK) {
					t.Errorf("marked %q", rauc.marked)
				}
			})
			if reached, _ := os.ReadFile(filepath.Join(rauc.kept, noteReached)); c.reached == "" && c.hub == down && len(reached) > 0 {
				t.Errorf("the hub is remembered as reached: %q", reached)
			}
		})
	}
}

// A daemon that does not run proves nothing, however long it is waited for.
func TestStartWithoutDaemon(t *testing.T) {
	rauc := newFakeRAUC(t)
	rauc.socket = filepath.Join(t.TempDir(), "nobody")
	config := filepath.Join(t.TempDir(), "fieldgate.toml")
	t.Setenv("FIELDGATE_CONFIG", config)
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, said, code := rauc.run(t, "mark-good", "--await", "1ms"); code != exitTimedOut || !strings.Contains(said, "the daemon does not answer") {
		t.Errorf("%d\n%s%s", code, out, said)
	}
	rauc.set(func() {
		if len(rauc.marked) > 0 {
			t.Errorf("marked %q", rauc.marked)
		}
	})
}

// What is installed is judged by how the hub was when it was.
func TestInstallNotesTheHub(t *testing.T) {
	rauc, daemon := newFakeRAUC(t), newFakeDaemon(t)
	rauc.socket = daemon.socket
	file := filepath.Join(t.TempDir(), "bundle")
	if err := os.WriteFile(file, []byte("signed 1.5.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	for connected, want := range map[bool]string{true: "1.5.0 up", false: "1.5.0 down"} {
		daemon.mu.Lock()
		daemon.state.Uplink.Connected = connected
		daemon.mu.Unlock()
		if out, said, code := rauc.run(t, "install", file); code != exitOK {
			t.Fatalf("%d\n%s%s", code, out, said)
		}
		if note, err := os.ReadFile(filepath.Join(rauc.kept, noteBefore)); string(note) != want {
			t.Errorf("noted %q, %v, want %q", note, err, want)
		}
	}
}
