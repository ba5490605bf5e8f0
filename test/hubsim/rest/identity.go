package rest

import (
	"net/http"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// identityJSON is what devices and modules have in common (section 5.2).
type identityJSON struct {
	Device            string        `json:"deviceId"`
	Generation        string        `json:"generationId"`
	ETag              string        `json:"etag"`
	Connection        string        `json:"connectionState"`
	ConnectionChanged string        `json:"connectionStateUpdatedTime"`
	LastActivity      string        `json:"lastActivityTime"`
	Queued            int           `json:"cloudToDeviceMessageCount"`
	Auth              registry.Auth `json:"authentication"`
}

// deviceJSON is a device in answers.
type deviceJSON struct {
	identityJSON
	Status        string         `json:"status"`
	StatusReason  registry.Text  `json:"statusReason"`
	StatusChanged string         `json:"statusUpdatedTime"`
	Capabilities  capabilityJSON `json:"capabilities"`
	Scope         registry.Text  `json:"deviceScope,omitempty"`
	ParentScopes  []string       `json:"parentScopes,omitempty"`
}

type capabilityJSON struct {
	Edge bool `json:"iotEdge"`
}

// moduleJSON is a module in answers.
type moduleJSON struct {
	identityJSON
	Module    string        `json:"moduleId"`
	ManagedBy registry.Text `json:"managedBy"`
}

// describe writes what the hub knows of an identity of either kind.
func (a *API) describe(i registry.Identity) identityJSON {
	state := a.hub.Presence.State(i.ID)
	connection := "Disconnected"
	if state.Connected {
		connection = "Connected"
	}
	return identityJSON{
		Device:            i.ID.Device,
		Generation:        i.Generation,
		ETag:              i.ETag,
		Connection:        connection,
		ConnectionChanged: hub.Time(state.Changed),
		LastActivity:      hub.Time(state.LastActivity),
		Queued:            a.hub.Commands.Len(i.ID),
		Auth:              i.Auth,
	}
}

func (a *API) deviceJSON(i registry.Identity) deviceJSON {
	return deviceJSON{
		identityJSON:  a.describe(i),
		Status:        registry.Status(i.Disabled),
		StatusReason:  registry.Text(i.StatusReason),
		StatusChanged: hub.Time(i.StatusUpdated),
		Capabilities:  capabilityJSON{i.Edge},
		Scope:         registry.Text(i.Scope),
		ParentScopes:  i.ParentScopes,
	}
}

func (a *API) moduleJSON(i registry.Identity) moduleJSON {
	return moduleJSON{a.describe(i), i.ID.Module, registry.Text(i.ManagedBy)}
}

// wantedJSON is a device or a module in requests: only what a service may decide.
// The rest is the hub's, and clients send it back in forms of their own (Node has
// cloudToDeviceMessageCount as text).
type wantedJSON struct {
	Device       string         `json:"deviceId"`
	Module       string         `json:"moduleId"`
	Status       string         `json:"status"`
	StatusReason string         `json:"statusReason"`
	Auth         registry.Auth  `json:"authentication"`
	Capabilities capabilityJSON `json:"capabilities"`
	Scope        string         `json:"deviceScope"`
	ParentScopes []string       `json:"parentScopes"`
	ManagedBy    string         `json:"managedBy"`
}

// readIdentity reads from the body what the identity in the path is to be.
func readIdentity(r *http.Request) (registry.Identity, error) {
	var body wantedJSON
	if err := read(r, &body); err != nil {
		return registry.Identity{}, err
	}
	id := pathID(r)
	if (body.Device != "" && body.Device != id.Device) || (body.Module != "" && body.Module != id.Module) {
		return registry.Identity{}, refusal.New(400004, "the body is about another identity than the path")
	}
	if id.Module != "" {
		return registry.Identity{ID: id, Auth: body.Auth, ManagedBy: body.ManagedBy}, nil
	}
	off, err := registry.ParseStatus(body.Status)
	return registry.Identity{
		ID:           id,
		Disabled:     off,
		StatusReason: body.StatusReason,
		Auth:         body.Auth,
		Edge:         body.Capabilities.Edge,
		Scope:        body.Scope,
		ParentScopes: body.ParentScopes,
	}, err
}

// pathID is the identity that the path of a request names.
func pathID(r *http.Request) registry.ID {
	return registry.ID{Device: r.PathValue("d"), Module: r.PathValue("m")}
}
