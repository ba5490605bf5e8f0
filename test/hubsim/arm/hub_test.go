package arm

import (
	"fmt"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// poll asks how the operation that a answer began stands.
func poll(t *testing.T, p *Provider, a answered) string {
	t.Helper()
	u, err := url.Parse(a.header.Get("Azure-AsyncOperation"))
	if err != nil || u.Host != "arm.test" || u.Scheme != "https" || u.RawQuery != query[1:] {
		t.Fatalf("operation at %q, %v", u, err)
	}
	return ask(t, p, "GET", u.Path, "").want(t, 200).at("status").(string)
}

// A hub comes and goes, and both take a while.
func TestLifeOfAHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := bench(t, Config{Busy: 3 * time.Second})
		made := ask(t, p, "PUT", other, aHub).want(t, 201)
		if state := made.at("properties", "state"); state != "Activating" || poll(t, p, made) != "InProgress" {
			t.Errorf("a new hub is %v", state)
		}
		if host := made.at("properties", "hostName"); host != "other.not-served.invalid" {
			t.Errorf("a hub that nobody serves has the name %v", host)
		}
		time.Sleep(3 * time.Second)
		if got := ask(t, p, "GET", other, ""); got.at("properties", "state") != "Active" || poll(t, p, made) != "Succeeded" {
			t.Errorf("got %s", got.text)
		}
		gone := ask(t, p, "DELETE", other, "").want(t, 202)
		if got := ask(t, p, "GET", other, "").want(t, 200); got.at("properties", "provisioningState") != "Deleting" || poll(t, p, gone) != "InProgress" {
			t.Errorf("got %s", got.text)
		}
		ask(t, p, "PUT", other, aHub).want(t, 409)
		time.Sleep(3 * time.Second)
		ask(t, p, "GET", other, "").want(t, 404)
		ask(t, p, "DELETE", other, "").want(t, 204)
		if poll(t, p, gone) != "Succeeded" {
			t.Error("the deletion does not end")
		}
		ask(t, p, "PUT", other, aHub).want(t, 201)
		ask(t, p, "GET", "/subscriptions/"+Subscription+"/providers/Microsoft.Devices/locations/bench/operationResults/x", "").want(t, 404)
	})
}

func TestTheServedHubStays(t *testing.T) {
	p, _ := bench(t, Config{})
	ask(t, p, "DELETE", served, "").want(t, 409)
	ask(t, p, "GET", served, "").want(t, 200)
}

func TestPutRefuses(t *testing.T) {
	p, _ := bench(t, Config{})
	ask(t, p, "PUT", other, aHub).want(t, 201)
	const elsewhere = "/subscriptions/" + Subscription + "/resourceGroups/x/providers/Microsoft.Devices/IotHubs/"
	settings := func(text string) string { return `{"properties":{` + text + `}}` }
	for _, c := range []struct {
		path, body string
		status     int
	}{
		{base + "/new", `{}`, 400},
		{base + "/new", `{"location":"bench"}`, 400},
		{base + "/new", `{"location":"a/b","sku":{"name":"S1","capacity":1}}`, 400},
		{base + "/new", `{"location":"bench","sku":{"name":"S9","capacity":1}}`, 400},
		{base + "/new", `{"location":"bench","sku":{"name":"F1","capacity":2}}`, 400},
		{base + "/new", `not JSON`, 400},
		{base + "/n", aHub, 400},
		{base + "/-new", aHub, 400},
		{elsewhere + "hub", aHub, 409},
		{served, settings(`"eventHubEndpoints":{"events":{"partitionCount":5,"retentionTimeInDays":1}}`), 400},
		{served, settings(`"eventHubEndpoints":{"events":{"partitionCount":4,"retentionTimeInDays":8}}`), 400},
		{served, settings(`"cloudToDevice":{"maxDeliveryCount":101}`), 400},
		{served, settings(`"cloudToDevice":{"defaultTtlAsIso8601":"PT59S"}`), 400},
		{served, settings(`"cloudToDevice":{"defaultTtlAsIso8601":"1 hour"}`), 400},
		{served, settings(`"cloudToDevice":{"feedback":{"lockDurationAsIso8601":"PT301S"}}`), 400},
		{served, settings(`"messagingEndpoints":{"fileNotifications":{"ttlAsIso8601":"P3D"}}`), 400},
		{served, `{"location":"moon"}`, 409},
	} {
		if a := ask(t, p, "PUT", c.path, c.body); a.status != c.status {
			t.Errorf("%s with %s: got %d with %s, want %d", c.path, c.body, a.status, a.text, c.status)
		}
	}
	if got := ask(t, p, "GET", "/subscriptions/"+Subscription+"/providers/Microsoft.Devices/IotHubs", "").at("value").([]any); len(got) != 2 {
		t.Errorf("there are %d hubs", len(got))
	}
}

// A hub is changed only by who has read its last version, when he says so.
func TestETags(t *testing.T) {
	p, _ := bench(t, Config{})
	etag := ask(t, p, "GET", served, "").at("etag").(string)
	ask(t, p, "PUT", served, `{"tags":{"a":"1"}}`, `If-Match: "`+etag+`"`).want(t, 200)
	ask(t, p, "PUT", served, `{"tags":{"a":"2"}}`, "If-Match: "+etag).want(t, 412)
	ask(t, p, "PUT", served, `{"tags":{"a":"3"}}`, `If-Match: "*"`).want(t, 200)
	ask(t, p, "PUT", base+"/new", aHub, "If-Match: *").want(t, 412)
	if got := ask(t, p, "GET", served, ""); got.at("tags", "a") != "3" {
		t.Errorf("got %s", got.text)
	}
	if got := ask(t, p, "PATCH", served, `{"tags":{"b":"4"}}`).want(t, 200); fmt.Sprint(got.at("tags")) != "map[b:4]" {
		t.Errorf("got %s", got.text)
	}
}

// What the provider does not understand it keeps, and what a body leaves out
// stays.
func TestSettingsAreKept(t *testing.T) {
	p, _ := bench(t, Config{Endpoint: "sb://127.0.0.1:5671/"})
	ask(t, p, "PUT", served, `{"properties":{"routing":{"routes":[{"name":"r"}]},"minTlsVersion":"1.2","storageEndpoints":{"$default":{"sasTtlAsIso8601":"PT1H","connectionString":"c","containerName":"n"}}}}`).want(t, 200)
	ask(t, p, "PUT", served, `{"properties":{"cloudToDevice":{"maxDeliveryCount":7}}}`).want(t, 200)
	got := ask(t, p, "GET", served, "").at("properties").(map[string]any)
	for what, pair := range map[string][2]any{
		"route":    {fmt.Sprint(got["routing"]), "map[routes:[map[name:r]]]"},
		"TLS":      {got["minTlsVersion"], "1.2"},
		"storage":  {answered{body: got}.at("storageEndpoints", "$default", "containerName"), "n"},
		"delivery": {answered{body: got}.at("cloudToDevice", "maxDeliveryCount"), 7.0},
		"ttl":      {answered{body: got}.at("cloudToDevice", "defaultTtlAsIso8601"), "PT1H"},
		"events":   {answered{body: got}.at("eventHubEndpoints", "events", "endpoint"), "sb://127.0.0.1:5671/"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", what, pair[0], pair[1])
		}
	}
}

// Settings of commands are those of the served hub from then on.
func TestCommandSettingsTakeEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h := bench(t, Config{})
		id := registry.ID{Device: "pump-1"}
		if _, err := h.Registry.Create(registry.Identity{ID: id, Auth: registry.Auth{Type: registry.AuthSAS}}); err != nil {
			t.Fatal(err)
		}
		ask(t, p, "PUT", served, `{"properties":{"cloudToDevice":{"maxDeliveryCount":1,"defaultTtlAsIso8601":"PT2M"}}}`).want(t, 200)
		for _, end := range []func(lock string) error{
			func(lock string) error { return h.Commands.Abandon(id, lock) }, // for the first and last time
			func(string) error { time.Sleep(2*time.Minute + time.Second); return nil },
		} {
			if err := h.Commands.Send(id, &message.Message{Body: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			d, ok := h.Commands.Receive(id)
			if !ok {
				t.Fatal("there is no command")
			}
			if err := end(d.LockToken); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if n := h.Commands.Len(id); n != 0 {
				t.Errorf("%d commands are left", n)
			}
		}
	})
}

func TestFailover(t *testing.T) {
	p, _ := bench(t, Config{})
	ask(t, p, "POST", served+"/failover", `{"failoverRegion":"moon"}`).want(t, 400)
	ask(t, p, "POST", served+"/failover", `{"failoverRegion":"bench-pair"}`).want(t, 202)
	if got := ask(t, p, "GET", served, "").at("properties", "locations"); fmt.Sprint(got) != "[map[location:bench-pair role:primary] map[location:bench role:secondary]]" {
		t.Errorf("got %v", got)
	}
	ask(t, p, "POST", served+"/failover", `{"failoverRegion":"bench"}`).want(t, 202)
}

func TestNames(t *testing.T) {
	p, _ := bench(t, Config{})
	for body, want := range map[string]string{
		`{"name":"free-one"}`: "true <nil>",
		`{"name":"HUB"}`:      "false AlreadyExists",
		`{"name":"a b"}`:      "false Invalid",
		`{}`:                  "false Invalid",
	} {
		a := ask(t, p, "POST", "/subscriptions/"+Subscription+"/providers/Microsoft.Devices/checkNameAvailability", body).want(t, 200)
		if got := fmt.Sprint(a.at("nameAvailable"), " ", a.at("reason")); got != want {
			t.Errorf("%s: got %s, want %s", body, got, want)
		}
	}
}
