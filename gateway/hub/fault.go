package hub

import (
	"encoding/json"
	"strings"
	"time"
)

// Verdict says what an error of the hub asks for.
type Verdict uint8

// The verdicts.
const (
	BackOff    Verdict = iota // a fault of the service: wait, then try again
	Again                     // closed or moved in good order: try again at once
	Refused                   // the identity is unknown, disabled or not proven
	Full                      // this connection carries as many identities as it may
	Throttled                 // too much at once: everybody waits
	Quota                     // the day's messages are used up: wait for the next UTC day
	TooLarge                  // a message is too large; it is not said which
	BadMessage                // the message will never be taken
)

// Verdicts by AMQP condition (wire contract, section 3.11). What is not here is
// a fault of the service on a link, and a bad message in a rejection.
var verdicts = map[string]Verdict{
	"amqp:unauthorized-access":            Refused,
	"amqp:not-allowed":                    Refused,
	"amqp:not-found":                      Refused,
	"amqp:resource-limit-exceeded":        Throttled,
	"amqp:link:message-size-exceeded":     TooLarge,
	"amqp:link:detach-forced":             Again,
	"amqp:connection:forced":              Again,
	"amqp:link:stolen":                    BackOff,
	"amqp:internal-error":                 BackOff,
	"com.microsoft:timeout":               BackOff,
	"com.microsoft:argument-error":        BadMessage,
	"com.microsoft:argument-out-of-range": BadMessage,

	"com.microsoft:device-container-throttled": Throttled,
	"com.microsoft:server-busy":                Throttled,
	"com.microsoft:quota-exceeded":             Quota,
	"com.microsoft:iot-hub-suspended":          Refused,
	"com.microsoft:iot-hub-not-found-error":    Refused,
}

// Verdicts by the hub's own number, which says more than the condition (wire
// contract, section 6.3).
var codes = map[int]Verdict{
	400024: BackOff, // RequestTimedOut
	400029: Again,   // closed for service upgrade
	400030: Again,   // rejected for service upgrade
	403001: Refused, // IotHubSuspended
	403002: Quota,   // IotHubQuotaExceeded
	403004: BackOff, // DeviceMaximumQueueDepthExceeded
	403005: Full,    // IotHubMaxCbsTokenExceeded
	403007: BackOff, // DeviceMaximumQueueSizeExceeded
	403012: Refused, // DeviceDisabled
	404103: BackOff, // DeviceNotOnline
	404104: Again,   // DeviceConnectionClosedRemotely
	409002: BackOff, // LinkCreationConflict
	413001: TooLarge,
	499000: BackOff,   // ClientClosedRequest
	503005: Throttled, // ServerBusy
	503008: Throttled, // ReceiveLinkOpensThrottled
}

// byClass is the verdict by the first three digits, for numbers not listed.
var byClass = map[int]Verdict{
	400: BadMessage, 401: Refused, 403: Refused, 404: Refused, 408: BackOff, 413: TooLarge,
	415: BadMessage, 429: Throttled, 500: BackOff, 502: BackOff, 503: BackOff, 504: BackOff,
}

// JudgeLink returns what the end of a link, a session or a connection asks for.
// The description may hold the hub's JSON with a number in it.
func JudgeLink(condition, description string) Verdict {
	v, ok := judge(condition, description)
	if !ok || v == BadMessage {
		// A bad message is rejected by itself; a link that ends with such a
		// condition says nothing about any one of them.
		return BackOff
	}
	return v
}

// JudgeRejection returns what the rejection of one message asks for. It is never
// TooLarge or Again: the message is known, and rejected.
func JudgeRejection(condition, description string) Verdict {
	v, ok := judge(condition, description)
	if !ok || v == TooLarge || v == Again {
		return BadMessage
	}
	return v
}

// JudgeToken returns what the answer to a put-token with this HTTP-like status
// asks for; ok is true for a success (any 2xx: wire contract, section 1.8).
func JudgeToken(status int, description string) (v Verdict, ok bool) {
	switch {
	case status >= 200 && status < 300:
		return 0, true
	case number(description) != 0:
		v, known := byNumber(number(description))
		if known && v != BadMessage {
			return v, false
		}
	}
	switch status {
	case 400, 401, 403, 404:
		return Refused, false
	case 429:
		return Throttled, false
	}
	return BackOff, false
}

// judge looks at the number first and at the condition then.
func judge(condition, description string) (Verdict, bool) {
	if v, ok := byNumber(number(description)); ok {
		return v, true
	}
	v, ok := verdicts[condition]
	return v, ok
}

func byNumber(code int) (Verdict, bool) {
	if v, ok := codes[code]; ok {
		return v, true
	}
	v, ok := byClass[code/1000]
	return v, ok
}

// number returns the error code in the hub's JSON description, 0 if there is none.
func number(description string) int {
	if !strings.HasPrefix(strings.TrimSpace(description), "{") {
		return 0
	}
	var d struct{ ErrorCode int }
	if json.Unmarshal([]byte(description), &d) != nil {
		return 0
	}
	return d.ErrorCode
}

// quotaCheck is how often a hub whose quota is used up is asked again: whoever
// buys a larger one wants to see messages before midnight.
const quotaCheck = time.Hour

// QuotaPause returns how long to wait when the day's quota is used up: until the
// next UTC day begins (wire contract, section 6.4), but at most an hour.
func QuotaPause(now time.Time) time.Duration {
	now = now.UTC()
	midnight := time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, time.UTC)
	return min(midnight.Sub(now), quotaCheck)
}
