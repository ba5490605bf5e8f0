package provisioning

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// errClosing is why connections end when the service does.
var errClosing = errors.New("the provisioning service is closing")

// answers is what a registrant subscribes to.
const answers = "$dps/registrations/res/#"

// ConnectMQTT judges the CONNECT of a registrant; it fits mqtt.Serve. Ask Owns
// before.
func (s *Service) ConnectMQTT(c *mqtt.Conn, login mqtt.Login) (routes mqtt.Routes, present bool, code byte) {
	scope, id, ok := parseUser(login.User)
	if !ok {
		return nil, false, mqtt.BadUserOrPassword
	}
	if lookup(login.ClientID) != lookup(id) {
		return nil, false, mqtt.BadIdentifier
	}
	by, err := s.Identify(scope, id, Proof{Token: login.Password, Certificates: login.Certificates})
	if err != nil {
		s.hub.Log.Debug("registrant refused", "registration", id, "error", err)
		return nil, false, mqtt.NotAuthorized
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, mqtt.ServerUnavailable
	}
	s.open[c] = struct{}{}
	return &mqttRoutes{service: s, conn: c, by: by}, false, mqtt.Accepted
}

// mqttRoutes are what a registrant may say over MQTT. Nothing of it outlives the
// connection.
type mqttRoutes struct {
	service    *Service
	conn       *mqtt.Conn
	by         *Registrant
	subscribed bool
	qos        byte // of the subscription
}

// Publish answers a request. One that is none ends the connection, as MQTT has
// no other way to refuse it.
func (m *mqttRoutes) Publish(p mqtt.Publish, done func(error)) {
	request, ok := parseTopic(p.Topic)
	if !ok {
		done(refusal.New(400004, "not a request: "+p.Topic))
		return
	}
	done(nil)
	var a Answer
	if request.poll {
		a = m.by.Poll(request.operation)
	} else {
		a = m.by.Register(p.Body)
	}
	if !m.subscribed {
		return
	}
	topic := fmt.Sprintf("$dps/registrations/res/%d/?$rid=%s", a.Status, request.id)
	if a.RetryAfter > 0 {
		topic += fmt.Sprintf("&retry-after=%d", a.RetryAfter)
	}
	m.conn.Send(topic, a.Body, m.qos, func() {})
}

// Subscribe accepts the one subscription there is.
func (m *mqttRoutes) Subscribe(filter string, qos byte) (byte, error) {
	if filter != answers {
		return 0, refusal.New(400004, "not a subscription of a registrant: "+filter)
	}
	m.subscribed, m.qos = true, min(qos, 1)
	return m.qos, nil
}

// Unsubscribe ends it.
func (m *mqttRoutes) Unsubscribe(filter string) {
	if filter == answers {
		m.subscribed = false
	}
}

// Closed forgets the connection.
func (m *mqttRoutes) Closed(bool) {
	m.service.mu.Lock()
	defer m.service.mu.Unlock()
	delete(m.service.open, m.conn)
}

// topicRequest is a request as its topic says it.
type topicRequest struct {
	id        string // of the request, as the device wrote it: the answer repeats it
	poll      bool   // for an operation; else it is to register
	operation string
}

// parseTopic reads the topic of a request (section 8.2).
func parseTopic(topic string) (topicRequest, bool) {
	var r topicRequest
	bag, ok := strings.CutPrefix(topic, "$dps/registrations/PUT/iotdps-register/?")
	if !ok {
		if bag, ok = strings.CutPrefix(topic, "$dps/registrations/GET/iotdps-get-operationstatus/?"); !ok {
			return topicRequest{}, false
		}
		r.poll = true
	}
	for field := range strings.SplitSeq(bag, "&") {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "$rid":
			r.id = value
		case "operationId":
			decoded, err := url.PathUnescape(value)
			if err != nil {
				return topicRequest{}, false
			}
			r.operation = decoded
		}
	}
	return r, r.id != "" && (r.operation != "" || !r.poll)
}
