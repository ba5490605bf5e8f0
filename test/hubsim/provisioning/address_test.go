package provisioning

import "testing"

func TestUsers(t *testing.T) {
	s, _ := bench(t, Config{})
	for user, want := range map[string]bool{
		scope + "/registrations/pump-1":                                            true,
		scope + "/registrations/pump-1/api-version=2019-03-31":                     true,
		scope + "/registrations/pump-1/api-version=2019-03-31&ClientVersion=a%2Fb": true,
		"0ne00FFFFFF/registrations/pump-1":                                         true, // of another service: not the hub's client either
		"hub.test/registrations/pump-1/?api-version=2021-04-12":                    false,
		"hub.test/pump-1/?api-version=2021-04-12":                                  false,
		"0ne.test/registrations/pump-1/api-version=2018-06-30":                     false,
		"pump-1@sas.hub":                          false,
		scope + "/registrations/":                 false,
		scope + "/registrations":                  false,
		scope + "/registrations/a/b":              false,
		scope + "/devices/pump-1/api-version=1":   false,
		"/" + scope + "/registrations/pump-1":     false,
		"":                                        false,
		"/registrations/pump-1/api-version=2019":  false,
		"127.0.0.1/registrations/p/api-version=1": false,
	} {
		if got := s.Owns(user); got != want {
			t.Errorf("%q: got %v, want %v", user, got, want)
		}
	}
}

// A user name that can be read has the parts that were read from it.
func FuzzParseUser(f *testing.F) {
	f.Add(scope + "/registrations/pump-1/api-version=2019-03-31&ClientVersion=a%2Fb")
	f.Add("/0ne/registrations/a")
	f.Fuzz(func(t *testing.T, user string) {
		scope, id, ok := parseUser(user)
		if !ok {
			return
		}
		if again, id2, ok := parseAddress(scope + "/registrations/" + id); !ok || again != scope || id2 != id {
			t.Fatalf("%q has %q and %q", user, scope, id)
		}
	})
}

func TestTopics(t *testing.T) {
	for topic, want := range map[string]topicRequest{
		"$dps/registrations/PUT/iotdps-register/?$rid=7":                                     {id: "7"},
		"$dps/registrations/PUT/iotdps-register/?x=y&$rid=a-b":                               {id: "a-b"},
		"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=8&operationId=4.x.y":        {id: "8", poll: true, operation: "4.x.y"},
		"$dps/registrations/GET/iotdps-get-operationstatus/?operationId=4%2Ex&$rid=%20&more": {id: "%20", poll: true, operation: "4.x"},
	} {
		if got, ok := parseTopic(topic); !ok || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", topic, got, ok, want)
		}
	}
	for _, topic := range []string{
		"", "$dps", "$dps/registrations/PUT/iotdps-register/", "$dps/registrations/PUT/iotdps-register/?",
		"$dps/registrations/PUT/iotdps-register/?$rid=", "$dps/registrations/GET/iotdps-register/?$rid=1",
		"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1",
		"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId=%2", "devices/pump-1/messages/events/",
	} {
		if got, ok := parseTopic(topic); ok {
			t.Errorf("%q was taken for %+v", topic, got)
		}
	}
}

// A topic that can be read names its request, and a poll its operation.
func FuzzParseTopic(f *testing.F) {
	f.Add("$dps/registrations/PUT/iotdps-register/?$rid=7")
	f.Add("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=8&operationId=4%2Ex")
	f.Fuzz(func(t *testing.T, topic string) {
		if r, ok := parseTopic(topic); ok && (r.id == "" || (r.poll && r.operation == "")) {
			t.Fatalf("%q is %+v", topic, r)
		}
	})
}
