package main

import "strings"

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
