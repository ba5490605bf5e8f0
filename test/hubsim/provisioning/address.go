package provisioning

import "strings"

// parseAddress reads {scope}/registrations/{id}, with or without a slash in
// front: an address of AMQP, or what a token is about.
func parseAddress(address string) (scope, id string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(address, "/"), "/")
	if len(parts) != 3 || parts[0] == "" || parts[1] != "registrations" || parts[2] == "" {
		return "", "", false
	}
	return parts[0], parts[2], true
}

// parseUser reads the user name of a registrant: an address, and in MQTT behind
// it the API version and other things that do not matter (section 8.2).
func parseUser(user string) (scope, id string, ok bool) {
	address, rest := user, ""
	if n := nthIndex(user, '/', 3); n >= 0 {
		address, rest = user[:n], user[n+1:]
	}
	if rest != "" && !strings.HasPrefix(rest, "api-version=") {
		return "", "", false
	}
	return parseAddress(address)
}

// nthIndex returns where c stands for the nth time; -1 when it does not.
func nthIndex(text string, c byte, n int) int {
	for i := range len(text) {
		if text[i] == c {
			if n--; n == 0 {
				return i
			}
		}
	}
	return -1
}

// Owns says whether a user name of MQTT or SASL PLAIN is that of a registrant and
// not of a client of the hub: its first part is an id scope. Whether it is the
// right one is for the routes to say.
func (s *Service) Owns(user string) bool {
	scope, _, ok := parseUser(user)
	return ok && s.isScope(scope)
}

// isScope tells an id scope from the name of a hub.
func (s *Service) isScope(text string) bool {
	return strings.EqualFold(text, s.cfg.IDScope) || (strings.HasPrefix(text, scopePrefix) && !strings.ContainsAny(text, ".:"))
}

// ownsAddress says whether an address of AMQP is that of a registration.
func (s *Service) ownsAddress(address string) bool {
	scope, _, ok := parseAddress(address)
	return ok && s.isScope(scope)
}
