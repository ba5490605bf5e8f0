package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	systemd "github.com/coreos/go-systemd/v22/journal"
)

type secret string

func (secret) LogValue() slog.Value { return slog.StringValue("(hidden)") }

func TestJournalRemembersWarnings(t *testing.T) {
	var j journal
	var out bytes.Buffer
	log := j.watch(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})))
	part := log.With("part", "uplink")
	part.Info("connected")
	part.Warn("lost", "leaf", "pump-1", "key", secret("canary"), slog.Group("at", "key", secret("canary"), "n", 3))
	part.WithGroup("g").Error("broken", "leaf", "x")
	got := j.Events()
	if len(got) != 2 {
		t.Fatalf("%d events, want 2: %+v", len(got), got)
	}
	if e := got[0]; e.Level != "warning" || e.Part != "uplink" || e.Leaf != "pump-1" || e.Message != "lost" ||
		e.Facts != "key=(hidden) at.key=(hidden) at.n=3" || e.Count != 1 || e.Time.IsZero() {
		t.Errorf("the warning is %+v", e)
	}
	if e := got[1]; e.Level != "error" || e.Facts != "g.leaf=x" || e.Leaf != "" {
		t.Errorf("the error is %+v", e)
	}
	// The log itself keeps to its level.
	if text := out.String(); !strings.Contains(text, "msg=broken") || strings.Contains(text, "lost") {
		t.Errorf("the log says %q", text)
	}
}

func TestJournalIsBounded(t *testing.T) {
	var j journal
	log := j.watch(slog.New(slog.DiscardHandler))
	log.Warn("first of all")
	for range 10 * maxEvents {
		log.Warn("babble", "leaf", "pump-1", "text", strings.Repeat("ä", 1000))
	}
	got := j.Events()
	if len(got) != 2 || got[0].Message != "first of all" || got[1].Count != 10*maxEvents {
		t.Errorf("a babbling leaf drives others out: %d events, the last %d times", len(got), got[len(got)-1].Count)
	}
	if facts := got[1].Facts; len(facts) > maxFacts || !utf8.ValidString(facts) {
		t.Errorf("facts of %d bytes, valid %v", len(facts), utf8.ValidString(facts))
	}
	for i := range 2 * maxEvents {
		log.Warn("lost", "leaf", fmt.Sprint(i))
	}
	if got := j.Events(); len(got) != maxEvents || got[0].Leaf != fmt.Sprint(maxEvents) {
		t.Errorf("%d events, the oldest of leaf %s", len(got), got[0].Leaf)
	}
}

// What a leaf sends makes no lines, colours or facts of its own where it is told.
func TestFactsAreOnlyFacts(t *testing.T) {
	var told []string
	fields := newJournalFields(slog.LevelInfo, slog.DiscardHandler)
	fields.send = func(message string, _ systemd.Priority, _ map[string]string) error {
		told = append(told, message)
		return nil
	}
	j := new(journal)
	log := j.watch(slog.New(fields))
	for _, evil := range []string{"x\nleaf approved", "x\x1b[2J", "x\u202e", "\x00", "x\u2028y", "x leaf=pump-2 who=user"} {
		told = nil
		log.Warn("publication refused", "leaf", evil, "part", evil, "topic", evil)
		if len(told) != 1 {
			t.Fatalf("%q is told as %q", evil, told)
		}
		events := j.Events()
		e := events[len(events)-1]
		if want := "topic=" + strconv.Quote(evil); e.Facts != want || !strings.HasSuffix(told[0], want) {
			t.Errorf("%q is told as %q and %q", evil, e.Facts, told[0])
		}
		if text := told[0] + e.Leaf + e.Part; strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is told as %q", evil, text)
		}
	}
	log.Warn("hub refuses leaf", "error", "token not accepted: status 401")
	if want := "hub refuses leaf, error=token not accepted: status 401"; told[len(told)-1] != want {
		t.Errorf("told is %q, want %q", told[len(told)-1], want)
	}
}
