// Package refusal holds the errors of a hub: the status as HTTP has it, the
// hub's own number with its name (wire contract, section 6.3), and how they are
// written to devices and to services.
package refusal

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"
)

// Error is why the hub did not do what it was asked. It does not change.
type Error struct {
	Code      int    // for example 404001; the first three digits are the HTTP status
	Name      string // for example DeviceNotFound
	Message   string // for people
	Condition string // of AMQP, when it is not the usual one of the code; mostly empty
}

// New returns a refusal. The name comes from the code.
func New(code int, message string) *Error {
	return &Error{Code: code, Name: names[code], Message: message}
}

// Of returns err as a refusal; one that is not a refusal counts as the hub's own
// fault (500001). nil stays nil.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return New(500001, err.Error())
}

// Is says whether err is a refusal with the code.
func Is(err error, code int) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}

// Status is what HTTP, MQTT and twins over AMQP say, for example 404.
func (e *Error) Status() int { return e.Code / 1000 }

// Error gives name and message.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Name
	}
	return e.Name + ": " + e.Message
}

// ForDevice is the JSON text that devices get (section 2.4), with a fresh
// tracking id, which is returned too.
func (e *Error) ForDevice() (text []byte, trackingID string) {
	trackingID = newTrackingID()
	text, _ = json.Marshal(struct { // strings and numbers only: cannot fail
		Code     int    `json:"errorCode"`
		Tracking string `json:"trackingId"`
		Message  string `json:"message"`
		Time     string `json:"timestampUtc"`
	}{e.Code, trackingID, e.Error(), time.Now().UTC().Format(time.RFC3339Nano)})
	return text, trackingID
}

// ForService is the JSON text that HTTP clients get (section 5.3).
func (e *Error) ForService() []byte {
	text, _ := json.Marshal(struct { // strings only: cannot fail
		Message   string
		Exception string `json:"ExceptionMessage"`
	}{
		"ErrorCode:" + e.Name + ";" + e.Message,
		"Tracking ID:" + newTrackingID() + "-TimeStamp:" + time.Now().UTC().Format(time.RFC3339),
	})
	return text
}

func newTrackingID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// names of the codes (section 6.3).
var names = map[int]string{
	400000: "GenericBadRequest",
	400003: "InvalidOperation",
	400004: "ArgumentInvalid",
	400005: "ArgumentNull",
	400011: "DeviceDefinedMultipleTimes",
	400013: "BulkRegistryOperationFailure",
	400014: "DefaultStorageEndpointNotConfigured",
	400015: "InvalidFileUploadCorrelationId",
	400016: "ExpiredFileUploadCorrelationId",
	400020: "InvalidStorageEndpointOrBlob",
	400023: "EtagDoesNotMatch",
	400024: "RequestTimedOut",
	400027: "ConnectionForcefullyClosedOnNewConnection",
	400028: "InvalidDeviceScope",
	400029: "ConnectionForcefullyClosedOnFaultInjection",
	400030: "ConnectionRejectedOnFaultInjection",
	401001: "IotHubNotFound",
	401002: "IotHubUnauthorizedAccess",
	401003: "IotHubUnauthorized",
	403001: "IotHubSuspended",
	403002: "IotHubQuotaExceeded",
	403004: "DeviceMaximumQueueDepthExceeded",
	403005: "IotHubMaxCbsTokenExceeded",
	403006: "DeviceMaximumActiveFileUploadLimitExceeded",
	403007: "DeviceMaximumQueueSizeExceeded",
	403009: "InvalidMessageExpiryTime",
	403010: "OperationNotAvailableInCurrentTier",
	403012: "DeviceDisabled",
	403800: "DeviceMaximumInflightMethodExceeded",
	404001: "DeviceNotFound",
	404002: "JobNotFound",
	404006: "AmqpAddressNotFound",
	404010: "ModuleNotFound",
	404103: "DeviceNotOnline",
	404104: "DeviceConnectionClosedRemotely",
	405000: "MethodNotAllowed",
	409001: "DeviceAlreadyExists",
	409002: "LinkCreationConflict",
	409103: "DeviceJobAlreadyExists",
	409104: "JobAlreadyExists",
	409301: "ModuleAlreadyExistsOnDevice",
	412001: "PreconditionFailed",
	412002: "DeviceMessageLockLost",
	413001: "MessageTooLarge",
	413002: "TooManyDevices",
	415000: "GenericUnsupportedMediaType",
	429000: "TooManyRequests",
	429001: "ThrottlingException",
	429002: "ThrottleBacklogLimitExceeded",
	429003: "ThrottlingBacklogTimeout",
	429004: "ThrottlingMaxActiveJobCountExceeded",
	429005: "DeviceThrottlingLimitExceeded",
	500001: "ServerError",
	500008: "GenericTimeout",
	502000: "GenericBadGateway",
	503001: "ServiceUnavailable",
	503005: "ServerBusy",
	504101: "GatewayTimeout",
}
