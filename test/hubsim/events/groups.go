package events

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// DefaultGroup is the consumer group that is always there.
const DefaultGroup = "$Default"

// groups are the consumer groups beside the default one: names under which
// readers read. A group holds nothing, as each reader keeps its own place.
type groups struct {
	mu    sync.Mutex        // guards names
	names map[string]string // as they were given, by their lower-case form
}

// AddGroup adds a consumer group, and says whether it is new. Case does not
// matter in names.
func (l *Log) AddGroup(name string) bool {
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	key := strings.ToLower(name)
	if _, found := l.groups.names[key]; found || strings.EqualFold(name, DefaultGroup) {
		return false
	}
	if l.groups.names == nil {
		l.groups.names = make(map[string]string)
	}
	l.groups.names[key] = name
	return true
}

// RemoveGroup removes a consumer group, and says whether it was there. The
// default group stays. Who reads under the name goes on; nobody else can begin.
func (l *Log) RemoveGroup(name string) bool {
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	_, found := l.groups.names[strings.ToLower(name)]
	delete(l.groups.names, strings.ToLower(name))
	return found
}

// HasGroup says whether there is a consumer group of the name.
func (l *Log) HasGroup(name string) bool {
	if strings.EqualFold(name, DefaultGroup) {
		return true
	}
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	_, found := l.groups.names[strings.ToLower(name)]
	return found
}

// Groups returns the names of all consumer groups, the default one first and
// the others sorted.
func (l *Log) Groups() []string {
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	return append([]string{DefaultGroup}, slices.Sorted(maps.Values(l.groups.names))...)
}
