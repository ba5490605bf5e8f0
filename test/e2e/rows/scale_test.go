package rows

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fieldgate/fieldgate/test/e2e/report"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
)

// TestManyLeaves has as many leaves as the hub takes on one connection, less a
// tenth: each sends, gets a command, reads its twin, reports, hears of a change and
// answers a method. Then they go, and their links with them.
func TestManyLeaves(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	t.Parallel()
	const count = 900
	var ids []string
	for i := range count {
		ids = append(ids, fmt.Sprintf("leaf-%03d", i+1))
	}
	b := newBench(t, plan{leaves: ids, life: 10 * time.Minute, calm: true, uplink: "idle_detach = \"3s\"\n", wait: "1m"})
	b.start()
	b.await("the connection", b.connected)
	alone := b.memory()
	began := time.Now()
	var note strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&note, format+"\n", args...)
	}
	leaves := make([]*scaleLeaf, count)
	each := func(what string, f func(*scaleLeaf) error) {
		t.Helper()
		start := time.Now()
		var group errgroup.Group
		group.SetLimit(50)
		for _, l := range leaves {
			group.Go(func() error {
				if err := f(l); err != nil {
					return fmt.Errorf("%s of %s: %w", what, l.id, err)
				}
				return nil
			})
		}
		must(t, group.Wait())
		say("%-28s %6.1f s", what, time.Since(start).Seconds())
	}
	for i, id := range ids {
		leaves[i] = &scaleLeaf{b: b, id: id}
	}
	each("connect", (*scaleLeaf).connect)
	connected := b.memory()
	each("subscribe", (*scaleLeaf).subscribe)
	each("telemetry, 3 each", (*scaleLeaf).telemetry)
	each("read the twin", (*scaleLeaf).readTwin)
	each("report", (*scaleLeaf).report)
	each("a desired change", (*scaleLeaf).desired)
	each("a command", (*scaleLeaf).command)
	each("a method", (*scaleLeaf).method)
	busy, hub := b.memory(), b.hub.Stats()
	if hub.ConnectionsEver != 1 || hub.Identities != count {
		t.Errorf("the hub saw %d connections with %d identities, want 1 with %d", hub.ConnectionsEver, hub.Identities, count)
	}
	for _, l := range leaves {
		l.judge()
	}
	say("all of it                    %6.1f s, %d links on one connection", time.Since(began).Seconds(), hub.Links)
	each("disconnect", (*scaleLeaf).leave)
	b.await("all links to be given up", func() bool { return b.hub.Stats().Links <= 2 }) // those of $cbs
	// Who comes back is served as before.
	each("connect again", (*scaleLeaf).connect)
	each("subscribe", (*scaleLeaf).subscribe)
	each("a command", (*scaleLeaf).command)
	each("disconnect", (*scaleLeaf).leave)
	b.oneConnection()
	if n := b.hub.Stats().ConnectionsEver; n != 1 {
		t.Errorf("the hub saw %d connections", n)
	}
	per := func(m memory) float64 { return float64(m.anon-alone.anon) / float64(count) / 1024 }
	say("memory without a leaf        %6.1f MiB VmRSS, %.1f MiB RssAnon", mib(alone.rss), mib(alone.anon))
	say("with all connected           %6.1f MiB VmRSS, %.1f MiB RssAnon, %.1f KiB of it a leaf", mib(connected.rss), mib(connected.anon), per(connected))
	say("with all links               %6.1f MiB VmRSS, %.1f MiB RssAnon, %.1f KiB of it a leaf", mib(busy.rss), mib(busy.anon), per(busy))
	report.Write(t, fmt.Sprintf("%d leaves on one connection", count), note.String())
}

// memory is what a process has, in bytes.
type memory struct{ rss, anon int64 }

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (b *bench) memory() memory {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.gateway.PID()))
	must(b.t, err)
	read := func(name string) int64 {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name+":"); ok {
				kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				must(b.t, err)
				return kib << 10
			}
		}
		b.t.Fatalf("no %s in the status of the gateway", name)
		return 0
	}
	return memory{read("VmRSS"), read("RssAnon")}
}

// scaleLeaf is a leaf of the hub's dialect.
type scaleLeaf struct {
	b  *bench
	id string
	w  *wire

	reading sync.WaitGroup
	came    chan string // "topic body" of what came; "" for a PUBACK
}

func (l *scaleLeaf) connect() error {
	h := l.b.as(l.id, 4)
	h.keep = false // it will not be missed
	w, code, _, err := l.b.enter(l.b.broker, h)
	if err != nil || code != 0 {
		return fmt.Errorf("CONNACK %d, %w", code, err)
	}
	l.w = w
	return nil
}

func (l *scaleLeaf) subscribe() error {
	for _, filter := range []string{
		"devices/" + l.id + "/messages/devicebound/#", "$iothub/methods/POST/#", "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#",
	} {
		if granted, err := l.w.listen(filter, 1); err != nil || granted > 1 {
			return fmt.Errorf("%s: granted %d, %w", filter, granted, err)
		}
	}
	l.came = make(chan string, 100)
	w, came := l.w, l.came
	l.reading.Go(func() {
		defer close(came)
		for {
			p, err := w.read()
			switch {
			case err != nil:
				return
			case p.kind() == puback:
				came <- ""
			case p.kind() == publish:
				topic, packetID, body := w.publication(p)
				if packetID > 0 {
					_ = w.answer(packetID, 0)
				}
				if rid, ok := strings.CutPrefix(topic, "$iothub/methods/POST/echo/?$rid="); ok {
					_ = w.say(0, "$iothub/methods/res/200/?$rid="+rid, body)
				}
				came <- topic + " " + string(body)
			}
		}
	})
	return nil
}

// expect waits for something that begins with a topic and has the words in it.
func (l *scaleLeaf) expect(begin, words string) error {
	for {
		select {
		case got, ok := <-l.came:
			if !ok {
				return errors.New("the connection is lost")
			}
			if strings.HasPrefix(got, begin) && strings.Contains(got, words) {
				return nil
			}
		case <-l.b.ctx.Done():
			return fmt.Errorf("nothing came with %s … %s", begin, words)
		}
	}
}

func (l *scaleLeaf) telemetry() error {
	for n := 1; n <= 3; n++ {
		if err := l.w.say(uint16(n), "devices/"+l.id+"/messages/events/", fmt.Appendf(nil, `{"n":%d}`, n)); err != nil {
			return err
		}
	}
	for range 3 {
		if err := l.expect("", ""); err != nil {
			return err
		}
	}
	return nil
}

func (l *scaleLeaf) readTwin() error {
	return errors.Join(l.w.say(0, "$iothub/twin/GET/?$rid=1", []byte(" ")), l.expect("$iothub/twin/res/200/?$rid=1 ", "}"))
}

func (l *scaleLeaf) report() error {
	return errors.Join(l.w.say(0, "$iothub/twin/PATCH/properties/reported/?$rid=2", fmt.Appendf(nil, `{"me":%q}`, l.id)),
		l.expect("$iothub/twin/res/204/?$rid=2&$version=2", " "))
}

func (l *scaleLeaf) desired() error {
	_, err := l.b.domain().Twins.Update(id(l.id), fmt.Appendf(nil, `{"properties":{"desired":{"for":%q}}}`, l.id), false, "")
	return errors.Join(err, l.expect("$iothub/twin/PATCH/properties/desired/?$version=2", fmt.Sprintf(`"for":%q`, l.id)))
}

func (l *scaleLeaf) command() error {
	m := &message.Message{To: "/devices/" + l.id + "/messages/devicebound", ID: "c", Ack: "full", Body: []byte("for " + l.id)}
	return errors.Join(l.b.domain().Commands.Send(id(l.id), m), l.expect("devices/"+l.id+"/messages/devicebound/", " for "+l.id))
}

func (l *scaleLeaf) method() error {
	a, err := l.b.domain().Methods.Invoke(l.b.ctx, id(l.id), methods.Call{
		Name: "echo", Payload: fmt.Appendf(nil, `{"to":%q}`, l.id), ConnectTimeout: time.Minute, ResponseTimeout: time.Minute,
	})
	if want := fmt.Sprintf(`{"to":%q}`, l.id); err == nil && (a.Status != 200 || string(a.Payload) != want) {
		return fmt.Errorf("answer %d %s", a.Status, a.Payload)
	}
	return err
}

func (l *scaleLeaf) leave() error {
	err := l.w.send(0xe0, nil)
	l.w.c.Close()
	l.reading.Wait()
	return err
}

// judge compares with what the hub has.
func (l *scaleLeaf) judge() {
	b := l.b
	if got := b.hubTwin(l.id).Properties.Reported["me"]; got != l.id {
		b.t.Errorf("%s reported as %v", l.id, got)
	}
	b.await("the command of "+l.id+" to be completed", func() bool { return b.domain().Commands.Len(id(l.id)) == 0 })
}
