package rest

import (
	"net/http"
	"strconv"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/bulk"
)

// How many devices one request may ask for or change (sections 5.1 and 5.2).
const (
	maxTop  = 1000
	maxBulk = 100
)

// registryRequests are those of the identity registry (sections 5.1 and 5.2).
func (a *API) registryRequests() {
	a.registry("GET /devices", registry.RegistryRead, a.listDevices)
	a.registry("GET /devices/{$}", registry.RegistryRead, a.listDevices) // Node asks so
	a.registry("POST /devices", registry.RegistryWrite, a.changeDevices)
	a.registry("GET /devices/{d}", registry.RegistryRead, a.getDevice)
	a.registry("PUT /devices/{d}", registry.RegistryWrite, a.putDevice)
	a.registry("DELETE /devices/{d}", registry.RegistryWrite, a.deleteIdentity)
	a.registry("GET /devices/{d}/modules", registry.RegistryRead, a.listModules)
	a.registry("GET /devices/{d}/modules/{m}", registry.RegistryRead, a.getModule)
	a.registry("PUT /devices/{d}/modules/{m}", registry.RegistryWrite, a.putModule)
	a.registry("DELETE /devices/{d}/modules/{m}", registry.RegistryWrite, a.deleteIdentity)
	a.registry("GET /statistics/devices", registry.RegistryRead, a.countDevices)
	a.registry("GET /statistics/service", registry.RegistryRead, a.countConnections)
	a.transferRequests()
}

// registry adds a service's request that counts towards the rate of registry
// operations (section 6.1).
func (a *API) registry(pattern string, right registry.Rights, f answer) {
	a.service(pattern, right, func(w http.ResponseWriter, r *http.Request) error {
		if err := a.hub.Limits.Take(limits.RegistryOperation, 0); err != nil {
			return err
		}
		return f(w, r)
	})
}

func (a *API) listDevices(w http.ResponseWriter, r *http.Request) error {
	top := maxTop
	if text := r.URL.Query().Get("top"); text != "" {
		var err error
		if top, err = strconv.Atoi(text); err != nil || top < 1 || top > maxTop {
			return refusal.New(400004, "top is a number from 1 to "+strconv.Itoa(maxTop))
		}
	}
	list := []deviceJSON{} // never null: clients want an array
	for _, i := range a.hub.Registry.List(top) {
		list = append(list, a.deviceJSON(i))
	}
	return reply(w, list)
}

func (a *API) listModules(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.hub.Registry.Find(pathID(r)); err != nil {
		return err
	}
	list := []moduleJSON{}
	for _, i := range a.hub.Registry.Modules(r.PathValue("d")) {
		list = append(list, a.moduleJSON(i))
	}
	return reply(w, list)
}

func (a *API) getDevice(w http.ResponseWriter, r *http.Request) error {
	i, err := a.hub.Registry.Find(pathID(r))
	if err != nil {
		return err
	}
	return replyTagged(w, i.ETag, a.deviceJSON(i))
}

func (a *API) getModule(w http.ResponseWriter, r *http.Request) error {
	i, err := a.hub.Registry.Find(pathID(r))
	if err != nil {
		return err
	}
	return replyTagged(w, i.ETag, a.moduleJSON(i))
}

func (a *API) putDevice(w http.ResponseWriter, r *http.Request) error {
	i, err := a.put(r)
	if err != nil {
		return err
	}
	return replyTagged(w, i.ETag, a.deviceJSON(i))
}

func (a *API) putModule(w http.ResponseWriter, r *http.Request) error {
	i, err := a.put(r)
	if err != nil {
		return err
	}
	return replyTagged(w, i.ETag, a.moduleJSON(i))
}

// put creates an identity without If-Match and replaces it with (section 5.2).
func (a *API) put(r *http.Request) (registry.Identity, error) {
	i, err := readIdentity(r)
	if err != nil {
		return registry.Identity{}, err
	}
	match := r.Header.Get("If-Match")
	if match == "" {
		return a.hub.Registry.Create(i)
	}
	return a.hub.Registry.Update(i, match)
}

func (a *API) deleteIdentity(w http.ResponseWriter, r *http.Request) error {
	// The header as it came: empty quotes fit no ETag, no header fits all.
	if err := a.hub.Registry.Delete(pathID(r), r.Header.Get("If-Match")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// changeDevices carries out many changes and answers 400 when one failed, with
// the same body as when none did (section 5.2).
func (a *API) changeDevices(w http.ResponseWriter, r *http.Request) error {
	var items []bulk.Item
	if err := read(r, &items); err != nil {
		return err
	}
	if len(items) == 0 || len(items) > maxBulk {
		return refusal.New(400004, "a request changes 1 to "+strconv.Itoa(maxBulk)+" identities")
	}
	result := bulk.Changer{Registry: a.hub.Registry, Twins: a.hub.Twins}.ChangeAll(items)
	if !result.Successful {
		failed := refusal.New(400013, "")
		w.Header().Set("iothub-errorcode", failed.Name)
		return replyStatus(w, failed.Status(), result)
	}
	return reply(w, result)
}

func (a *API) countDevices(w http.ResponseWriter, _ *http.Request) error {
	var count struct {
		Total    int `json:"totalDeviceCount"`
		Enabled  int `json:"enabledDeviceCount"`
		Disabled int `json:"disabledDeviceCount"`
	}
	for _, i := range a.hub.Registry.List(0) {
		count.Total++
		if i.Disabled {
			count.Disabled++
		} else {
			count.Enabled++
		}
	}
	return reply(w, count)
}

func (a *API) countConnections(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, map[string]int{"connectedDeviceCount": a.hub.Presence.Count()})
}

// replyTagged writes v as JSON under its ETag.
func replyTagged(w http.ResponseWriter, etag string, v any) error {
	w.Header().Set("ETag", `"`+etag+`"`)
	return reply(w, v)
}
