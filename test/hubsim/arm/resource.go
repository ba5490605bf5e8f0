package arm

import (
	"encoding/base64"
	"encoding/binary"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// resource is a hub as the provider has it.
type resource struct {
	group, name  string
	hostName     string
	hub          *hub.Hub // nil when nobody serves it
	registry     *registry.Registry
	events       *events.Log
	jobs         Jobs
	settings     description             // as put last; what the provider fills in is missing
	etag         string                  // of the settings; "" before they are put for the first time
	certificates map[string]*certificate // by name in lower case
	busy         time.Time               // until then an operation is under way
	what         string                  // the operation does, in the words of the state
	deleted      bool                    // gone when the operation ends
}

// notServed ends the host names of hubs that nobody serves. No name below
// "invalid" ever leads anywhere (RFC 6761).
const notServed = ".not-served.invalid"

// eventPath is the entity path of the events of every hub of the bench.
const eventPath = "messages/events"

// newServed makes the resource of the hub that is served.
func (p *Provider) newServed(h *hub.Hub) *resource {
	name := h.Name
	if net.ParseIP(name) == nil {
		name, _, _ = strings.Cut(name, ".")
	}
	res := &resource{
		group: p.cfg.Group, name: name, hostName: h.Name, hub: h,
		registry: h.Registry, events: h.Events, jobs: p.cfg.Jobs,
		certificates: make(map[string]*certificate),
		etag:         p.newETag(),
	}
	res.settings = description{
		Location: p.cfg.Location, SKU: sku{Name: "S1", Capacity: 1}, Properties: defaults(),
	}
	res.settings.Properties.EventHubEndpoints.Events.Partitions = h.Events.Partitions()
	res.settings.Properties.Locations = regions(p.cfg.Location)
	return res
}

// newUnserved makes the resource of a hub that nobody serves. It has no settings
// and no events yet.
func (p *Provider) newUnserved(group, name string) *resource {
	res := &resource{
		group: group, name: name, hostName: strings.ToLower(name) + notServed, jobs: noJobs{},
		certificates: make(map[string]*certificate),
		settings:     description{Properties: defaults()},
	}
	res.registry = registry.New([]string{res.hostName}, newPolicies())
	return res
}

// newETag makes up an ETag in the form of the real ones: a version of eight
// bytes.
func (p *Provider) newETag() string {
	p.etags++
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, p.etags))
}

// find returns the hub that a path names. One whose deletion has ended is gone.
func (p *Provider) find(r *request) (*resource, error) {
	res := p.lookup(r.PathValue("name"))
	if res == nil || !strings.EqualFold(res.group, r.PathValue("group")) {
		return nil, failed(404, "ResourceNotFound", "there is no hub %q in resource group %q", r.PathValue("name"), r.PathValue("group"))
	}
	return res, nil
}

// lookup returns the hub with a name, whatever its group; nil when there is none.
func (p *Provider) lookup(name string) *resource {
	key := strings.ToLower(name)
	res := p.resources[key]
	if res != nil && res.deleted && !time.Now().Before(res.busy) {
		delete(p.resources, key)
		return nil
	}
	return res
}

// all returns the hubs of a resource group, sorted by name; "" stands for all
// groups.
func (p *Provider) all(group string) []*resource {
	var found []*resource
	for name := range p.resources {
		if res := p.lookup(name); res != nil && (group == "" || strings.EqualFold(res.group, group)) {
			found = append(found, res)
		}
	}
	slices.SortFunc(found, func(a, b *resource) int { return strings.Compare(a.name, b.name) })
	return found
}

// id is the resource id of the hub.
func (res *resource) id() string {
	return "/subscriptions/" + Subscription + "/resourceGroups/" + res.group + "/providers/" + hubType + "/" + res.name
}

// hubType is the resource type of hubs.
const hubType = "Microsoft.Devices/IotHubs"

// describe returns the hub as its operator reads it, without keys.
func (p *Provider) describe(res *resource) description {
	d := res.settings.clone()
	d.ID, d.Name, d.Type, d.ETag = res.id(), res.name, hubType, res.etag
	d.SubscriptionID, d.ResourceGroup = Subscription, res.group
	if d.Tags == nil {
		d.Tags = map[string]string{} // not null
	}
	t, _ := tierOf(d.SKU.Name) // it was checked
	d.SKU.Tier = t.class
	d.Properties.HostName = res.hostName
	d.Properties.State, d.Properties.ProvisioningState = "Active", "Succeeded"
	if time.Now().Before(res.busy) {
		d.Properties.State, d.Properties.ProvisioningState = res.what, res.what
	}
	d.Properties.Policies = nil
	for _, known := range res.policies() {
		d.Properties.Policies = append(d.Properties.Policies, policy{Name: known.Name, Rights: known.Rights})
	}
	e := &d.Properties.EventHubEndpoints.Events
	e.PartitionIDs = make([]string, e.Partitions)
	for i := range e.PartitionIDs {
		e.PartitionIDs[i] = strconv.Itoa(i)
	}
	e.Path = eventPath
	e.Endpoint = "sb://" + res.hostName + "/"
	if res.hub != nil && p.cfg.Endpoint != "" {
		e.Endpoint = p.cfg.Endpoint
	}
	return d
}
