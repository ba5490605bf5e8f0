package arm

import (
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/events"
)

// hubRequests adds the requests about hubs as a whole.
func (p *Provider) hubRequests() {
	p.mux.HandleFunc("PUT "+hubPath, p.answer(p.putHub))
	p.mux.HandleFunc("GET "+hubPath, p.answer(p.getHub))
	p.mux.HandleFunc("PATCH "+hubPath, p.answer(p.patchHub))
	p.mux.HandleFunc("DELETE "+hubPath, p.answer(p.deleteHub))
	p.mux.HandleFunc("GET "+hubsPath, p.answer(p.listHubs))
	p.mux.HandleFunc("GET "+providerPath+"/iothubs", p.answer(p.listHubs))
	p.mux.HandleFunc("POST "+providerPath+"/checknameavailability", p.answer(p.checkName))
	p.mux.HandleFunc("POST "+hubPath+"/failover", p.answer(p.failover))
}

func (p *Provider) getHub(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	r.header.Set("ETag", `"`+res.etag+`"`)
	return 200, p.describe(res), nil
}

func (p *Provider) listHubs(r *request) (int, any, error) {
	var found []description
	for _, res := range p.all(r.PathValue("group")) {
		found = append(found, p.describe(res))
	}
	return 200, newList(found), nil
}

// putHub creates a hub or changes it. What the body leaves out keeps its value,
// or gets the default; tags are replaced as a whole.
func (p *Provider) putHub(r *request) (int, any, error) {
	res, status, what := p.lookup(r.PathValue("name")), 200, "Transitioning"
	if res == nil {
		res, status, what = p.newUnserved(r.PathValue("group"), r.PathValue("name")), 201, "Activating"
	}
	if err := p.mayPut(r, res); err != nil {
		return 0, nil, err
	}
	next := res.settings.clone()
	next.Tags = nil
	if err := r.read(&next); err != nil {
		return 0, nil, err
	}
	if err := next.check(); err != nil {
		return 0, nil, err
	}
	if err := next.replaces(res); err != nil {
		return 0, nil, err
	}
	if err := p.setPolicies(res, next.Properties.Policies); err != nil {
		return 0, nil, err
	}
	p.resources[strings.ToLower(res.name)] = res
	p.keep(res, next)
	return p.started(r, res, status, what)
}

// mayPut checks that a hub may be created or changed by the request.
func (p *Provider) mayPut(r *request, res *resource) error {
	switch {
	case !strings.EqualFold(res.group, r.PathValue("group")):
		return failed(409, "Conflict", "the name %q is taken", res.name)
	case res.deleted:
		return failed(409, "Conflict", "the hub %q is being deleted", res.name)
	case res.etag == "" && !hubName.MatchString(res.name):
		return failed(400, "InvalidRequestContent", "%q cannot be the name of a hub", res.name)
	case res.etag == "" && len(p.all("")) >= maxFree+maxPaid:
		return failed(403, "QuotaExceeded", "a subscription has at most %d hubs", maxFree+maxPaid)
	}
	return matches(r, res.etag)
}

// replaces checks that settings can take the place of those of a hub: some are
// for life.
func (d *description) replaces(res *resource) error {
	switch {
	case res.etag == "":
		return nil
	case !strings.EqualFold(d.Location, res.settings.Location):
		return failed(409, "InvalidResourceLocation", "the location cannot be changed")
	case d.Properties.EventHubEndpoints.Events.Partitions != res.settings.Properties.EventHubEndpoints.Events.Partitions:
		return failed(400, "InvalidRequestContent", "the number of partitions cannot be changed")
	}
	return nil
}

// keep takes settings that were checked, and makes them those of the hub when it
// is served.
func (p *Provider) keep(res *resource, next description) {
	next.Properties.Policies = nil // they live in the registry
	next.Properties.Locations = res.settings.Properties.Locations
	if res.hub != nil {
		next.Properties.apply(res.hub)
	} else if res.events == nil {
		res.events = events.New(next.Properties.EventHubEndpoints.Events.Partitions, events.Bounds{})
		next.Properties.Locations = regions(next.Location)
	}
	res.settings, res.etag = next, p.newETag()
}

// patchHub replaces the tags, which is all that the request can do.
func (p *Provider) patchHub(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	var body struct {
		Tags map[string]string `json:"tags"`
	}
	if err := r.read(&body); err != nil {
		return 0, nil, err
	}
	res.settings.Tags, res.etag = body.Tags, p.newETag()
	return 200, p.describe(res), nil
}

func (p *Provider) deleteHub(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 204, nil, nil
	}
	if res.hub != nil {
		return 0, nil, failed(409, "Conflict", "the hub that the bench serves cannot be deleted")
	}
	res.deleted = true
	return p.started(r, res, 202, "Deleting")
}

// checkName says whether a hub of a name could be created.
func (p *Provider) checkName(r *request) (int, any, error) {
	var body struct {
		Name string `json:"name"`
	}
	if err := r.read(&body); err != nil {
		return 0, nil, err
	}
	answer := struct {
		Available bool   `json:"nameAvailable"`
		Reason    string `json:"reason,omitempty"`
		Message   string `json:"message,omitempty"`
	}{Available: true}
	switch {
	case p.lookup(body.Name) != nil:
		answer.Available, answer.Reason, answer.Message = false, "AlreadyExists", "a hub of this name exists"
	case !hubName.MatchString(body.Name):
		answer.Available, answer.Reason, answer.Message = false, "Invalid", "a name has 3 to 50 letters, digits and hyphens"
	}
	return 200, answer, nil
}

// regions are where a hub is, and where it would fail over to.
func regions(primary string) []location {
	return []location{{primary, "primary"}, {primary + "-pair", "secondary"}}
}

// failover swaps the regions of a hub. Nobody who is connected notices, unlike
// with the real one.
func (p *Provider) failover(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	var body struct {
		Region string `json:"failoverRegion"`
	}
	if err := r.read(&body); err != nil {
		return 0, nil, err
	}
	places := res.settings.Properties.Locations
	if !strings.EqualFold(body.Region, places[1].Location) {
		return 0, nil, failed(400, "InvalidRequestContent", "the hub can fail over to %q only", places[1].Location)
	}
	places[0].Location, places[1].Location = places[1].Location, places[0].Location
	res.etag = p.newETag()
	return p.started(r, res, 202, "FailingOver")
}
