package routes

import (
	"net/url"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// parseAddress returns the segments of an address, percent-decoded as far as
// they are encoded.
func parseAddress(address string) ([]string, bool) {
	segments, ok := segmentsOf(address)
	if !ok {
		return nil, false
	}
	for i, s := range segments {
		if decoded, err := url.PathUnescape(s); err == nil {
			segments[i] = decoded
		}
	}
	return segments, true
}

// segmentsOf returns the segments of an address as they stand. An absolute
// address with a port is refused, as by the service (section 3.2), except in
// the form of the readers of events.
func segmentsOf(address string) ([]string, bool) {
	if scheme, rest, found := strings.Cut(address, "://"); found {
		host, path, _ := strings.Cut(rest, "/")
		if strings.Contains(host, ":") && !strings.EqualFold(scheme, "sb") {
			return nil, false
		}
		address = path
	}
	segments := strings.Split(strings.TrimPrefix(address, "/"), "/")
	return segments, !slices.Contains(segments, "")
}

// matches compares an address with fixed words, in which case does not matter,
// and "*", which stands for anything.
func matches(path []string, words ...string) bool {
	if len(path) != len(words) {
		return false
	}
	for i, w := range words {
		if w != "*" && !strings.EqualFold(path[i], w) {
			return false
		}
	}
	return true
}

// splitIdentity takes devices/{d} or devices/{d}/modules/{m} from the front of
// an address.
func splitIdentity(path []string) (id registry.ID, rest []string, ok bool) {
	if len(path) < 2 || !strings.EqualFold(path[0], "devices") {
		return registry.ID{}, nil, false
	}
	id.Device, rest = path[1], path[2:]
	if len(rest) >= 2 && strings.EqualFold(rest[0], "modules") {
		id.Module, rest = rest[1], rest[2:]
	}
	return id, rest, true
}
