package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Configuration is the daemon's configuration, as operators change it. Safe for
// concurrent use.
type Configuration interface {
	// Apply makes a configuration count; who brings it. One that needs a restart which
	// is not allowed is not applied, which is no error: see ConfigApplied. The error is
	// an *Invalid, wraps ErrConflict or ErrNotFound, or says what failed; then nothing
	// has changed.
	Apply(c ConfigChange, who string) (ConfigApplied, error)

	// Revisions lists what ran before and what runs, the oldest first.
	Revisions() []ConfigRevision

	// RevisionFiles returns the texts of a revision by file name.
	RevisionFiles(number int) (files map[string]string, known bool)
}

// ConfigChange says which configuration is to count: the files as they are now, or
// with another text in the place of the main one, or those of a former revision.
type ConfigChange struct {
	Text     *string `json:"text,omitempty"`
	Revision int     `json:"revision,omitempty"`
	// ConfirmSeconds is how long the connection to the hub, if it stands now, may take
	// to be back before all is undone; 0 undoes nothing.
	ConfirmSeconds float64 `json:"confirm_seconds"`
	Restart        bool    `json:"restart"` // keys that need it may restart the gateway
	Look           bool    `json:"look"`    // only say what would change
}

// ConfigKey is a key that changes.
type ConfigKey struct {
	Key    string `json:"key"`
	From   any    `json:"from"` // null: there was no such table
	To     any    `json:"to"`
	Change string `json:"change"` // live, reconnect or restart
}

// UnmarshalJSON keeps whole numbers whole: a baud rate is none with a point.
func (k *ConfigKey) UnmarshalJSON(text []byte) error {
	type plain ConfigKey
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode((*plain)(k)); err != nil {
		return err
	}
	k.From, k.To = wholeNumbers(k.From), wholeNumbers(k.To)
	return nil
}

// wholeNumbers makes numbers of JSON what TOML would have made of them.
func wholeNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // the decoder has seen that it is a number
		return f
	case []any:
		for i := range v {
			v[i] = wholeNumbers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = wholeNumbers(v[name])
		}
	}
	return v
}

// ConfigApplied is what was begun.
type ConfigApplied struct {
	Revision int         `json:"revision"` // 0: nothing was applied
	Changes  []ConfigKey `json:"changes"`
	State    string      `json:"state"`   // as in ConfigRevision; "" if nothing was applied
	Restart  bool        `json:"restart"` // the gateway has to start again for it
}

// ConfigRevision is a configuration that runs or ran.
type ConfigRevision struct {
	Number  int       `json:"number"`
	Time    time.Time `json:"time"`
	By      string    `json:"by"`
	State   string    `json:"state"` // trial, kept or undone
	Why     string    `json:"why,omitempty"`
	Running bool      `json:"running"`
}

// Invalid is the error of a configuration with mistakes, a line each.
type Invalid struct{ Mistakes []string }

func (e *Invalid) Error() string {
	text, _ := json.Marshal(e.Mistakes)
	return string(text)
}

func (s *Server) revisions(w http.ResponseWriter, _ *http.Request) {
	answer(w, append([]ConfigRevision{}, s.Configuration.Revisions()...))
}

func (s *Server) revisionFiles(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(r.PathValue("number"))
	files, known := s.Configuration.RevisionFiles(number)
	if err != nil || !known {
		refuse(w, http.StatusNotFound, "there is no revision %s", r.PathValue("number"))
		return
	}
	answer(w, files)
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request) {
	var c ConfigChange
	if !read(w, r, &c) {
		return
	}
	p, _ := r.Context().Value(accessKey{}).(peer)
	out, err := s.Configuration.Apply(c, p.who)
	if invalid, ok := errors.AsType[*Invalid](err); ok {
		refuse(w, http.StatusUnprocessableEntity, "%s", invalid.Error())
		return
	}
	if err != nil {
		refuseChange(w, err)
		return
	}
	answer(w, out)
}

// ApplyConfig makes a configuration count. The error may be an *Invalid.
func (c *Client) ApplyConfig(ctx context.Context, change ConfigChange) (out ConfigApplied, err error) {
	text, err := json.Marshal(change)
	if err == nil {
		err = c.ask(ctx, "/v1/config", text, &out)
	}
	return out, err
}

// ConfigRevisions lists the revisions of the configuration, the oldest first.
func (c *Client) ConfigRevisions(ctx context.Context) (all []ConfigRevision, err error) {
	err = c.get(ctx, "/v1/config/revisions", &all)
	return all, err
}

// ConfigRevisionFiles returns the texts of a revision by file name.
func (c *Client) ConfigRevisionFiles(ctx context.Context, number int) (files map[string]string, err error) {
	err = c.get(ctx, "/v1/config/revisions/"+strconv.Itoa(number), &files)
	return files, err
}
