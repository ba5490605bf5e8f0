package twins

import (
	"maps"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// members makes objects of few names, so that patches meet.
func members(depth int, nulls bool) *rapid.Generator[map[string]any] {
	return rapid.Custom(func(t *rapid.T) map[string]any {
		object := make(map[string]any)
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID[string]).Draw(t, "names") {
			kinds := []string{"leaf"}
			if depth > 0 {
				kinds = append(kinds, "object", "object")
			}
			if nulls {
				kinds = append(kinds, "null")
			}
			switch rapid.SampledFrom(kinds).Draw(t, "kind") {
			case "object":
				object[name] = members(depth-1, nulls).Draw(t, "object")
			case "null":
				object[name] = nil
			case "leaf":
				object[name] = rapid.SampledFrom([]any{"text", true, []any{"x"}}).Draw(t, "leaf")
			}
		}
		return object
	})
}

// merged is the model: a merge of plain maps as RFC 7396 writes it down.
func merged(target any, patch map[string]any) map[string]any {
	object, ok := target.(map[string]any)
	if !ok {
		object = nil
	}
	result := make(map[string]any)
	maps.Copy(result, object)
	for name, value := range patch {
		switch v := value.(type) {
		case nil:
			delete(result, name)
		case map[string]any:
			result[name] = merged(result[name], v)
		default:
			result[name] = v
		}
	}
	return result
}

// A node after patches holds what the model holds, an older node is untouched by
// them, and each value is stamped with the last patch that wrote to it.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, model := newObject(stamp{}), map[string]any{}
		for version := range int64(rapid.IntRange(1, 6).Draw(t, "patches")) {
			patch := members(3, true).Draw(t, "patch")
			at := stamp{at: time.Unix(version, 0), version: version + 1}
			older, before := n, model
			n, model = n.merge(patch, at), merged(model, patch)
			if got := n.object(); !reflect.DeepEqual(got, model) {
				t.Fatalf("%v after %v is %v, want %v", before, patch, got, model)
			}
			if got := older.object(); !reflect.DeepEqual(got, before) {
				t.Fatalf("the patch %v changed the older object to %v", patch, got)
			}
			if n.stamp != at {
				t.Fatalf("the stamp is %v, want %v", n.stamp, at)
			}
			checkStamps(t, n, patch, at)
		}
	})
}

// checkStamps compares the stamps below n with what the patch wrote.
func checkStamps(t *rapid.T, n *node, patch map[string]any, at stamp) {
	for name, member := range n.members {
		value, written := patch[name]
		if written != (member.stamp == at) {
			t.Fatalf("%s: written is %v and the stamp %v", name, written, member.stamp)
		}
		if object, ok := value.(map[string]any); ok {
			checkStamps(t, member, object, at)
		}
	}
}
