// Package rest is the hub over HTTPS: the service's requests and those of
// devices that speak no other protocol (wire contract, sections 4 and 5). Each
// file holds the requests of one part of the hub.
package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// maxBody bounds what a request may carry. Nothing that the hub takes over
// HTTPS is larger than a batch of telemetry in Base64.
const maxBody = 1 << 20

// API answers requests. It is safe for concurrent use.
type API struct {
	hub *hub.Hub
	mux *http.ServeMux
}

// New returns the requests of a hub.
func New(h *hub.Hub) *API {
	a := &API{hub: h, mux: http.NewServeMux()}
	a.registryRequests()
	a.twinRequests()
	a.jobRequests()
	a.methodRequests()
	a.commandRequests()
	a.deviceRequests()
	a.fileRequests()
	return a
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case a.has(r, r.Method):
		a.mux.ServeHTTP(w, r)
	case slices.ContainsFunc(verbs, func(m string) bool { return a.has(r, m) }):
		fail(w, refusal.New(405000, "this cannot be done with "+r.Method+" to "+r.URL.Path))
	default:
		fail(w, refusal.New(404006, "there is nothing at "+r.Method+" "+r.URL.Path))
	}
}

// verbs are the methods that requests come with. HEAD is none of them: the mux
// takes it for a GET, which would lock a command.
var verbs = []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete}

// has says whether there is anything at the path of r for a method. Paths that
// the mux would redirect, with empty segments or dots, lead nowhere.
func (a *API) has(r *http.Request, method string) bool {
	escaped := r.URL.EscapedPath()
	if clean := path.Clean(escaped); escaped != clean && escaped != clean+"/" {
		return false
	}
	asked := *r
	asked.Method = method
	_, pattern := a.mux.Handler(&asked)
	return pattern != "" && slices.Contains(verbs, method)
}

// answer handles one request. What it returns is written as the error body of
// section 5.3; it must not have written anything then.
type answer func(w http.ResponseWriter, r *http.Request) error

// service adds a request of services, which needs a policy with a right.
func (a *API) service(pattern string, right registry.Rights, f answer) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		grant, err := a.token(r)
		if err == nil && (!grant.CoversService(r.URL.Path) || grant.Rights&right == 0) {
			err = refusal.New(401002, "the policy may not do this")
		}
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			err = f(w, r)
		}
		if err != nil {
			fail(w, err)
		}
	})
}

// device adds a request of devices. The pattern names the device {d} and, when
// modules may ask too, the module {m}. The source is who asks.
func (a *API) device(pattern string, f func(w http.ResponseWriter, r *http.Request, from hub.Source) error) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		from, err := a.source(r)
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			err = f(w, r, from)
		}
		if err != nil {
			fail(w, err)
		}
	})
}

// token checks the Authorization header.
func (a *API) token(r *http.Request) (registry.Grant, error) {
	text := r.Header.Get("Authorization")
	if text == "" {
		return registry.Grant{}, refusal.New(401003, "there is no Authorization header")
	}
	grant, err := a.hub.Registry.Authenticate(text, a.hub.Faults.Now())
	if refusal.Is(err, 400004) { // no token at all is no better than a bad one
		err = refusal.New(401003, err.Error())
	}
	return grant, err
}

// source checks that the request comes from the identity its path names, by
// token or by certificate.
func (a *API) source(r *http.Request) (hub.Source, error) {
	id := registry.ID{Device: r.PathValue("d"), Module: r.PathValue("m")}
	identity, err := a.hub.Registry.Find(id)
	if err != nil {
		return hub.Source{}, err
	}
	if err := a.hub.Registry.MayConnect(id); err != nil { // also for those who show a policy's token
		return hub.Source{}, err
	}
	from := hub.Source{ID: id, Generation: identity.Generation}
	if r.Header.Get("Authorization") == "" && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		from.Auth, err = a.hub.Registry.AuthenticateCertificate(r.TLS.PeerCertificates, id)
		return from, err
	}
	grant, err := a.token(r)
	if err != nil {
		return hub.Source{}, err
	}
	if !grant.Covers(id) {
		return hub.Source{}, refusal.New(401002, "the token is for another identity")
	}
	if err := a.hub.Faults.TokenRefusal(id.Device); err != nil {
		return hub.Source{}, err
	}
	from.Auth = grant.AuthMethod()
	return from, nil
}

// fail writes an error.
func fail(w http.ResponseWriter, err error) {
	e := refusal.Of(err)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("iothub-errorcode", e.Name)
	w.WriteHeader(e.Status())
	_, _ = w.Write(e.ForService()) // a client that is gone needs no answer
}

// reply writes v as JSON with status 200.
func reply(w http.ResponseWriter, v any) error { return replyStatus(w, http.StatusOK, v) }

// replyStatus writes v as JSON.
func replyStatus(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that is gone needs no answer
	return nil
}

// readBody reads the body. It fails with 413001 when that is too large, and with
// 400000 when it ends too early or is not in the form that HTTP asks for.
func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, refusal.New(413001, "the body is too large")
	}
	if err != nil {
		return nil, refusal.New(400000, "the body cannot be read: "+err.Error())
	}
	return b, nil
}

// readJSON reads a body that must not say that it is anything but JSON.
func readJSON(r *http.Request) ([]byte, error) {
	if text := r.Header.Get("Content-Type"); text != "" {
		kind, _, err := mime.ParseMediaType(text)
		if err != nil || (kind != "application/json" && kind != "text/json" && !strings.HasSuffix(kind, "+json")) {
			return nil, refusal.New(415000, "the body must be JSON, not "+text)
		}
	}
	return readBody(r)
}

// read decodes the body, which must be one JSON value.
func read(r *http.Request, v any) error {
	b, err := readJSON(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return refusal.New(400004, "the body is not what it should be: "+err.Error())
	}
	return nil
}
