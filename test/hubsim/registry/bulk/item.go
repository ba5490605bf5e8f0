// Package bulk changes many identities at once: by lists of items in requests
// and by transfers, which are jobs that import or export the whole registry from
// or to a blob container (wire contract, sections 5.1 and 5.2).
package bulk

import (
	"encoding/json"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Item is one identity with what is to be done to it. Names in JSON count without
// regard to case, as vendors' clients differ in them.
type Item struct {
	Device       string          `json:"id"`
	Module       string          `json:"moduleId,omitempty"`
	ETag         string          `json:"eTag,omitempty"`
	Mode         Mode            `json:"importMode,omitempty"`
	Status       string          `json:"status,omitempty"`
	StatusReason string          `json:"statusReason,omitempty"`
	Auth         registry.Auth   `json:"authentication"`
	TwinETag     string          `json:"twinETag,omitempty"`
	Tags         json.RawMessage `json:"tags,omitempty"`
	Properties   Properties      `json:"properties,omitzero"`
	Capabilities Capabilities    `json:"capabilities,omitzero"`
	Scope        string          `json:"deviceScope,omitempty"`
	ParentScopes []string        `json:"parentScopes,omitempty"`
}

// Properties are those of a twin. Reported ones are exported only: they are the
// device's to write.
type Properties struct {
	Desired  json.RawMessage `json:"desired,omitempty"`
	Reported json.RawMessage `json:"reported,omitempty"`
}

// Capabilities is what a device can do beside being one.
type Capabilities struct {
	Edge bool `json:"iotEdge"`
}

// Mode says what is to be done to an identity.
type Mode string

// The modes of section 5.2, in lower case, and two that files of the vendor's
// tools use besides.
const (
	Create                Mode = "create"
	Update                Mode = "update"
	UpdateIfMatch         Mode = "updateifmatchetag"
	CreateOrUpdate        Mode = "createorupdate"
	CreateOrUpdateIfMatch Mode = "createorupdateifmatchetag"
	Delete                Mode = "delete"
	DeleteIfMatch         Mode = "deleteifmatchetag"
	UpdateTwin            Mode = "updatetwin"
	UpdateTwinIfMatch     Mode = "updatetwinifmatchetag"
)

// plain returns the mode in lower case. An item without one is created or
// updated.
func (m Mode) plain() Mode {
	if m == "" {
		return CreateOrUpdate
	}
	return Mode(strings.ToLower(string(m)))
}

// ID returns whom the item is about.
func (i Item) ID() registry.ID { return registry.ID{Device: i.Device, Module: i.Module} }

// identity returns what the item wants the identity to be.
func (i Item) identity() (registry.Identity, error) {
	off, err := registry.ParseStatus(i.Status)
	return registry.Identity{
		ID:           i.ID(),
		Disabled:     off && i.Module == "", // modules follow their device
		StatusReason: i.StatusReason,
		Auth:         i.Auth,
		Edge:         i.Capabilities.Edge,
		Scope:        i.Scope,
		ParentScopes: i.ParentScopes,
	}, err
}

// twin returns the item's tags and desired properties as a patch of a twin; nil
// when it has neither. The error is a *refusal.Error.
func (i Item) twin() ([]byte, error) {
	patch := make(map[string]any)
	if given(i.Tags) {
		patch["tags"] = i.Tags
	}
	if given(i.Properties.Desired) {
		desired, err := written(i.Properties.Desired)
		if err != nil {
			return nil, err
		}
		patch["properties"] = map[string]any{"desired": desired}
	}
	if len(patch) == 0 {
		return nil, nil
	}
	return json.Marshal(patch)
}

// given says whether a JSON value is there.
func given(value json.RawMessage) bool { return len(value) > 0 && string(value) != "null" }

// written returns of a section of a twin what somebody wrote, without what the
// hub adds to it in answers and exports.
func written(section json.RawMessage) (map[string]json.RawMessage, error) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(section, &values); err != nil {
		return nil, refusal.New(400004, "properties are not a JSON object: "+err.Error())
	}
	delete(values, "$metadata")
	delete(values, "$version")
	return values, nil
}
