package provisioning

import (
	"errors"
	"io"
	"net/http"
	"path"
	"strconv"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// maxBody bounds what a registrant may send, in bytes.
const maxBody = 64 << 10

// Path returns what the paths of all its HTTPS requests begin with.
func (s *Service) Path() string { return "/" + s.cfg.IDScope + "/registrations/" }

// ServeHTTP answers one request (section 8.2).
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	escaped := r.URL.EscapedPath()
	clean := escaped == path.Clean(escaped) // the mux would redirect others
	if _, pattern := s.requests.Handler(r); pattern == "" || !clean {
		write(w, refuse(notFound("there is nothing at "+r.Method+" "+r.URL.Path), 0))
		return
	}
	s.requests.ServeHTTP(w, r)
}

func (s *Service) httpRequests() *http.ServeMux {
	const registration = "/{scope}/registrations/{id}"
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+registration+"/register", s.authenticated(func(by *Registrant, _ *http.Request, body []byte) Answer {
		return by.Register(body)
	}))
	mux.HandleFunc("GET "+registration+"/operations/{operation}", s.authenticated(func(by *Registrant, r *http.Request, _ []byte) Answer {
		return by.Poll(r.PathValue("operation"))
	}))
	mux.HandleFunc("POST "+registration, s.authenticated(func(by *Registrant, _ *http.Request, _ []byte) Answer {
		return by.State()
	}))
	return mux
}

// authenticated wraps a request that only the device itself may make.
func (s *Service) authenticated(f func(by *Registrant, r *http.Request, body []byte) Answer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			err = refusal.New(413001, "the body is too large")
		}
		if err == nil && r.URL.Query().Get("api-version") == "" {
			err = refusal.New(400004, "there is no api-version")
		}
		var by *Registrant
		if err == nil {
			proof := Proof{Token: r.Header.Get("Authorization")}
			if r.TLS != nil {
				proof.Certificates = r.TLS.PeerCertificates
			}
			by, err = s.Identify(r.PathValue("scope"), r.PathValue("id"), proof)
		}
		if err != nil {
			write(w, refuse(err, 0))
			return
		}
		write(w, f(by, r, body))
	}
}

func write(w http.ResponseWriter, a Answer) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if a.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.RetryAfter))
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // a client that is gone needs no answer
}
