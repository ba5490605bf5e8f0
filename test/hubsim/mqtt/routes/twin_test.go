package routes_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

func TestTwin(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.subscribe(0, answerFilter, desiredFilter)
		for _, v := range []struct{ topic, body, wantTopic, wantBody string }{
			{
				"$iothub/twin/GET/?$rid=a-1", " ",
				"$iothub/twin/res/200/?$rid=a-1", `{"desired":{"$version":1},"reported":{"$version":1}}`,
			},
			{
				"$iothub/twin/PATCH/properties/reported/?$rid=2", `{"speed":7}`,
				"$iothub/twin/res/204/?$rid=2&$version=2", "",
			},
			{
				"$iothub/twin/PATCH/properties/reported/?$rid=3&$version=2", `{"speed":8}`,
				"$iothub/twin/res/204/?$rid=3&$version=3", "",
			},
			{
				"$iothub/twin/GET/?$rid=4", "",
				"$iothub/twin/res/200/?$rid=4", `{"desired":{"$version":1},"reported":{"$version":3,"speed":8}}`,
			},
		} {
			c.send(publish(v.topic, v.body, 0))
			p := c.message()
			if p.TopicName != v.wantTopic || canonical(t, p.Payload) != v.wantBody || p.Qos != 0 {
				t.Errorf("%s: got %s %s, want %s %s", v.topic, p.TopicName, p.Payload, v.wantTopic, v.wantBody)
			}
		}
		if _, err := b.hub.Twins.Update(pump, []byte(`{"tags":{"t":1},"properties":{"desired":{"limit":9,"old":null}}}`), false, ""); err != nil {
			t.Fatal(err)
		}
		p := c.message()
		var got map[string]any
		if err := json.Unmarshal(p.Payload, &got); err != nil {
			t.Fatal(err)
		}
		if p.TopicName != "$iothub/twin/PATCH/properties/desired/?$version=2" || got["limit"] != 9.0 || got["$version"] != 2.0 || len(got) != 3 {
			t.Errorf("got %s %s", p.TopicName, p.Payload)
		}
		if _, err := b.hub.Twins.Update(pump, []byte(`{"tags":{"t":2}}`), false, ""); err != nil {
			t.Fatal(err)
		}
		c.nothing()
	})
}

// canonical writes JSON with its names in order; nothing stays nothing.
func canonical(t *testing.T, text []byte) string {
	t.Helper()
	if len(text) == 0 {
		return ""
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Errors are told in the body too, which is where clients look (trap 9.13).
func TestTwinErrors(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.subscribe(0, answerFilter)
		for what, v := range map[string]struct {
			topic, body string
			status      string
			code        int
		}{
			"no JSON":        {"$iothub/twin/PATCH/properties/reported/?$rid=1", "{", "400", 400004},
			"echoed version": {"$iothub/twin/PATCH/properties/reported/?$rid=1", `{"a":1,"$version":1}`, "400", 400004},
			"too large":      {"$iothub/twin/PATCH/properties/reported/?$rid=1", `{"a":{"b":"` + strings.Repeat("x", 40<<10) + `"}}`, "", 0},
			"wrong version":  {"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=77", `{"a":1}`, "412", 412001},
		} {
			c.send(publish(v.topic, v.body, 0))
			p := c.message()
			var got struct {
				Code     int    `json:"errorCode"`
				Tracking string `json:"trackingId"`
				Message  string `json:"message"`
				Time     string `json:"timestampUtc"`
			}
			if err := json.Unmarshal(p.Payload, &got); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if !strings.HasPrefix(p.TopicName, "$iothub/twin/res/"+v.status) || !strings.HasSuffix(p.TopicName, "/?$rid=1") ||
				(v.code != 0 && got.Code != v.code) || got.Code < 400000 || got.Tracking == "" || got.Message == "" || got.Time == "" {
				t.Errorf("%s: got %s %s", what, p.TopicName, p.Payload)
			}
		}
	})
}

// Without the subscription there is no answer, but the patch counts.
func TestTwinWithoutSubscription(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		c.publish("$iothub/twin/PATCH/properties/reported/?$rid=1", `{"a":1}`, 1)
		c.send(publish("$iothub/twin/GET/?$rid=2", "", 0))
		c.nothing()
		if twin, err := b.hub.Twins.ForDevice(pump); err != nil || !strings.Contains(string(twin), `"a":1`) {
			t.Errorf("got %s and %v", twin, err)
		}
	})
}

func TestTwinRates(t *testing.T) {
	for what, v := range map[string]struct {
		topic, body string
		rate        int // at S1 (section 6.1)
	}{
		"reads":   {"$iothub/twin/GET/?$rid=1", "", 100},
		"updates": {"$iothub/twin/PATCH/properties/reported/?$rid=1", `{"a":1}`, 50},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				c := b.join(pump)
				c.subscribe(0, answerFilter)
				if err := b.hub.Limits.SetTier("S1", 1); err != nil {
					t.Fatal(err)
				}
				for n := range v.rate + 1 {
					c.send(publish(v.topic, v.body, 0))
					p := c.message()
					if refused := strings.HasPrefix(p.TopicName, "$iothub/twin/res/429/"); refused != (n == v.rate) {
						t.Fatalf("request %d: got %s %s", n+1, p.TopicName, p.Payload)
					}
				}
			})
		})
	}
}

func TestMethod(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.join(pump)
		if _, err := b.hub.Methods.Invoke(t.Context(), pump, methods.Call{Name: "blink"}); !refusal.Is(err, 404103) {
			t.Errorf("not subscribed: got %v, want 404103", err)
		}
		c.subscribe(0, methodFilter)
		for _, v := range []struct {
			call   methods.Call
			topic  string
			status int32
			body   string
			code   int // of the error; 0 for none
		}{
			{methods.Call{Name: "blink", Payload: []byte(`{"times":3}`)}, "$iothub/methods/POST/blink/?$rid=", 200, `{"ok":true}`, 0},
			{methods.Call{Name: "blink"}, "$iothub/methods/POST/blink/?$rid=", -1, "", 0},
			{methods.Call{Name: "a.B_9-#+"}, "$iothub/methods/POST/a.B_9-%23%2B/?$rid=", 200, `null`, 0},
			{methods.Call{Name: "blink"}, "$iothub/methods/POST/blink/?$rid=", 200, `{`, 502000},
		} {
			type result struct {
				methods.Answer
				error
			}
			results := make(chan result, 1)
			b.served.Go(func() {
				a, err := b.hub.Methods.Invoke(t.Context(), pump, v.call)
				results <- result{a, err}
			})
			p := c.message()
			rid, ok := strings.CutPrefix(p.TopicName, v.topic)
			if !ok || string(p.Payload) != string(v.call.Payload) || p.Qos != 0 {
				t.Fatalf("got %v, want %s", p, v.topic)
			}
			c.send(publish(fmt.Sprintf("$iothub/methods/res/%d/?$rid=%s", v.status, rid), v.body, 0))
			got := <-results
			if v.code != 0 {
				if !refusal.Is(got.error, v.code) {
					t.Errorf("got %v, want %d", got.error, v.code)
				}
				continue
			}
			if got.error != nil || got.Status != v.status || string(got.Payload) != v.body {
				t.Errorf("got %+v, want %d %s", got, v.status, v.body)
			}
		}
		c.send(publish("$iothub/methods/res/200/?$rid=late", "", 0)) // nobody waits: no harm
		c.unsubscribe(methodFilter)
		synctest.Wait()
		if _, err := b.hub.Methods.Invoke(t.Context(), pump, methods.Call{Name: "blink"}); !refusal.Is(err, 404103) {
			t.Errorf("unsubscribed: got %v, want 404103", err)
		}
	})
}
