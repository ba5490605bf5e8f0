package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Words of the way down over AMQP (wire contract, sections 3.2, 3.6 to 3.8).
const (
	// LinkPairing joins the two links of methods and of twins: the same value on
	// both, which begins with the prefix of their kind.
	LinkPairing    = "com.microsoft:channel-correlation-id"
	MethodsPairing = "methods:"
	TwinPairing    = "twin:"

	MethodName   = "IoThub-methodname"
	MethodStatus = "IoThub-status"

	TwinOperation = "operation"
	TwinResource  = "resource"
	TwinVersion   = "version"
	TwinStatus    = "status"

	ReportedResource      = "/properties/reported"
	NotificationsResource = "/notifications/twin/properties/desired"

	commandNumber     = "x-opt-sequence-number"
	commandEnqueued   = "iothub-enqueuedtime"
	commandDeliveries = "iothub-deliverycount"
	commandAck        = "iothub-ack"
)

// CommandAddress returns the source of a leaf's commands.
func CommandAddress(leaf string) string {
	return "/devices/" + url.PathEscape(leaf) + "/messages/devicebound"
}

// MethodAddress returns the address of both links of a leaf's direct methods.
func MethodAddress(leaf string) string {
	return "/devices/" + url.PathEscape(leaf) + "/methods/devicebound"
}

// TwinAddress returns the address of both links of a leaf's twin.
func TwinAddress(leaf string) string {
	return "/devices/" + url.PathEscape(leaf) + "/twin"
}

// ToCommand returns the command that an AMQP message is. annotations are the
// message's own, by name; locked is how long the hub keeps it for us from now on.
// The body and the map stay the caller's to give away.
func ToCommand(leaf string, a AMQPMessage, to string, annotations map[string]any, locked time.Duration) *gateway.Command {
	c := &gateway.Command{
		Leaf: leaf,
		System: gateway.System{
			MessageID: a.MessageID, CorrelationID: a.CorrelationID, UserID: string(a.UserID),
			ContentType: a.ContentType, ContentEncoding: a.ContentEncoding, Expiry: a.Expiry,
		},
		To: to, Body: a.Body, LockedTo: time.Now().Add(locked),
	}
	for name, value := range a.Properties {
		if name == commandAck {
			c.Ack = value
			continue
		}
		c.Properties = append(c.Properties, gateway.Property{Name: name, Value: value})
	}
	slices.SortFunc(c.Properties, func(a, b gateway.Property) int { return strings.Compare(a.Name, b.Name) })
	c.Number = natural(annotations[commandNumber])
	c.Deliveries = uint32(min(natural(annotations[commandDeliveries]), 1<<31))
	if t, ok := annotations[commandEnqueued].(time.Time); ok {
		c.Enqueued = t.UTC()
	}
	return c
}

// natural reads a number of any of AMQP's integer types; 0 for what is none.
func natural(v any) uint64 {
	switch n := v.(type) {
	case uint64:
		return n
	case uint32:
		return uint64(n)
	case uint16:
		return uint64(n)
	case uint8:
		return uint64(n)
	case int64:
		return uint64(max(n, 0))
	case int32:
		return uint64(max(n, 0))
	}
	return 0
}

// Number reads an integer annotation; ok is false when there is none.
func Number(v any) (n int64, ok bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int32:
		return int64(v), true
	case uint64:
		return int64(min(v, 1<<62)), true
	case uint32:
		return int64(v), true
	case uint8:
		return int64(v), true
	}
	return 0, false
}

// twinFault is the body of an error about a twin (wire contract, section 2.4).
// The code comes as a number, or as a text with one.
type twinFault struct {
	ErrorCode json.RawMessage `json:"errorCode"`
	Message   string          `json:"message"` // in any case
}

// JudgeTwin returns nil for a twin answer that is a success.
func JudgeTwin(status int64, body []byte) error {
	if status >= 200 && status < 300 {
		return nil
	}
	e := &gateway.TwinError{Status: int(status), Message: fmt.Sprintf("the hub answers %d", status)}
	var f twinFault
	if json.Unmarshal(body, &f) == nil {
		_, _ = fmt.Sscan(strings.Trim(string(f.ErrorCode), `"`), &e.Code)
		if text := strings.TrimSpace(f.Message); text != "" {
			e.Message = text
		}
	}
	return e
}

// ErrNoTwin is the answer to requests about the twin of a leaf that has no identity
// of its own at the hub: nothing there could be named.
var ErrNoTwin = &gateway.TwinError{
	Status: 400, Code: 400003, Message: "this leaf is sent under the gateway's identity: the hub keeps no twin for it",
}

// TwinFault is an error about a twin in the hub's words.
func TwinFault(err error) *gateway.TwinError {
	if e, ok := errors.AsType[*gateway.TwinError](err); ok {
		return e
	}
	if errors.Is(err, gateway.ErrStoreFull) {
		return &gateway.TwinError{Status: 507, Code: 507000, Message: "the gateway's store is full"}
	}
	return &gateway.TwinError{Status: 503, Code: 503003, Message: err.Error()}
}

// TwinErrorBody writes an error about a twin as stock SDKs read it.
func TwinErrorBody(e *gateway.TwinError) []byte {
	code := e.Code
	if code == 0 {
		code = e.Status * 1000
	}
	b, _ := json.Marshal(map[string]any{ // plain values: it cannot fail
		"errorCode": code, "message": e.Message, "trackingId": "", "timestampUtc": time.Now().UTC().Format(time.RFC3339),
	})
	return b
}
