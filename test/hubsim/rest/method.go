package rest

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// methodRequests are the direct methods of devices and modules (section 5.7).
func (a *API) methodRequests() {
	a.service("POST /twins/{d}/methods", registry.ServiceConnect, a.invokeMethod)
	a.service("POST /twins/{d}/modules/{m}/methods", registry.ServiceConnect, a.invokeMethod)
}

// invokeMethod calls a method and answers 200 with whatever status the device
// gave. A client that goes away ends the call.
func (a *API) invokeMethod(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Name     string          `json:"methodName"`
		Payload  json.RawMessage `json:"payload"`
		Response int             `json:"responseTimeoutInSeconds"`
		Connect  int             `json:"connectTimeoutInSeconds"`
	}
	if err := read(r, &body); err != nil {
		return err
	}
	connect, err := seconds(body.Connect)
	if err != nil {
		return err
	}
	response, err := seconds(body.Response)
	if err != nil {
		return err
	}
	if err := a.hub.Limits.Take(limits.Method, len(body.Payload)); err != nil {
		return err
	}
	id := registry.ID{Device: r.PathValue("d"), Module: r.PathValue("m")}
	got, err := a.hub.Methods.Invoke(r.Context(), id, methods.Call{
		Name: body.Name, Payload: body.Payload, ConnectTimeout: connect, ResponseTimeout: response,
	})
	if err != nil {
		return err
	}
	return reply(w, struct {
		Status  int32           `json:"status"`
		Payload json.RawMessage `json:"payload"` // null when there was none
	}{got.Status, got.Payload})
}

// seconds reads a timeout. Its range is for the exchange to check, as far as a
// duration can hold it.
func seconds(n int) (time.Duration, error) {
	const day = 24 * 60 * 60
	if n < -day || n > day {
		return 0, refusal.New(400004, "a timeout must be 0 to 300 seconds")
	}
	return time.Duration(n) * time.Second, nil
}
