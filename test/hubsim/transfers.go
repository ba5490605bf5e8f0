package hubsim

import (
	"encoding/json"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry/bulk"
)

// transfers shows the resource provider the hub's import and export jobs.
type transfers struct{ list *bulk.Transfers }

// Create starts a job of a kind, "export" or "import".
func (t transfers) Create(kind string, request json.RawMessage) (json.RawMessage, error) {
	var order bulk.Order
	if err := json.Unmarshal(request, &order); err != nil {
		return nil, refusal.New(400004, "the request is not what it should be: "+err.Error())
	}
	order.Type = kind
	job, err := t.list.Start(order)
	if err != nil {
		return nil, err
	}
	return json.Marshal(job)
}

// List returns all jobs.
func (t transfers) List() []json.RawMessage {
	var list []json.RawMessage
	for _, job := range t.list.List() {
		if text, err := json.Marshal(job); err == nil { // it holds texts, numbers and times only
			list = append(list, text)
		}
	}
	return list
}

// Get returns one job.
func (t transfers) Get(id string) (json.RawMessage, error) {
	job, err := t.list.Get(id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(job)
}
