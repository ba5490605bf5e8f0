package main

import (
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway/control"
)

func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"as it is":                          "as it is",
		"HTTP 403\n\n  <html>\r\n\tno":      "HTTP 403 <html> no",
		"\x1b[2Jgone":                       "?[2Jgone",
		"columns  of its own":               "columns  of its own",
		"a\u2028b\u0085c":                   "a b c",
		"\n":                                "",
		"grün":                              "grün",
		"in the end a line break ends it\n": "in the end a line break ends it",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// Whatever a hub, a leaf or a port is called or says, status and the list of leaves have
// the lines and columns that they have without it.
func TestNothingFromOutsideBreaksLines(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	print := func(text string) string {
		s := state{
			Now: now, Started: now.Add(-time.Hour), Clock: "synced",
			Uplink:  uplinkState{LastError: "amqp-ws: " + text, Waiting: "x" + text, Refused: map[string]string{"pump-1": "no" + text}},
			Store:   storeState{Failing: "disk" + text},
			Drivers: []driverState{{Name: "serial:a" + text, Kind: "serial", Error: "e" + text, Note: "n" + text, Leaves: []peerState{{Leaf: "l" + text, Error: "e" + text}}}},
			Board:   boardState{Kind: "k" + text, Signal: "s", Hardware: []hardwareState{{Name: "led", Device: "d", Why: "w" + text}}},
		}
		var out strings.Builder
		s.print(&out)
		devices := []control.Device{{ID: "pump" + text, State: isAway, Hub: control.HubRefuses, Refused: "no" + text, Listens: []string{"commands"}}}
		if err := printDevices(&out, devices, now); err != nil {
			t.Fatal(err)
		}
		(&failure{exitFailed, "cannot", &control.Invalid{Mistakes: []string{"x" + text}}, "next"}).print(&out)
		return out.String()
	}
	want := strings.Count(print(""), "\n")
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a\n\r\t\x00\x1b\x{85}\x{2028} é]{1,20}`).Draw(t, "text")
		got := print(text)
		if n := strings.Count(got, "\n"); n != want {
			t.Fatalf("%d lines, want %d:\n%s", n, want, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Fatalf("%q is not printable:\n%s", got[i:min(i+8, len(got))], got)
		}
	})
	if got := print("\n<html>\n</html>"); !regexp.MustCompile(`(?m)^         amqp-ws: <html> </html>$`).MatchString(got) {
		t.Errorf("the error is not on one line:\n%s", got)
	}
}

// Of several ways that fail, the cause of the one that got farthest is said.
func TestPlainWords(t *testing.T) {
	for text, want := range map[string]string{
		"amqp: dial tcp 127.0.0.1:40123: connect: connection refused":                                                                                       "nobody listens at the hub's address",
		"amqp: dial tcp h:5671: connect: connection refused\namqp-ws: tls: failed to verify certificate: x509: certificate has expired or is not yet valid": "the hub's certificate, or the clock here, is of the wrong time",
		"amqp: dial tcp h:5671: i/o timeout\namqp-ws: x509: certificate signed by unknown authority":                                                        "the hub's certificate is not trusted here",
		"something else": "something else",
	} {
		if got := inShort(text); got != want {
			t.Errorf("%q means %q, want %q", text, got, want)
		}
	}
	if got, want := whyNotBetter("amqp: dial tcp h:5671: connect: connection refused", inShort), "amqp does not work: nobody listens at the hub's address"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	long := 4e8
	if got := guess(&long); got != "more than a year" {
		t.Errorf("a forecast says %q", got)
	}
}

func TestWhomTheHubTakes(t *testing.T) {
	x := &examiner{cfg: &config{}}
	x.cfg.Hub.Own.DeviceID = "gate-7"
	for want, devices := range map[string]string{
		"the gateway (gate-7)":                                          "gate-7",
		"the leaf pump-1":                                               "pump-1",
		"the leaves pump-1, pump-2":                                     "pump-1 pump-2",
		"the gateway (gate-7) and the leaf pump-1":                      "gate-7 pump-1",
		"the 4 leaves that it was asked about":                          "a b c d",
		"the gateway (gate-7) and the 4 leaves that it was asked about": "gate-7 a b c d",
	} {
		if got := x.whom(strings.Fields(devices)); got != want {
			t.Errorf("of %s: %q, want %q", devices, got, want)
		}
	}
}
