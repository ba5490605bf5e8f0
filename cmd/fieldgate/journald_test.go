package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What goes to journald says how grave it is; a file that is something else does not.
func TestLogForJournald(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var at unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &at); err != nil {
		t.Fatal(err)
	}
	say := func() {
		log := newLog(logConfig{Level: slog.LevelInfo, Format: "json"}, new(slog.LevelVar), streams{err: file}).With("part", "x")
		log.Error("down")
		log.Debug("never mind")
		log.Warn("slow")
		log.Info("up")
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", at.Dev, at.Ino))
	say()
	t.Setenv("JOURNAL_STREAM", "1:1")
	say()
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`<3>{"level":"ERROR","msg":"down","part":"x"}`, `<4>{"level":"WARN","msg":"slow","part":"x"}`, `<6>{"level":"INFO","msg":"up","part":"x"}`,
		`{"level":"ERROR","msg":"down","part":"x"}`, `{"level":"WARN","msg":"slow","part":"x"}`, `{"level":"INFO","msg":"up","part":"x"}`,
	}
	if got := withoutTimes(string(text)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the log is\n%q, want\n%q", got, want)
	}
}

// withoutTimes are the lines of a log in JSON without when they were written.
func withoutTimes(text string) []string {
	return strings.Fields(regexp.MustCompile(`"time":"[^"]*",`).ReplaceAllString(text, ""))
}
