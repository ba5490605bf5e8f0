package bounds

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/e2e/report"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/check"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// What a backlog may cost (issue "Custody", and docs/custody-tests.md).
const (
	backlogMemory = 16 * mib // more than an empty store, of VmRSS and of RssAnon
	startReads    = 8 * mib  // more than an empty store: a start does not read the backlog
)

// backlogSize is how many messages: FIELDGATE_BACKLOG, or what there is time for.
func backlogSize(t *testing.T) int {
	if text := os.Getenv("FIELDGATE_BACKLOG"); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
	if report.Nightly() {
		return 1_000_000
	}
	return 200_000
}

// TestBacklog fills a gateway that has no hub, starts it again, and drains it.
func TestBacklog(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	size := backlogSize(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(size)*time.Millisecond)
	defer cancel()
	list := devices(10, site.SDK)
	s := newSite(ctx, t, site.Plan{Leaves: list})
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	must(t, s.Cut(ctx))

	began := time.Now()
	must(t, s.StartGateway(ctx))
	say("start with an empty store, until leaves can connect: %v", time.Since(began).Round(time.Millisecond))
	empty, emptyReads := settled(ctx, t, s, list)
	say("empty: %v", empty)
	emptyDisk, err := onDisk(s.DataDir())
	must(t, err)

	began = time.Now()
	crew, err := s.Launch(ctx, list, leafsim.Options{Count: uint64(size / len(list)), Window: 500, Size: 200})
	must(t, err)
	t.Cleanup(crew.Abandon)
	must(t, s.Await(ctx, "all messages to be acknowledged", func() bool { return crew.Stats().Acked == uint64(size) }))
	must(t, crew.Finish(ctx))
	took := time.Since(began)
	say("%d messages of 200 B taken to flash in %.1f s: %.0f/s", size, took.Seconds(), float64(size)/took.Seconds())
	full, err := use(ctx, s)
	must(t, err)
	say("after filling, same process: %v", full)
	fullDisk, err := onDisk(s.DataDir())
	must(t, err)
	if n := metric(ctx, s, "fieldgate_store_messages"); n != float64(size) {
		t.Errorf("%v messages are stored, want %d", n, size)
	}

	must(t, s.Gateway().Stop())
	began = time.Now()
	must(t, s.StartGateway(ctx))
	say("start with the backlog, until leaves can connect: %v", time.Since(began).Round(time.Millisecond))
	backlog, reads := settled(ctx, t, s, list)
	say("backlog: %v; %+.1f MiB VmRSS, %+.1f MiB RssAnon", backlog,
		float64(backlog.rss-empty.rss)/mib, float64(backlog.anon-empty.anon)/mib)
	say("read at the start: %.1f MiB with the backlog, %.1f MiB without; the store has %.1f MiB",
		float64(reads)/mib, float64(emptyReads)/mib, float64(fullDisk)/mib)
	if backlog.rss-empty.rss > backlogMemory || backlog.anon-empty.anon > backlogMemory {
		t.Errorf("a backlog of %d messages costs more than %d MiB: %v, empty %v", size, backlogMemory/mib, backlog, empty)
	}
	if reads-emptyReads > startReads {
		t.Errorf("a start with the backlog reads %d bytes, and %d without", reads, emptyReads)
	}

	drain(ctx, t, s, size, say)
	now := int64(0)
	must(t, s.Await(ctx, "the disk to be given back", func() bool {
		var err error
		now, err = onDisk(s.DataDir())
		return err == nil && now <= emptyDisk+emptyDisk/5
	}))
	say("on disk: empty %.1f MiB, full %.1f MiB, drained %.1f MiB", float64(emptyDisk)/mib, float64(fullDisk)/mib, float64(now)/mib)
	report.Write(t, fmt.Sprintf("Backlog of %d messages", size), b.String())
}

// settled lets every leaf connect and leave, so that what a gateway with leaves
// needs is there, and returns what it uses, and what it has read since it began.
func settled(ctx context.Context, t *testing.T, s *site.Site, list []site.Device) (usage, int64) {
	t.Helper()
	reads, err := bytesRead(s)
	must(t, err)
	crew, err := s.Launch(ctx, list, leafsim.Options{Silent: true})
	must(t, err)
	must(t, s.Await(ctx, "leaves to connect", func() bool { return crew.Stats().Connected }))
	u, err := use(ctx, s)
	must(t, err)
	crew.Abandon()
	return u, reads
}

// drain gives the hub back and judges what arrives.
func drain(ctx context.Context, t *testing.T, s *site.Site, size int, say func(string, ...any)) {
	t.Helper()
	began := time.Now()
	must(t, s.Restore(ctx))
	var most usage
	var looked time.Time
	must(t, s.Await(ctx, "the backlog to be drained", func() bool {
		if time.Since(looked) < 200*time.Millisecond {
			return false // looking costs the gateway something
		}
		looked = time.Now()
		u, err := use(ctx, s)
		if err != nil {
			return false
		}
		most.rss, most.anon = max(most.rss, u.rss), max(most.anon, u.anon)
		most.fds, most.gos = max(most.fds, u.fds), max(most.gos, u.gos)
		return metric(ctx, s, "fieldgate_store_messages") == 0
	}))
	took := time.Since(began)
	say("drained in %.1f s: %.0f/s; at most: %v", took.Seconds(), float64(size)/took.Seconds(), most)
	acks, err := leafsim.ReadAcks(s.AckFile())
	must(t, err)
	must(t, s.AwaitArrival(ctx))
	found := check.Compare(acks, s.Arrivals())
	total := found.Total()
	say("%d acknowledged, %d arrived, %d lost, %d duplicated, %d out of order",
		total.Acked, total.Arrived, total.Lost, total.Duplicated, total.OutOfOrder)
	if err := found.Err(); err != nil {
		t.Error(err)
	}
	if total.Acked != size {
		t.Errorf("%d messages were acknowledged, want %d", total.Acked, size)
	}
}
