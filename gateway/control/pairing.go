package control

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// Authority is the gateway's own authority for certificates of leaves. Safe for
// concurrent use.
type Authority interface {
	// Certificates returns its certificate in PEM form, then the former one.
	Certificates() (string, error)
	// Rotate gives it a new key.
	Rotate() error
}

// Opening is a pairing window that is to be opened.
type Opening struct {
	Seconds   float64 `json:"seconds,omitempty"`   // 0 is what is usual
	Auto      bool    `json:"auto,omitempty"`      // whoever has the code is approved at once
	Auth      string  `json:"auth,omitempty"`      // how the leaf is proven to the hub
	Transport string  `json:"transport,omitempty"` // "" is MQTT
}

// Claiming says which leaf the device at an address is to be.
type Claiming struct {
	Transport string `json:"transport"`
	ID        string `json:"id"`
	Address   string `json:"address"`
}

// Claim is one that was made.
type Claim struct {
	Token string `json:"token"` // gives it up
}

// Opened is one that is open. It prints as "redacted".
type Opened struct {
	Code    string    `json:"code,omitempty"`    // over MQTT
	Payload string    `json:"payload,omitempty"` // of a QR code: where, to whom, and the code
	Until   time.Time `json:"until"`
}

// String hides the code.
func (Opened) String() string { return "redacted" }

// GoString hides the code.
func (Opened) GoString() string { return "redacted" }

// Certificates are certificates in PEM form.
type Certificates struct {
	PEM string `json:"pem"`
}

func (s *Server) openWindow(w http.ResponseWriter, r *http.Request) {
	var o Opening
	if !read(w, r, &o) {
		return
	}
	if most := pairing.MaxWindow.Seconds(); o.Seconds < 0 || o.Seconds > most {
		refuse(w, http.StatusBadRequest, "a window is open for at most %v", pairing.MaxWindow)
		return
	}
	transport := cmp.Or(o.Transport, pairing.OverMQTT)
	if !slices.Contains(Transports, transport) {
		refuse(w, http.StatusBadRequest, "there is no transport %q: write one of %v", transport, Transports)
		return
	}
	code, until, err := s.Window.Open(pairing.Options{For: time.Duration(o.Seconds * float64(time.Second)), Auto: o.Auto, Auth: o.Auth, Transport: transport})
	if err != nil {
		refuse(w, pairingStatus(err), "%v", err)
		return
	}
	if transport != pairing.OverMQTT {
		answer(w, Opened{Until: until.UTC()})
		return
	}
	answer(w, Opened{code.Text(), s.Invite(code), until.UTC()})
}

// Transports are those over which a leaf can pair.
var Transports = []string{pairing.OverMQTT, pairing.OverSerial, pairing.OverBLE}

func (s *Server) claim(w http.ResponseWriter, r *http.Request) {
	var c Claiming
	if !read(w, r, &c) {
		return
	}
	p, _ := r.Context().Value(accessKey{}).(peer)
	token, err := s.Window.Claim(c.Transport, c.ID, c.Address, p.who)
	if err != nil {
		done(w, err)
		return
	}
	answer(w, Claim{token})
}

// closeWindow closes any window; with a query only that which it names.
func (s *Server) closeWindow(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery == "" {
		done(w, s.Window.Close())
		return
	}
	s.abandonClaim(w, r)
}

func (s *Server) abandonClaim(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var until time.Time
	if text := q.Get("until"); text != "" {
		var err error
		if until, err = time.Parse(time.RFC3339Nano, text); err != nil {
			refuse(w, http.StatusBadRequest, "until is no time: %v", err)
			return
		}
	}
	done(w, s.Window.Abandon(q.Get("token"), until))
}

func (s *Server) windowState(w http.ResponseWriter, _ *http.Request) { answer(w, s.Window.State()) }

func (s *Server) windowCode(w http.ResponseWriter, _ *http.Request) {
	code, err := s.Window.Code()
	if err != nil {
		done(w, err)
		return
	}
	answer(w, Opened{code.Text(), s.Invite(code), s.Window.State().Until})
}

func (s *Server) approve(w http.ResponseWriter, r *http.Request) {
	done(w, s.Window.Approve(r.PathValue("id")))
}

func (s *Server) reject(w http.ResponseWriter, r *http.Request) {
	done(w, s.Window.Reject(r.PathValue("id")))
}

// done answers a request that changes something.
func done(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		answer(w, Result{Count: 1})
	case errors.Is(err, pairing.ErrNoClaim):
		refuse(w, http.StatusNotFound, "%v", err)
	case errors.Is(err, pairing.ErrWindow), errors.Is(err, pairing.ErrKnown), errors.Is(err, pairing.ErrTaken):
		refuse(w, pairingStatus(err), "%v", err)
	default:
		refuseChange(w, err)
	}
}

// pairingStatus is that of a window that is not there, or not for who asks.
func pairingStatus(err error) int {
	if errors.Is(err, pairing.ErrTaken) {
		return http.StatusLocked
	}
	return http.StatusConflict
}

func (s *Server) authority(w http.ResponseWriter, _ *http.Request) {
	text, err := s.Authority.Certificates()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "%v", err)
		return
	}
	answer(w, Certificates{text})
}

func (s *Server) rotateAuthority(w http.ResponseWriter, _ *http.Request) {
	err := s.Authority.Rotate()
	if err == nil {
		s.Log.Warn("operator gave the authority of leaves a new key")
	}
	done(w, err)
}

// shown says by the address of a listener in which file its certificate is.
type shown struct {
	Shown map[string]string `json:"shown"`
}

func (s *Server) reloadCertificates(w http.ResponseWriter, _ *http.Request) {
	files, err := s.ReloadCertificates()
	if err != nil {
		done(w, err)
		return
	}
	s.Log.Info("certificates of listeners are read anew")
	answer(w, shown{files})
}

// OpenWindow opens a pairing window.
func (c *Client) OpenWindow(ctx context.Context, o Opening) (out Opened, err error) {
	err = c.change(ctx, http.MethodPost, "/v1/pairing", o, &out)
	return out, err
}

// Claim says which leaf a device is to be, in a window that is open for its transport,
// and returns a token for Abandon.
func (c *Client) Claim(ctx context.Context, x Claiming) (token string, err error) {
	var out Claim
	err = c.change(ctx, http.MethodPost, "/v1/pairing/claim", x, &out)
	return out.Token, err
}

// CloseWindow closes it, whosever it is.
func (c *Client) CloseWindow(ctx context.Context) error {
	return c.change(ctx, http.MethodDelete, "/v1/pairing", nil, new(Result))
}

// Abandon gives up a claim by its token, "" for none. Who has opened a window for it says
// until when that is open, as OpenWindow has told it, and it is closed when nobody else
// has that claim; the window of somebody else stays. The error is ErrNotFound if there is
// neither.
func (c *Client) Abandon(ctx context.Context, token string, until time.Time) error {
	path, q := "/v1/pairing/claim", url.Values{"token": {token}}
	if !until.IsZero() {
		path = "/v1/pairing"
		q.Set("until", until.Format(time.RFC3339Nano))
	}
	return c.change(ctx, http.MethodDelete, path+"?"+q.Encode(), nil, new(Result))
}

// WindowState says how it is.
func (c *Client) WindowState(ctx context.Context) (s pairing.WindowState, err error) {
	err = c.get(ctx, "/v1/pairing", &s)
	return s, err
}

// WindowCode returns its code.
func (c *Client) WindowCode(ctx context.Context) (out Opened, err error) {
	err = c.get(ctx, "/v1/pairing/code", &out)
	return out, err
}

// Decide approves or rejects the leaf that has asked for that id.
func (c *Client) Decide(ctx context.Context, id string, approve bool) error {
	verb := "/reject"
	if approve {
		verb = "/approve"
	}
	return c.change(ctx, http.MethodPost, devicePath(id)+verb, nil, new(Result))
}

// Authority returns the certificates of the authority of leaves.
func (c *Client) Authority(ctx context.Context) (text string, err error) {
	var out Certificates
	err = c.get(ctx, "/v1/authority", &out)
	return out.PEM, err
}

// RotateAuthority gives it a new key.
func (c *Client) RotateAuthority(ctx context.Context) error {
	return c.change(ctx, http.MethodPost, "/v1/authority/rotate", nil, new(Result))
}

// ReloadCertificates has listeners show the certificates that are in their files now,
// and returns by the address of each one with TLS in which file that is. After an error
// they show what they showed before.
func (c *Client) ReloadCertificates(ctx context.Context) (files map[string]string, err error) {
	var out shown
	err = c.change(ctx, http.MethodPost, "/v1/certificates/reload", nil, &out)
	return out.Shown, err
}
