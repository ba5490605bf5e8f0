package arm

import (
	"regexp"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/events"
)

// maxGroups is how many consumer groups a hub may have.
const maxGroups = 20

// groupName is how the names of consumer groups must look.
var groupName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,48}[A-Za-z0-9])?$`)

// groupInfo is a consumer group as its operator reads it.
type groupInfo struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	ETag       *string           `json:"etag"` // null: groups have none
	Properties map[string]string `json:"properties"`
}

// groupRequests adds the requests about consumer groups.
func (p *Provider) groupRequests() {
	const groups = hubPath + "/eventhubendpoints/{endpoint}/consumergroups"
	p.mux.HandleFunc("GET "+groups, p.answer(p.listGroups))
	p.mux.HandleFunc("GET "+groups+"/{consumer}", p.answer(p.getGroup))
	p.mux.HandleFunc("PUT "+groups+"/{consumer}", p.answer(p.putGroup))
	p.mux.HandleFunc("DELETE "+groups+"/{consumer}", p.answer(p.deleteGroup))
}

// endpoint returns the hub whose built-in endpoint a path names.
func (p *Provider) endpoint(r *request) (*resource, error) {
	res, err := p.find(r)
	if err == nil && !strings.EqualFold(r.PathValue("endpoint"), "events") {
		err = failed(404, "NotFound", "there is no endpoint %q, only events", r.PathValue("endpoint"))
	}
	return res, err
}

func (res *resource) describeGroup(name string) groupInfo {
	return groupInfo{
		ID:   res.id() + "/eventHubEndpoints/events/ConsumerGroups/" + name,
		Name: name, Type: hubType + "/EventHubEndpoints/ConsumerGroups",
		Properties: map[string]string{"name": name},
	}
}

func (p *Provider) listGroups(r *request) (int, any, error) {
	res, err := p.endpoint(r)
	if err != nil {
		return 0, nil, err
	}
	var found []groupInfo
	for _, name := range res.events.Groups() {
		found = append(found, res.describeGroup(name))
	}
	return 200, newList(found), nil
}

func (p *Provider) getGroup(r *request) (int, any, error) {
	res, err := p.endpoint(r)
	if err != nil {
		return 0, nil, err
	}
	return res.replyGroup(r.PathValue("consumer"))
}

// replyGroup writes a group under the name it was created with.
func (res *resource) replyGroup(name string) (int, any, error) {
	all := res.events.Groups()
	i := slices.IndexFunc(all, func(known string) bool { return strings.EqualFold(known, name) })
	if i < 0 {
		return 0, nil, failed(404, "NotFound", "there is no consumer group %q", name)
	}
	return 200, res.describeGroup(all[i]), nil
}

func (p *Provider) putGroup(r *request) (int, any, error) {
	res, err := p.endpoint(r)
	if err != nil {
		return 0, nil, err
	}
	name := r.PathValue("consumer")
	var body struct {
		Properties struct {
			Name string `json:"name"`
		} `json:"properties"`
	}
	if err := r.read(&body); err != nil {
		return 0, nil, err
	}
	switch {
	case !strings.EqualFold(body.Properties.Name, name):
		return 0, nil, failed(400, "InvalidRequestContent", "properties.name is not %q", name)
	case res.events.HasGroup(name):
	case !groupName.MatchString(name):
		return 0, nil, failed(400, "InvalidRequestContent", "%q cannot be the name of a consumer group", name)
	case len(res.events.Groups()) >= maxGroups:
		return 0, nil, failed(400, "InvalidRequestContent", "a hub has at most %d consumer groups", maxGroups)
	default:
		res.events.AddGroup(name)
	}
	return res.replyGroup(name)
}

func (p *Provider) deleteGroup(r *request) (int, any, error) {
	res, err := p.endpoint(r)
	if err != nil {
		return 0, nil, err
	}
	name := r.PathValue("consumer")
	if strings.EqualFold(name, events.DefaultGroup) {
		return 0, nil, failed(400, "InvalidRequestContent", "the default consumer group stays")
	}
	if !res.events.RemoveGroup(name) {
		return 0, nil, failed(404, "NotFound", "there is no consumer group %q", name)
	}
	return 200, nil, nil
}
