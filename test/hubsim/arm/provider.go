// Package arm is the resource provider: the requests with which an operator
// makes hubs, reads and changes their settings and keys, and adds consumer
// groups and certificates (wire contract, section 5.11).
//
// There is one subscription, Subscription, and resource groups are mere names.
// The hub that hubsim serves is there from the start and cannot be deleted. What
// is done to it is done to the hub itself: policies and their keys, the settings
// of commands, feedback and file notifications, consumer groups and certificate
// authorities take effect at once. Other hubs can be created, changed and
// deleted, with policies, keys, groups and certificates of their own, but nobody
// serves them, and their host names say so by ending in ".not-served.invalid".
// Settings without a meaning here (routing, IP filters, tiers and the like) are
// kept and shown. Testing routes, and private endpoints, are left out.
//
// A bearer token must be there; any will do. There is no operation that
// regenerates a key: as with the real provider, the operator lists the keys, and
// puts the hub with another one in authorizationPolicies. Reading a hub shows its
// policies without keys; a policy that is put without keys keeps those it has, so
// that a hub can be put back as it was read. A policy that is not in the list is
// deleted; without a list all stay.
package arm

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Subscription is the id of the one subscription.
const Subscription = "00000000-0000-0000-0000-000000000000"

// The defaults of Config.
const (
	DefaultGroup    = "bench"
	DefaultLocation = "bench"
	DefaultBusy     = time.Second
)

// maxBody bounds what a request may carry, in bytes.
const maxBody = 1 << 20

// Config says how the served hub is shown.
type Config struct {
	Group    string        // its resource group; default DefaultGroup
	Location string        // its region; default DefaultLocation
	Endpoint string        // of its events, for example sb://127.0.0.1:5671/
	Busy     time.Duration // that creating, changing and deleting a hub take; default DefaultBusy
	Jobs     Jobs          // its import and export jobs; nil when it has none
	Changed  func()        // called when its policies have changed; must not ask the provider; nil for nobody
}

// Provider answers the requests. It is safe for concurrent use.
type Provider struct {
	cfg Config
	mux *http.ServeMux

	mu         sync.Mutex           // guards everything below, and the resources
	resources  map[string]*resource // by name in lower case
	operations map[string]time.Time // when they end, by id
	etags      uint64               // given out
}

// New returns the provider of a subscription in which h is the one hub.
func New(h *hub.Hub, cfg Config) *Provider {
	cfg.Group = cmp.Or(cfg.Group, DefaultGroup)
	cfg.Location = cmp.Or(cfg.Location, DefaultLocation)
	cfg.Busy = cmp.Or(cfg.Busy, DefaultBusy)
	cfg.Jobs = cmp.Or[Jobs](cfg.Jobs, noJobs{})
	p := &Provider{
		cfg: cfg, mux: http.NewServeMux(),
		resources:  make(map[string]*resource),
		operations: make(map[string]time.Time),
	}
	served := p.newServed(h)
	p.resources[strings.ToLower(served.name)] = served
	p.hubRequests()
	p.keyRequests()
	p.groupRequests()
	p.certificateRequests()
	p.figureRequests()
	p.jobRequests()
	p.mux.HandleFunc("GET "+providerPath+"/locations/{location}/operationresults/{operation}", p.answer(p.operation))
	return p
}

// Where things are, in the canonical form of paths.
const (
	providerPath = "/subscriptions/{subscription}/providers/microsoft.devices"
	hubsPath     = "/subscriptions/{subscription}/resourcegroups/{group}/providers/microsoft.devices/iothubs"
	hubPath      = hubsPath + "/{name}"
)

// Owns says whether a request is one for the provider, by its path.
func Owns(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return strings.EqualFold(first, "subscriptions") || strings.EqualFold(first, "providers")
}

// canonical writes a path with its fixed words in lower case, as case does not
// matter in them: words and names alternate, and behind "providers" the name of
// a provider is a fixed word too. It is false for a path that cannot be one.
func canonical(path string) (string, bool) {
	segments := strings.Split(strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/"), "/")
	for i, s := range segments {
		if s == "" || s == "." || s == ".." {
			return "", false
		}
		if i%2 == 0 || strings.EqualFold(segments[i-1], "providers") {
			segments[i] = strings.Map(lower, s)
		}
	}
	return "/" + strings.Join(segments, "/"), true
}

// lower is for the letters of fixed words only: other alphabets have letters
// whose lower case is one of these.
func lower(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}

// ServeHTTP answers one request.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := canonical(r.URL.Path)
	r = r.Clone(r.Context())
	r.URL.Path, r.URL.RawPath = path, ""
	if _, pattern := p.mux.Handler(r); !ok || pattern == "" {
		fail(w, failed(404, "NotFound", "there is nothing at %s %s", r.Method, path))
		return
	}
	p.mux.ServeHTTP(w, r)
}

// failure is an error in the provider's form.
type failure struct {
	status  int
	code    string
	message string
}

func (f *failure) Error() string { return f.code + ": " + f.message }

func failed(status int, code, format string, args ...any) *failure {
	return &failure{status, code, fmt.Sprintf(format, args...)}
}

// request is a request that was let in, with its body read.
type request struct {
	*http.Request
	body   []byte
	header http.Header // of the answer
}

// read decodes the body into v.
func (r *request) read(v any) error {
	if err := json.Unmarshal(r.body, v); err != nil {
		return failed(400, "InvalidRequestContent", "the body is not what it should be: %v", err)
	}
	return nil
}

// handler answers one request with a status and what is to be written as JSON;
// nil for nothing. It runs with the provider's lock held, and what it returns
// must not change when the lock is released.
type handler func(r *request) (status int, body any, err error)

// answer wraps a handler in what all requests have in common.
func (p *Provider) answer(f handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := admit(r); err != nil {
			fail(w, err)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			fail(w, failed(413, "RequestContentTooLarge", "the body cannot be read: %v", err))
			return
		}
		status, v, err := p.locked(f, &request{r, body, w.Header()})
		if err != nil {
			fail(w, err)
			return
		}
		write(w, status, v)
	}
}

func (p *Provider) locked(f handler, r *request) (status int, body any, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f(r)
}

// admit checks what every request must have.
func admit(r *http.Request) error {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || strings.TrimSpace(token) == "" {
		return failed(401, "AuthenticationFailed", "the Authorization header with a bearer token is missing")
	}
	version := r.URL.Query().Get("api-version")
	if version == "" {
		return failed(400, "MissingApiVersionParameter", "the query parameter api-version is missing")
	}
	if _, err := time.Parse(time.DateOnly, strings.TrimSuffix(version, "-preview")); err != nil {
		return failed(400, "InvalidApiVersionParameter", "%q is not an API version", version)
	}
	if s := r.PathValue("subscription"); s != "" && !strings.EqualFold(s, Subscription) {
		return failed(404, "SubscriptionNotFound", "there is no subscription %s, only %s", s, Subscription)
	}
	return nil
}

// fail writes an error.
func fail(w http.ResponseWriter, err error) {
	f, ok := errors.AsType[*failure](err)
	if !ok {
		e := refusal.Of(err)
		f = failed(e.Status(), e.Name, "%s", e.Message)
	}
	if f.status == 401 {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	write(w, f.status, map[string]any{
		"error": map[string]string{"code": f.code, "message": f.message},
	})
}

// write writes v as JSON; nil as nothing.
func write(w http.ResponseWriter, status int, v any) {
	if v == nil {
		w.WriteHeader(status)
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic("arm: " + err.Error()) // what is raw in answers was JSON before
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that is gone needs no answer
}

// list is the form of all lists. They are short and come whole.
type list[T any] struct {
	Value []T `json:"value"`
}

func newList[T any](items []T) list[T] {
	if items == nil {
		items = []T{} // not null
	}
	return list[T]{items}
}

// matches compares an ETag with the If-Match header, which may be missing.
func matches(r *request, etag string) error {
	want := strings.Trim(r.Header.Get("If-Match"), `"`)
	if want == "" || want == etag || (want == "*" && etag != "") {
		return nil
	}
	return failed(412, "PreconditionFailed", "the ETag is not %q", want)
}
