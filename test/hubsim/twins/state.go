package twins

import (
	"encoding/base64"
	"encoding/binary"
	"maps"
	"strings"
	"time"
)

// state is all that a twin holds. It does not change.
type state struct {
	version  int64 // of tags and desired together
	tags     section
	desired  section
	reported section
}

// section is tags, desired or reported. It does not change.
type section struct {
	root    *node
	version int64 // grows by one with each accepted change; nobody sees that of tags
}

// newState is the twin of a new identity.
func newState(now time.Time) state {
	empty := section{root: newObject(stamp{at: now, version: 1}), version: 1}
	return state{version: 1, tags: empty, desired: empty, reported: empty}
}

// etag covers tags and desired, not reported (section 5.4); the hub's are the
// version in Base64.
func (s state) etag() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(s.version)))
}

// matches says whether an If-Match lets a change through.
func (s state) matches(ifMatch string) bool {
	want := strings.Trim(ifMatch, `"`) // empty quotes fit no ETag
	return ifMatch == "" || want == "*" || want == s.etag()
}

// write is what a service asks for. A section that is nil stays as it is, or
// becomes empty when everything is replaced.
type write struct {
	tags    map[string]any
	desired map[string]any
	replace bool
}

// write makes the next state. The change is nil when nothing was asked for. The
// event of a replacement is left to the caller.
func (s state) write(w write, now time.Time) (state, *Change, error) {
	if !w.replace && len(w.tags) == 0 && len(w.desired) == 0 {
		return s, nil, nil
	}
	next := s
	next.version++
	event := map[string]any{"version": next.version}
	if w.replace || len(w.tags) > 0 {
		next.tags = s.tags.changed(w.tags, w.replace, now)
		if err := next.tags.checkSize("Tags", maxTags); err != nil {
			return s, nil, err
		}
		event["tags"] = w.tags
	}
	c := &Change{Replaced: w.replace}
	if w.replace || len(w.desired) > 0 {
		next.desired = s.desired.changed(w.desired, w.replace, now)
		if err := next.desired.checkSize("Properties.Desired", maxProperties); err != nil {
			return s, nil, err
		}
		form := copied(w.desired)
		form["$version"] = next.desired.version
		c.Desired = encode(form)
		event["properties"] = map[string]any{"desired": next.desired.asEvent(w.desired, now, true)}
	}
	c.Version = next.desired.version
	if !w.replace {
		c.Event = encode(event)
	}
	return next, c, nil
}

// report makes the state after a patch of reported. The change is nil when the
// patch is empty.
func (s state) report(patch map[string]any, now time.Time) (state, *Change, error) {
	if len(patch) == 0 {
		return s, nil, nil
	}
	next := s
	next.reported = s.reported.changed(patch, false, now)
	if err := next.reported.checkSize("Properties.Reported", maxProperties); err != nil {
		return s, nil, err
	}
	event := map[string]any{
		"version":    next.version,
		"properties": map[string]any{"reported": next.reported.asEvent(patch, now, false)},
	}
	return next, &Change{Version: next.desired.version, Event: encode(event)}, nil
}

// changed is the section after a patch or a replacement.
func (s section) changed(members map[string]any, replace bool, now time.Time) section {
	at := stamp{at: now, version: s.version + 1}
	root := s.root
	if replace {
		root = newObject(at)
	}
	return section{root: root.merge(members, at), version: at.version}
}

// values returns the members with $version, as devices see them.
func (s section) values() map[string]any {
	values := s.root.object()
	values["$version"] = s.version
	return values
}

// withMetadata is values with $metadata, as services see them. versioned adds
// $lastUpdatedVersion, which only desired has (section 5.4).
func (s section) withMetadata(versioned bool) map[string]any {
	values := s.values()
	values["$metadata"] = s.root.metadata(versioned)
	return values
}

// asEvent is a patch that led to the section with the metadata of what it wrote.
func (s section) asEvent(patch map[string]any, now time.Time, versioned bool) map[string]any {
	at := stamp{at: now, version: s.version}
	values := copied(patch)
	values["$version"] = s.version
	values["$metadata"] = newObject(at).merge(patch, at).metadata(versioned)
	return values
}

// copied is a copy of the outermost object, never nil.
func copied(members map[string]any) map[string]any {
	values := make(map[string]any, len(members)+2) // for $version and $metadata
	maps.Copy(values, members)
	return values
}
