package rest

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// twinRequests are those about single twins and those that look for twins
// (sections 5.4 and 5.5).
func (a *API) twinRequests() {
	for _, path := range []string{"/twins/{d}", "/twins/{d}/modules/{m}"} {
		a.service("GET "+path, registry.ServiceConnect, a.readTwin)
		a.service("PATCH "+path, registry.ServiceConnect, a.writeTwin(false))
		a.service("PUT "+path, registry.ServiceConnect, a.writeTwin(true))
	}
	a.service("POST /devices/query", registry.ServiceConnect, a.query)
}

// readTwin gives a twin as services see it.
func (a *API) readTwin(w http.ResponseWriter, r *http.Request) error {
	if err := a.hub.Limits.Take(limits.TwinRead, 0); err != nil {
		return err
	}
	twin, err := a.hub.Twins.Get(named(r))
	if err != nil {
		return err
	}
	return replyTwin(w, twin)
}

// writeTwin merges the body into tags and desired, or replaces them by it.
func (a *API) writeTwin(replace bool) answer {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := a.hub.Limits.Take(limits.TwinUpdate, 0); err != nil {
			return err
		}
		body, err := readJSON(r)
		if err != nil {
			return err
		}
		twin, err := a.hub.Twins.Update(named(r), body, replace, r.Header.Get("If-Match"))
		if err != nil {
			return err
		}
		return replyTwin(w, twin)
	}
}

// named is the identity that the path names.
func named(r *http.Request) registry.ID {
	return registry.ID{Device: r.PathValue("d"), Module: r.PathValue("m")}
}

// replyTwin writes a twin, its ETag as a header too.
func replyTwin(w http.ResponseWriter, twin json.RawMessage) error {
	var head struct {
		ETag string `json:"etag"`
	}
	if err := json.Unmarshal(twin, &head); err != nil {
		return err
	}
	w.Header().Set("ETag", strconv.Quote(head.ETag))
	return reply(w, twin)
}
