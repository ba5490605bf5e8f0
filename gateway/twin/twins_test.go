package twin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
)

// notes are notes in memory.
type notes struct {
	mu    sync.Mutex
	kept  map[string][]byte // by kind/name
	fail  error
	saves int
}

func (n *notes) Note(kind, name string) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.kept[kind+"/"+name]), nil
}

func (n *notes) SetNotes(kind string, values map[string][]byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return n.fail
	}
	n.saves++
	for name, v := range values {
		if v == nil {
			delete(n.kept, kind+"/"+name)
		} else {
			n.kept[kind+"/"+name] = slices.Clone(v)
		}
	}
	return nil
}

func (n *notes) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *notes) EachNote(kind string, f func(name string, value []byte) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(n.kept)) {
		if name, ok := strings.CutPrefix(key, kind+"/"); ok {
			if err := f(name, n.kept[key]); err != nil {
				return err
			}
		}
	}
	return nil
}

// hubTwin is one twin at a hub that answers, or does not.
type hubTwin struct {
	mu       sync.Mutex
	desired  object
	reported object
	silent   bool          // requests are not answered, and not seen
	lost     bool          // requests are done, and their answers lost
	late     time.Duration // answers to reads are so long on their way
	refuse   error         // to patches
	patches  []string
	cut      chan struct{} // closed when the connection is lost
}

func newHubTwin() *hubTwin {
	return &hubTwin{desired: object{versionKey: number(1)}, reported: object{versionKey: number(1)}, cut: make(chan struct{})}
}

// wait waits for an answer that does not come.
func (h *hubTwin) wait(ctx context.Context) error {
	h.mu.Lock()
	cut := h.cut
	h.mu.Unlock()
	select {
	case <-cut:
		return gateway.ErrLinkDown
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sent are the patches that have arrived.
func (h *hubTwin) sent() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.patches)
}

// lose is the end of the connection.
func (h *hubTwin) lose() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.cut)
	h.cut = make(chan struct{})
}

func (h *hubTwin) answer(ctx context.Context) error {
	h.mu.Lock()
	silent := h.silent
	h.mu.Unlock()
	if silent {
		return h.wait(ctx)
	}
	time.Sleep(10 * time.Millisecond)
	return ctx.Err()
}

func (h *hubTwin) GetTwin(ctx context.Context, _ string) ([]byte, error) {
	if err := h.answer(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	text, late := format(object{"desired": h.desired, "reported": h.reported}), h.late
	h.mu.Unlock()
	time.Sleep(late)
	return text, nil
}

func (h *hubTwin) PatchReported(ctx context.Context, _ string, text []byte) (int64, error) {
	if err := h.answer(ctx); err != nil {
		return 0, err
	}
	version, lost, err := h.patch(text)
	if lost {
		return 0, h.wait(ctx)
	}
	return version, err
}

func (h *hubTwin) patch(text []byte) (version int64, lost bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		return 0, false, h.refuse
	}
	patch, err := parse(text)
	if err != nil {
		return 0, false, err
	}
	h.patches = append(h.patches, string(text))
	version = versionOf(h.reported) + 1
	h.reported = apply(h.reported, patch)
	h.reported[versionKey] = number(version)
	return version, h.lost, nil
}

// change is what the back end does to the desired section.
func (h *hubTwin) change(text string) (patch []byte, version int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o, err := parse([]byte(text))
	if err != nil {
		panic(err)
	}
	version = versionOf(h.desired) + 1
	h.desired = apply(h.desired, o)
	h.desired[versionKey] = number(version)
	o[versionKey] = number(version)
	return format(o), version
}

func (h *hubTwin) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// leafEnd is the way to the leaf: it remembers desired changes.
type leafEnd struct {
	mu    sync.Mutex
	told  []string
	heard []func() // to be called when the leaf has them
	deaf  bool     // nothing is heard by itself
}

func (*leafEnd) Command(*gateway.Command, func(gateway.Verdict)) {}
func (*leafEnd) Call(context.Context, *gateway.Call) (*gateway.Reply, error) {
	return nil, gateway.ErrAbsent
}

func (l *leafEnd) Desired(_ string, patch []byte, _ int64, heard func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, string(patch))
	l.heard = append(l.heard, heard)
	if !l.deaf {
		go heard()
	}
}

// hear takes what has come.
func (l *leafEnd) hear() (patches []string) {
	l.mu.Lock()
	patches, heard := l.told, l.heard
	l.told, l.heard = nil, nil
	l.mu.Unlock()
	for _, f := range heard {
		f()
	}
	return patches
}

func (l *leafEnd) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.told, " ")
}

// lose is the end of the leaf's connection: what is on its way is lost.
func (l *leafEnd) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told, l.heard = nil, nil
}

// bench is a gateway with one leaf.
type bench struct {
	*Twins
	t     interface{ Fatalf(string, ...any) }
	hub   *hubTwin
	notes *notes
	leaf  *leafEnd
	stop  func()
	// process is what the present run writes to.
	process *process
	mu      sync.Mutex
	said    []string // answers to reports, in order
}

const pump = "pump-1"

func newBench(t interface{ Fatalf(string, ...any) }) *bench {
	b := &bench{t: t, hub: newHubTwin(), notes: &notes{kept: make(map[string][]byte)}, leaf: &leafEnd{}}
	b.start()
	return b
}

// process is notes and hub as one run of the gateway sees them: a crash ends that, by
// itself after so many steps. What is written, what the hub takes and what the leaf
// hears are two steps each: a crash may come before and behind.
type process struct {
	*notes
	*hubTwin
	crashed atomic.Bool
	steps   atomic.Int64 // to the crash; never when it is 0 at first
}

// do does something that others see, unless the process is dead. ok is false when the
// process did not live to see it done.
func (p *process) do(f func()) (ok bool) {
	if !p.step() {
		return false
	}
	f()
	return p.step()
}

func (p *process) step() bool {
	if p.steps.Add(-1) == 0 {
		p.crashed.Store(true)
	}
	return !p.crashed.Load()
}

func (p *process) SetNotes(kind string, values map[string][]byte) (err error) {
	if !p.do(func() { err = p.notes.SetNotes(kind, values) }) {
		return gateway.ErrStoreFailed
	}
	return err
}

func (p *process) PatchReported(ctx context.Context, leaf string, text []byte) (version int64, err error) {
	if !p.do(func() { version, err = p.hubTwin.PatchReported(ctx, leaf, text) }) {
		return 0, gateway.ErrLinkDown
	}
	return version, err
}

// start makes a gateway; the last one has crashed, if it was not stopped.
func (b *bench) start() {
	if b.stop != nil {
		b.process.crashed.Store(true)
		b.stop()
	}
	notes := &process{notes: b.notes, hubTwin: b.hub}
	b.process = notes
	clock := func() gateway.Instant {
		now := time.Now()
		return gateway.Instant{Wall: now, Quality: gateway.Synced, Boot: 1, Uptime: time.Duration(now.UnixNano())}
	}
	log := slog.New(slog.DiscardHandler)
	down, err := gateway.NewDown(nil, notes, clock, log)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	b.Twins, err = New(DefaultConfig(), Parts{Hub: notes, Down: down, Notes: notes, Clock: clock, Log: log})
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	twins := b.Twins
	go func() {
		defer close(ended)
		_ = twins.Run(ctx)
	}()
	b.stop = func() {
		cancel()
		<-ended
	}
}

func (b *bench) report(text string) {
	b.Report(pump, []byte(text), func(version int64, err error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if err != nil {
			b.said = append(b.said, err.Error())
			return
		}
		b.said = append(b.said, fmt.Sprint(version))
	})
}

func (b *bench) answers() string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.said, " ")
}

func (b *bench) listen() { b.Attend(pump, b.leaf, gateway.WantsDesired) }
func (b *bench) sleep()  { b.Attend(pump, b.leaf, gateway.WantsDesired|gateway.Asleep) }

func want(t *testing.T, what string, got any, want string) {
	t.Helper()
	if fmt.Sprint(got) != want {
		t.Errorf("%s:\n got %v\nwant %s", what, got, want)
	}
}

func inBubble(t *testing.T, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		f(t, b)
		b.stop()
	})
}

func (b *bench) twin() string {
	text, age, err := b.Twin(context.Background(), pump)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %v", text, age)
}

func TestReadWithAndWithoutTheHub(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		want(t, "never read", b.twin(), gateway.ErrNoTwin.Error())
		b.LinkUp()
		b.hub.change(`{"interval":5}`)
		const document = `{"desired":{"$version":2,"interval":5},"reported":{"$version":1}}`
		want(t, "hub there", b.twin(), document+" 0s")
		b.LinkDown()
		time.Sleep(time.Hour)
		want(t, "hub away", b.twin(), document+" 1h0m0s")

		time.Sleep(2 * time.Minute) // the copy is on flash
		synctest.Wait()
		b.start()
		want(t, "cold start", b.twin(), document+" 1h2m0s")
		b.LinkUp()
		b.hub.set(func() { b.hub.silent = true })
		want(t, "hub silent", b.twin(), document+" 1h2m2s")
	})
}

// What the hub has taken is in the copy on flash soon after it is away: a crash does not
// take it from the leaf.
func TestCopiesAreKeptWhenTheHubGoes(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.twin()
		time.Sleep(2 * time.Minute) // all is on flash, and for a minute nothing will be
		b.report(`{"a":1}`)
		time.Sleep(100 * time.Millisecond)
		b.LinkDown()
		time.Sleep(soon + time.Millisecond)
		synctest.Wait()
		b.start() // after a crash
		want(t, "cold start", b.twin(), `{"desired":{"$version":1},"reported":{"$version":2,"a":1}} 2m1.101s`)
	})
}

func TestReportWithTheHub(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.report(`{"a":1}`)
		time.Sleep(time.Second)
		b.report(`{"a":2}`)
		time.Sleep(time.Second)
		want(t, "versions", b.answers(), "2 3")
		want(t, "at the hub", b.hub.sent(), `[{"a":1} {"a":2}]`)
		b.notes.set(func() {
			if b.notes.saves != 2 { // of the copy
				t.Errorf("%d writes to flash", b.notes.saves)
			}
		})
		b.report(`{"b.c":1}`)
		b.report(`[]`)
		if got := b.answers(); !strings.Contains(got, "key") || !strings.Contains(got, "not a JSON object") {
			t.Errorf("against the rules: got %s", got)
		}
		b.hub.set(func() {
			b.hub.refuse = &gateway.TwinError{Status: 413, Message: "too large"}
		})
		b.report(`{"a":3}`)
		time.Sleep(time.Second)
		if got := b.answers(); !strings.HasSuffix(got, "too large") {
			t.Errorf("refused by the hub: got %s", got)
		}
	})
}

// An answer that was long on its way does not take back what the hub took since.
func TestALateReadChangesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.hub.set(func() { b.hub.late = time.Second })
		var old sync.WaitGroup
		old.Go(func() { b.twin() })
		time.Sleep(100 * time.Millisecond)
		b.hub.set(func() { b.hub.late = 0 })
		b.report(`{"a":1}`)
		time.Sleep(100 * time.Millisecond)
		old.Wait()
		b.LinkDown()
		want(t, "the copy", b.twin(), `{"desired":{"$version":1},"reported":{"$version":2,"a":1}} 0s`)
	})
}

func TestReportWithoutTheHub(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.twin()
		b.LinkDown()
		for i := range 50 {
			b.report(fmt.Sprintf(`{"a":%d}`, i))
		}
		b.report(`{"b":{"x":null}}`)
		want(t, "in custody", b.answers(), strings.TrimSpace(strings.Repeat("0 ", 51)))
		want(t, "the copy", b.twin(), `{"desired":{"$version":1},"reported":{"$version":1,"a":49,"b":{}}} 0s`)

		b.start() // after a crash
		b.LinkUp()
		synctest.Wait()
		b.report(`{"a":"later"}`)
		time.Sleep(time.Second)
		want(t, "at the hub", b.hub.sent(), `[{"a":49,"b":{"x":null}} {"a":"later"}]`)
		if text, _ := b.notes.Note(reportedNote, pump); text != nil {
			t.Errorf("still in custody: %s", text)
		}
	})
}

func TestASilentHubDelaysTheLeafForAWhileOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.hub.set(func() { b.hub.lost = true })
		b.report(`{"a":1}`)
		time.Sleep(time.Second)
		b.report(`{"b":1}`)
		time.Sleep(500 * time.Millisecond)
		want(t, "before the wait is over", b.answers(), "")
		time.Sleep(time.Second)
		want(t, "after it", b.answers(), "0 0")
		b.report(`{"c":1}`)
		want(t, "at once", b.answers(), "0 0 0")
		b.hub.set(func() { b.hub.lost = false })
		time.Sleep(time.Minute)
		want(t, "at the hub, the first twice", b.hub.sent(), `[{"a":1} {"a":1} {"b":1,"c":1}]`)
	})
}

func TestWhatCannotBeKeptIsNotTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.notes.set(func() { b.notes.fail = gateway.ErrStoreFull })
		b.report(`{"a":1}`)
		want(t, "disk full", b.answers(), gateway.ErrStoreFull.Error())
		b.LinkUp()
		b.hub.set(func() { b.hub.silent = true })
		b.report(`{"a":2}`)
		time.Sleep(3 * time.Second)
		want(t, "disk full, hub silent", b.answers(), strings.Repeat(gateway.ErrStoreFull.Error()+" ", 2)[:2*len(gateway.ErrStoreFull.Error())+1])
		b.hub.set(func() { b.hub.silent = false })
		time.Sleep(time.Minute) // the request that was not answered is given up
		b.report(`{"a":3}`)
		time.Sleep(time.Minute)
		if got := b.answers(); !strings.HasSuffix(got, " 2") {
			t.Errorf("hub there again: got %s", got)
		}
		want(t, "at the hub", b.hub.sent(), `[{"a":3}]`)
		b.notes.set(func() { b.notes.fail = nil })
	})
}

func TestDesiredChangesReachTheLeafOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.twin()
		b.listen()
		b.Listening(pump, gateway.WantsDesired)
		patch, version := b.hub.change(`{"a":{"x":1}}`)
		b.Desired(pump, patch, version, func() {})
		b.Desired(pump, patch, version, func() {})
		time.Sleep(time.Second)
		want(t, "one change, told twice by the hub", b.leaf, `{"$version":2,"a":{"x":1}}`)

		b.LinkDown()
		b.hub.change(`{"a":{"x":2,"y":1}}`)
		b.hub.change(`{"a":{"x":null},"b":1}`)
		b.LinkUp()
		b.Listening(pump, gateway.WantsDesired)
		time.Sleep(time.Second)
		want(t, "two changes missed", strings.TrimPrefix(b.leaf.String(), `{"$version":2,"a":{"x":1}} `), `{"$version":4,"a":{"x":null,"y":1},"b":1}`)

		b.leaf.hear()
		b.sleep()
		patch, version = b.hub.change(`{"b":2}`)
		b.Desired(pump, patch, version, func() {})
		time.Sleep(time.Second)
		b.LinkDown()
		want(t, "asleep", b.leaf, "")
		b.listen()
		want(t, "awake, hub away", b.leaf, `{"$version":5,"b":2}`)

		time.Sleep(2 * time.Second)
		b.leaf.hear()
		b.start() // after a crash
		b.listen()
		b.LinkUp()
		b.Listening(pump, gateway.WantsDesired)
		time.Sleep(time.Second)
		want(t, "nothing new after a restart", b.leaf, "")
		b.hub.change(`{"b":3}`)
		patch, version = b.hub.change(`{"b":4}`)
		b.Desired(pump, patch, version, func() {}) // the one before was lost
		time.Sleep(time.Second)
		want(t, "one lost on the way", b.leaf, `{"$version":7,"b":4}`)
	})
}

func TestALeafThatNeverAskedHearsOfChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.LinkUp()
		b.listen()
		patch, version := b.hub.change(`{"a":1}`)
		b.Desired(pump, patch, version, func() {})
		time.Sleep(time.Second)
		patch, version = b.hub.change(`{"a":2}`)
		b.Desired(pump, patch, version, func() {})
		time.Sleep(time.Second)
		want(t, "told", b.leaf, `{"$version":2,"a":1} {"$version":3,"a":2}`)
	})
}

func TestAReplacementIsFoundInTheTwin(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.hub.change(`{"old":1}`)
		b.LinkUp()
		b.twin()
		b.listen()
		b.hub.set(func() { b.hub.desired = object{"new": number(1), versionKey: number(3)} })
		b.Desired(pump, []byte(`{"new":1,"$version":3}`), 3, func() {})
		time.Sleep(time.Second)
		b.LinkDown()
		if got := b.twin(); !strings.HasPrefix(got, `{"desired":{"$version":3,"new":1}`) {
			t.Errorf("the copy: %s", got)
		}
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.LinkUp()
		b.hub.set(func() { b.hub.silent = true })
		b.report(`{"a":1}`)
		time.Sleep(time.Second)
		b.stop()
		want(t, "answered", b.answers(), "0")
		b.report(`{"a":2}`)
		want(t, "after the end", b.answers(), "0 "+gateway.ErrShuttingDown.Error())
		if got, _ := b.notes.Note(reportedNote, pump); string(got) != `[{"a":1}]` {
			t.Errorf("in custody: %s", got)
		}
	})
}

// TestTwinsHold plays random histories: links that come and go, a hub that loses
// answers, crashes, a full disk. In the end the hub has everything that was taken
// over, in its order, and the leaf knows the desired section, each version told
// at most once per start.
func TestTwinsHold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) { history(rt) })
	})
}

func history(t *rapid.T) {
	b := newBench(t)
	b.leaf.deaf = true
	defer func() { b.stop() }()
	want := object{}              // what has been taken over, applied in order
	var known object              // desired as the leaf has it
	var sent []object             // not answered
	var answers []bool            // taken over or not, of those in order
	link, read := false, int64(0) // read: the version that the leaf last read
	catchUp := func() {
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, ok := range answers {
			if ok {
				want = apply(want, sent[0])
			}
			sent = sent[1:]
		}
		answers = nil
	}
	hear := func() {
		synctest.Wait()
		for _, text := range b.leaf.hear() {
			patch, err := parse([]byte(text))
			if err != nil {
				t.Fatalf("%v", err)
			}
			if known == nil {
				continue // it drops what comes before its first read
			}
			if versionOf(patch) <= versionOf(known) {
				if versionOf(patch) > read {
					t.Fatalf("version %d came after %d", versionOf(patch), versionOf(known))
				}
				continue // the leaf has read the twin meanwhile
			}
			known = apply(known, patch)
		}
	}
	steps := map[string]func(*rapid.T){
		"report": func(t *rapid.T) {
			patch := documents(true).Draw(t, "patch")
			if len(patch) == 0 {
				return
			}
			sent = append(sent, patch)
			b.Report(pump, format(patch), func(_ int64, err error) {
				b.mu.Lock()
				defer b.mu.Unlock()
				answers = append(answers, err == nil)
			})
		},
		"change": func(t *rapid.T) {
			text := format(documents(true).Draw(t, "change"))
			patch, version := b.hub.change(string(text))
			if link {
				b.Desired(pump, patch, version, func() {})
			}
			hear()
		},
		"read": func(*rapid.T) {
			text, _, err := b.Twin(context.Background(), pump)
			if err == nil {
				document, _ := parse(text)
				known, _ = document["desired"].(object)
				read = versionOf(known)
			}
		},
		"up":    func(*rapid.T) { link = true; b.LinkUp(); b.Listening(pump, gateway.WantsDesired) },
		"down":  func(*rapid.T) { link = false; b.hub.lose(); b.LinkDown() },
		"awake": func(*rapid.T) { b.listen() },
		"asleep": func(*rapid.T) {
			b.leaf.lose()
			b.sleep()
		},
		"silent": func(*rapid.T) { b.hub.set(func() { b.hub.silent = !b.hub.silent }) },
		"lost":   func(*rapid.T) { b.hub.set(func() { b.hub.lost = !b.hub.lost }) },
		"wait": func(t *rapid.T) {
			time.Sleep(time.Duration(rapid.IntRange(1, 30000).Draw(t, "ms")) * time.Millisecond)
			catchUp()
			hear()
		},
		"restart": func(*rapid.T) {
			link = false
			b.stop()
			b.stop = nil
			catchUp()
			b.leaf.lose()
			b.start()
		},
	}
	t.Repeat(steps)
	hear()

	b.hub.set(func() { b.hub.silent, b.hub.lost = false, false })
	b.LinkUp()
	b.listen()
	b.Listening(pump, gateway.WantsDesired)
	time.Sleep(10 * time.Minute)
	catchUp()
	hear()
	if len(sent) > 0 {
		t.Fatalf("%d reports without an answer", len(sent))
	}
	got := maps.Clone(b.hub.reported)
	delete(got, versionKey)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("reported: got %s, want %s", format(got), format(want))
	}
	if known != nil && !reflect.DeepEqual(known, b.hub.desired) {
		t.Fatalf("the leaf knows %s, the hub wants %s", format(known), format(b.hub.desired))
	}
}

// A leaf that the hub keeps no twin for is told so at once, whatever the hub does,
// and nothing of it is kept.
func TestLeafWithoutTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer func() { b.stop() }()
		b.Has = func(leaf string) bool { return leaf != pump }
		ask := func() {
			t.Helper()
			if _, _, err := b.Twin(t.Context(), pump); !errors.Is(err, hub.ErrNoTwin) {
				t.Errorf("reading: %v", err)
			}
			b.report(`{"a":1}`)
			b.listen()
			b.Listening(pump, gateway.WantsDesired)
			synctest.Wait()
		}
		ask()
		b.LinkUp()
		ask()
		want(t, "answers", b.answers(), hub.ErrNoTwin.Message+" "+hub.ErrNoTwin.Message)
		want(t, "patches at the hub", len(b.hub.patches), "0")
		want(t, "saves", b.notes.saves, "0")
		want(t, "leaves known", b.State().KnownHere, "0")
	})
}

// Who looks at a twin from outside has not told the leaf anything.
func TestLookTellsTheLeafNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer func() { b.stop() }()
		b.LinkUp()
		b.listen()
		if _, _, err := b.Twin(t.Context(), pump); err != nil {
			t.Fatal(err)
		}
		b.sleep()
		b.hub.change(`{"rate":7}`)
		doc, age, err := b.Look(t.Context(), pump)
		if err != nil || age != 0 || !strings.Contains(string(doc), `"rate":7`) {
			t.Fatalf("%s, %v, %v", doc, age, err)
		}
		b.LinkDown()
		b.listen()
		synctest.Wait()
		if told := b.leaf.hear(); len(told) != 1 || !strings.Contains(told[0], `"rate":7`) {
			t.Errorf("the leaf was told %q", told)
		}
	})
}

// A leaf that cannot ask for its twin is told all of it when it first listens, and
// then what it missed, also after a restart without the hub.
func TestLeafThatCannotAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer func() { b.stop() }()
		listen := func() { b.Attend(pump, b.leaf, gateway.WantsDesired|gateway.CannotAsk) }
		b.hub.change(`{"rate":7}`)
		b.LinkUp()
		listen()
		b.Listening(pump, gateway.WantsDesired)
		time.Sleep(time.Second) // the hub takes its time
		want(t, "at first", b.leaf.hear(), `[{"$version":2,"rate":7}]`)
		patch, version := b.hub.change(`{"mode":"eco"}`)
		b.Desired(pump, patch, version, func() {})
		time.Sleep(time.Second) // the hub takes its time
		want(t, "live", len(b.leaf.hear()), "1")
		time.Sleep(5 * time.Second) // the copy goes to flash
		b.start()
		b.LinkUp()
		b.hub.change(`{"mode":"full"}`)
		if _, _, err := b.Look(t.Context(), pump); err != nil {
			t.Fatal(err)
		}
		b.LinkDown()
		listen()
		time.Sleep(time.Second) // the hub takes its time
		want(t, "missed", b.leaf.hear(), `[{"$version":4,"mode":"full"}]`)
	})
}
