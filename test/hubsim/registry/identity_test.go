package registry

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Each way in which an identity cannot be has its refusal, for Create and for
// Update, and leaves the registry as it was.
func TestImpossibleIdentities(t *testing.T) {
	r := bench(t)
	before := r.All()
	d := ID{Device: "pump-1"}
	for _, c := range []struct {
		what string
		i    Identity
		code int // of Create
	}{
		{"exists", Identity{ID: d}, 409001},
		{"module exists", Identity{ID: ID{"pump-1", "m"}}, 409301},
		{"module without device", Identity{ID: ID{"ghost", "m"}}, 404001},
		{"no id", Identity{}, 400004},
		{"long id", Identity{ID: ID{Device: strings.Repeat("x", 129)}}, 400004},
		{"slash", Identity{ID: ID{Device: "a/b"}}, 400004},
		{"not ASCII", Identity{ID: ID{Device: "Pümpe"}}, 400004},
		{"module's id", Identity{ID: ID{"pump-1", "a b"}}, 400004},
		{"short key", Identity{ID: ID{Device: "n"}, Auth: Auth{PrimaryKey: "c2hvcnQ="}}, 400004},
		{"not Base64", Identity{ID: ID{Device: "n"}, Auth: Auth{SecondaryKey: "!"}}, 400004},
		{"no thumbprint", Identity{ID: ID{Device: "n"}, Auth: Auth{Type: AuthSelfSigned}}, 400004},
		{"half a thumbprint", Identity{ID: ID{Device: "n"}, Auth: Auth{Type: AuthSelfSigned, PrimaryThumbprint: "abcd"}}, 400004},
		{"type", Identity{ID: ID{Device: "n"}, Auth: Auth{Type: "password"}}, 400004},
	} {
		if _, err := r.Create(c.i); !refusal.Is(err, c.code) {
			t.Errorf("%s: got %v, want %d", c.what, err, c.code)
		}
	}
	if _, err := r.Update(Identity{ID: d, Auth: Auth{Type: "password"}}, "*"); !refusal.Is(err, 400004) {
		t.Errorf("update: got %v, want 400004", err)
	}
	if after := r.All(); !reflect.DeepEqual(after, before) {
		t.Errorf("the registry is now %+v", after)
	}
}

// Every id of the longest kind and of each allowed character is one.
func TestIDs(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	for _, device := range []string{strings.Repeat("x", 128), "-:.+%_#*?!(),=@$';", "A", "a", "0"} {
		create(t, r, Identity{ID: ID{Device: device}})
	}
	if n := len(r.List(0)); n != 5 {
		t.Errorf("%d devices, want 5: case counts", n)
	}
}

// An ETag changes with each change, and only who knows it or asks for any may
// change or delete.
func TestETags(t *testing.T) {
	r := bench(t)
	id := ID{Device: "pump-1"}
	first, _ := r.Get(id)
	second, err := r.Update(Identity{ID: id, StatusReason: "moved"}, `"`+first.ETag+`"`)
	if err != nil || second.ETag == first.ETag || second.Generation != first.Generation || second.Auth != first.Auth {
		t.Fatalf("got %+v, %v after %+v", second, err, first)
	}
	if _, err := r.Update(Identity{ID: id}, first.ETag); !refusal.Is(err, 412001) {
		t.Errorf("update with the old ETag: got %v", err)
	}
	if _, err := r.Update(Identity{ID: id}, ""); !refusal.Is(err, 412001) {
		t.Errorf("update without: got %v", err)
	}
	if err := r.Delete(id, first.ETag); !refusal.Is(err, 412001) {
		t.Errorf("delete with the old ETag: got %v", err)
	}
	if err := r.Delete(id, second.ETag); err != nil {
		t.Error(err)
	}
	if _, err := r.Find(ID{"pump-1", "m"}); !refusal.Is(err, 404010) {
		t.Errorf("the module outlived its device: %v", err)
	}
	again, err := r.Create(Identity{ID: id})
	if err != nil || again.Generation == first.Generation {
		t.Errorf("the same generation for another device: %+v, %v", again, err)
	}
}

// Watchers hear of each change once, of the loss of rights after the update, and
// of a device's modules when it goes.
func TestChanges(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	var heard []string
	r.OnChange(func(c Change, i Identity) { heard = append(heard, fmt.Sprint(c, i.ID)) })
	d, m := ID{Device: "d"}, ID{"d", "m"}
	create(t, r, Identity{ID: d})
	create(t, r, Identity{ID: m})
	r.SetEnabled("d", false)
	r.SetEnabled("d", false)
	r.SetEnabled("d", true)
	if i, _ := r.Get(d); i.StatusUpdated.IsZero() {
		t.Error("the time of the change of status is missing")
	}
	if err := r.Delete(d, ""); err != nil {
		t.Fatal(err)
	}
	slices.Sort(heard[6:]) // in either order
	want := []string{"0 d", "0 d/m", "1 d", "2 d", "1 d", "1 d", "3 d", "3 d/m"}
	if !slices.Equal(heard, want) {
		t.Errorf("got %q, want %q", heard, want)
	}
}

// What the registry hands out and what it was given are not its own.
func TestCopies(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	scopes := []string{"of the parent"}
	create(t, r, Identity{ID: ID{Device: "d"}, ParentScopes: scopes})
	scopes[0] = "changed"
	i, _ := r.Get(ID{Device: "d"})
	i.ParentScopes[0] = "changed"
	if i, _ = r.Get(i.ID); i.ParentScopes[0] != "of the parent" {
		t.Errorf("got %q", i.ParentScopes)
	}
}

func TestFullHub(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	r.most = 2
	create(t, r, Identity{ID: ID{Device: "d"}})
	create(t, r, Identity{ID: ID{"d", "m"}})
	if _, err := r.Create(Identity{ID: ID{Device: "e"}}); !refusal.Is(err, 413002) {
		t.Errorf("got %v, want 413002", err)
	}
}

func TestPolicyLimits(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	for n := range 10 {
		if err := r.SetPolicy(Policy{Name: fmt.Sprint(n), Rights: ServiceConnect}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SetPolicy(Policy{Name: "one more", Rights: ServiceConnect}); !refusal.Is(err, 400004) {
		t.Errorf("the 11th with ServiceConnect: got %v", err)
	}
	for n := range 6 {
		if err := r.SetPolicy(Policy{Name: fmt.Sprint("r", n), Rights: RegistryRead}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SetPolicy(Policy{Name: "one more", Rights: RegistryRead}); !refusal.Is(err, 400004) {
		t.Errorf("the 17th: got %v", err)
	}
	if err := r.SetPolicy(Policy{Name: "9", Rights: RegistryRead}); err != nil {
		t.Errorf("a change of one that is there: %v", err)
	}
	before := r.Policies()
	if err := r.SetPolicies(make([]Policy, 1)); err != nil || len(r.Policies()) != 1 {
		t.Errorf("one for all: %v, %v", r.Policies(), err)
	}
	if err := r.SetPolicies(append(before, Policy{Name: "one more"})); !refusal.Is(err, 400004) || len(r.Policies()) != 1 {
		t.Errorf("17 at once: got %v, %d policies", err, len(r.Policies()))
	}
	if err := r.SetPolicies(before); err != nil || len(r.Policies()) != 16 {
		t.Errorf("16 at once: got %v, %d policies", err, len(r.Policies()))
	}
	if !r.RemovePolicy("9") || r.RemovePolicy("9") || len(r.Policies()) != 15 {
		t.Errorf("%d policies after one was removed", len(r.Policies()))
	}
}

func TestRegenerateKey(t *testing.T) {
	r := New([]string{"hub.test"}, []Policy{{Name: "p", PrimaryKey: pumpKey, SecondaryKey: secondKey, Rights: ServiceConnect}})
	one, ok := r.RegenerateKey("p", Primary)
	if !ok || one.PrimaryKey == pumpKey || one.SecondaryKey != secondKey || one.Rights != ServiceConnect {
		t.Errorf("primary: got %+v", one)
	}
	two, ok := r.RegenerateKey("p", Secondary)
	if !ok || two.PrimaryKey != one.PrimaryKey || two.SecondaryKey == secondKey || r.Policy("p") != two {
		t.Errorf("secondary: got %+v", two)
	}
	if _, ok := r.RegenerateKey("nobody", Primary); ok {
		t.Error("a key of a policy that is not there")
	}
}

// The JSON of section 5.2 is read as clients write it, and written in full.
func TestAuthJSON(t *testing.T) {
	for _, c := range []struct {
		text string
		want Auth
	}{
		{`null`, Auth{}},
		{`{}`, Auth{}},
		{`{"symmetricKey":{"primaryKey":"a","secondaryKey":null}}`, Auth{Type: AuthSAS, PrimaryKey: "a"}},
		{`{"x509Thumbprint":{"secondaryThumbprint":"b"}}`, Auth{Type: AuthSelfSigned, SecondaryThumbprint: "b"}},
		{`{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}`, Auth{Type: AuthSAS}},
		{`{"type":"certificateAuthority","symmetricKey":null}`, Auth{Type: AuthAuthority}},
	} {
		var got Auth
		if err := json.Unmarshal([]byte(c.text), &got); err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v", c.text, got, err)
		}
	}
	text, err := json.Marshal(Auth{Type: AuthSAS, PrimaryKey: "a", SecondaryKey: "b"})
	const want = `{"symmetricKey":{"primaryKey":"a","secondaryKey":"b"},` +
		`"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"}`
	if err != nil || string(text) != want {
		t.Errorf("got %s, %v", text, err)
	}
}

// Whoever does what at the same time, no module is left without its device.
func TestConcurrentUse(t *testing.T) {
	r := New([]string{"hub.test"}, nil)
	device, module := ID{Device: "d"}, ID{"d", "m"}
	var users sync.WaitGroup
	for _, use := range []func(){
		func() { _, _ = r.Put(Identity{ID: device}) },
		func() { _, _ = r.Put(Identity{ID: module}) },
		func() { _ = r.Delete(device, "") },
		func() { r.SetEnabled("d", false) },
		func() { r.All() },
	} {
		users.Go(func() {
			for range 200 {
				use()
			}
		})
	}
	users.Wait()
	_, hasDevice := r.Get(device)
	if _, hasModule := r.Get(module); hasModule && !hasDevice {
		t.Error("there is a module without its device")
	}
}
