package twin

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// counter is a leaf that reports a number, one more each time.
type counter struct {
	*bench
	mu    sync.Mutex
	next  int
	taken int  // the highest of which the leaf has heard that it is
	busy  bool // it reports more often than copies are written: one may be a minute older
}

func (c *counter) count() {
	c.next++
	n, process := c.next, c.process
	c.Report(pump, fmt.Appendf(nil, `{"n":%d}`, n), func(_ int64, err error) {
		process.do(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if err == nil {
				c.taken = max(c.taken, n)
			}
		})
	})
}

// holds reads the twin: it has nothing older than what was taken, and all of it.
func (c *counter) holds(t *testing.T, when string) {
	t.Helper()
	text, _, err := c.Twin(context.Background(), pump)
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	document, _ := parse(text)
	reported, _ := document["reported"].(object)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := numberIn(reported); n < c.taken && !(c.busy && when != "in the end") {
		t.Errorf("%s the leaf reads %s, but heard that %d is taken", when, text, c.taken)
	}
	if reported["name"] != "pump" {
		t.Errorf("%s the leaf reads %s, without what it reported long ago", when, text)
	}
}

func numberIn(section object) (n int) {
	_, _ = fmt.Sscan(fmt.Sprint(section["n"]), &n)
	return n
}

// A crash at any step between a report and its last trace on flash: what the leaf has
// heard is taken, by the hub or into custody, it reads back from a gateway that starts
// without the hub, and the hub gets it.
func TestACrashTakesNothingBack(t *testing.T) {
	lose := func(b *bench, lost bool) { b.hub.set(func() { b.hub.lost = lost }) }
	for name, play := range map[string]func(c *counter){
		"hub there": func(c *counter) {
			for range 3 {
				c.count()
				time.Sleep(time.Second)
			}
		},
		"all at once": func(c *counter) {
			c.count()
			c.count()
			c.count()
			time.Sleep(time.Second)
		},
		"hub silent for a while": func(c *counter) {
			lose(c.bench, true)
			c.count()
			time.Sleep(3 * time.Second)
			c.count()
			lose(c.bench, false)
			time.Sleep(time.Minute)
			c.count()
			time.Sleep(time.Second)
		},
		"hub away": func(c *counter) {
			c.hub.lose()
			c.LinkDown()
			c.count()
			time.Sleep(time.Second)
			c.count()
			time.Sleep(time.Second)
			c.LinkUp()
			c.count()
			time.Sleep(time.Minute)
			c.count()
			time.Sleep(time.Second)
		},
		"flash fails when the hub has it": func(c *counter) {
			c.LinkDown()
			c.count()
			time.Sleep(time.Second)
			c.notes.set(func() { c.notes.fail = gateway.ErrStoreFailed })
			c.LinkUp()
			time.Sleep(time.Second)
			c.notes.set(func() { c.notes.fail = nil })
			c.count()
			time.Sleep(time.Second)
			c.count()
			time.Sleep(time.Second)
		},
		"flash fails for a busy leaf": func(c *counter) {
			c.busy = true
			for range promptCopies {
				c.count()
				time.Sleep(time.Second)
			}
			c.LinkDown()
			c.count()
			time.Sleep(time.Second)
			c.notes.set(func() { c.notes.fail = gateway.ErrStoreFailed })
			c.LinkUp()
			time.Sleep(time.Second)
			c.count()
			time.Sleep(time.Second)
			c.notes.set(func() { c.notes.fail = nil })
			c.count()
			time.Sleep(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for step := int64(1); ; step++ {
				if step > 100 {
					t.Fatal("it never ends")
				}
				survived := false
				t.Run(fmt.Sprint("step ", step), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { survived = crashAt(t, step, play) })
				})
				if survived {
					if step < 10 {
						t.Errorf("only %d steps", step)
					}
					return
				}
			}
		})
	}
}

// crashAt returns whether the course was over before the step.
func crashAt(t *testing.T, step int64, play func(c *counter)) (survived bool) {
	c := &counter{bench: newBench(t)}
	defer func() { c.stop() }()
	c.LinkUp()
	c.report(`{"name":"pump"}`)
	c.twin()
	time.Sleep(2 * time.Minute) // all is on flash
	synctest.Wait()
	c.process.steps.Store(step)
	play(c)
	survived = !c.process.crashed.Load()
	restart := func() {
		synctest.Wait()
		c.notes.set(func() { c.notes.fail = nil })
		c.hub.set(func() { c.hub.lost = false })
		c.start()
	}
	restart()
	c.holds(t, "at a cold start")
	c.LinkUp()   // what is in custody goes to the hub, while the leaf goes on
	if !c.busy { // else what it reports hides what comes behind it
		c.count()
	}
	c.holds(t, "with the hub")
	time.Sleep(time.Second)
	restart()
	c.holds(t, "at a second cold start")
	c.LinkUp()
	time.Sleep(time.Minute)
	c.holds(t, "in the end")
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	if n := numberIn(c.hub.reported); n < c.taken {
		t.Errorf("the hub has %d, %d was taken: it got %s", n, c.taken, strings.Join(c.hub.patches, " "))
	}
	return survived
}

// A leaf that reports all the time wears the flash out no more than one a minute
// would, and loses at most that minute.
func TestCopiesOfABusyLeaf(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.twin()
		time.Sleep(time.Hour)
		b.notes.set(func() { b.notes.saves = 0 })
		for i := range 3600 {
			b.report(fmt.Sprintf(`{"n":%d}`, i))
			time.Sleep(time.Second)
		}
		b.notes.set(func() {
			if most := 60 + 60 + promptCopies; b.notes.saves > most {
				t.Errorf("%d copies written in an hour, at most %d", b.notes.saves, most)
			}
			b.notes.saves = 0
		})
		for range 100 { // says nothing new
			b.report(`{"n":3599}`)
			time.Sleep(100 * time.Millisecond)
		}
		b.start() // after a crash
		text, _, err := b.Twin(context.Background(), pump)
		document, _ := parse(text)
		reported, _ := document["reported"].(object)
		if n := numberIn(reported); err != nil || n < 3600-62 {
			t.Errorf("an hour of reports, one a second, and the copy has %d, %v", n, err)
		}
	})
}

// The hub has taken a patch of which the gateway did not hear before it died. What
// the leaf reports next does not pass for all that is new, whenever the twin was read.
func TestAGapInTheCopyIsClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.report(`{"a":1}`)
		b.twin()
		time.Sleep(2 * time.Minute)
		b.hub.set(func() { b.hub.reported = object{"a": number(2), versionKey: number(3)} })
		b.start()
		b.LinkUp()
		b.hub.set(func() { b.hub.late = time.Second }) // the answer to the read comes behind that to the patch
		read := make(chan string)
		go func() { read <- b.twin() }()
		time.Sleep(100 * time.Millisecond)
		b.report(`{"b":1}`)
		const document = `{"desired":{"$version":1},"reported":{"$version":4,"a":2,"b":1}}`
		want(t, "read meanwhile", <-read, document+" 0s")
		time.Sleep(2 * time.Second)
		b.start() // after a crash
		if got := b.twin(); !strings.HasPrefix(got, document) {
			t.Errorf("at a cold start: %s", got)
		}
	})
}
