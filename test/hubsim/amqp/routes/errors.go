package routes

import (
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// conditions are what the hub's errors are called in AMQP (section 3.11). What
// is missing here goes by its status.
var conditions = map[int]amqp.Symbol{
	400003: amqp.CondNotAllowed,
	400027: amqp.CondStolen,
	400029: amqp.CondDetachForced,
	400030: amqp.CondDetachForced,
	401001: "com.microsoft:iot-hub-not-found-error",
	403001: "com.microsoft:iot-hub-suspended",
	403002: amqp.CondResourceLimit,
	403004: amqp.CondResourceLimit,
	403005: amqp.CondResourceLimit,
	403007: amqp.CondResourceLimit,
	403009: amqp.CondArgument,
	403012: amqp.CondUnauthorized,
	405000: amqp.CondNotAllowed,
	409002: amqp.CondStolen,
	412001: "com.microsoft:precondition-failed",
	412002: "com.microsoft:message-lock-lost",
	413001: amqp.CondMessageSize,
	500008: amqp.CondTimeout,
	504101: amqp.CondTimeout,
}

// byStatus are the conditions of all other errors.
var byStatus = map[int]amqp.Symbol{
	400: amqp.CondArgument,
	401: amqp.CondUnauthorized,
	403: amqp.CondNotAllowed,
	404: amqp.CondNotFound,
	409: "com.microsoft:device-already-exists",
	429: amqp.CondThrottled,
}

func condition(e *refusal.Error) amqp.Symbol {
	if e.Condition != "" {
		return amqp.Symbol(e.Condition)
	}
	if c, ok := conditions[e.Code]; ok {
		return c
	}
	if c, ok := byStatus[e.Status()]; ok {
		return c
	}
	return amqp.CondInternalError
}

// wireError writes an error the way the service does: a JSON text and an info
// map (sections 3.2 and 3.3). An err that is not a refusal counts as the hub's
// own fault.
func wireError(err error) *amqp.Error {
	e := refusal.Of(err)
	text, tracking := e.ForDevice()
	return &amqp.Error{Condition: condition(e), Description: string(text), Info: amqp.Map{
		{Key: amqp.Symbol("com.microsoft:is-filtered"), Value: true},
		{Key: amqp.Symbol("com.microsoft:error-code"), Value: int32(e.Code)},
		{Key: amqp.Symbol("com.microsoft:tracking-id"), Value: tracking},
	}}
}

// accepted is how a good message ends.
var accepted = amqp.State{Outcome: amqp.Accepted}

// rejected is how a message ends that err keeps out; accepted when err is nil.
func rejected(err error) amqp.State {
	if err == nil {
		return accepted
	}
	return amqp.State{Outcome: amqp.Rejected, Error: wireError(err)}
}

// malformed refuses a message that is not one.
func malformed(err error) amqp.State {
	return amqp.State{Outcome: amqp.Rejected, Error: &amqp.Error{
		Condition: amqp.CondDecodeError, Description: fmt.Sprintf("message not understood: %v", err),
	}}
}

// notFound is the answer to an address without meaning.
func notFound(address string) *amqp.Error {
	return wireError(refusal.New(404006, "there is nothing at "+address))
}
