package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// Publication is what an operator publishes in the place of a leaf.
type Publication struct {
	Topic      string
	Payload    []byte // the broker's from then on
	Properties []gateway.Property
	Retain     bool // is said to the hub, as for a leaf
	QoS0       bool // custody is not waited for
}

// Publish hands over a publication in the place of an admitted leaf: by the rules for
// that leaf's topics, in line with what it publishes itself, and into the same
// custody. It returns nil when the message is in custody, with QoS0 when it has been handed over. Else it is not, and the error
// says why: one that wraps ErrNoTopic, of the path, a *gateway.TwinError for reported
// properties, or that of ctx, after which it may still be taken. Whether somebody may
// is for the caller to know. What the hub hears of the message says that it is not the
// leaf's own word (gateway.TrustOperator).
func (b *Broker) Publish(ctx context.Context, leaf string, p Publication) error {
	if !b.table.Known(leaf) {
		return gateway.ErrUnknownLeaf
	}
	pub := &publication{topic: p.Topic, payload: p.Payload, retain: p.Retain, qos: 1, properties: new(packets.Properties)}
	for _, x := range p.Properties {
		pub.properties.User = append(pub.properties.User, packets.UserProperty{Key: x.Name, Val: x.Value})
	}
	word := make(chan error, 1)
	done := func(err error) { word <- err }
	if of, ok := b.reportOf(leaf, p.Topic); ok {
		b.counters.count(func(s *State) { s.Reports++ })
		b.twins.Report(of, p.Payload, func(_ int64, err error) { done(err) })
	} else if m, err := b.read(leaf, pub); err == nil {
		m.Properties = append(m.Properties, gateway.Property{Name: gateway.PropertyTrust, Value: gateway.TrustOperator})
		if err := b.publishFor(ctx, m, done); err != nil {
			return err
		}
	} else {
		b.counters.refuse(RefuseTopic)
		return fmt.Errorf("%w: %q is no topic on which leaf %q sends messages or reports", ErrNoTopic, p.Topic, leaf)
	}
	if p.QoS0 {
		select {
		case err := <-word:
			return err
		default:
			return nil
		}
	}
	select {
	case err := <-word:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reportOf returns whose reported properties a topic is for.
func (b *Broker) reportOf(leaf, topic string) (of string, ok bool) {
	if a, ok := parseAsking(leaf, topic); ok {
		return leaf, a.kind == hub.PatchReported
	}
	return b.readReport(leaf, topic)
}

// publishFor hands a message over when it is its leaf's turn.
func (b *Broker) publishFor(ctx context.Context, m *gateway.Message, done gateway.Done) error {
	t := b.borrowTurn(m.Leaf)
	defer b.returnTurn(m.Leaf)
	if !t.take(ctx) {
		return errors.Join(ctx.Err(), errBusy)
	}
	defer t.give()
	b.counters.count(func(s *State) { s.Published[m.Lane].QoS1++ })
	b.up.Handle(ctx, m, func(err error) {
		if err == nil {
			b.counters.count(func(s *State) { s.Acknowledged++ })
		} else {
			b.counters.refuse(refuseReason(err))
		}
		done(err)
	})
	return nil
}

var errBusy = errors.New("the leaf is publishing, and is made to wait itself")
