package amqp

// Error conditions (part 2, sections 2.8.14 to 2.8.18) and the vendor's own
// (wire contract, section 3.11).
const (
	CondInternalError    Symbol = "amqp:internal-error"
	CondNotFound         Symbol = "amqp:not-found"
	CondUnauthorized     Symbol = "amqp:unauthorized-access"
	CondDecodeError      Symbol = "amqp:decode-error"
	CondResourceLimit    Symbol = "amqp:resource-limit-exceeded"
	CondNotAllowed       Symbol = "amqp:not-allowed"
	CondInvalidField     Symbol = "amqp:invalid-field"
	CondNotImplemented   Symbol = "amqp:not-implemented"
	CondConnectionForced Symbol = "amqp:connection:forced"
	CondFraming          Symbol = "amqp:connection:framing-error"
	CondWindowViolation  Symbol = "amqp:session:window-violation"
	CondErrantLink       Symbol = "amqp:session:errant-link"
	CondHandleInUse      Symbol = "amqp:session:handle-in-use"
	CondUnattachedHandle Symbol = "amqp:session:unattached-handle"
	CondDetachForced     Symbol = "amqp:link:detach-forced"
	CondTransferLimit    Symbol = "amqp:link:transfer-limit-exceeded"
	CondMessageSize      Symbol = "amqp:link:message-size-exceeded"
	CondStolen           Symbol = "amqp:link:stolen"
	CondArgument         Symbol = "com.microsoft:argument-error"
	CondThrottled        Symbol = "com.microsoft:device-container-throttled"
	CondTimeout          Symbol = "com.microsoft:timeout"
	CondQuota            Symbol = "com.microsoft:quota-exceeded"
)

// Error is why a link, session or connection ends, or why a message is refused
// (part 2, section 2.8.14).
type Error struct {
	Condition   Symbol
	Description string
	Info        Map // nil when there is none
}

// Error gives condition and description.
func (e *Error) Error() string {
	if e.Description == "" {
		return string(e.Condition)
	}
	return string(e.Condition) + ": " + e.Description
}
