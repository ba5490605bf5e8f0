package routes

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// admit checks who the client is. With an error the code is what CONNACK says.
func (s *Server) admit(conn *mqtt.Conn, login mqtt.Login) (c *connection, code byte, err error) {
	id, code, err := identify(login)
	if err != nil {
		return nil, code, err
	}
	source, expiry, err := s.authenticate(id, login)
	if err == nil {
		err = s.hub.Limits.Take(limits.Connection, 0)
	}
	if err != nil {
		return nil, verdict(err), err
	}
	source.Connection = s.hub.NextConnection()
	return &connection{
		server: s, hub: s.hub, conn: conn, source: source, expiry: expiry, will: login.Will,
		gone: make(chan struct{}),
	}, mqtt.Accepted, nil
}

// verdict is the CONNACK code of an error. What is temporary is never
// NotAuthorized, which clients take for permanent (section 1.6).
func verdict(err error) byte {
	if err == nil {
		return mqtt.Accepted
	}
	switch e := refusal.Of(err); {
	case e.Status() == 429, e.Status() >= 500, e.Code == 403002:
		return mqtt.ServerUnavailable
	}
	return mqtt.NotAuthorized
}

// identify reads the client id and the user name, which must agree: the host,
// the client id, and parameters among which is an api-version, whatever its
// value. Which host it is does not matter, the token names it too.
func identify(login mqtt.Login) (id registry.ID, code byte, err error) {
	_, rest, found := strings.Cut(login.User, "/")
	if !found || !strings.Contains(rest, "api-version=") {
		return id, mqtt.BadUserOrPassword, fmt.Errorf("the user name %q is malformed", login.User)
	}
	tail, same := strings.CutPrefix(rest, login.ClientID)
	if !same || login.ClientID == "" || !parameters(tail) {
		return id, mqtt.BadIdentifier, fmt.Errorf("the client id %q and the user name %q disagree", login.ClientID, login.User)
	}
	return registry.ParseID(login.ClientID), mqtt.Accepted, nil
}

// parameters says whether text is what follows the ids in a user name. In the
// field it begins with "/?", "/", "?" or "?&", and one old client separates with
// a slash (section 1.6).
func parameters(text string) bool {
	list, slash := strings.CutPrefix(text, "/")
	list, mark := strings.CutPrefix(list, "?")
	if !slash && !mark {
		return false
	}
	fields := strings.FieldsFunc(list, func(r rune) bool { return r == '&' || r == '/' })
	named := !slices.ContainsFunc(fields, func(f string) bool { return !strings.Contains(f, "=") })
	return named && slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, "api-version=") })
}

// authenticate checks the token or, when there is none, the certificate. expiry
// is when the hub must close the connection; zero for never.
func (s *Server) authenticate(id registry.ID, login mqtt.Login) (from hub.Source, expiry time.Time, err error) {
	if err := s.allowed(id); err != nil {
		return from, expiry, err
	}
	identity, err := s.hub.Registry.Find(id)
	if err != nil {
		return from, expiry, err
	}
	from = hub.Source{ID: id, Generation: identity.Generation}
	if login.Password == "" {
		from.Auth, err = s.hub.Registry.AuthenticateCertificate(login.Certificates, id)
		return from, expiry, err
	}
	grant, err := s.hub.Registry.Authenticate(login.Password, s.hub.Faults.Now())
	if err != nil {
		return from, expiry, err
	}
	if !grant.Covers(id) {
		return from, expiry, refusal.New(401002, "the token is for another identity")
	}
	from.Auth = grant.AuthMethod()
	return from, grant.Expiry, errors.Join(s.hub.Faults.TokenRefusal(id.Device), loginRefusal(&s.ordered, id.Device))
}

// allowed says why an identity may not connect, whatever it shows.
func (s *Server) allowed(id registry.ID) error {
	if _, err := s.hub.Registry.Find(id); err != nil {
		return err
	}
	owner, err := s.hub.Registry.Find(registry.ID{Device: id.Device})
	if err != nil {
		return err
	}
	if owner.Disabled {
		return refusal.New(401003, "the device is disabled")
	}
	return nil
}
