package rest

import (
	"net/http"
	"strconv"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// commandRequests are what services ask about commands over HTTP: purging a
// queue, and feedback for those who have no AMQP (section 5.1). Commands
// themselves are sent over AMQP only.
func (a *API) commandRequests() {
	a.service("DELETE /devices/{d}/commands", registry.ServiceConnect, a.purge)
	// The documentation writes servicebound, the SDK serviceBound (section 5.8).
	for _, path := range []string{"/messages/serviceBound/feedback", "/messages/servicebound/feedback"} {
		a.service("GET "+path, registry.ServiceConnect, a.receiveFeedback)
		a.service("DELETE "+path+"/{lock}", registry.ServiceConnect, a.settleFeedback(a.hub.Feedback.Complete))
		a.service("POST "+path+"/{lock}/abandon", registry.ServiceConnect, a.settleFeedback(a.hub.Feedback.Abandon))
	}
}

// purge empties the queue of a device.
func (a *API) purge(w http.ResponseWriter, r *http.Request) error {
	id := registry.ID{Device: r.PathValue("d")}
	if _, err := a.hub.Registry.Find(id); err != nil {
		return err
	}
	return reply(w, struct {
		Device string  `json:"deviceId"`
		Module *string `json:"moduleId"` // null: modules have no commands
		Purged int     `json:"totalMessagesPurged"`
	}{id.Device, nil, a.hub.Commands.Purge(id)})
}

// receiveFeedback locks the next message of feedback records; 204 when there is
// none. The lock token is the ETag.
func (a *API) receiveFeedback(w http.ResponseWriter, _ *http.Request) error {
	d, ok := a.hub.Feedback.Receive()
	if !ok {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	h := w.Header()
	h.Set("Content-Type", feedbackType)
	h.Set("ETag", `"`+d.LockToken+`"`)
	h.Set("iothub-enqueuedtime", hub.Time(d.Enqueued))
	h.Set("iothub-sequencenumber", strconv.FormatUint(d.Sequence, 10))
	h.Set("iothub-deliverycount", strconv.Itoa(d.Count))
	h.Set("iothub-userid", a.hub.Name)
	_, _ = w.Write(d.Message.Body) // a client that is gone lets the lock expire
	return nil
}

// feedbackType is the content type of feedback records.
const feedbackType = "application/vnd.microsoft.iothub.feedback.json"

// settleFeedback is a request that settles what receiveFeedback has locked.
func (a *API) settleFeedback(settle func(lock string) error) answer {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := settle(r.PathValue("lock")); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}
