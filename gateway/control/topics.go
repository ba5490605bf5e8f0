package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/gateway"
)

// Topics are those of the local broker, as an operator uses them without a login.
// Safe for concurrent use.
type Topics interface {
	// Publish hands over a publication in the place of a leaf, and returns nil when it
	// is in custody. Errors wrap ErrPolicy, ErrRefused, ErrNotFound or one of the path's,
	// or are that of ctx.
	Publish(ctx context.Context, leaf string, p Publication) error

	// Listen begins to listen, in the place of a leaf or with "" as an operator; fresh
	// leaves out what was said before. Errors are as of Publish.
	Listen(leaf string, filters []string, fresh bool) (Listening, error)
}

// Listening is what an operator hears. One goroutine uses it.
type Listening interface {
	// Next waits for the next one, until ctx ends. taken is to be told whether the
	// operator has it.
	Next(ctx context.Context) (x Overheard, taken func(bool), err error)
	Close()
}

// Publication is what is published in the place of a leaf.
type Publication struct {
	Topic      string            `json:"topic"`
	Body       []byte            `json:"body,omitempty"` // Base64
	Text       string            `json:"text,omitempty"` // in the place of body
	Properties map[string]string `json:"properties,omitempty"`
	Retain     bool              `json:"retain,omitempty"`
	// Wait says that the answer is to wait for custody.
	Wait bool `json:"wait,omitempty"`
}

// Overheard is one publication as an operator hears it.
type Overheard struct {
	Time       time.Time         `json:"time"` // when it was heard
	Topic      string            `json:"topic"`
	Text       string            `json:"text,omitempty"` // the payload, where that is text
	Body       []byte            `json:"body,omitempty"` // else; Base64
	MessageID  string            `json:"message_id,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	Retained   bool              `json:"retained,omitempty"` // it was said before the operator listened
	Dropped    uint64            `json:"dropped,omitempty"`  // how many before it were dropped, for the operator does not read
}

// Payload is what was published.
func (x *Overheard) Payload() []byte {
	if x.Text != "" {
		return []byte(x.Text)
	}
	return x.Body
}

// SetPayload notes what was published; body must not be changed afterwards.
func (x *Overheard) SetPayload(body []byte) {
	if utf8.Valid(body) {
		x.Text = string(body)
		return
	}
	x.Body = body
}

// maxPublication bounds the request of one, in bytes: what the hub takes, in Base64,
// and what surrounds it. The path judges what is too large for the hub.
const maxPublication = 512 << 10

func (s *Server) publish(w http.ResponseWriter, r *http.Request) {
	text, ok := readBody(w, r, maxPublication)
	if !ok {
		return
	}
	var p Publication
	if err := json.Unmarshal(text, &p); err != nil {
		refuse(w, http.StatusBadRequest, "the publication cannot be read: %v", err)
		return
	}
	if p.Text != "" {
		p.Body = []byte(p.Text)
	}
	ctx, d, end, ok := s.begin(w, r)
	if !ok {
		return
	}
	defer end()
	who, _ := r.Context().Value(accessKey{}).(peer)
	log := s.Log.With("leaf", d.ID, "topic", p.Topic, "who", who.who)
	if err := s.Topics.Publish(ctx, d.ID, p); err != nil {
		log.Warn("operator's publication in the place of a leaf was not taken", "event", "operator-stands-in", "reason", err)
		refuseTopic(w, err)
		return
	}
	log.Info("operator published in the place of a leaf", "event", "operator-stands-in")
	answer(w, Result{Count: 1})
}

// refuseTopic says why there is nothing to publish or to hear.
func refuseTopic(w http.ResponseWriter, err error) {
	status := storeStatus(err)
	refusal, ok := errors.AsType[*gateway.TwinError](err)
	switch {
	case errors.Is(err, ErrPolicy):
		status = http.StatusPreconditionFailed
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrRefused), errors.Is(err, gateway.ErrTooLarge), errors.Is(err, gateway.ErrUnknownLeaf), ok && refusal.Status < 500:
		status = http.StatusNotAcceptable
	case errors.Is(err, context.DeadlineExceeded):
		refuse(w, http.StatusGatewayTimeout, "it is not known to be in custody yet, and may still be taken")
		return
	}
	refuse(w, status, "%s", plainWords(err))
}

// plainWords is an error without the words that the client adds by itself.
func plainWords(err error) string {
	text := err.Error()
	for _, kind := range []error{ErrPolicy, ErrNotFound, ErrRefused} {
		text = strings.TrimPrefix(text, kind.Error()+": ")
	}
	return text
}

// public says that all who may look may listen: to what the gateway says of itself,
// which is its state. What leaves send is theirs.
func public(leaf string, filters []string) bool {
	return leaf == "" && !slices.ContainsFunc(filters, func(f string) bool { return !strings.HasPrefix(f, "fieldgate/") })
}

// listen writes a line of JSON for each publication, as it comes, until the operator
// goes. Who does not read has it wait here, and nobody else.
func (s *Server) listen(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	leaf, filters := q.Get("leaf"), q["filter"]
	who, _ := r.Context().Value(accessKey{}).(peer)
	switch {
	case len(filters) == 0:
		refuse(w, http.StatusBadRequest, "name a filter")
		return
	case who.access < changing && !public(leaf, filters):
		s.Log.Warn("refused an operator", "event", "operator-refused", "who", who.who, "method", r.Method, "path", r.URL.Path)
		refuse(w, http.StatusForbidden, "what leaves send is for root and group %s; group %s may listen to fieldgate/#", AdminGroup, ReadGroup)
		return
	}
	l, err := s.Topics.Listen(leaf, filters, q.Get("fresh") != "")
	if err != nil {
		refuseTopic(w, err)
		return
	}
	defer l.Close()
	switch {
	case leaf != "":
		s.Log.Warn("operator listens in the place of a leaf", "event", "operator-stands-in", "leaf", leaf, "who", who.who)
	case !public(leaf, filters):
		s.Log.Info("operator listens", "filters", filters, "who", who.who)
	}
	ways := http.NewResponseController(w)
	_ = ways.SetReadDeadline(time.Time{}) // with it the server would take the caller for gone
	_ = ways.SetWriteDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/jsonl")
	w.WriteHeader(http.StatusOK)
	if ways.Flush() != nil {
		return
	}
	for out := json.NewEncoder(w); ; {
		x, taken, err := l.Next(r.Context())
		if err != nil {
			return
		}
		if leaf != "" { // its commands go to who reads them, or stay where they are
			_ = ways.SetWriteDeadline(time.Now().Add(standInWait))
		}
		if err = out.Encode(x); err == nil {
			err = ways.Flush()
		}
		taken(err == nil)
		if err != nil {
			return
		}
	}
}

// standInWait is how long who listens in the place of a leaf may take for a message.
const standInWait = 10 * time.Second

// PropertiesOf spells properties for JSON; of those of one name the last one counts.
func PropertiesOf(list []gateway.Property) map[string]string {
	if len(list) == 0 {
		return nil
	}
	all := make(map[string]string, len(list))
	for _, p := range list {
		all[p.Name] = p.Value
	}
	return all
}

// List is the other way round, in the order of the names.
func (p *Publication) List() (list []gateway.Property) {
	for _, name := range slices.Sorted(maps.Keys(p.Properties)) {
		list = append(list, gateway.Property{Name: name, Value: p.Properties[name]})
	}
	return list
}

// Publish publishes in the place of a leaf, and waits until that is in custody, at most
// MaxTimeout.
func (c *Client) Publish(ctx context.Context, leaf string, p Publication, limit time.Duration) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return c.ask(ctx, devicePath(leaf)+"/publications?timeout="+limit.String(), text, new(Result))
}

// Listen hands over what comes on topics that the filters match, until ctx ends, use
// returns an error, or the daemon ends. With a leaf it is in the place of that; fresh
// leaves out what was said before.
func (c *Client) Listen(ctx context.Context, leaf string, filters []string, fresh bool, use func(Overheard) error) error {
	q := url.Values{"filter": filters}
	if leaf != "" {
		q.Set("leaf", leaf)
	}
	if fresh {
		q.Set("fresh", "1")
	}
	body, err := c.do(ctx, http.MethodGet, "/v1/publications?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer body.Close()
	for in := json.NewDecoder(body); ; {
		var x Overheard
		if err := in.Decode(&x); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%w: the daemon has broken off: %w", ErrNotRunning, err)
		}
		if err := use(x); err != nil {
			return err
		}
	}
}
