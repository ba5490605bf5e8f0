package commands_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"pgregory.net/rapid"
)

// modelConfig has small bounds, so that they are met often.
var modelConfig = commands.Config{Depth: 5, TTL: 10 * time.Minute, Lock: time.Minute, MaxDelivery: 3}

// model is what a queue should be: a plain list, in order.
type model struct {
	list    []*modelMessage
	sent    int
	stale   []string // lock tokens that are worth nothing
	reports []string // since they were last compared
}

type modelMessage struct {
	name     string
	expires  time.Time
	returned int
	lock     string // "" when it is ready
	locked   time.Time
}

// pass does what time does.
func (m *model) pass() {
	now := time.Now()
	for _, x := range slices.Clone(m.list) {
		switch {
		case !x.expires.After(now):
			m.leave(x, "Expired")
		case x.lock != "" && !x.locked.After(now):
			m.unlock(x)
		}
	}
}

func (m *model) leave(x *modelMessage, status string) {
	m.unlock(x)
	m.reports = append(m.reports, x.name+" "+status)
	m.list = slices.DeleteFunc(m.list, func(y *modelMessage) bool { return x == y })
}

func (m *model) unlock(x *modelMessage) {
	if x.lock != "" {
		m.stale = append(m.stale, x.lock)
	}
	x.lock = ""
}

// locked returns the messages that a receiver has.
func (m *model) locked() []*modelMessage {
	return slices.DeleteFunc(slices.Clone(m.list), func(x *modelMessage) bool { return x.lock == "" })
}

// Whatever happens to a queue in whatever order and however time passes, it does
// what the list does: nothing is lost, nothing comes twice, the order holds, and
// each message has one outcome.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		inBubble(t, func() {
			b, m := open(modelConfig), &model{}
			defer b.close()
			rt.Repeat(map[string]func(*rapid.T){
				"":        func(t *rapid.T) { m.compare(t, b) },
				"send":    func(t *rapid.T) { m.send(t, b) },
				"receive": func(t *rapid.T) { m.receive(t, b) },
				"settle":  func(t *rapid.T) { m.settle(t, b) },
				"stale":   func(t *rapid.T) { m.settleStale(t, b) },
				"sleep":   m.sleep,
				"purge":   func(t *rapid.T) { m.purge(t, b) },
			})
		})
	})
}

// inBubble runs f in a bubble of its own. The panics with which rapid ends a
// check that fails or is not worth more go through.
func inBubble(t *testing.T, f func()) {
	var ended any
	synctest.Test(t, func(*testing.T) {
		defer func() { ended = recover() }()
		f()
	})
	if ended != nil {
		panic(ended)
	}
}

func (m *model) sleep(t *rapid.T) {
	time.Sleep(time.Duration(rapid.IntRange(1, 150).Draw(t, "seconds")) * time.Second)
	m.pass()
}

func (m *model) purge(t *rapid.T, b *bench) {
	if rapid.IntRange(0, 9).Draw(t, "chance") > 0 {
		t.Skip("seldom")
	}
	if got, want := b.Purge(pump), len(m.list); got != want {
		t.Fatalf("%d purged, want %d", got, want)
	}
	for _, x := range slices.Clone(m.list) {
		m.leave(x, "Purged")
	}
}

func (m *model) send(t *rapid.T, b *bench) {
	x := &modelMessage{name: strconv.Itoa(m.sent), expires: time.Now().Add(modelConfig.TTL)}
	sent := &message.Message{ID: x.name, Ack: "full", Body: []byte(x.name)}
	if rapid.Bool().Draw(t, "own expiry") {
		x.expires = time.Now().Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "seconds")) * time.Second)
		sent.Expiry = x.expires
	}
	code := 403004
	if len(m.list) < modelConfig.Depth {
		code = 0
		m.list = append(m.list, x)
		m.sent++
	}
	if err := b.Send(pump, sent); codeOf(err) != code {
		t.Fatalf("sending: %v, want code %d", err, code)
	}
}

func (m *model) receive(t *rapid.T, b *bench) {
	d, ok := b.Receive(pump)
	i := slices.IndexFunc(m.list, func(x *modelMessage) bool { return x.lock == "" })
	if ok != (i >= 0) {
		t.Fatalf("received %v, want %v", ok, i >= 0)
	}
	if !ok {
		return
	}
	x := m.list[i]
	got := fmt.Sprintf("%s %d %d", d.Message.Body, d.Sequence, d.Count)
	n, _ := strconv.Atoi(x.name)
	if want := fmt.Sprintf("%s %d %d", x.name, n+1, x.returned); got != want {
		t.Fatalf("received %s, want %s", got, want)
	}
	x.lock, x.locked = d.LockToken, time.Now().Add(modelConfig.Lock)
}

func (m *model) settle(t *rapid.T, b *bench) {
	held := m.locked()
	if len(held) == 0 {
		t.Skip("nothing is locked")
	}
	x := rapid.SampledFrom(held).Draw(t, "message")
	var err error
	switch lock := x.lock; rapid.SampledFrom([]string{"complete", "reject", "abandon", "unlock"}).Draw(t, "how") {
	case "complete":
		err = b.Complete(pump, lock)
		m.leave(x, "Success")
	case "reject":
		err = b.Reject(pump, lock)
		m.leave(x, "Rejected")
	case "abandon":
		err = b.Abandon(pump, lock)
		if x.returned++; x.returned == modelConfig.MaxDelivery {
			m.leave(x, "DeliveryCountExceeded")
		} else {
			m.unlock(x)
		}
	case "unlock":
		b.Unlock(pump, lock)
		m.unlock(x)
	}
	if err != nil {
		t.Fatalf("settling %s: %v", x.name, err)
	}
}

func (m *model) settleStale(t *rapid.T, b *bench) {
	if len(m.stale) == 0 {
		t.Skip("no lock was lost")
	}
	lock := rapid.SampledFrom(m.stale).Draw(t, "lock")
	b.Unlock(pump, lock)
	for _, settle := range []error{b.Complete(pump, lock), b.Reject(pump, lock), b.Abandon(pump, lock)} {
		if codeOf(settle) != 412002 {
			t.Fatalf("settling with a lost lock: %v", settle)
		}
	}
}

// compare looks at what can be seen without a change. Messages that expire while
// time passes are reported in the order of their expiry, which the list does not
// know; so order does not count here.
func (m *model) compare(t *rapid.T, b *bench) {
	if got := b.Len(pump); got != len(m.list) {
		t.Fatalf("length %d, want %d", got, len(m.list))
	}
	got := b.reports(t)
	slices.Sort(got)
	slices.Sort(m.reports)
	if !slices.Equal(got, m.reports) {
		t.Fatalf("feedback %q, want %q", got, m.reports)
	}
	m.reports = nil
}
