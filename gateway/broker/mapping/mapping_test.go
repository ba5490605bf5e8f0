package mapping_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
)

// The firmware of the field, each with its two lines.
var rules = mapping.Compile([]mapping.Rule{
	{Topic: "tele/{leaf}/{channel}", Kind: mapping.Telemetry},
	{Topic: "stat/{leaf}/ALARM/{channel}", Kind: mapping.Alarm},
	{Topic: "cmnd/{leaf}/{name}", Kind: mapping.Command},
	{Topic: "cmnd/{leaf}/{name}", Kind: mapping.Call, Reply: "stat/{leaf}/RESULT"},
	{Topic: "cfg/{leaf}/{name}", Kind: mapping.Desired},
	{Topic: "zigbee2mqtt/bridge/{channel}", Kind: mapping.Telemetry, Login: "z2m", Leaf: "z2m"},
	{Topic: "zigbee2mqtt/{leaf}", Kind: mapping.Telemetry, Login: "z2m"},
	{Topic: "zigbee2mqtt/{leaf}/state", Kind: mapping.Reported, Login: "z2m"},
	{Topic: "zigbee2mqtt/{leaf}/set", Kind: mapping.Command, Login: "z2m"},
	{Topic: "esp/+/{channel}/state", Kind: mapping.Telemetry},
})

func TestRead(t *testing.T) {
	for _, c := range []struct{ login, topic, want string }{
		{"plug-1", "tele/plug-1/SENSOR", "plug-1 telemetry SENSOR"},
		{"plug-1", "tele/plug-1/a/b/c", "plug-1 telemetry a/b/c"},
		{"plug-1", "tele/plug-1", ""},
		{"plug-1", "tele/plug-2/SENSOR", ""},
		{"plug-1", "stat/plug-1/ALARM/smoke", "plug-1 alarm smoke"},
		{"plug-1", "cmnd/plug-1/POWER", ""},
		{"plug-1", "zigbee2mqtt/plug-1", ""},
		{"z2m", "zigbee2mqtt/lamp", "lamp telemetry "},
		{"z2m", "zigbee2mqtt/lamp/state", "lamp reported "},
		{"z2m", "zigbee2mqtt/lamp/other", ""},
		{"z2m", "zigbee2mqtt/bridge/log/x", "z2m telemetry log/x"},
		{"esp", "esp/whatever/temp/state", "esp telemetry temp"},
		{"esp", "esp/whatever/temp/stat", ""},
		{"z2m", "", ""},
	} {
		got := ""
		if target, ok := rules.Read(c.login, c.topic); ok {
			got = fmt.Sprintf("%s %s %s", target.Leaf, target.Kind, target.Channel)
		}
		if got != c.want {
			t.Errorf("%s: %s: got %q, want %q", c.login, c.topic, got, c.want)
		}
	}
}

func TestListens(t *testing.T) {
	for _, c := range []struct{ login, filter, want string }{
		{"plug-1", "cmnd/plug-1/#", "plug-1"},
		{"plug-1", "cmnd/plug-1/+", "plug-1"},
		{"plug-1", "cmnd/plug-1/POWER", "plug-1"},
		{"plug-1", "cmnd/plug-2/#", ""},
		{"plug-1", "cmnd/+/POWER", ""},
		{"plug-1", "cmnd/#", ""},
		{"plug-1", "#", ""},
		{"plug-1", "zigbee2mqtt/plug-1/set", ""},
		{"z2m", "zigbee2mqtt/lamp/set", "lamp"},
		{"z2m", "zigbee2mqtt/+/set", "all"},
		{"z2m", "zigbee2mqtt/#", "all"},
		{"z2m", "zigbee2mqtt/#/set", ""},
		{"z2m", "#", ""},
		{"z2m", "cmnd/lamp/#", ""},
	} {
		got := ""
		switch l, ok := rules.Listens(c.login, c.filter); {
		case ok && l.All:
			got = "all"
		case ok:
			got = l.Leaf
		}
		if got != c.want {
			t.Errorf("%s: %s: got %q, want %q", c.login, c.filter, got, c.want)
		}
	}
}

func TestListensForWhat(t *testing.T) {
	for filter, want := range map[string]gateway.Interest{
		"cmnd/plug-1/#": gateway.WantsCommands | gateway.WantsCalls,
		"cfg/plug-1/+":  gateway.WantsDesired | gateway.CannotAsk,
	} {
		if l, ok := rules.Listens("plug-1", filter); !ok || l.Wants != want {
			t.Errorf("%s: %+v, %v, want %b", filter, l, ok, want)
		}
	}
}

func TestAnswers(t *testing.T) {
	rules := mapping.Compile([]mapping.Rule{
		{Topic: "cmnd/{leaf}/{name}", Kind: mapping.Call, Reply: "stat/{leaf}/RESULT"},
		{Topic: "z/{leaf}/get/{name}", Kind: mapping.Call, Reply: "z/{leaf}/{name}", Login: "z2m"},
		{Topic: "x/{leaf}", Kind: mapping.Command},
	})
	for _, c := range []struct {
		login, topic string
		want         bool
	}{
		{"plug-1", "stat/plug-1/RESULT", true},
		{"plug-1", "stat/plug-2/RESULT", false},
		{"plug-1", "stat/plug-1/RESULT/x", false},
		{"plug-1", "stat/plug-1/STATE", false},
		{"plug-1", "z/plug-1/state", false},
		{"plug-1", "", false},
		{"z2m", "z/lamp/state", true},
		{"z2m", "z/lamp", false},
	} {
		if got := rules.Answers(c.login, c.topic); got != c.want {
			t.Errorf("%s on %s: %v", c.login, c.topic, got)
		}
	}
	if w, ok := rules.Way(mapping.Call, "z2m", "lamp", "state"); !ok || w != (mapping.Way{Topic: "z/lamp/get/state", Reply: "z/lamp/state", Named: true}) {
		t.Errorf("the way of a call: %+v, %v", w, ok)
	}
}

func TestCommandTopic(t *testing.T) {
	for _, c := range []struct{ login, leaf, want string }{
		{"plug-1", "plug-1", "cmnd/plug-1/POWER"},
		{"plug-1", "plug-2", ""},
		{"z2m", "lamp", "zigbee2mqtt/lamp/set"},
	} {
		if got, _ := rules.Way(mapping.Command, c.login, c.leaf, "POWER"); got.Topic != c.want {
			t.Errorf("%s for %s: got %q, want %q", c.login, c.leaf, got.Topic, c.want)
		}
	}
	var none *mapping.Rules
	if _, ok := none.Way(mapping.Command, "a", "a", "x"); ok || none.Answers("a", "a") {
		t.Error("no rules say something")
	}
}

// A rule that names no leaf is for the one that is logged in, a bridge too.
func TestOwnTopicOfABridge(t *testing.T) {
	rules := mapping.Compile([]mapping.Rule{{Topic: "z/request", Kind: mapping.Command, Login: "z2m"}})
	if l, ok := rules.Listens("z2m", "z/request"); !ok || l.All || l.Leaf != "z2m" {
		t.Errorf("listens as %+v, %v", l, ok)
	}
	if w, ok := rules.Way(mapping.Command, "z2m", "z2m", "x"); !ok || w.Topic != "z/request" {
		t.Errorf("its own command: %+v, %v", w, ok)
	}
	if w, ok := rules.Way(mapping.Command, "z2m", "lamp", "x"); ok {
		t.Errorf("a command for another leaf comes as its own: %+v", w)
	}
}

func TestValidate(t *testing.T) {
	for topic, want := range map[string]string{
		"tele/{leaf}/{channel}": "", "a": "", "a/+/b": "",
		"":                "write the firmware's topic",
		"leaf/{leaf}/x":   "have a meaning already",
		"devices/{leaf}":  "have a meaning already",
		"$iothub/x":       "have a meaning already",
		"a/{leaf}/{leaf}": "twice",
		"a/{name}":        "means nothing",
		"a/#":             "no level",
		"a/x{leaf}":       "no level",
		"a/{device}":      "no level",
		"a/b+":            "no level",
	} {
		r := mapping.Rule{Topic: topic, Kind: mapping.Telemetry}
		if err := r.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", topic, err, want)
		}
	}
	for _, r := range []mapping.Rule{
		{Topic: "a", Kind: "telemetri"},
		{Topic: "a/{leaf}", Kind: mapping.Telemetry, Leaf: "x"},
		{Topic: "a/+/{name}", Kind: mapping.Command},
		{Topic: "a/{channel}", Kind: mapping.Command},
		{Topic: "a/{name}", Kind: mapping.Call},
		{Topic: "a/{name}", Kind: mapping.Call, Reply: "a/+"},
		{Topic: "a/{name}", Kind: mapping.Call, Reply: "leaf/a/reply"},
		{Topic: "a/{name}", Kind: mapping.Desired, Reply: "a"},
		{Topic: "a/+", Kind: mapping.Desired},
	} {
		if r.Validate() == nil {
			t.Errorf("%+v is valid", r)
		}
	}
}

// Nobody speaks or listens for another without a rule with its name: over random
// rules, topics and logins.
func TestALeafIsItselfOnly(t *testing.T) {
	level := rapid.SampledFrom([]string{"a", "b", "c", "{leaf}", "{channel}", "{name}", "+"})
	plain := rapid.SampledFrom([]string{"a", "b", "c", "+", "#", "", "{leaf}"})
	join := func(l []string) string { return strings.Join(l, "/") }
	rapid.Check(t, func(t *rapid.T) {
		var list []mapping.Rule
		for range rapid.IntRange(1, 4).Draw(t, "rules") {
			r := mapping.Rule{
				Topic: join(rapid.SliceOfN(level, 1, 4).Draw(t, "topic")),
				Kind:  rapid.SampledFrom([]mapping.Kind{mapping.Telemetry, mapping.Alarm, mapping.Reported, mapping.Command, mapping.Call, mapping.Desired}).Draw(t, "kind"),
				Leaf:  rapid.SampledFrom([]string{"", "", "a", "b"}).Draw(t, "leaf"),
				Login: rapid.SampledFrom([]string{"", "", "bridge"}).Draw(t, "login"),
			}
			if r.Kind == mapping.Call {
				r.Reply = join(rapid.SliceOfN(level, 1, 3).Draw(t, "reply"))
			}
			if r.Validate() == nil {
				list = append(list, r)
			}
		}
		rules := mapping.Compile(list)
		topic := join(rapid.SliceOfN(plain, 1, 5).Draw(t, "published"))
		if target, ok := rules.Read("a", topic); ok && target.Leaf != "a" {
			t.Fatalf("%+v: a publishes to %s as %q", list, topic, target.Leaf)
		}
		if l, ok := rules.Listens("a", topic); ok && (l.All || l.Leaf != "a") {
			t.Fatalf("%+v: a listens on %s as %+v", list, topic, l)
		}
		for _, kind := range []mapping.Kind{mapping.Command, mapping.Call, mapping.Desired} {
			if way, ok := rules.Way(kind, "a", "b", "x"); ok {
				t.Fatalf("%+v: %s of b goes to a: %+v", list, kind, way)
			}
		}
	})
}

func FuzzTopics(f *testing.F) {
	f.Add("plug-1", "tele/plug-1/SENSOR")
	f.Add("z2m", "zigbee2mqtt/+/set")
	f.Fuzz(func(t *testing.T, login, topic string) {
		if target, ok := rules.Read(login, topic); ok && login != "z2m" && target.Leaf != login {
			t.Errorf("%q publishes to %q as %q", login, topic, target.Leaf)
		}
		if l, ok := rules.Listens(login, topic); ok && login != "z2m" && (l.All || l.Leaf != login) {
			t.Errorf("%q listens on %q as %+v", login, topic, l)
		}
		rules.Answers(login, topic)
	})
}
