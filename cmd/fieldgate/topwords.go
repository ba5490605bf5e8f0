package main

import (
	"fmt"
	"strings"

	"github.com/fieldgate/fieldgate/gateway"
)

// plainWords says what the causes that operators meet mean. The first that fits
// counts. What a protocol or the system said is shown with it.
var plainWords = []struct{ sign, words string }{
	// Where several ways were tried, what was said on the one that got farthest.
	{"certificate has expired or is not yet valid", "the hub's certificate, or the clock here, is of the wrong time"},
	{"x509:", "the hub's certificate is not trusted here"},
	{"unauthorized-access", "wrong key or disabled there"},
	{"not authorized", "wrong key or disabled there"},
	{"bad user name or password", "wrong key or disabled there"},
	{"no such host", "the hub's name cannot be found (DNS)"},
	{"server misbehaving", "the name server does not answer (DNS)"},
	{"network is unreachable", "there is no network"},
	{"no route to host", "there is no way to the hub in this network"},
	{"connection refused", "nobody listens at the hub's address"},
	{"401", "wrong key or disabled there"},
	{"404", "the hub does not know it"},
	{"not-found", "the hub does not know it"},
	{"429", "the hub has too much to do and asks to wait"},
	{"resource-limit-exceeded", "the hub has too much to do and asks to wait"},
	{"i/o timeout", "the hub does not answer"},
	{"deadline exceeded", "the hub does not answer"},
	{"connection reset", "the connection was cut"},
	{"broken pipe", "the connection was cut"},
	{"EOF", "the connection was cut"},
	{"no space left", "the disk is full"},
	{"read-only file system", "the disk cannot be written to"},
	{"input/output error", "the disk or card is failing"},
}

// inShort says in plain words what an error means; what it says where there are
// none.
func inShort(text string) string {
	for _, p := range plainWords {
		if strings.Contains(text, p.sign) {
			return p.words
		}
	}
	return text
}

// plainly says both.
func plainly(text string) string {
	if words := inShort(text); words != text {
		return words + " (" + text + ")"
	}
	return text
}

// whyNotBetter says why the connection goes not the best way, from what that one said.
func whyNotBetter(reason string, words func(string) string) string {
	way, why, ok := strings.Cut(reason, ": ")
	if !ok {
		return words(reason)
	}
	return way + " does not work: " + words(why)
}

// troubles counts leaves by how bad it is.
func (x *snapshot) troubles() map[int]int {
	n := make(map[int]int)
	for i := range x.devices {
		_, grave := troubleOf(&x.devices[i], peerState{}, x.state.Now)
		n[grave]++
	}
	return n
}

// verdict says in one sentence what is wrong, and what becomes of messages: the worst
// first, the tone is its.
func (s *screen) verdict(x *snapshot) (tone, string) {
	st := &x.state
	worst, said := goodTone, []string{}
	say := func(t tone, format string, a ...any) {
		worst, said = max(worst, t), append(said, fmt.Sprintf(format, a...))
	}
	switch full := s.fullness(st); {
	case failing(st) != "":
		say(badTone, "NOTHING CAN BE KEPT HERE: %s", inShort(st.Store.Failing))
	case full.tone == badTone && strings.Contains(full.text, "oldest"):
		say(badTone, "THE STORE IS FULL: the oldest messages are lost")
	case full.tone == badTone:
		say(badTone, "THE STORE IS FULL: no more is taken, leaves have to wait with theirs")
	case !st.Uplink.Connected && st.Store.BufferLeft != nil && *st.Store.BufferLeft > 0:
		say(badTone, "the hub is not reached; messages are kept here, there is room for %s", guess(st.Store.BufferLeft))
	case !st.Uplink.Connected:
		say(badTone, "the hub is not reached; messages are kept here")
	case full.tone == warnTone:
		say(warnTone, "the store is nearly full")
	}
	n := x.troubles()
	if n[isRefused] > 0 {
		say(badTone, "the hub refuses %s, whose messages are kept here", count(n[isRefused], "leaf", "leaves"))
	}
	down := 0
	for i := range st.Drivers {
		if !st.Drivers[i].Up {
			down++
		}
	}
	if down > 0 {
		say(badTone, "%s down", count(down, "port is", "ports are"))
	}
	if len(st.Board.Throttled) > 0 {
		say(warnTone, "the board is slowed: %s", strings.Join(st.Board.Throttled, ", "))
	}
	if st.Clock != gateway.Synced.String() {
		say(warnTone, "the clock is not set by the network")
	}
	check := len(said) > 0
	if n[isGone] > 0 {
		say(warnTone, "%s away", count(n[isGone], "leaf is", "leaves are"))
	}
	switch {
	case len(said) == 0:
		return goodTone, "all is well"
	case check:
		return worst, strings.Join(said, "; ") + ". What to do: fieldgate check"
	}
	return worst, strings.Join(said, "; ") + ", all else is well"
}
