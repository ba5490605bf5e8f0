package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// exported is a line of "fieldgate store export".
type exported struct {
	Leaf, Lane string
	MessageID  string `json:"message_id"`
	Body       []byte
}

func (m exported) key() string { return m.Leaf + " " + m.MessageID }

func exportedIn(t *testing.T, file string) (list []exported) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	for line := range strings.Lines(string(text)) {
		var m exported
		must(t, json.Unmarshal([]byte(line), &m))
		list = append(list, m)
	}
	return list
}

// backlog fills the store while the hub is away, and returns what is in it, in order.
func backlog(ctx context.Context, t *testing.T, c *terminal, list []site.Device, o leafsim.Options) []exported {
	t.Helper()
	must(t, c.s.Cut(ctx))
	must(t, c.s.StartGateway(ctx))
	crew := launch(ctx, t, c.s, list, o)
	all := o.Count * uint64(len(list))
	must(t, c.s.Await(ctx, "all to be in custody", func() bool { return crew.Stats().Acked == all }))
	must(t, crew.Finish(ctx))
	file := filepath.Join(c.s.Dir(), "backlog.jsonl")
	c.gets(0, "store", "export", "--file", file)
	left := exportedIn(t, file)
	if uint64(len(left)) != all {
		t.Fatalf("%d of %d messages are exported", len(left), all)
	}
	return left
}

// arrive waits for messages and judges their order: of each leaf in each lane that of the
// store, each once, the second time at most as a copy. may are those that may have been
// purged; all others must come, and nothing else.
func arrive(ctx context.Context, t *testing.T, s *site.Site, left []exported, may func(exported) bool) (came map[string]bool) {
	t.Helper()
	came = make(map[string]bool)
	place, missing := make(map[string]int), 0
	for i, m := range left {
		place[m.key()] = i
		if !may(m) {
			missing++
		}
	}
	seen, last := 0, make(map[string]int)
	take := func(e hubsim.Arrival) {
		key := exported{Leaf: e.Device, MessageID: e.MessageID}.key()
		at, known := place[key]
		if !known {
			t.Fatalf("nobody has sent %+v", e)
		}
		m := left[at]
		if string(m.Body) != string(e.Body) {
			t.Fatalf("%s is %q, was %q", key, e.Body, m.Body)
		}
		if came[key] {
			return
		}
		came[key] = true
		way := m.Leaf + " " + m.Lane
		if before, some := last[way]; some && at < before {
			t.Errorf("%s came after one that was behind it", key)
		}
		last[way] = at
		if !may(m) {
			missing--
		}
	}
	empty := func() bool { return metric(ctx, s, "fieldgate_store_messages") == 0 }
	// What is settled has arrived before.
	must(t, s.Await(ctx, "all that was left to arrive", func() bool {
		through := empty()
		for events := s.Events(); seen < len(events); seen++ {
			take(events[seen])
		}
		return missing == 0 && through
	}))
	return came
}

// While the hub is away an operator lists what waits, carries it off and gives up that of
// one leaf. When the hub is back exactly that is missing, and it is counted.
func TestStoreByHand(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	list := devices(4, site.MQTT3, site.SDK, site.MQTT5, site.Serial)
	c := &terminal{t, ctx, newSite(ctx, t, site.Plan{Leaves: list})}
	left := backlog(ctx, t, c, list, leafsim.Options{Count: 100, AlarmEvery: 10, Size: 200})
	if n := strings.Count(c.gets(0, "store", "list", "--limit", "0", "--output", "jsonl"), "\n"); n != len(left) {
		t.Errorf("%d of %d are listed", n, len(left))
	}
	given := func(m exported) bool { return m.Leaf == "leaf-003" && m.Lane == "telemetry" }
	lost := 0
	for _, m := range left {
		if given(m) {
			lost++
		}
	}
	choice := []string{"store", "purge", "--leaf", "leaf-003", "--lane", "telemetry"}
	if out := c.gets(9, choice...); !strings.Contains(out, fmt.Sprintf("%d undelivered messages would be lost", lost)) {
		t.Errorf("says %s", out)
	}
	if out := c.gets(0, append(choice, "--yes")...); out != fmt.Sprintf("%d messages purged\n", lost) {
		t.Errorf("says %s", out)
	}
	if m, err := c.s.Metrics(ctx); err != nil || m[`fieldgate_messages_dropped_total{reason="purged"}`] != float64(lost) {
		t.Errorf("%d are purged, and counted are %v, %v", lost, m[`fieldgate_messages_dropped_total{reason="purged"}`], err)
	}
	c.gets(0, "store", "verify")
	c.s.Gateway().Kill()
	must(t, c.s.StartGateway(ctx))
	must(t, c.s.Restore(ctx))
	came := arrive(ctx, t, c.s, left, given)
	for _, m := range left {
		if given(m) && came[m.key()] {
			t.Errorf("%s was purged, and has come", m.key())
		}
	}
}

// Killed in the middle of a purge, a message is given up or it is not, and nobody else's
// is lost. What a purge has said to be done stays so.
func TestKilledInAPurge(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	list := devices(3, site.MQTT3, site.SDK, site.MQTT5)
	c := &terminal{t, ctx, newSite(ctx, t, site.Plan{Leaves: list, Config: site.Config{Store: "segment_size = \"1MiB\"\n"}})}
	left := backlog(ctx, t, c, list, leafsim.Options{Count: 1000, Size: 2000})
	given := func(m exported) bool { return m.Leaf == "leaf-002" }
	few := float64(len(left) / 3 / 6)
	killed, done := 0, false
	for waiting := float64(len(left)); !done && killed < 5; {
		ended := make(chan string, 1)
		go func() {
			out, complaint, _ := c.run(nil, "store", "purge", "--leaf", "leaf-002", "--yes")
			ended <- out + complaint
		}()
		// In the middle: some are given up, and perhaps all.
		must(t, c.s.Await(ctx, "a part of the purge", func() bool {
			n := metric(ctx, c.s, "fieldgate_store_messages")
			return n >= 0 && n <= waiting-few || len(ended) > 0
		}))
		c.s.Gateway().Kill()
		killed++
		done = strings.Contains(<-ended, " messages purged")
		must(t, c.s.StartGateway(ctx))
		must(t, c.s.Await(ctx, "the gateway to say what is left", func() bool {
			waiting = metric(ctx, c.s, "fieldgate_store_messages")
			return waiting >= 0
		}))
		if waiting < float64(len(left)*2/3) {
			t.Fatalf("%v messages are left of %d: others were given up", waiting, len(left))
		}
	}
	must(t, c.s.Restore(ctx))
	n := 0
	came := arrive(ctx, t, c.s, left, given)
	for _, m := range left {
		if given(m) && came[m.key()] {
			n++
		}
	}
	t.Logf("killed %d times, said to be done: %v, and of %d messages %d have come all the same", killed, done, len(left)/3, n)
	if done && n > 0 {
		t.Errorf("%d messages have come that were said to be purged", n)
	}
}

// On a full disk an export says so and leaves nothing behind; a purge goes through all
// that is chosen, and says what it could not write down. Said again with room it is done
// for good. Nobody else's messages are lost.
func TestStoreByHandOnAFullDisk(t *testing.T) {
	t.Parallel()
	c, left, small := backlogOnSmallDisk(t)
	ctx := c.ctx
	filler := filepath.Join(small, "filler")
	fill(t, filler)
	out := filepath.Join(small, "out.jsonl")
	if said := c.gets(1, "store", "export", "--file", out); !strings.Contains(said, "no space left on device") {
		t.Errorf("an export without room says %s", said)
	}
	if rest, err := filepath.Glob(filepath.Join(small, "*out.jsonl*")); err != nil || len(rest) > 0 {
		t.Errorf("an export without room leaves %q, %v", rest, err)
	}
	c.gets(0, "store", "verify")
	// It depends on the last blocks of files whether there is room to write down a purge.
	said, complaint, code := c.run(nil, "store", "purge", "--leaf", "leaf-002", "--yes")
	t.Logf("a purge without room ends with %d: %s%s", code, said, complaint)
	switch {
	case code == 0 && said == fmt.Sprintf("%d messages purged\n", len(left)/3):
	case code == 10 && strings.Contains(complaint, fmt.Sprintf("%d messages were purged; ", len(left)/3)) && strings.Contains(complaint, "cannot be recorded"):
	default:
		t.Error("that is not what it has to say")
	}
	must(t, os.Remove(filler))
	if out := c.gets(0, "store", "purge", "--leaf", "leaf-002", "--yes"); out != "0 messages purged\n" {
		t.Errorf("a second purge says %s", out)
	}
	c.s.Gateway().Kill()
	must(t, c.s.StartGateway(ctx))
	must(t, c.s.Restore(ctx))
	if n := len(arrive(ctx, t, c.s, left, ofLeaf2)); n != len(left)*2/3 {
		t.Errorf("%d have come, want %d", n, len(left)*2/3)
	}
}

// When the card takes nothing any more, whoever asks for the backlog is told so, with the
// exit code of a store that fails. Nobody else's messages are lost.
func TestStoreByHandOnADyingCard(t *testing.T) {
	t.Parallel()
	c, left, small := backlogOnSmallDisk(t)
	ctx := c.ctx
	works(t, "mount", "-o", "remount,abort", small) // as after an error of the card
	for verb, want := range map[string]string{"purge --leaf leaf-002 --yes": "messages were purged; ", "verify": "read-only", "list": "read-only"} {
		if said := c.gets(10, append([]string{"store"}, strings.Fields(verb)...)...); !strings.Contains(said, want) || !strings.Contains(said, "read-only file system") || !strings.Contains(said, "\nnext: ") {
			t.Errorf("%s says %s", verb, said)
		}
	}
	c.s.Gateway().Kill()
	works(t, "umount", small)
	works(t, "sh", "-c", `e2fsck -p -f "$1"; test $? -le 1`, "e2fsck", small+".ext4")
	works(t, "mount", "-o", "loop", small+".ext4", small)
	must(t, c.s.StartGateway(ctx))
	must(t, c.s.Restore(ctx))
	arrive(ctx, t, c.s, left, ofLeaf2)
}

func ofLeaf2(m exported) bool { return m.Leaf == "leaf-002" }

// backlogOnSmallDisk is a gateway without its hub, with messages of three leaves on a
// small file system.
func backlogOnSmallDisk(t *testing.T) (c *terminal, left []exported, small string) {
	t.Helper()
	if os.Geteuid() != 0 {
		need(t, "a small file system cannot be mounted without root")
	}
	ctx := testContext(t, 4*patience)
	small = smallDisk(t, "96M")
	list := devices(3, site.MQTT3, site.SDK, site.MQTT5)
	c = &terminal{t, ctx, newSite(ctx, t, site.Plan{Leaves: list, Config: site.Config{
		DataDir: filepath.Join(small, "data"),
		Store:   "min_free = \"32MiB\"\nsegment_size = \"1MiB\"\n",
	}})}
	return c, backlog(ctx, t, c, list, leafsim.Options{Count: 1000, Size: 2000}), small
}

func works(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// Somebody exports a large backlog, and reads slowly: leaves are acknowledged as before,
// and what the export began with is in it, whole and in order.
func TestExportHoldsUpNobody(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 4*patience)
	count := uint64(1500)
	if os.Getenv("FIELDGATE_NIGHTLY") != "" {
		count, ctx = 25_000, testContext(t, 20*time.Minute)
	}
	list := devices(5, site.MQTT3, site.SDK, site.MQTT5, site.MQTT3, site.MQTT3)
	c := &terminal{t, ctx, newSite(ctx, t, site.Plan{Leaves: list})}
	left := backlog(ctx, t, c, list[:4], leafsim.Options{Count: count, Size: 200})
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), "store", "export", "--socket", filepath.Join(c.s.Dir(), "gateway/control.sock"))
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var got [][]byte
	in := bufio.NewReader(out)
	next := func() bool {
		line, err := in.ReadBytes('\n')
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if err == nil {
			got = append(got, line)
		}
		return err == nil
	}
	// It takes a line now and then, while leaves go on.
	next()
	crew := launch(ctx, t, c.s, list[4:], leafsim.Options{Count: 500, Size: 200})
	must(t, c.s.Await(ctx, "acknowledgements while somebody exports", func() bool { next(); return crew.Stats().Acked == 500 }))
	if len(got) > len(left)/2 {
		t.Fatalf("%d of %d lines were read by then: perhaps the export was over", len(got), len(left))
	}
	for next() {
	}
	must(t, cmd.Wait())
	if len(got) < len(left) {
		t.Fatalf("%d lines of %d", len(got), len(left))
	}
	for i, want := range left {
		var m exported
		must(t, json.Unmarshal(got[i], &m))
		if m.MessageID != want.MessageID {
			t.Fatalf("line %d is %s, want %s", i, m.MessageID, want.MessageID)
		}
	}
	must(t, crew.Finish(ctx))
}
