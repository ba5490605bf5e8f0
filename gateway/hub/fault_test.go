package hub_test

import (
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway/hub"
)

func TestJudge(t *testing.T) {
	number := func(code string) string {
		return `{"errorCode":` + code + `,"trackingId":"t","message":"m","timestampUtc":"2026-01-01T00:00:00Z"}`
	}
	for _, c := range []struct {
		condition, description string
		link, rejection        hub.Verdict
	}{
		{"amqp:link:detach-forced", "Server Busy", hub.Again, hub.BadMessage},
		{"amqp:connection:forced", "", hub.Again, hub.BadMessage},
		{"amqp:unauthorized-access", "Token Invalid.", hub.Refused, hub.Refused},
		{"amqp:not-found", number("404006"), hub.Refused, hub.Refused},
		{"amqp:not-found", number("404103"), hub.BackOff, hub.BackOff},
		{"amqp:resource-limit-exceeded", "", hub.Throttled, hub.Throttled},
		{"amqp:resource-limit-exceeded", number("403002"), hub.Quota, hub.Quota},
		{"amqp:resource-limit-exceeded", number("403004"), hub.BackOff, hub.BackOff},
		{"amqp:resource-limit-exceeded", number("403005"), hub.Full, hub.Full},
		{"com.microsoft:device-container-throttled", "", hub.Throttled, hub.Throttled},
		{"amqp:internal-error", number("429001"), hub.Throttled, hub.Throttled},
		{"amqp:internal-error", number("503005"), hub.Throttled, hub.Throttled},
		{"com.example:other", number("504101"), hub.BackOff, hub.BackOff},
		{"com.example:other", number("408001"), hub.BackOff, hub.BackOff},
		{"amqp:internal-error", number("500001"), hub.BackOff, hub.BackOff},
		{"amqp:internal-error", "", hub.BackOff, hub.BackOff},
		{"amqp:link:message-size-exceeded", "", hub.TooLarge, hub.BadMessage},
		{"com.microsoft:argument-error", "", hub.BackOff, hub.BadMessage},
		{"com.microsoft:quota-exceeded", "", hub.Quota, hub.Quota},
		{"amqp:not-allowed", number("400004"), hub.BackOff, hub.BadMessage},
		{"nobody:knows", "", hub.BackOff, hub.BadMessage},
		{"nobody:knows", "{broken", hub.BackOff, hub.BadMessage},
		{"", `{"errorCode":"text"}`, hub.BackOff, hub.BadMessage},
	} {
		if got := hub.JudgeLink(c.condition, c.description); got != c.link {
			t.Errorf("link, %s %s: got %d, want %d", c.condition, c.description, got, c.link)
		}
		if got := hub.JudgeRejection(c.condition, c.description); got != c.rejection {
			t.Errorf("rejection, %s %s: got %d, want %d", c.condition, c.description, got, c.rejection)
		}
	}
}

func TestJudgeToken(t *testing.T) {
	for _, c := range []struct {
		status      int
		description string
		want        hub.Verdict
		ok          bool
	}{
		{200, "OK", 0, true},
		{202, "", 0, true},
		{299, `{"errorCode":500001}`, 0, true},
		{401, "", hub.Refused, false},
		{404, "no such device", hub.Refused, false},
		{400, "", hub.Refused, false},
		{400, `{"errorCode":400004}`, hub.Refused, false},
		{403, `{"errorCode":403005}`, hub.Full, false},
		{403, `{"errorCode":403002}`, hub.Quota, false},
		{429, "", hub.Throttled, false},
		{500, "", hub.BackOff, false},
		{0, "", hub.BackOff, false},
	} {
		got, ok := hub.JudgeToken(c.status, c.description)
		if got != c.want || ok != c.ok {
			t.Errorf("%d %s: got %d, %v, want %d, %v", c.status, c.description, got, ok, c.want, c.ok)
		}
	}
}

func TestQuotaPause(t *testing.T) {
	for at, want := range map[string]time.Duration{
		"2026-01-01T00:00:00Z":      time.Hour,
		"2026-12-31T23:50:00Z":      10 * time.Minute,
		"2026-06-30T20:59:00-03:00": time.Minute,
	} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := hub.QuotaPause(now); got != want {
			t.Errorf("%s: got %v, want %v", at, got, want)
		}
	}
}

// FuzzJudge checks that no description panics, and that a rejection never asks
// for what only a link can.
func FuzzJudge(f *testing.F) {
	f.Add("amqp:not-found", `{"errorCode":404006}`)
	f.Add("", `{"errorCode":1e99}`)
	f.Add("amqp:internal-error", "{")
	f.Fuzz(func(t *testing.T, condition, description string) {
		if v := hub.JudgeRejection(condition, description); v == hub.TooLarge || v == hub.Again {
			t.Errorf("rejection: %d", v)
		}
		if v := hub.JudgeLink(condition, description); v == hub.BadMessage {
			t.Errorf("link: %d", v)
		}
	})
}
