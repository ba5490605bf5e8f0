package amqp

import (
	"context"
	"fmt"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// openMethods opens the doors for direct methods. As many are answered at a time
// as there is credit.
func (e *ear) openMethods(ctx context.Context, to gateway.DownHandler) (*door, error) {
	d, err := e.openDoor(ctx, e.leaf, methodDoor, func(d *door, m *goamqp.Message) {
		d.work.Go(func() { d.call(m, to) })
	})
	if err != nil {
		return nil, fmt.Errorf("methods: %w", err)
	}
	return d, nil
}

// call has the leaf answer one request. Where there is no reply the hub's caller
// hears of a time-out from the hub: nothing that we could say comes closer.
func (d *door) call(m *goamqp.Message, to gateway.DownHandler) {
	defer func() { _ = d.receiver.AcceptMessage(d.life, m) }() // gives the credit back
	if m.Properties == nil || m.Properties.CorrelationID == nil {
		return
	}
	// The hub waits 300 s at most (wire contract, section 5.8), and does not say
	// how long it does.
	ctx, cancel := context.WithTimeout(d.life, maxCall)
	defer cancel()
	name, _ := m.ApplicationProperties[hub.MethodName].(string)
	reply, err := to.Call(ctx, &gateway.Call{Leaf: d.leaf, Name: name, ID: textOf(m.Properties.CorrelationID), Body: bodyOf(m)})
	if err != nil {
		return
	}
	_ = d.sender.Send(ctx, &goamqp.Message{
		Properties:            &goamqp.MessageProperties{CorrelationID: m.Properties.CorrelationID},
		ApplicationProperties: map[string]any{hub.MethodStatus: int32(reply.Status)},
		Data:                  [][]byte{reply.Body},
	}, nil)
}
