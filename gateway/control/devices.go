package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Devices are the leaves, as programs on this machine reach them, with the hub and
// without. Safe for concurrent use.
type Devices interface {
	// Devices lists all admitted leaves, in the order of their ids.
	Devices() []Device

	// Admit adds a leaf, for good. The error wraps ErrConflict if there is one of that
	// name already.
	Admit(ctx context.Context, a Admission) (Admitted, error)

	// Alter changes a leaf. The error wraps ErrNotFound or ErrConflict, or says what
	// went wrong on the way.
	Alter(ctx context.Context, leaf string, a Alteration) error

	// Dismiss forgets a leaf. When it returns the leaf is out, unless the error says
	// otherwise; that wraps ErrConflict if it is for the operator to do.
	Dismiss(ctx context.Context, leaf string) error

	// Call calls a method of a leaf. Errors are those of gateway.DownHandler.
	Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error)

	// Send sends a command to a leaf. Errors are those of gateway.Down.
	Send(ctx context.Context, c *gateway.Command) (gateway.Verdict, error)

	// Messages returns the last messages of a leaf, the oldest first.
	Messages(leaf string) []Passage

	// Look reads the twin of a leaf, and says how old it is. Errors are those of
	// gateway.Twins.
	Look(ctx context.Context, leaf string) (document []byte, age time.Duration, err error)
}

// Device is what is known of a leaf.
type Device struct {
	ID          string    `json:"id"`
	State       string    `json:"state"`       // connected, asleep, away or disabled
	Connections int       `json:"connections"` // over MQTT
	Auth        string    `json:"auth"`        // how it is proven to the hub
	Listens     []string  `json:"listens"`     // to commands, methods, desired
	LastSeen    time.Time `json:"last_seen,omitzero"`
	Hub         string    `json:"hub"`                  // the hub's last word on it: HubTakes and so on
	Refused     string    `json:"refused,omitempty"`    // why the hub does not take it
	RetryAt     time.Time `json:"retry_at,omitzero"`    // when the hub is asked again
	Parked      bool      `json:"parked"`               // its messages wait on flash for that
	SendsOnly   string    `json:"sends_only,omitempty"` // why nothing can be sent to it, "" where that is not so
}

// The hub's last word on a leaf, since the start or the last change of how leaves are
// proven.
const (
	HubTakes       = "ok"
	HubRefuses     = "refused"
	HubUnasked     = "unasked"        // there was nothing yet to ask it about
	HubEnrols      = "waits-enrolled" // it is to be enrolled first
	HubAwaitsToken = "waits-token"    // the leaf is to bring a token first
)

// Passage is one message of a leaf on its way to the hub, or to the leaf.
type Passage struct {
	Time         time.Time `json:"time"`              // when it came
	Direction    string    `json:"direction"`         // FromLeaf or ToLeaf
	Lane         string    `json:"lane"`              // to a leaf: command, method or twin
	Channel      string    `json:"channel,omitempty"` // to a leaf: the name of the command or method; desired
	Bytes        int       `json:"bytes"`             // of the body
	Excerpt      []byte    `json:"excerpt"`
	MessageID    string    `json:"message_id,omitempty"`
	Fate         string    `json:"fate"`          // waiting, taken or refused
	Why          string    `json:"why,omitempty"` // it is refused; with what status a method was answered
	Milliseconds float64   `json:"milliseconds"`  // from its coming to its acknowledgement
}

// Directions of messages.
const (
	FromLeaf = "from"
	ToLeaf   = "to"
)

// The fates of a message, as far as the leaf is concerned.
const (
	FateWaiting = "waiting" // it is not acknowledged yet
	FateTaken   = "taken"   // in custody or settled by the hub, or dropped by a module
	FateRefused = "refused" // not taken, and so not acknowledged
)

// Twin is the twin of a leaf.
type Twin struct {
	// AgeSeconds is how old it is: 0 from the hub just now, more from the copy kept
	// here, null when that cannot be told.
	AgeSeconds *float64        `json:"age_seconds"`
	Twin       json.RawMessage `json:"twin"`
}

// Command is a command for a leaf.
type Command struct {
	Body        []byte            `json:"body"`           // Base64
	Text        string            `json:"text,omitempty"` // in the place of body
	Properties  map[string]string `json:"properties,omitempty"`
	ContentType string            `json:"content_type,omitempty"`
	MessageID   string            `json:"message_id,omitempty"`
}

// Word is the leaf's word on a command: completed, rejected or abandoned.
type Word struct {
	Verdict string `json:"verdict"`
}

// Reply is the leaf's answer to a method.
type Reply struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"` // null for none
}

const (
	// maxLocal is how many local calls and commands are under way at a time.
	maxLocal = 64
	// MaxTimeout bounds how long a caller may wait, as at the hub (wire contract,
	// section 5.8), and DefaultTimeout is how long one does who does not say.
	MaxTimeout     = 300 * time.Second
	DefaultTimeout = 30 * time.Second
	// MaxCommand and MaxCall bound what is sent, as the hub does, in bytes (wire
	// contract, section 6.2).
	MaxCommand = 64 << 10
	MaxCall    = 128 << 10
)

// device returns the leaf of the path; it answers if there is none.
func (s *Server) device(w http.ResponseWriter, r *http.Request) (d Device, ok bool) {
	id := r.PathValue("id")
	for _, d := range s.Devices.Devices() {
		if d.ID == id {
			return d, true
		}
	}
	refuse(w, http.StatusNotFound, "there is no leaf %q", id)
	return Device{}, false
}

func (s *Server) listDevices(w http.ResponseWriter, _ *http.Request) {
	answer(w, append([]Device{}, s.Devices.Devices()...))
}

func (s *Server) showDevice(w http.ResponseWriter, r *http.Request) {
	if d, ok := s.device(w, r); ok {
		answer(w, d)
	}
}

func (s *Server) messages(w http.ResponseWriter, r *http.Request) {
	if d, ok := s.device(w, r); ok {
		answer(w, append([]Passage{}, s.Devices.Messages(d.ID)...))
	}
}

func (s *Server) twin(w http.ResponseWriter, r *http.Request) {
	d, ok := s.device(w, r)
	if !ok {
		return
	}
	document, age, err := s.Devices.Look(r.Context(), d.ID)
	if err != nil {
		status := http.StatusServiceUnavailable
		if e, ok := errors.AsType[*gateway.TwinError](err); ok {
			status = e.Status
		} else if errors.Is(err, gateway.ErrNoTwin) {
			status = http.StatusNotFound
		}
		refuse(w, status, "%v", err)
		return
	}
	t := Twin{Twin: document}
	if age >= 0 {
		seconds := age.Seconds()
		t.AgeSeconds = &seconds
	}
	answer(w, t)
}

// begin prepares a request that waits for a leaf: its time, a place, and the
// connection's patience. It answers if it cannot; else end is to be called.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) (ctx context.Context, d Device, end func(), ok bool) {
	if d, ok = s.device(w, r); !ok {
		return nil, d, nil, false
	}
	limit := DefaultTimeout
	if text := r.URL.Query().Get("timeout"); text != "" {
		var err error
		if limit, err = time.ParseDuration(text); err != nil || limit <= 0 || limit > MaxTimeout {
			refuse(w, http.StatusBadRequest, "the time-out %q is none: write one up to %v, like 30s", text, MaxTimeout)
			return nil, d, nil, false
		}
	}
	select {
	case s.local <- struct{}{}:
	default:
		refuse(w, http.StatusTooManyRequests, "%d callers wait for leaves already", maxLocal)
		return nil, d, nil, false
	}
	patient(w, limit)
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	return ctx, d, func() { cancel(); <-s.local }, true
}

// readBody reads a body of at most so many bytes; it answers if it cannot.
func readBody(w http.ResponseWriter, r *http.Request, most int64) (body []byte, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "cannot read what is to be sent, at most %d bytes: %v", most, err)
	}
	return body, err == nil
}

func (s *Server) callMethod(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r, MaxCall)
	if !ok {
		return
	}
	if len(body) > 0 && !json.Valid(body) {
		refuse(w, http.StatusBadRequest, "the payload is no JSON")
		return
	}
	ctx, d, end, ok := s.begin(w, r)
	if !ok {
		return
	}
	defer end()
	reply, err := s.Devices.Call(ctx, &gateway.Call{Leaf: d.ID, Name: r.PathValue("method"), ID: "local", Body: body})
	if err != nil {
		refuseLocal(w, d, "methods", err)
		return
	}
	out := Reply{Status: reply.Status, Payload: reply.Body}
	if len(out.Payload) == 0 || !json.Valid(out.Payload) {
		out.Payload, _ = json.Marshal(nilOr(reply.Body)) // a text: it cannot fail
	}
	answer(w, out)
}

// nilOr is null for nothing, else a text.
func nilOr(body []byte) any {
	if len(body) == 0 {
		return nil
	}
	return string(body)
}

func (s *Server) sendCommand(w http.ResponseWriter, r *http.Request) {
	text, ok := readBody(w, r, 2*MaxCommand) // Base64, and what surrounds it
	if !ok {
		return
	}
	var c Command
	if err := json.Unmarshal(text, &c); err != nil {
		refuse(w, http.StatusBadRequest, "the command cannot be read: %v", err)
		return
	}
	out, size := &gateway.Command{System: gateway.System{ContentType: c.ContentType, MessageID: c.MessageID}, Body: c.Body}, 0
	if c.Text != "" {
		out.Body = []byte(c.Text)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Properties)) {
		out.Properties = append(out.Properties, gateway.Property{Name: name, Value: c.Properties[name]})
		size += len(name) + len(c.Properties[name])
	}
	if size += len(out.Body) + len(c.ContentType) + len(c.MessageID); size > MaxCommand {
		refuse(w, http.StatusRequestEntityTooLarge, "the command has %d bytes, a leaf takes %d", size, MaxCommand)
		return
	}
	ctx, d, end, ok := s.begin(w, r)
	if !ok {
		return
	}
	defer end()
	out.Leaf, out.To = d.ID, "/devices/"+d.ID+"/messages/deviceBound"
	verdict, err := s.Devices.Send(ctx, out)
	if err != nil {
		refuseLocal(w, d, "commands", err)
		return
	}
	answer(w, Word{verdict.String()})
}

// refuseLocal says why there is no word of the leaf.
func refuseLocal(w http.ResponseWriter, d Device, what string, err error) {
	switch {
	case errors.Is(err, gateway.ErrAbsent) && d.SendsOnly != "":
		refuse(w, http.StatusNotFound, "leaf %q hears no %s: %s", d.ID, what, d.SendsOnly)
	case errors.Is(err, gateway.ErrAbsent):
		refuse(w, http.StatusNotFound, "leaf %q does not listen for %s (%s)", d.ID, what, d.State)
	case errors.Is(err, context.DeadlineExceeded):
		refuse(w, http.StatusGatewayTimeout, "leaf %q has not answered in time", d.ID)
	default:
		refuse(w, http.StatusInternalServerError, "%v", err)
	}
}
