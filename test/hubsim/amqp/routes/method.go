package routes

import (
	"encoding/hex"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Application properties of method requests and answers (section 3.8).
const (
	methodName   = "IoThub-methodname"
	methodStatus = "IoThub-status"
)

// methods is either half of the pair. The identity listens from the attach of
// the half on which requests go out.
func (g *guest) methods() server.Endpoint {
	if !g.link.Receives {
		return server.Endpoint{Take: g.takeAnswer}
	}
	return server.Endpoint{Gone: g.c.hub.Methods.Listen(g.source.ID, g.sendRequest)}
}

// sendRequest hands a request to the device. Its correlation id is a UUID, as
// anything else loses the C SDK (trap 9.7).
func (g *guest) sendRequest(r methods.Request) {
	m := &amqp.Message{
		Properties:  &amqp.Properties{CorrelationID: requestID(r.ID)},
		Application: amqp.Map{{Key: methodName, Value: r.Name}},
		Data:        [][]byte{r.Payload},
	}
	if !g.link.Send(m.Append(nil), false) {
		g.c.hub.Log.Debug("a method request was not taken", "identity", g.source.ID.String())
	}
}

// takeAnswer gives a request its answer. One that nobody waits for any more is
// dropped without notice (trap 9.26).
func (g *guest) takeAnswer(d server.Delivery) {
	m, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		d.Settle(malformed(err))
		return
	}
	status, ok := integer(m.Application.Get(methodStatus))
	if !ok || m.Properties == nil || m.Properties.CorrelationID == nil {
		d.Settle(rejected(refusal.New(400004, "an answer needs a correlation id and "+methodStatus)))
		return
	}
	d.Settle(accepted)
	g.visit.session.Touch()
	g.c.hub.Methods.Answer(g.source.ID, message.Text(m.Properties.CorrelationID), int32(status), m.Body())
}

// requestID turns GUID text into a UUID.
func requestID(text string) any {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 {
		return text
	}
	return amqp.UUID(b)
}
