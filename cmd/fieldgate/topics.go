package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/control"
)

// topics are those of the broker, for operators.
type topics struct {
	broker *broker.Broker
	roster *roster
}

var _ control.Topics = (*topics)(nil)

// mayStandIn says whether operators may be the leaf.
func (t *topics) mayStandIn(leaf string) error {
	switch l, known := t.roster.leaf(leaf); {
	case !known:
		return fmt.Errorf("%w: there is no leaf %q", control.ErrNotFound, leaf)
	case !l.standIn:
		return fmt.Errorf("%w: write stand_in = true into the [[leaf]] table of %q, and operators may stand in for it", control.ErrPolicy, leaf)
	case l.Disabled:
		return fmt.Errorf("%w: leaf %q is disabled", control.ErrRefused, leaf)
	}
	return nil
}

// Publish is described at control.Topics.
func (t *topics) Publish(ctx context.Context, leaf string, p control.Publication) error {
	if err := t.mayStandIn(leaf); err != nil {
		return err
	}
	err := t.broker.Publish(ctx, leaf, broker.Publication{
		Topic: p.Topic, Payload: p.Body, Properties: p.List(), Retain: p.Retain, QoS0: !p.Wait,
	})
	return refusedTopic(err)
}

// refusedTopic marks an error that is about the topic.
func refusedTopic(err error) error {
	if errors.Is(err, broker.ErrNoTopic) || errors.Is(err, broker.ErrTaps) {
		return fmt.Errorf("%w: %w", control.ErrRefused, err)
	}
	return err
}

// Listen is described at control.Topics.
func (t *topics) Listen(leaf string, filters []string, fresh bool) (control.Listening, error) {
	if leaf != "" {
		if err := t.mayStandIn(leaf); err != nil {
			return nil, err
		}
	}
	tap, err := t.broker.Tap(leaf, filters, fresh)
	if err != nil {
		return nil, refusedTopic(err)
	}
	return &tapped{tap, t, leaf}, nil
}

// tapped is a tap, in the words of the control socket.
type tapped struct {
	*broker.Tap
	of   *topics
	leaf string
}

// lookAgain is how soon the end of a permission ends what is heard by it.
const lookAgain = time.Second

// Next is described at control.Listening.
func (t *tapped) Next(ctx context.Context) (control.Overheard, func(bool), error) {
	for {
		x, err := t.next(ctx)
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			continue
		}
		if err != nil {
			return control.Overheard{}, nil, err
		}
		out := control.Overheard{
			Time: time.Now().UTC(), Topic: x.Topic, MessageID: x.MessageID, Properties: control.PropertiesOf(x.Properties),
			Retained: x.Retained, Dropped: x.Dropped,
		}
		out.SetPayload(x.Payload)
		return out, x.Taken, nil
	}
}

// next waits for a while only where the permission may end.
func (t *tapped) next(ctx context.Context) (*broker.Tapped, error) {
	if t.leaf == "" {
		return t.Tap.Next(ctx)
	}
	short, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	x, err := t.Tap.Next(short)
	if refused := t.of.mayStandIn(t.leaf); refused != nil {
		if x != nil {
			x.Taken(false)
		}
		return nil, refused
	}
	return x, err
}
