package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
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

// Claiming says which leaf the device at an address is to be, and how a window is opened
// for that if none is open.
type Claiming struct {
	Opening
	ID      string `json:"id"`
	Address string `json:"address"`
}

// Claimed is the answer to a Claiming.
type Claimed struct {
	Until  time.Time `json:"until"`  // when the window closes
	Opened bool      `json:"opened"` // for this claim
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
	options, ok := o.options(w)
	if !ok {
		return
	}
	code, until, err := s.Window.Open(options)
	if err != nil {
		refuse(w, pairingStatus(err), "%v", err)
		return
	}
	if options.Transport != pairing.OverMQTT {
		answer(w, Opened{Until: until.UTC()})
		return
	}
	answer(w, Opened{code.Text(), s.Invite(code), until.UTC()})
}

// options are how a window is opened; it answers if it cannot be.
func (o *Opening) options(w http.ResponseWriter) (out pairing.Options, ok bool) {
	if most := pairing.MaxWindow.Seconds(); o.Seconds < 0 || o.Seconds > most {
		refuse(w, http.StatusBadRequest, "a window is open for at most %v", pairing.MaxWindow)
		return out, false
	}
	transport := cmp.Or(o.Transport, pairing.OverMQTT)
	if !slices.Contains(Transports, transport) {
		refuse(w, http.StatusBadRequest, "there is no transport %q: write one of %v", transport, Transports)
		return out, false
	}
	return pairing.Options{For: time.Duration(o.Seconds * float64(time.Second)), Auto: o.Auto, Auth: o.Auth, Transport: transport}, true
}

// Transports are those over which a leaf can pair.
var Transports = []string{pairing.OverMQTT, pairing.OverSerial, pairing.OverBLE}

// claim answers at once, and holds the claim until nothing more can come from the caller:
// a command that is killed can say nothing.
func (s *Server) claim(w http.ResponseWriter, r *http.Request) {
	var c Claiming
	if !read(w, r, &c) {
		return
	}
	options, ok := c.options(w)
	if !ok {
		return
	}
	if options.Transport == pairing.OverMQTT {
		refuse(w, http.StatusBadRequest, "over %s it is the leaf that claims, with the code", options.Transport)
		return
	}
	p, _ := r.Context().Value(accessKey{}).(peer)
	hold, err := s.Window.Claim(options, c.ID, c.Address, p.who)
	if err != nil {
		refuse(w, pairingStatus(err), "%v", err)
		return
	}
	defer hold.Release()
	ways := http.NewResponseController(w)
	// No window is open for longer, and a caller that stands still keeps no connection for
	// ever: behind the deadline the server takes it for gone.
	end := time.Now().Add(pairing.MaxWindow + time.Minute)
	_, _ = ways.SetReadDeadline(end), ways.SetWriteDeadline(end)
	_, _ = io.Copy(io.Discard, r.Body) // behind its end the server watches the connection
	answer(w, Claimed{hold.Until().UTC(), hold.Opened()})
	if ways.Flush() == nil {
		select {
		case <-r.Context().Done():
		case <-time.After(time.Until(end)): // one that said more than it should is not watched any longer
		}
	}
}

// wrongProof counts a wrong proof of the device that was claimed.
func (s *Server) wrongProof(w http.ResponseWriter, r *http.Request) {
	var c Claiming
	if !read(w, r, &c) {
		return
	}
	s.Window.Wrong(c.Transport, c.Address)
	answer(w, Result{Count: 1})
}

func (s *Server) closeWindow(w http.ResponseWriter, _ *http.Request) { done(w, s.Window.Close()) }

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
	switch {
	case errors.Is(err, pairing.ErrTaken):
		return http.StatusLocked
	case errors.Is(err, pairing.ErrBackoff):
		return http.StatusTooEarly
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

// Claim is a claim that is held. One goroutine uses it.
type Claim struct {
	Claimed
	answer io.Reader
	line   *line
	cut    context.CancelFunc
}

// Claim says which leaf a device is to be. Release is to be called when that was bound,
// or was not; the end of the caller does it as well, however it comes about. Once it is
// claimed, the end of ctx is none of its business.
func (c *Client) Claim(ctx context.Context, x Claiming) (*Claim, error) {
	text, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	life, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, cut)()
	claim := &Claim{cut: cut}
	if claim.answer, claim.line, err = c.call(life, http.MethodPost, "/v1/pairing/claim", text); err == nil {
		err = json.NewDecoder(claim.answer).Decode(&claim.Claimed)
	}
	if err != nil {
		cut()
		return nil, err
	}
	return claim, nil
}

// Release gives it up, and waits until that is done, but no longer than for a limit.
func (c *Claim) Release(limit time.Duration) {
	defer time.AfterFunc(limit, c.cut).Stop()
	defer c.cut()
	c.line.end()
	_, _ = io.Copy(io.Discard, c.answer)
}

// WrongProof says that the device that was claimed has not proven that it is the leaf. It
// counts as a wrong code, and the claim stays for the next try.
func (c *Client) WrongProof(ctx context.Context, x Claiming) error {
	return c.change(ctx, http.MethodPost, "/v1/pairing/wrong", x, new(Result))
}

// CloseWindow closes it, whosever it is.
func (c *Client) CloseWindow(ctx context.Context) error {
	return c.change(ctx, http.MethodDelete, "/v1/pairing", nil, new(Result))
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
