package faults

import (
	"strconv"
	"time"
)

// Names of the properties that make a message an order (section 10.3).
const (
	operationName = "AzIoTHub_FaultOperationType"
	reasonName    = "AzIoTHub_FaultOperationCloseReason"
	delayName     = "AzIoTHub_FaultOperationDelayInSecs"
	durationName  = "AzIoTHub_FaultOperationDurationInSecs"
)

// maxOrderTime bounds what a message may order, so that no number of seconds
// overflows: a day is longer than any test.
const maxOrderTime = 24 * time.Hour

// Order is what a telemetry message orders the hub to do.
type Order struct {
	Operation string        // for example KillTcp; one of the names of section 10.3
	Reason    string        // for example boom
	Delay     time.Duration // wait before acting
	Duration  time.Duration // stay in the faulted state
}

// ParseOrder reads the properties of a message; false when it is an ordinary
// message. property returns the value of an application property.
func ParseOrder(property func(name string) (string, bool)) (Order, bool) {
	operation, ok := property(operationName)
	if !ok {
		return Order{}, false
	}
	o := Order{Operation: operation, Delay: seconds(property, delayName), Duration: seconds(property, durationName)}
	o.Reason, _ = property(reasonName)
	return o, true
}

// seconds reads a number of seconds; what is no number counts as none.
func seconds(property func(string) (string, bool), name string) time.Duration {
	text, _ := property(name)
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0) { // NaN is not above 0 either
		return 0
	}
	return time.Duration(min(n, maxOrderTime.Seconds()) * float64(time.Second))
}
