package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"
)

// catalogFile is what journalctl -x explains, made of the code by "go generate".
const catalogFile = "../../systemd/fieldgate.catalog"

func catalog() string {
	var b strings.Builder
	b.WriteString("# Made of cmd/fieldgate/events.go by go generate: what journalctl -x says.\n")
	for _, k := range eventKinds {
		page := "fieldgate(1)"
		if strings.HasPrefix(k.name, "pairing-") {
			page = "fieldgate-pairing(7)"
		}
		fmt.Fprintf(&b, "\n-- %s\nSubject: %s\nDefined-By: Fieldgate\nDocumentation: man:%s\n\n%s\n", k.id, k.subject, page, k.text)
	}
	return b.String()
}

// Each kind has its own id for good, and its entry in the catalog; systemd reads it.
func TestCatalog(t *testing.T) {
	if *updateDocs {
		if err := os.WriteFile(catalogFile, []byte(catalog()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(catalogFile)
	if err != nil || string(got) != catalog() {
		t.Errorf("%s is not what the code says: run go generate ./cmd/fieldgate (%v)", catalogFile, err)
	}
	ids, names := make(map[string]string), make(map[string]bool)
	for _, k := range eventKinds {
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(k.id) || ids[k.id] != "" || names[k.name] {
			t.Errorf("%s has the id %s, as %q has", k.name, k.id, ids[k.id])
		}
		ids[k.id], names[k.name] = k.name, true
	}
	tool, err := exec.LookPath("journalctl")
	if err != nil {
		t.Log("journalctl is not here")
		return
	}
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "usr/lib/systemd/catalog"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/lib/systemd/catalog/fieldgate.catalog"), got, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "--root="+root, "--update-catalog").CombinedOutput(); err != nil {
		t.Fatalf("systemd does not read it: %v\n%s", err, out)
	}
	for _, k := range eventKinds {
		out, err := exec.Command(tool, "--root="+root, "--dump-catalog", k.id).CombinedOutput()
		if err != nil || !strings.Contains(string(out), k.subject) || !strings.Contains(string(out), k.text) {
			t.Errorf("%s is explained as %s (%v)", k.name, out, err)
		}
	}
}

// Every event that the code logs has a kind, and every kind is logged.
func TestEventKinds(t *testing.T) {
	logged := make(map[string]bool)
	named := regexp.MustCompile(`"event", "([^"]+)"`)
	for _, dir := range []string{"../../gateway", "../../drivers", "../../board", "."} {
		err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
				return err
			}
			text, err := os.ReadFile(file)
			for _, m := range named.FindAllSubmatch(text, -1) {
				logged[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range eventKinds {
		if !logged[k.name] {
			t.Errorf("nothing logs %s", k.name)
		}
		delete(logged, k.name)
	}
	if len(logged) > 0 {
		t.Errorf("these have no MESSAGE_ID: %v", slices.Sorted(maps.Keys(logged)))
	}
}

type sentLine struct {
	text     string
	priority systemd.Priority
	fields   map[string]string
}

// journalTo returns a log whose lines go to a list in the place of the journal.
func journalTo(lines *[]sentLine, now func() time.Time, next slog.Handler) *slog.Logger {
	return slog.New(&journalFields{
		least: slog.LevelInfo, next: next, rates: &journalRates{now: now},
		send: func(text string, p systemd.Priority, fields map[string]string) error {
			*lines = append(*lines, sentLine{text, p, fields})
			return nil
		},
	})
}

func TestJournalFields(t *testing.T) {
	var lines []sentLine
	log := journalTo(&lines, time.Now, slog.DiscardHandler)
	part := log.With("part", "pairing", "transport", "mqtt")
	part.Debug("not for the journal")
	part.Error("somebody wants in", "event", "pairing-known-leaf", "leaf", "pump-7", "key", secret("canary"), slog.Group("at", "n", 3))
	log.Info("plain", "n", 1)
	if len(lines) != 2 {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	want := map[string]string{
		"FIELDGATE_LEAF": "pump-7", "FIELDGATE_DEVICE": "pump-7", "FIELDGATE_TRANSPORT": "mqtt", "FIELDGATE_EVENT": "pairing-known-leaf",
		"FIELDGATE_PART": "pairing", "FIELDGATE_FACTS": "key=(hidden) at.n=3", "MESSAGE_ID": messageID("pairing-known-leaf"), "SYSLOG_IDENTIFIER": "fieldgate",
	}
	if got := lines[0]; !maps.Equal(got.fields, want) || got.priority != systemd.PriErr || got.text != "pump-7: somebody wants in, key=(hidden) at.n=3" {
		t.Errorf("sent is %+v", got)
	}
	if got := lines[1]; len(got.fields) != 2 || got.text != "plain, n=1" {
		t.Errorf("sent is %+v", got)
	}
}

// What the journal does not take goes where it went without one.
func TestJournalFallsBack(t *testing.T) {
	var out bytes.Buffer
	j := newJournalFields(slog.LevelInfo, slog.NewTextHandler(&out, nil))
	j.send = func(string, systemd.Priority, map[string]string) error { return errors.New("nobody is there") }
	slog.New(j).With("part", "x").Warn("lost", "n", 1)
	if got := out.String(); !strings.Contains(got, "msg=lost part=x n=1") {
		t.Errorf("written is %q", got)
	}
}

// A leaf that babbles cannot flush the journal, and what others say, and other events of
// the same leaf, are written; what was held back is counted.
func TestJournalIsNotFlushed(t *testing.T) {
	var lines []sentLine
	now := time.Now()
	log := journalTo(&lines, func() time.Time { return now }, slog.DiscardHandler)
	for range 10_000 {
		log.Info("leaf connected", "event", "leaf-connected", "leaf", "babbler")
	}
	log.Info("leaf connected", "event", "leaf-connected", "leaf", "quiet")
	log.Warn("hub refuses leaf", "event", "leaf-refused", "leaf", "babbler")
	if len(lines) != journalBurst+2 {
		t.Fatalf("%d lines are written", len(lines))
	}
	now = now.Add(journalEvery)
	for range 10 {
		log.Info("leaf connected", "event", "leaf-connected", "leaf", "babbler")
	}
	last := lines[len(lines)-1]
	if len(lines) != journalBurst+3 || last.fields["FIELDGATE_HELD_BACK"] != fmt.Sprint(10_000-journalBurst) {
		t.Errorf("%d lines, the last %+v", len(lines), last)
	}
	rates := &journalRates{now: func() time.Time { return now }}
	for i := range 3 * maxJournalRates {
		rates.allow(fmt.Sprint(i), "leaf-connected")
	}
	if len(rates.known) > maxJournalRates+1 {
		t.Errorf("%d rates are remembered", len(rates.known))
	}
	now = now.Add(journalBurst * journalEvery)
	if ok, _ := rates.allow("new", "x"); !ok || len(rates.known) > 2 {
		t.Errorf("%d rates are remembered of who has said nothing for long", len(rates.known))
	}
}

// A journal that hangs holds nobody up; what was lost meanwhile is counted afterwards, also
// where it has a new socket then.
func TestJournalThatHangs(t *testing.T) {
	d := &journalDoor{path: filepath.Join(t.TempDir(), "socket")}
	listen := func() *net.UnixConn {
		t.Helper()
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: d.path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	say := func() {
		t.Helper()
		if err := d.send("x\ny", systemd.PriInfo, map[string]string{}); err != nil {
			t.Fatal(err)
		}
	}
	heard := func(c *net.UnixConn) string {
		t.Helper()
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	first := listen()
	for d.lost == 0 { // until its queue is full
		say()
	}
	for range 9 {
		say()
	}
	if d.lost != 10 {
		t.Errorf("%d lost, want 10", d.lost)
	}
	if got := heard(first); !strings.Contains(got, "MESSAGE\n\x03\x00\x00\x00\x00\x00\x00\x00x\ny\n") || !strings.Contains(got, "PRIORITY\n\x01\x00\x00\x00\x00\x00\x00\x006\n") {
		t.Errorf("it hears %q", got)
	}
	first.Close()
	if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	second := listen()
	d.again = time.Time{}
	say()
	if got := heard(second); !strings.Contains(got, "FIELDGATE_LOST\n\x02\x00\x00\x00\x00\x00\x00\x0010\n") {
		t.Errorf("the next one is %q", got)
	}
}
