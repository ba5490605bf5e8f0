package amqp

import (
	"context"
	"fmt"
	"maps"
	"slices"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// word is the leaf's verdict on its way to the hub.
type word struct {
	message *goamqp.Message
	verdict gateway.Verdict
}

// openCommands opens the door for cloud-to-device messages.
func (e *ear) openCommands(ctx context.Context, to gateway.DownHandler) (*door, error) {
	// As large as there can be answers: a message that is not settled takes credit.
	words := make(chan word, commandDoor.credit)
	d, err := e.openDoor(ctx, e.leaf, commandDoor, func(d *door, m *goamqp.Message) {
		command := hub.ToCommand(d.leaf, fromAMQP(m), addressee(m), annotationsOf(m), d.conn.cfg.LockTime())
		to.Command(command, func(v gateway.Verdict) { words <- word{m, v} })
	})
	if err != nil {
		return nil, fmt.Errorf("commands: %w", err)
	}
	d.work.Go(func() {
		for {
			select {
			case w := <-words:
				// An error is the end of the link: the hub offers it again.
				_ = d.settle(w)
			case <-d.life.Done():
				return
			}
		}
	})
	return d, nil
}

// settle tells the hub the leaf's verdict (wire contract, section 3.6). A command
// whose lock has ended is the hub's again whatever we say; saying released gives
// its credit back here.
func (d *door) settle(w word) error {
	switch w.verdict {
	case gateway.Completed:
		return d.receiver.AcceptMessage(d.life, w.message)
	case gateway.Rejected:
		return d.receiver.RejectMessage(d.life, w.message, nil)
	default:
		return d.receiver.ReleaseMessage(d.life, w.message)
	}
}

// fromAMQP takes a message out of go-amqp's words.
func fromAMQP(m *goamqp.Message) hub.AMQPMessage {
	a := hub.AMQPMessage{Properties: make(map[string]string, len(m.ApplicationProperties)), Body: bodyOf(m)}
	if p := m.Properties; p != nil {
		a.MessageID, a.CorrelationID, a.UserID = textOf(p.MessageID), textOf(p.CorrelationID), p.UserID
		a.ContentType, a.ContentEncoding = valueOf(p.ContentType), valueOf(p.ContentEncoding)
		if p.AbsoluteExpiryTime != nil {
			a.Expiry = p.AbsoluteExpiryTime.UTC()
		}
	}
	for name, value := range m.ApplicationProperties {
		a.Properties[name] = textOf(value)
	}
	return a
}

// bodyOf returns the body of a message, whatever kind of body it is. The slice is
// the message's own if it can be.
func bodyOf(m *goamqp.Message) []byte {
	switch v := m.Value.(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	if len(m.Data) == 1 {
		return m.Data[0]
	}
	return slices.Concat(m.Data...)
}

func addressee(m *goamqp.Message) string {
	if m.Properties == nil {
		return ""
	}
	return valueOf(m.Properties.To)
}

// annotationsOf returns the annotations whose keys are symbols, as the hub's are.
func annotationsOf(m *goamqp.Message) map[string]any {
	all := make(map[string]any, len(m.Annotations))
	for name, value := range maps.All(m.Annotations) {
		if text, ok := name.(string); ok {
			all[text] = value
		}
	}
	return all
}

// textOf writes a value of any simple type as text.
func textOf(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case goamqp.UUID:
		return v.String()
	case []byte:
		return string(v)
	}
	return fmt.Sprint(v)
}

func valueOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
