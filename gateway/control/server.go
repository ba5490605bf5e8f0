package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/trace"
)

// DefaultSocket is where the daemon listens and the subcommands call.
const DefaultSocket = "/run/fieldgate/control.sock"

// maxRequest bounds the body of a request, in bytes.
const maxRequest = 1 << 20

// patience is how long a caller may take to say what it wants, and to take what it is
// told, of a list each part: on a machine that stalls both are slow. How many may be inside at a time is the
// doorkeeper's to bound.
const patience = time.Minute

// farewell is how long answers under way may take at the end.
const farewell = time.Second

// Config is the table [control] of the configuration.
type Config struct {
	// Socket is the file of the unix socket, "" for none.
	Socket string `toml:"socket"`
}

// DefaultConfig returns the shipped defaults.
func DefaultConfig() Config { return Config{Socket: DefaultSocket} }

// Validate checks the values. Errors are of type *gateway.KeyError.
func (c *Config) Validate() error {
	// sun_path of unix(7), with its final zero byte.
	if len(c.Socket) > 107 {
		return gateway.BadKey("socket", "is %d bytes long: the path of a socket has at most 107", len(c.Socket))
	}
	return nil
}

// Parts are what a Server serves. All are safe for concurrent use.
type Parts struct {
	// State returns a snapshot that can be written as JSON.
	State func() any
	Shelf gateway.Shelf
	// Backlog is what waits on flash, and Clock says how old it is.
	Backlog gateway.Backlog
	Clock   gateway.Clock
	// EndPause has the hub asked anew about a leaf of which messages were purged.
	EndPause func(leaf string)
	// Replay puts a letter back into its lane, see gateway.Path.
	Replay  func(context.Context, gateway.DeadLetter) error
	Devices Devices
	// Configuration is nil where it cannot be changed.
	Configuration Configuration
	Radio         func() Radio // of nil: no Bluetooth is configured
	Topics        Topics
	// RoundTrip reads a twin from the hub, not the copy kept here, and says whose.
	// Errors are those of gateway.HubTwins.
	// ErrNotFound says that there is nobody with a twin.
	RoundTrip func(context.Context) (device string, err error)
	// ProbeStore writes something to flash, synced, and reads it back.
	ProbeStore func() error
	// Window lets new leaves pair. Invite makes of its code what a QR code says.
	Window    *pairing.Window
	Invite    func(pairing.Code) string
	Authority Authority
	// ReloadCertificates reads those of listeners anew, all or none, and says by their
	// addresses in which files they are.
	ReloadCertificates func() (shown map[string]string, err error)
	// Events returns the last warnings, the oldest first.
	Events func() []Event
	// Records returns the lines of the log with numbers above one, the oldest first.
	Records func(after uint64) []Record
	// Message returns what is known of a message, by its id.
	Message func(id string) (trace.Message, bool)
	Log     *slog.Logger
}

// Server answers operators.
type Server struct {
	cfg Config
	Parts
	local chan struct{} // one element for each caller that waits for a leaf

	looks chan struct{} // one element for each caller that looks at the backlog

	questions atomic.Int64 // that pairings have asked
	answers   chan Answer  // to the one of the pairing under way
}

// New makes a server; cfg must be valid.
func New(cfg Config, p Parts) *Server {
	return &Server{cfg: cfg, Parts: p, local: make(chan struct{}, maxLocal), looks: make(chan struct{}, maxLooks), answers: make(chan Answer)}
}

// Run serves until ctx ends. A socket that cannot be had is said loudly, but is
// no reason to stop taking messages.
func (s *Server) Run(ctx context.Context) error {
	l, err := listen(ctx, s.cfg.Socket)
	if err != nil {
		s.Log.Error("operators cannot reach the daemon", "socket", s.cfg.Socket, "error", err)
		<-ctx.Done()
		return nil
	}
	s.Log.Info("listening", "for", "control", "socket", s.cfg.Socket)
	l = &doorkeeper{Listener: l, inside: make(map[string]int)}
	server := &http.Server{
		Handler:        s.handler(),
		ConnContext:    withAccess,
		ReadTimeout:    patience, // also of the header, from the moment in which the caller was let in
		WriteTimeout:   patience,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		// Whoever has asked for the end is to be answered.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_ = server.Shutdown(last)
		_ = server.Close()
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-closed
	return nil
}

// listen opens the socket for everybody: what counts is who calls. One that a
// dead daemon left behind is replaced.
func listen(ctx context.Context, file string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(file); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s is there and no socket", file)
		}
		var d net.Dialer
		if c, err := d.DialContext(ctx, "unix", file); err == nil {
			c.Close()
			return nil, fmt.Errorf("%s is served by another daemon", file)
		}
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	var binding net.ListenConfig
	l, err := binding.Listen(ctx, "unix", file)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(file, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", s.may(reading, s.state))
	mux.HandleFunc("GET /v1/events", s.may(reading, s.events))
	mux.HandleFunc("GET /v1/logs", s.may(reading, s.records))
	mux.HandleFunc("GET /v1/messages/{id}", s.may(reading, s.message))
	mux.HandleFunc("POST /v1/round-trip", s.may(reading, s.roundTrip))
	mux.HandleFunc("GET /v1/dead-letters", s.may(reading, s.list))
	mux.HandleFunc("GET /v1/dead-letters/export", s.may(reading, s.export))
	mux.HandleFunc("POST /v1/dead-letters/replay", s.may(changing, s.replay))
	mux.HandleFunc("POST /v1/dead-letters/purge", s.may(changing, s.purge))
	mux.HandleFunc("GET /v1/store/messages", s.may(reading, s.look(s.waiting)))
	mux.HandleFunc("GET /v1/store/verify", s.may(reading, s.look(s.verify)))
	mux.HandleFunc("POST /v1/store/probe", s.may(changing, s.probeStore))
	mux.HandleFunc("POST /v1/store/purge", s.may(changing, s.look(s.purgeBacklog)))
	if s.Configuration != nil {
		mux.HandleFunc("POST /v1/config", s.may(changing, s.apply))
		mux.HandleFunc("GET /v1/config/revisions", s.may(reading, s.revisions))
		mux.HandleFunc("GET /v1/config/revisions/{number}", s.may(changing, s.revisionFiles)) // there may be secrets in them
	}
	mux.HandleFunc("GET /v1/devices", s.may(reading, s.listDevices))
	mux.HandleFunc("GET /v1/devices/{id}", s.may(reading, s.showDevice))
	mux.HandleFunc("POST /v1/devices", s.may(changing, s.addDevice))
	mux.HandleFunc("PATCH /v1/devices/{id}", s.may(changing, s.alterDevice))
	mux.HandleFunc("DELETE /v1/devices/{id}", s.may(changing, s.removeDevice))
	mux.HandleFunc("GET /v1/devices/{id}/messages", s.may(reading, s.messages))
	mux.HandleFunc("POST /v1/devices/{id}/approve", s.may(changing, s.approve))
	mux.HandleFunc("POST /v1/devices/{id}/reject", s.may(changing, s.reject))
	mux.HandleFunc("GET /v1/pairing", s.may(reading, s.windowState))
	mux.HandleFunc("POST /v1/pairing", s.may(changing, s.openWindow))
	mux.HandleFunc("DELETE /v1/pairing", s.may(changing, s.closeWindow))
	mux.HandleFunc("POST /v1/pairing/claim", s.may(changing, s.claim))
	mux.HandleFunc("POST /v1/pairing/wrong", s.may(changing, s.wrongProof))
	mux.HandleFunc("GET /v1/pairing/code", s.may(changing, s.windowCode))
	mux.HandleFunc("GET /v1/authority", s.may(reading, s.authority))
	mux.HandleFunc("POST /v1/authority/rotate", s.may(changing, s.rotateAuthority))
	mux.HandleFunc("POST /v1/certificates/reload", s.may(changing, s.reloadCertificates))
	mux.HandleFunc("GET /v1/devices/{id}/twin", s.may(reading, s.twin))
	mux.HandleFunc("POST /v1/devices/{id}/methods/{method}", s.may(changing, s.callMethod))
	mux.HandleFunc("POST /v1/devices/{id}/commands", s.may(changing, s.sendCommand))
	mux.HandleFunc("POST /v1/devices/{id}/publications", s.may(changing, s.publish))
	mux.HandleFunc("GET /v1/publications", s.may(reading, s.listen))
	mux.HandleFunc("GET /v1/ble/devices", s.may(changing, s.scanRadio)) // it keeps the radio busy
	mux.HandleFunc("POST /v1/ble/pair", s.may(changing, s.pairRadio))
	mux.HandleFunc("POST /v1/ble/answer", s.may(changing, s.answerRadio))
	mux.HandleFunc("POST /v1/ble/forget", s.may(changing, s.forgetRadio))
	return mux
}

// may serves only those who may.
func (s *Server) may(need access, serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, _ := r.Context().Value(accessKey{}).(peer)
		if p.access >= need {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			serve(w, r)
			return
		}
		group := ReadGroup
		if need == changing {
			group = AdminGroup
		}
		s.Log.Warn("refused an operator", "event", "operator-refused", "who", p.who, "method", r.Method, "path", r.URL.Path)
		refuse(w, http.StatusForbidden, "%s is neither root nor the daemon's user nor in group %s", p.who, group)
	}
}

func (s *Server) state(w http.ResponseWriter, _ *http.Request) { answer(w, s.State()) }

func (s *Server) events(w http.ResponseWriter, _ *http.Request) {
	answer(w, append([]Event{}, s.Events()...))
}

func (s *Server) records(w http.ResponseWriter, r *http.Request) {
	after := uint64(0)
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			refuse(w, http.StatusBadRequest, "after=%q is no number of a line", text)
			return
		}
	}
	all := s.Records(after)
	if leaf := r.URL.Query().Get("leaf"); leaf != "" {
		all = slices.DeleteFunc(all, func(x Record) bool { return x.Leaf != leaf })
	}
	answer(w, append([]Record{}, all...))
}

func (s *Server) message(w http.ResponseWriter, r *http.Request) {
	m, ok := s.Message(r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusNotFound, "it is not among the last %d messages since the start of the daemon", trace.Messages)
		return
	}
	answer(w, m)
}

// roundTrip is bounded as calls of leaves are.
func (s *Server) roundTrip(w http.ResponseWriter, r *http.Request) {
	select {
	case s.local <- struct{}{}:
		defer func() { <-s.local }()
	default:
		refuse(w, http.StatusTooManyRequests, "%d callers wait already", maxLocal)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // see begin
	ctx, cancel := context.WithTimeout(r.Context(), DefaultTimeout)
	defer cancel()
	begin := time.Now()
	device, err := s.RoundTrip(ctx)
	if err == nil {
		answer(w, Trip{Device: device, Seconds: time.Since(begin).Seconds()})
		return
	}
	status := http.StatusBadGateway
	if errors.Is(err, ErrNotFound) {
		status = http.StatusNotFound
	} else if e, ok := errors.AsType[*gateway.TwinError](err); ok && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden) {
		status = http.StatusFailedDependency
	}
	refuse(w, status, "%v", err)
}

func (s *Server) probeStore(w http.ResponseWriter, _ *http.Request) {
	if err := s.ProbeStore(); err != nil {
		refuse(w, storeStatus(err), "%v", err)
		return
	}
	answer(w, struct{}{})
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	letters := []Letter{}
	err := s.Shelf.DeadLetters(func(d gateway.DeadLetter) bool {
		letters = append(letters, letterOf(d))
		return true
	})
	if err != nil {
		refuse(w, storeStatus(err), "%v", err)
		return
	}
	answer(w, letters)
}

// export writes one letter after the other: all of them need not fit in memory.
func (s *Server) export(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/jsonl")
	out := json.NewEncoder(w)
	var broken error
	err := s.Shelf.DeadLetters(func(d gateway.DeadLetter) bool {
		broken = out.Encode(fullLetterOf(d))
		return broken == nil
	})
	if err = errors.Join(err, broken); err != nil {
		s.Log.Warn("export of dead letters ended early", "error", err)
		panic(http.ErrAbortHandler) // so that the client sees it too
	}
}

// chosen reads a selection and returns the letters it names.
func (s *Server) chosen(w http.ResponseWriter, r *http.Request) (numbers []uint64, ok bool) {
	var pick Selection
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&pick); err != nil || pick.All == (len(pick.Numbers) > 0) {
		refuse(w, http.StatusBadRequest, "select letters by number, or all")
		return nil, false
	}
	err := s.Shelf.DeadLetters(func(d gateway.DeadLetter) bool {
		if pick.All || slices.Contains(pick.Numbers, d.Number) {
			numbers = append(numbers, d.Number)
		}
		return true
	})
	if err != nil {
		refuse(w, storeStatus(err), "%v", err)
		return nil, false
	}
	for _, n := range pick.Numbers {
		if !slices.Contains(numbers, n) {
			refuse(w, http.StatusNotFound, "there is no dead letter %d", n)
			return nil, false
		}
	}
	return numbers, true
}

func (s *Server) purge(w http.ResponseWriter, r *http.Request) {
	numbers, ok := s.chosen(w, r)
	if !ok {
		return
	}
	n, err := s.Shelf.DropDeadLetters(numbers...)
	if err != nil {
		refuse(w, storeStatus(err), "%v", err)
		return
	}
	s.Log.Warn("operator purged dead letters", "count", n)
	answer(w, Result{Count: n})
}

// replay puts letters back in the order in which the hub refused them. A letter
// leaves the shelf when custody has it: a crash between makes a duplicate.
func (s *Server) replay(w http.ResponseWriter, r *http.Request) {
	numbers, ok := s.chosen(w, r)
	if !ok {
		return
	}
	// A slow hub may take as long as spill_after for each.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	count := 0
	var failed error
	err := s.Shelf.DeadLetters(func(d gateway.DeadLetter) bool {
		if !slices.Contains(numbers, d.Number) {
			return true
		}
		if failed = r.Context().Err(); failed == nil {
			failed = s.Replay(r.Context(), d)
		}
		if failed == nil {
			_, failed = s.Shelf.DropDeadLetters(d.Number)
		}
		if failed != nil {
			failed = fmt.Errorf("letter %d: %w", d.Number, failed)
			return false
		}
		count++
		return true
	})
	if err = errors.Join(failed, err); err != nil {
		refuse(w, storeStatus(err), "%d of %d are back in their lanes; %v", count, len(numbers), err)
		return
	}
	s.Log.Info("operator replayed dead letters", "count", count)
	answer(w, Result{Count: count})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that has gone needs no answer
}

func refuse(w http.ResponseWriter, code int, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(Problem{Error: fmt.Sprintf(format, args...)})
}
