package twins

import (
	"maps"
	"time"
)

// stamp is when something was changed.
type stamp struct {
	at      time.Time
	version int64 // of the section then
}

// node is one value of a section with its metadata: an object, or a leaf, which
// is anything else. It does not change.
type node struct {
	stamp
	leaf    any              // string, bool, json.Number or []any; nil for an object
	members map[string]*node // of an object
}

func newObject(at stamp) *node { return &node{stamp: at} }

// merge returns the object after a patch: null removes, objects merge, all else
// replaces. Every object on the way is stamped too, so that a removal leaves a
// trace (section 5.4).
func (n *node) merge(patch map[string]any, at stamp) *node {
	merged := &node{stamp: at, members: make(map[string]*node, len(n.members)+len(patch))}
	maps.Copy(merged.members, n.members)
	for name, value := range patch {
		switch v := value.(type) {
		case nil:
			delete(merged.members, name)
		case map[string]any:
			old := n.members[name]
			if old == nil || old.leaf != nil {
				old = newObject(at)
			}
			merged.members[name] = old.merge(v, at)
		default:
			merged.members[name] = &node{stamp: at, leaf: v}
		}
	}
	return merged
}

// value returns what encoding/json would have decoded.
func (n *node) value() any {
	if n.leaf != nil {
		return n.leaf
	}
	return n.object()
}

// object is value for a node that is one.
func (n *node) object() map[string]any {
	object := make(map[string]any, len(n.members)+2) // for $version and $metadata
	for name, member := range n.members {
		object[name] = member.value()
	}
	return object
}

// metadata returns the tree of stamps.
func (n *node) metadata(versioned bool) map[string]any {
	tree := make(map[string]any, len(n.members)+2)
	tree["$lastUpdated"] = Time(n.at)
	if versioned {
		tree["$lastUpdatedVersion"] = n.version
	}
	for name, member := range n.members {
		tree[name] = member.metadata(versioned)
	}
	return tree
}
