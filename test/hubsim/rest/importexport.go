package rest

import (
	"net/http"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/bulk"
)

// transferRequests are those of the jobs that import and export the registry,
// the first version of jobs (section 5.1). They run by themselves; services ask
// how far they are.
func (a *API) transferRequests() {
	a.registry("POST /jobs/create", registry.RegistryWrite, a.startTransfer)
	a.registry("GET /jobs", registry.RegistryRead, a.listTransfers)
	a.registry("GET /jobs/{id}", registry.RegistryRead, a.getTransfer)
	a.registry("DELETE /jobs/{id}", registry.RegistryWrite, a.cancelTransfer)
}

func (a *API) startTransfer(w http.ResponseWriter, r *http.Request) error {
	var order bulk.Order
	if err := read(r, &order); err != nil {
		return err
	}
	transfer, err := a.hub.Transfers.Start(order)
	if err != nil {
		return err
	}
	return reply(w, transfer)
}

func (a *API) listTransfers(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, a.hub.Transfers.List())
}

func (a *API) getTransfer(w http.ResponseWriter, r *http.Request) error {
	transfer, err := a.hub.Transfers.Get(r.PathValue("id"))
	if err != nil {
		return err
	}
	return reply(w, transfer)
}

func (a *API) cancelTransfer(w http.ResponseWriter, r *http.Request) error {
	if err := a.hub.Transfers.Cancel(r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
