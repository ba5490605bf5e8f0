package bulk

import (
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// Result is the answer to a list of items (section 5.2).
type Result struct {
	Successful bool      `json:"isSuccessful"`
	Errors     []Failure `json:"errors"`
	Warnings   []Warning `json:"warnings"`
}

// Failure is why one item was not carried out.
type Failure struct {
	Device    string `json:"deviceId"`
	Module    string `json:"moduleId,omitempty"`
	Code      string `json:"errorCode"` // for example DeviceAlreadyExists
	Status    string `json:"errorStatus"`
	Operation Mode   `json:"operation,omitempty"`
}

// Warning is what one item left undone although its identity is changed.
type Warning struct {
	Device string `json:"deviceId"`
	Code   string `json:"warningCode"`
	Status string `json:"warningStatus"`
}

// Changer carries items out. It is safe for concurrent use.
type Changer struct {
	Registry *registry.Registry
	Twins    *twins.Store
}

// ChangeAll carries out items one after the other; one that fails does not stop
// the others. Of several items about one identity the first counts, the others
// fail with DeviceDefinedMultipleTimes.
func (c Changer) ChangeAll(items []Item) Result {
	result := Result{Errors: []Failure{}, Warnings: []Warning{}}
	seen := make(map[registry.ID]bool)
	for _, i := range items {
		var warning, err error
		if seen[i.ID()] {
			err = refusal.New(400011, i.ID().String()+" is in the list already")
		} else {
			seen[i.ID()] = true
			warning, err = c.Change(i)
		}
		if err != nil {
			result.Errors = append(result.Errors, failure(i, err))
		}
		if warning != nil {
			result.Warnings = append(result.Warnings, Warning{i.Device, "DeviceRegisteredWithoutTwin", warning.Error()})
		}
	}
	result.Successful = len(result.Errors) == 0
	return result
}

func failure(i Item, err error) Failure {
	e := refusal.Of(err)
	return Failure{Device: i.Device, Module: i.Module, Code: e.Name, Status: e.Message, Operation: i.Mode}
}

// Change carries out one item. The warning says why the twin could not follow
// when the identity itself is changed. The error is always a *refusal.Error.
func (c Changer) Change(i Item) (warning, err error) {
	switch mode := i.Mode.plain(); mode {
	case Create, Update, UpdateIfMatch, CreateOrUpdate, CreateOrUpdateIfMatch:
		if err := c.store(i, mode); err != nil {
			return nil, err
		}
		return c.changeTwin(i, ""), nil
	case Delete:
		return nil, c.Registry.Delete(i.ID(), "*")
	case DeleteIfMatch:
		if i.ETag == "" {
			return nil, refusal.New(400005, "there is no ETag to compare with")
		}
		return nil, c.Registry.Delete(i.ID(), i.ETag)
	case UpdateTwin:
		return nil, c.changeTwinOnly(i, "")
	case UpdateTwinIfMatch:
		if i.TwinETag == "" {
			return nil, refusal.New(400005, "there is no ETag of the twin to compare with")
		}
		return nil, c.changeTwinOnly(i, i.TwinETag)
	}
	return nil, refusal.New(400004, fmt.Sprintf("there is no import mode %q", i.Mode))
}

// store creates or replaces the identity of the item.
func (c Changer) store(i Item, mode Mode) error {
	wanted, err := i.identity()
	if err != nil {
		return err
	}
	switch mode {
	case Create:
		_, err = c.Registry.Create(wanted)
	case Update:
		_, err = c.Registry.Update(wanted, "*")
	case UpdateIfMatch:
		_, err = c.Registry.Update(wanted, i.ETag)
	case CreateOrUpdate:
		_, err = c.Registry.Put(wanted)
	case CreateOrUpdateIfMatch:
		_, err = c.Registry.Update(wanted, i.ETag)
		if refusal.Is(err, 404001) || refusal.Is(err, 404010) {
			_, err = c.Registry.Create(wanted)
		}
	}
	return err
}

// changeTwin merges what the item says of the twin, if anything.
func (c Changer) changeTwin(i Item, ifMatch string) error {
	patch, err := i.twin()
	if err != nil || patch == nil {
		return err
	}
	_, err = c.Twins.Update(i.ID(), patch, false, ifMatch)
	return err
}

// changeTwinOnly is changeTwin for an item that is about nothing else.
func (c Changer) changeTwinOnly(i Item, ifMatch string) error {
	if !given(i.Tags) && !given(i.Properties.Desired) {
		return refusal.New(400005, "there is nothing to change in the twin")
	}
	return c.changeTwin(i, ifMatch)
}
