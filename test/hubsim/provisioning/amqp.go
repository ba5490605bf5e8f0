package provisioning

import (
	"fmt"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Beside returns routes for connections of which it is not known yet whether a
// client of the hub or a registrant is behind them; they fit server.Serve. Who a
// client is shows in its user name, or, when it proves itself by certificate, in
// the address of its first link. connect makes the hub's routes. These are made
// for every connection, so that all of them end with the hub.
func (s *Service) Beside(connect func(*server.Conn) server.Routes) func(*server.Conn) server.Routes {
	return func(c *server.Conn) server.Routes {
		return &either{Routes: connect(c), registrant: &amqpRoutes{service: s, conn: c}}
	}
}

// either is the hub's routes and, for addresses of registrations, the service's.
type either struct {
	server.Routes
	registrant *amqpRoutes
}

// Plain checks user name and password where they belong.
func (e *either) Plain(user, password string) error {
	if e.registrant.service.Owns(user) {
		return e.registrant.plain(user, password)
	}
	return e.Routes.Plain(user, password)
}

// Attach hands the link to those whose address it has.
func (e *either) Attach(l *server.Link) (server.Endpoint, *amqp.Error) {
	if e.registrant.by != nil || e.registrant.service.ownsAddress(l.Address()) {
		return e.registrant.attach(l)
	}
	return e.Routes.Attach(l)
}

// amqpRoutes are what a registrant may say over AMQP. The engine calls one method
// at a time.
type amqpRoutes struct {
	service *Service
	conn    *server.Conn
	by      *Registrant  // nil until it has proved who it is
	replies *server.Link // on which it wants answers; nil for none yet
}

func (a *amqpRoutes) plain(user, password string) (err error) {
	scope, id, ok := parseUser(user)
	if !ok {
		return unauthorized("not a registrant: " + user)
	}
	by, err := a.service.Identify(scope, id, Proof{Token: password})
	if err != nil {
		return err
	}
	a.by = by
	return nil
}

// attach lets a registrant talk about its own registration, in both directions
// at one address.
func (a *amqpRoutes) attach(l *server.Link) (server.Endpoint, *amqp.Error) {
	scope, id, ok := parseAddress(l.Address())
	if !ok {
		return server.Endpoint{}, condition(refuse(notFound("there is nothing at "+l.Address()), 0))
	}
	if a.by == nil {
		by, err := a.service.Identify(scope, id, Proof{Certificates: a.conn.Certificates()})
		if err != nil {
			return server.Endpoint{}, condition(refuse(err, 0))
		}
		a.by = by
	}
	if !strings.EqualFold(scope, a.service.cfg.IDScope) || lookup(id) != lookup(a.by.id) {
		return server.Endpoint{}, condition(refuse(unauthorized("the address is another registration's"), 0))
	}
	if l.Receives {
		a.replies = l
		return server.Endpoint{}, nil
	}
	return server.Endpoint{Take: a.take}, nil
}

// take answers a request. Refusals are the rejection of the request itself.
func (a *amqpRoutes) take(d server.Delivery) {
	request, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		d.Settle(amqp.State{Outcome: amqp.Rejected, Error: &amqp.Error{
			Condition: amqp.CondDecodeError, Description: fmt.Sprintf("message not understood: %v", err),
		}})
		return
	}
	answer := a.ask(request)
	if answer.Refusal != nil {
		d.Settle(amqp.State{Outcome: amqp.Rejected, Error: condition(answer)})
		return
	}
	d.Settle(amqp.State{Outcome: amqp.Accepted})
	if a.replies == nil {
		return
	}
	reply := &amqp.Message{Properties: &amqp.Properties{}, Data: [][]byte{answer.Body}}
	if p := request.Properties; p != nil {
		reply.Properties.CorrelationID = p.CorrelationID
	}
	if answer.RetryAfter > 0 {
		reply.Application = amqp.Map{{Key: "retry-after", Value: int32(answer.RetryAfter)}}
	}
	a.replies.Send(reply.Append(nil), false)
}

// ask does what the request's properties say.
func (a *amqpRoutes) ask(request *amqp.Message) Answer {
	switch operation := request.Application.Text("iotdps-operation-type"); operation {
	case "iotdps-register":
		return a.by.Register(request.Body())
	case "iotdps-get-operationstatus":
		return a.by.Poll(request.Application.Text("iotdps-operation-id"))
	case "iotdps-get-registration":
		return a.by.State()
	default:
		return refuse(refusal.New(400004, fmt.Sprintf("no such operation type: %q", operation)), 0)
	}
}

// condition is a refusal as AMQP says it, with the time to come back in the
// place where clients look for it.
func condition(a Answer) *amqp.Error {
	e := &amqp.Error{Condition: amqp.CondArgument, Description: string(a.Body)}
	switch a.Status {
	case 401:
		e.Condition = amqp.CondUnauthorized
	case 404:
		e.Condition = amqp.CondNotFound
	case 429:
		e.Condition = amqp.CondThrottled
	case 500, 503:
		e.Condition = amqp.CondInternalError
	}
	if a.RetryAfter > 0 {
		e.Info = amqp.Map{{Key: amqp.Symbol("retry-after"), Value: int32(a.RetryAfter)}}
	}
	return e
}
