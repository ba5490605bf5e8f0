package amqp

import (
	"context"
	"errors"
	"fmt"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// remedy turns the hub's verdict into what the uplink is to do.
func remedy(v hub.Verdict, now time.Time, err error) error {
	f := &uplink.Fault{Err: err}
	switch v {
	case hub.Again:
		f.Remedy = uplink.Again
	case hub.Refused, hub.Full:
		// A full connection is the leaf's trouble too: it waits for room.
		f.Remedy = uplink.Refused
	case hub.Throttled:
		f.Remedy = uplink.Throttled
	case hub.Quota:
		f.Remedy, f.Pause = uplink.Throttled, hub.QuotaPause(now)
	case hub.TooLarge:
		f.Remedy = uplink.Suspect
	case hub.BadMessage:
		f.Remedy = uplink.Poison
	default:
		f.Remedy = uplink.BackOff
	}
	return f
}

// faultOf says what an error of a link, a session or the connection asks for.
// Errors that are a Fault already, and those of a context, stay as they are.
func faultOf(err error) error {
	if _, ok := errors.AsType[*uplink.Fault](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	if remote, ok := errors.AsType[*goamqp.Error](err); ok {
		verdict := hub.JudgeLink(string(remote.Condition), remote.Description)
		return remedy(verdict, time.Now(), reason(remote))
	}
	// No word of the hub: the end of a session that others caused, or of the
	// connection. Trying again at once finds out which.
	_, session := errors.AsType[*goamqp.SessionError](err)
	_, conn := errors.AsType[*goamqp.ConnError](err)
	_, link := errors.AsType[*goamqp.LinkError](err)
	if session || conn || link {
		return &uplink.Fault{Remedy: uplink.Again, Err: err}
	}
	return err
}

// reason is the hub's own word on one line; go-amqp's form of it has many.
func reason(e *goamqp.Error) error {
	if e.Description == "" {
		return errors.New(string(e.Condition))
	}
	return fmt.Errorf("%s: %s", e.Condition, e.Description)
}
