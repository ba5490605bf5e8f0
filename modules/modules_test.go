package modules

import (
	"errors"
	"reflect"
	"testing"

	"github.com/fieldgate/fieldgate/gateway"
)

func TestScope(t *testing.T) {
	for _, tt := range []struct {
		scope         Scope
		leaf, channel string
		want          bool
	}{
		{Scope{}, "pump-1", "", true},
		{Scope{Leaf: "*"}, "pump-1", "a/b", true},
		{Scope{Leaf: "pump-*"}, "pump-1", "", true},
		{Scope{Leaf: "pump-*"}, "fan-1", "", false},
		{Scope{Leaf: "pump-?"}, "pump-12", "", false},
		{Scope{Leaf: "pump-[1-3]", Channel: "flow"}, "pump-2", "flow", true},
		{Scope{Leaf: "pump-[1-3]", Channel: "flow"}, "pump-2", "", false},
		{Scope{Channel: "*"}, "pump-1", "", true},
	} {
		if got := tt.scope.Has(&gateway.Message{Leaf: tt.leaf, Channel: tt.channel}); got != tt.want {
			t.Errorf("%+v has %s, %q: %v, want %v", tt.scope, tt.leaf, tt.channel, got, tt.want)
		}
	}
}

func TestBadPatterns(t *testing.T) {
	for key, scope := range map[string]Scope{"leaf": {Leaf: "a["}, "channel": {Leaf: "a*", Channel: "["}} {
		bad, ok := errors.AsType[*gateway.KeyError](scope.Validate())
		if !ok || bad.Key != key {
			t.Errorf("%+v: got %v, want a KeyError of %s", scope, bad, key)
		}
	}
	if err := (Scope{Leaf: "pump-[a-z]*", Channel: "?"}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestField(t *testing.T) {
	const body = `{"a":{"b":{"c":1.5}},"list":[{"v":true},"x"],"n":null,"big":1e999,"0":"zero"}`
	for _, tt := range []struct {
		field string
		want  any
		err   error
	}{
		{"a.b.c", 1.5, nil},
		{"a.b", map[string]any{"c": 1.5}, nil},
		{"list.0.v", true, nil},
		{"list.1", "x", nil},
		{"0", "zero", nil},
		{"n", nil, nil},
		{"list.2", nil, ErrNoField},
		{"list.-1", nil, ErrNoField},
		{"A.b.c", nil, ErrNoField},
		{"a.b.c.d", nil, ErrNoField},
		{"n.a", nil, ErrNoField},
		{"big", nil, ErrNoField},
	} {
		f, err := ParseField(tt.field)
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Get([]byte(body))
		if !errors.Is(err, tt.err) || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %v, %v, want %v, %v", tt.field, got, err, tt.want, tt.err)
		}
	}
}

func TestFieldOfWhatIsNotJSON(t *testing.T) {
	f, err := ParseField("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"", "T=1", `{"a":1} x`, `{"a":1`} {
		if _, err := f.Get([]byte(body)); !errors.Is(err, ErrNotJSON) {
			t.Errorf("%q: got %v, want %v", body, err, ErrNotJSON)
		}
	}
	if _, err := f.Get([]byte("7")); !errors.Is(err, ErrNoField) {
		t.Errorf("a number has a field: %v", err)
	}
}

func TestBadFields(t *testing.T) {
	for _, text := range []string{"", ".", "a.", ".a", "a..b"} {
		if f, err := ParseField(text); err == nil {
			t.Errorf("%q was read as %q", text, f)
		}
	}
}

func FuzzField(f *testing.F) {
	f.Add("a.b", []byte(`{"a":{"b":1}}`))
	f.Add("0.x", []byte(`[{"x":null}]`))
	f.Add("a", []byte("{\"a\":\"\xff\"}"))
	f.Add("a", []byte(`nonsense`))
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		field, err := ParseField(text)
		if err != nil {
			return
		}
		v, err := field.Get(body)
		if err != nil && (v != nil || !errors.Is(err, ErrNotJSON) && !errors.Is(err, ErrNoField)) {
			t.Errorf("%q in %q: %v, %v", text, body, v, err)
		}
	})
}
