// Package blob is a blob server for the bench: as much of the vendor's storage
// service as devices need to upload files, and services to fetch them. A
// container holds blobs; a blob is written whole, or in blocks that count once a
// block list names them. All is kept in memory, up to a bound.
//
// It takes requests for https://host/container/blob. Who may do what is said by
// a service SAS in the address, as package files signs it, or by the account's
// shared key.
package blob

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/files"
)

// Container is the default name of the container for uploads.
const Container = "uploads"

// Owns says whether a path is that of the container for uploads or of a blob in
// it, for a listener that serves other things too. It must ask before an
// http.ServeMux, which would change the names of blobs that hold "//".
func Owns(path string) bool {
	return path == "/"+Container || strings.HasPrefix(path, "/"+Container+"/")
}

// DefaultMemory is how many bytes a server keeps unless told otherwise.
const DefaultMemory = 256 << 20

// Config is the account that a server serves.
type Config struct {
	Account   string // required
	Key       string // Base64; required
	Container string // exists from the start; default Container
	Memory    int64  // bytes of blobs and blocks; default DefaultMemory. What goes beyond is refused with 507
}

// Server is an http.Handler for one account. It is safe for concurrent use.
type Server struct {
	account string
	key     []byte
	store   *store
}

// New returns a server with one empty container.
func New(cfg Config) (*Server, error) {
	key, err := base64.StdEncoding.DecodeString(cfg.Key)
	if err != nil || len(key) == 0 {
		return nil, errors.New("blob key: not Base64")
	}
	if cfg.Account == "" {
		return nil, errors.New("blob server: the account must be named")
	}
	if cfg.Container == "" {
		cfg.Container = Container
	}
	if cfg.Memory <= 0 {
		cfg.Memory = DefaultMemory
	}
	s := &Server{account: cfg.Account, key: key, store: newStore(cfg.Memory)}
	return s, s.store.create(cfg.Container)
}

// Look tells of a blob, for files.Config.
func (s *Server) Look(_ context.Context, container, name string) (files.Properties, error) {
	b, err := s.store.blob(container, name)
	if err != nil {
		return files.Properties{}, err
	}
	return files.Properties{Size: int64(len(b.data)), LastModified: b.modified}, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	stamp(w.Header(), r)
	if err := s.answer(w, r); err != nil {
		fail(w, r, err)
	}
}

// answer does what r asks for. When it fails it has not written anything.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	container, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	on := object{container, name}
	if name == "" {
		return s.answerContainer(w, r, on, query)
	}
	if err := s.authorize(r, on, query); err != nil {
		return err
	}
	switch comp := query.Get("comp"); {
	case r.Method == http.MethodPut && comp == "":
		return s.putBlob(w, r, on)
	case r.Method == http.MethodPut && comp == "block":
		return s.putBlock(w, r, on, query.Get("blockid"))
	case r.Method == http.MethodPut && comp == "blocklist":
		return s.putBlockList(w, r, on)
	case reads(r) && comp == "":
		return s.get(w, r, on)
	}
	return errUnsupported
}

// answerContainer makes a container or says whether it is there.
func (s *Server) answerContainer(w http.ResponseWriter, r *http.Request, on object, query url.Values) error {
	if query.Get("restype") != "container" || query.Has("comp") {
		return errUnsupported
	}
	if !s.signedByAccount(r) {
		return errAuthentication
	}
	switch {
	case r.Method == http.MethodPut:
		if err := s.store.create(on.container); err != nil {
			return err
		}
		w.WriteHeader(http.StatusCreated)
		return nil
	case reads(r):
		return s.store.find(on.container)
	}
	return errUnsupported
}

// object is what a request is about. The name is empty for the container.
type object struct{ container, name string }

func reads(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead
}

// stamp sets the headers that every answer has.
func stamp(h http.Header, r *http.Request) {
	h.Set("x-ms-request-id", newRequestID())
	h.Set("x-ms-version", version)
	if asked := r.Header.Get("x-ms-version"); asked != "" {
		h.Set("x-ms-version", asked)
	}
	if id := r.Header.Get("x-ms-client-request-id"); id != "" {
		h.Set("x-ms-client-request-id", id)
	}
}

// version of the storage service that clients are told when they do not ask for
// one.
const version = "2018-11-09"

// tell describes a blob in the headers of an answer.
func (b *blob) tell(h http.Header) {
	h.Set("ETag", b.etag)
	h.Set("Last-Modified", b.modified.Format(http.TimeFormat))
}

// newETag makes the ETag of the nth change, in the form of the storage service.
func newETag(n uint64) string { return fmt.Sprintf(`"0x%015X"`, n) }

// now is the time of a change: HTTP knows only whole seconds.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
