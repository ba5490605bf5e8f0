package control

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// Errors of Devices when leaves are admitted or changed, and of a Client.
var (
	// ErrConflict says that what is there stands against it.
	ErrConflict = errors.New("conflict")
)

// Admission is a leaf that an operator adds.
type Admission struct {
	ID string `json:"id"`
	// Auth is how it is proven to the hub; "" is what is usual here.
	Auth string `json:"auth,omitempty"`
	// HubKey is its key at the hub, Base64. Without it the leaf is enrolled, or has no
	// identity there.
	HubKey string `json:"hub_key,omitempty"`
	// Thumbprint is that of its certificate.
	Thumbprint string `json:"thumbprint,omitempty"`
	// Password says that it logs in with a password, to be made up.
	Password bool `json:"password,omitempty"`
	// Line is the serial line that it speaks on, and then all that proves who it is;
	// nil: it comes over the network. A line or a Peer takes a window in which it was
	// claimed.
	Line *SerialLine `json:"line,omitempty"`
	// Peer is the Bluetooth device that it is; nil: it is none.
	Peer *RadioPeer `json:"peer,omitempty"`
}

// SerialLine is a serial port that becomes a leaf's own.
type SerialLine struct {
	Port   string `json:"port"` // as in a table [[serial]], and so are the others
	Baud   int    `json:"baud"`
	Format string `json:"format"`
	// Key is that with which the leaf answers HELLO, in hexadecimal; "": it has none, and
	// whoever is at the port is the leaf.
	Key string `json:"key,omitempty"`
}

// RadioPeer is a Bluetooth device that becomes a leaf.
type RadioPeer struct {
	Address string `json:"address"`
	Pairing string `json:"pairing,omitempty"` // as in a table [[ble.device]]; "": it is not paired, and only advertises
	Format  string `json:"format,omitempty"`  // "" is what is usual
	Tables  string `json:"tables,omitempty"`  // of its characteristics, in TOML
}

// Admitted is what an added leaf is to be given. It is told once and cannot be asked
// for again. It prints as "redacted".
type Admitted struct {
	ID               string `json:"id"`
	Password         string `json:"password,omitempty"`
	ConnectionString string `json:"connection_string,omitempty"` // for a device SDK of the hub's vendor
}

// String hides the secrets.
func (Admitted) String() string { return "redacted" }

// GoString hides the secrets.
func (Admitted) GoString() string { return "redacted" }

// Alteration is what is to change about a leaf; what is not set stays.
type Alteration struct {
	ID       string `json:"id,omitempty"` // its new one
	Disabled *bool  `json:"disabled,omitempty"`
}

func (s *Server) addDevice(w http.ResponseWriter, r *http.Request) {
	var a Admission
	if !read(w, r, &a) {
		return
	}
	var out Admitted
	admit := func() (err error) {
		out, err = s.Devices.Admit(r.Context(), a)
		return err
	}
	var err error
	switch {
	case a.Line != nil:
		err = s.Window.Bind(pairing.OverSerial, a.ID, a.Line.Port, admit)
	case a.Peer != nil:
		err = s.Window.Bind(pairing.OverBLE, a.ID, a.Peer.Address, admit)
	default:
		err = admit()
	}
	if err != nil {
		done(w, err)
		return
	}
	s.Log.Info("operator added a leaf", "event", "leaf-added", "leaf", a.ID)
	answer(w, out)
}

func (s *Server) alterDevice(w http.ResponseWriter, r *http.Request) {
	var a Alteration
	d, ok := s.device(w, r)
	if !ok || !read(w, r, &a) {
		return
	}
	if err := s.Devices.Alter(r.Context(), d.ID, a); err != nil {
		refuseChange(w, err)
		return
	}
	log := s.Log.With("leaf", d.ID)
	if a.Disabled != nil {
		log = log.With("disabled", *a.Disabled)
	}
	if a.ID != "" {
		log = log.With("name", a.ID)
	}
	log.Info("operator changed a leaf", "event", "leaf-changed")
	answer(w, Result{Count: 1})
}

func (s *Server) removeDevice(w http.ResponseWriter, r *http.Request) {
	d, ok := s.device(w, r)
	if !ok {
		return
	}
	if err := s.Devices.Dismiss(r.Context(), d.ID); err != nil {
		refuseChange(w, err)
		return
	}
	s.Log.Warn("operator removed a leaf", "event", "leaf-removed", "leaf", d.ID)
	answer(w, Result{Count: 1})
}

// read reads a request in JSON; it answers if it cannot.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		refuse(w, http.StatusBadRequest, "the request cannot be read: %v", err)
		return false
	}
	return true
}

// refuseChange says why a change could not be made.
func refuseChange(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrConflict):
		code = http.StatusConflict
	case errors.Is(err, ErrNotFound):
		code = http.StatusNotFound
	}
	refuse(w, code, "%v", err)
}
