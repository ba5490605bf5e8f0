package arm

import (
	"fmt"
	"testing"
)

func TestConsumerGroups(t *testing.T) {
	p, h := bench(t, Config{})
	const groups = served + "/eventHubEndpoints/events/ConsumerGroups/"
	body := func(name string) string { return `{"properties":{"name":"` + name + `"}}` }
	if a := ask(t, p, "PUT", groups+"Alarms", body("Alarms")).want(t, 200); a.at("name") != "Alarms" || !h.Events.HasGroup("alarms") {
		t.Errorf("got %s, and the hub has %v", a.text, h.Events.Groups())
	}
	if a := ask(t, p, "PUT", groups+"alarms", body("alarms")).want(t, 200); a.at("name") != "Alarms" {
		t.Errorf("the group was renamed: %s", a.text)
	}
	ask(t, p, "GET", groups+"ALARMS", "").want(t, 200)
	ask(t, p, "GET", groups+"%24Default", "").want(t, 200)
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", groups + "x", body("y"), 400},
		{"PUT", groups + "x", "", 400},
		{"PUT", groups + "a$b", body("a$b"), 400},
		{"GET", groups + "x", "", 404},
		{"DELETE", groups + "x", "", 404},
		{"DELETE", groups + "$Default", "", 400},
		{"GET", served + "/eventHubEndpoints/other/ConsumerGroups", "", 404},
	} {
		if a := ask(t, p, c.method, c.path, c.body); a.status != c.status {
			t.Errorf("%s %s: got %d with %s, want %d", c.method, c.path, a.status, a.text, c.status)
		}
	}
	for n := 2; n < maxGroups; n++ {
		name := fmt.Sprint("g", n)
		ask(t, p, "PUT", groups+name, body(name)).want(t, 200)
	}
	ask(t, p, "PUT", groups+"more", body("more")).want(t, 400)
	ask(t, p, "DELETE", groups+"alarms", "").want(t, 200)
	if h.Events.HasGroup("alarms") {
		t.Error("the group is still there")
	}
}
