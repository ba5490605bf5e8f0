package rows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/e2e/report"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

var (
	transports = []string{"mqtt", "mqtt-ws"}
	kinds      = []string{"telemetry", "command", "twin", "reported", "desired", "method", "upload"}
)

// judge is a leaf that rejects and abandons, which no SDK can over MQTT.
const judge = "judge"

// TestRows plays every row over both transports at once, with the link to the hub
// breaking and the gateway dying in the middle of all of them, at random moments.
func TestRows(t *testing.T) {
	nodeScripts(t)
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	rounds, life := 9, 2*time.Minute
	if report.Nightly() {
		rounds, life = 150, 45*time.Minute
	}
	p := newPlay(t, kinds, 0, life)
	for round := range rounds {
		p.advance()
		p.disturb(round)
	}
	p.advance()
	p.end()
	p.judgeAll("Rows of the hub's contract")
	if p.repeated == 0 {
		t.Error("nothing had to be done again: no break hit anything")
	}
}

// newPlay begins a play with a leaf for each of the rows and transports. Their
// tokens are valid for renew seconds; 0 is the SDK's own hour.
func newPlay(t *testing.T, rows []string, renew float64, life time.Duration) *play {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	p := &play{random: rand.New(rand.NewPCG(seed, 0)), renewing: renew > 0}
	var ids []string
	for _, transport := range transports {
		for _, row := range rows {
			ids = append(ids, row+"-"+transport)
		}
	}
	p.bench = newBench(t, plan{leaves: ids, plain: []string{judge}, socket: true, life: life})
	for _, transport := range transports {
		for _, row := range rows {
			l := stock{ID: row + "-" + transport, Row: row, Transport: transport, Renew: renew}
			l.Connection = p.connection(l.ID, transport)
			if row == "upload" { // a stock SDK takes files to the hub's own name
				l.Connection = strings.Replace(l.Connection, "HostName="+hubHost, "HostName="+p.socket, 1)
			}
			p.leaves = append(p.leaves, l)
		}
	}
	p.start()
	p.crew = p.board(p.leaves)
	p.begin()
	return p
}

// play is all rows as they run.
type play struct {
	*bench
	random *rand.Rand
	leaves []stock
	crew   *crew
	verdicts
	callers sync.WaitGroup // who begin things, until finish
	readers sync.WaitGroup // who hear what became of them, until the end of the test
	finish  context.CancelFunc
	kills   []kill

	renewing bool // leaves renew their tokens all the time
	repeated int  // what had to be done again because something broke, for all that is judged

	mu       sync.Mutex           // guards everything below
	sent     map[string]int       // commands, by leaf
	desired  map[string]int       // the last value, by leaf
	feedback map[string][]outcome // by message id
	calls    map[string][]answer  // by leaf
	reported map[string][]int     // values of n at the hub, in order, by leaf
	notices  map[string]int       // of files, by blob name
}

// kill is when a gateway died, and when the next was started.
type kill struct{ died, reborn time.Time }

// outcome is what the hub's feedback says of a command.
type outcome struct {
	status string
	at     time.Time
}

// answer is what a caller of a method hears.
type answer struct {
	n    int
	code int // of the hub's refusal, 0 for an answer
}

// begin has the back end do its part until end.
func (p *play) begin() {
	p.sent, p.desired, p.feedback = make(map[string]int), make(map[string]int), make(map[string][]outcome)
	p.calls, p.reported, p.notices = make(map[string][]answer), make(map[string][]int), make(map[string]int)
	busy, finish := context.WithCancel(p.ctx)
	p.finish = finish
	p.t.Cleanup(func() {
		finish()
		p.callers.Wait()
		p.readers.Wait()
	})
	p.readers.Go(p.readFeedback)
	p.readers.Go(p.readNotices)
	p.judging(p.bench)
	for _, l := range p.leaves {
		switch l.Row {
		case "command":
			p.callers.Go(func() { p.command(busy, l.ID) })
		case "method":
			for range 3 {
				p.callers.Go(func() { p.invoke(busy, l.ID) })
			}
		case "desired":
			p.callers.Go(func() { p.desire(busy, l.ID) })
		case "reported":
			p.callers.Go(func() { p.watchReported(busy, l.ID) })
		}
	}
	p.callers.Go(func() { p.command(busy, judge) })
}

// each runs f every so often until ctx ends.
func each(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// command sends numbered commands, some at a time, while there is room.
func (p *play) command(ctx context.Context, leaf string) {
	const burst = 5
	each(ctx, 100*time.Millisecond, func() {
		for p.domain().Commands.Len(id(leaf)) < 20 {
			p.mu.Lock()
			p.sent[leaf]++
			n := p.sent[leaf]
			p.mu.Unlock()
			m := &message.Message{
				To: "/devices/" + leaf + "/messages/devicebound", ID: fmt.Sprintf("%s/%d", leaf, n), Ack: "full",
				Body: []byte(strconv.Itoa(n)), Properties: []message.Property{{Name: "site", Value: "north & süd"}},
			}
			if err := p.domain().Commands.Send(id(leaf), m); err != nil {
				p.t.Errorf("command %d for %s: %v", n, leaf, err)
			}
			if n%burst == 0 {
				return
			}
		}
	})
}

func (p *play) desire(ctx context.Context, leaf string) {
	each(ctx, 100*time.Millisecond, func() { p.change(leaf) })
}

// change changes desired properties.
func (p *play) change(leaf string) {
	p.mu.Lock()
	p.desired[leaf]++
	n := p.desired[leaf]
	p.mu.Unlock()
	patch := fmt.Sprintf(`{"properties":{"desired":{"n":%d,"k%d":%d}}}`, n, n%5, n)
	if _, err := p.domain().Twins.Update(id(leaf), []byte(patch), false, ""); err != nil {
		p.t.Error(err)
	}
}

// invoke calls a method again and again.
func (p *play) invoke(ctx context.Context, leaf string) {
	each(ctx, 50*time.Millisecond, func() {
		p.mu.Lock()
		n := len(p.calls[leaf]) + 1
		p.calls[leaf] = append(p.calls[leaf], answer{n: n, code: -1})
		p.mu.Unlock()
		a, err := p.domain().Methods.Invoke(p.ctx, id(leaf), methods.Call{
			Name: "echo", Payload: fmt.Appendf(nil, `{"n":%d,"to":%q}`, n, leaf), ResponseTimeout: 5 * time.Second,
		})
		code := 0
		if refused, ok := errors.AsType[*refusal.Error](err); ok {
			code = refused.Code
		} else if err != nil {
			p.t.Errorf("call %d of %s: %v", n, leaf, err)
		}
		if want := fmt.Sprintf(`{"leaf":%q,"n":%d}`, leaf, n); code == 0 && (int(a.Status) != 200+n%50 || string(a.Payload) != want) {
			p.t.Errorf("call %d of %s answered %d %s", n, leaf, a.Status, a.Payload)
		}
		p.mu.Lock()
		p.calls[leaf][n-1].code = code
		p.mu.Unlock()
	})
}

// hubTwin reads a twin as a back end does.
func (b *bench) hubTwin(leaf string) (twin struct {
	Properties struct{ Desired, Reported map[string]any }
},
) {
	text, err := b.domain().Twins.Get(id(leaf))
	if err == nil {
		err = json.Unmarshal(text, &twin)
	}
	if err != nil {
		b.t.Errorf("twin of %s: %v", leaf, err)
	}
	return twin
}

// watchReported notes the values that the hub has after another.
func (p *play) watchReported(ctx context.Context, leaf string) {
	each(ctx, 5*time.Millisecond, func() {
		n, _ := p.hubTwin(leaf).Properties.Reported["n"].(float64)
		p.mu.Lock()
		defer p.mu.Unlock()
		if list := p.reported[leaf]; n > 0 && (len(list) == 0 || list[len(list)-1] != int(n)) {
			p.reported[leaf] = append(list, int(n))
		}
	})
}

func (p *play) readFeedback() {
	for {
		d, err := p.domain().Feedback.Next(p.ctx)
		if err != nil {
			return
		}
		var list []struct {
			ID     string    `json:"originalMessageId"`
			Time   time.Time `json:"enqueuedTimeUtc"`
			Status string    `json:"statusCode"`
		}
		if err := json.Unmarshal(d.Message.Body, &list); err != nil {
			p.t.Errorf("feedback %s: %v", d.Message.Body, err)
		}
		p.mu.Lock()
		for _, r := range list {
			p.feedback[r.ID] = append(p.feedback[r.ID], outcome{r.Status, r.Time})
		}
		p.mu.Unlock()
		_ = p.domain().Feedback.Complete(d.LockToken)
	}
}

func (p *play) readNotices() {
	for {
		d, err := p.domain().FileNotices.Next(p.ctx)
		if err != nil {
			return
		}
		var notice struct{ BlobName string }
		if err := json.Unmarshal(d.Message.Body, &notice); err != nil {
			p.t.Errorf("notice %s: %v", d.Message.Body, err)
		}
		p.mu.Lock()
		p.notices[notice.BlobName]++
		p.mu.Unlock()
		_ = p.domain().FileNotices.Complete(d.LockToken)
	}
}

// advance waits until every row has got on by a few steps, the callers of methods
// hearing answers again.
func (p *play) advance() {
	p.t.Helper()
	const steps = 3
	enough := make(map[string]int)
	for _, l := range p.leaves {
		enough[l.ID] = p.crew.progress(l.ID) + steps
		if l.Row == "upload" {
			enough[l.ID] = p.crew.progress(l.ID) + 1
		}
	}
	told := p.verdicts.count() + steps
	for _, l := range p.leaves {
		p.await(l.ID+" to get on", func() bool { return p.crew.progress(l.ID) >= enough[l.ID] })
	}
	p.await("the judge to get on", func() bool { return p.verdicts.count() >= told })
}

// disturb breaks something at a random moment, and mends it at another.
func (p *play) disturb(round int) {
	moment := func(most time.Duration) { time.Sleep(time.Duration(p.random.Int64N(int64(most)))) }
	moment(300 * time.Millisecond)
	began := time.Now()
	what := [...]string{"hole", "kill", "cut", "kill", "reset", "kill in the hole"}[round%6]
	switch what {
	case "hole": // packets stop in the network, and come later
		p.hole(true)
		moment(4 * time.Second)
		p.hole(false)
	case "cut": // packets stop at the hub, and never come
		p.hub.Cut()
		moment(4 * time.Second)
		p.hub.Restore()
	case "reset":
		p.hub.Reset()
	case "kill":
		p.killAndStart()
	case "kill in the hole":
		p.hole(true)
		moment(2 * time.Second)
		p.killAndStart()
		moment(time.Second)
		p.hole(false)
	}
	p.t.Logf("round %d: %s, %v", round+1, what, time.Since(began).Round(time.Millisecond))
}

func (p *play) killAndStart() {
	p.kill()
	k := kill{died: time.Now()}
	time.Sleep(time.Duration(p.random.Int64N(int64(300 * time.Millisecond))))
	k.reborn = time.Now()
	p.kills = append(p.kills, k)
	p.start()
}

// end has everybody finish, and waits until the hub has everything.
func (p *play) end() {
	p.t.Helper()
	p.crew.stop(p.leaves)
	p.finish()
	p.callers.Wait()
	for _, l := range p.leaves {
		switch l.Row {
		case "command":
			p.await("the hub's queue of "+l.ID+" to be empty", func() bool { return p.domain().Commands.Len(id(l.ID)) == 0 })
			p.await("all feedback of "+l.ID, func() bool { return p.fedBack(l.ID) >= p.commands(l.ID) })
		case "upload":
			for _, s := range p.crew.heard(l.ID) {
				if s.Uploaded != "" {
					p.await("the hub to tell of "+s.Uploaded+" of "+l.ID, func() bool { return p.noticed(l.ID+"/"+s.Uploaded) > 0 })
				}
			}
		case "reported":
			p.await("what "+l.ID+" reported last", func() bool {
				n, _ := p.hubTwin(l.ID).Properties.Reported["n"].(float64)
				return int(n) == p.lastReported(l.ID)
			})
		case "desired":
			p.await(l.ID+" to be told of the last change", func() bool {
				if p.renewing { // the SDK drops what comes meanwhile, see excused
					p.change(l.ID)
					time.Sleep(100 * time.Millisecond)
				}
				return p.knows(l.ID)
			})
		case "telemetry":
			p.await("the last telemetry of "+l.ID, func() bool { return p.arrivedLast(l.ID) >= p.lastSent(l.ID) })
		}
	}
	p.await("all feedback of the judge", func() bool { return p.fedBack(judge) >= p.commands(judge) })
}

func (p *play) commands(leaf string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent[leaf]
}

func (p *play) fedBack(leaf string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.feedback {
		if strings.HasPrefix(id, leaf+"/") {
			n++
		}
	}
	return n
}

func (p *play) noticed(blob string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notices[blob]
}

func (p *play) lastReported(leaf string) (n int) {
	for _, s := range p.crew.heard(leaf) {
		n = max(n, s.Reported)
	}
	return n
}

func (p *play) lastSent(leaf string) (n int) {
	for _, s := range p.crew.heard(leaf) {
		n = max(n, s.Sent)
	}
	return n
}

func (p *play) arrivedLast(leaf string) (last int) {
	for a := range p.hub.Arrivals() {
		if n, ok := numberOf(a.Body); ok && a.Device == leaf {
			last = max(last, n)
		}
	}
	return last
}

// numberOf reads the number of a message; ticks have none.
func numberOf(body []byte) (int, bool) {
	var b struct{ N int }
	err := json.Unmarshal(body, &b)
	return b.N, err == nil
}

// toldOf is the desired properties as a leaf knows them from what it was told.
func (p *play) toldOf(leaf string) map[string]any {
	all := make(map[string]any)
	for _, s := range p.crew.heard(leaf) {
		maps.Copy(all, s.Desired)
	}
	return all
}

// knows says that a leaf was told of everything that the hub has.
func (p *play) knows(leaf string) bool {
	want := p.hubTwin(leaf).Properties.Desired
	delete(want, "$metadata") // for services only
	return maps.Equal(p.toldOf(leaf), want)
}

// judgeAll compares what leaves, back end and hub say.
func (p *play) judgeAll(name string) {
	var lines []string
	for _, l := range p.leaves {
		line := map[string]func(string) string{
			"telemetry": p.judgeTelemetry, "command": p.judgeCommands, "twin": p.judgeTwins, "reported": p.judgeReported,
			"desired": p.judgeDesired, "method": p.judgeCalls, "upload": p.judgeFiles,
		}[l.Row](l.ID)
		lines = append(lines, fmt.Sprintf("%-18s %s", l.ID, line))
	}
	lines = append(lines, fmt.Sprintf("%-18s %s", judge, p.judgeVerdicts()))
	p.oneConnection()
	dropped := -1.0
	p.await("metrics", func() bool {
		dropped = p.metric("fieldgate_messages_dropped_total")
		return dropped >= 0
	})
	if dropped > 0 {
		p.t.Errorf("%v messages were dropped", dropped)
	}
	report.Write(p.t, fmt.Sprintf("%s, %d kills", name, len(p.kills)), strings.Join(lines, "\n")+"\n")
}

func (p *play) judgeTelemetry(leaf string) string {
	ids := make(map[int]string)
	last, twice := 0, 0
	for a := range p.hub.Arrivals() {
		n, ok := numberOf(a.Body)
		if !ok || a.Device != leaf {
			continue
		}
		if want := fmt.Sprintf(`{"leaf":%q,"n":%d}`, leaf, n); string(a.Body) != want {
			p.t.Errorf("%s sent %s", leaf, a.Body)
		}
		if a.MessageID != fmt.Sprintf("%s-%d", leaf, n) || a.CorrelationID != "c-1" || a.ContentType != "application/json" ||
			a.ContentEncoding != "utf-8" || a.Properties["größe & zeichen"] != "50 % = ½" {
			p.t.Errorf("%s: message %d arrived as %+v", leaf, n, a)
		}
		if ids[n] != "" {
			twice++
			continue
		}
		ids[n] = a.MessageID
		if n < last {
			p.t.Errorf("%s: %d arrived after %d", leaf, n, last)
		}
		last = max(last, n)
	}
	acked := 0
	for _, s := range p.crew.heard(leaf) {
		if s.Sent == 0 {
			continue
		}
		if acked++; ids[s.Sent] == "" {
			p.t.Errorf("%s: %d was acknowledged and never arrived", leaf, s.Sent)
		}
	}
	p.repeated += twice
	return fmt.Sprintf("%d acknowledged, %d arrived, %d came twice", acked, len(ids), twice)
}

// window is how many commands may be in flight to a leaf: so many
// acknowledgements at most die with a gateway.
const window = 16

func (p *play) judgeCommands(leaf string) string {
	total := p.commands(leaf)
	times := make([][]time.Time, total+1)
	last, again := 0, 0
	for _, s := range p.crew.heard(leaf) {
		if s.Command == nil {
			continue
		}
		n, err := strconv.Atoi(*s.Command)
		if err != nil || n < 1 || n > total || s.Properties["site"] != "north & süd" {
			p.t.Errorf("%s got command %q with %v", leaf, *s.Command, s.Properties)
			continue
		}
		if times[n] = append(times[n], s.at); len(times[n]) > 1 {
			again++
			continue
		}
		if n < last {
			p.t.Errorf("%s: command %d came after %d", leaf, n, last)
		}
		last = max(last, n)
	}
	for n := 1; n <= total; n++ {
		p.mu.Lock()
		told := p.feedback[fmt.Sprintf("%s/%d", leaf, n)]
		p.mu.Unlock()
		if len(told) != 1 || told[0].status != "Success" {
			p.t.Errorf("%s: feedback of command %d is %+v", leaf, n, told)
			continue
		}
		if len(times[n]) == 0 && !p.excused(leaf, told[0].at) {
			p.t.Errorf("%s: command %d never came", leaf, n)
		}
		p.notAfter(leaf, n, told[0].at, times[n])
	}
	if again > window*len(p.kills) {
		p.t.Errorf("%s: %d commands came again in %d kills", leaf, again, len(p.kills))
	}
	p.repeated += again
	return fmt.Sprintf("%d commands, all completed, %d came again after a kill", total, again)
}

// notAfter checks that a command did not come to the leaf from a gateway that was
// started when the hub had taken its completion.
func (p *play) notAfter(leaf string, n int, completed time.Time, came []time.Time) {
	for _, k := range p.kills {
		for _, at := range came {
			if completed.Before(k.died) && at.After(k.reborn) {
				p.t.Errorf("%s: command %d was completed at %v and came again at %v", leaf, n, completed, at)
			}
		}
	}
}

func (p *play) judgeTwins(leaf string) string {
	reads := 0
	for _, s := range p.crew.heard(leaf) {
		if s.Twin == nil {
			continue
		}
		if reads++; s.Twin.Desired["$version"] != 1.0 || s.Twin.Reported["$version"] != 1.0 {
			p.t.Errorf("%s read %+v", leaf, s.Twin)
		}
	}
	return fmt.Sprintf("%d reads, %d without an answer", reads, p.crew.count(leaf, func(s *said) bool { return s.Failed != "" }))
}

func (p *play) judgeReported(leaf string) string {
	p.mu.Lock()
	seen := p.reported[leaf]
	p.mu.Unlock()
	if !slices.IsSorted(seen) {
		p.t.Errorf("%s: the hub had the values %v", leaf, seen)
	}
	total := p.lastReported(leaf)
	got := p.hubTwin(leaf).Properties.Reported
	for k := range 5 {
		want := total - (total-k)%5
		if got[fmt.Sprintf("k%d", k)] != float64(want) {
			p.t.Errorf("%s: k%d is %v, reported was %d, the last of %d", leaf, k, got[fmt.Sprintf("k%d", k)], want, total)
		}
	}
	return fmt.Sprintf("%d reports, %d of them asked about again, the hub saw %d values in order", total,
		p.crew.count(leaf, func(s *said) bool { return s.Failed != "" }), len(seen))
}

func (p *play) judgeDesired(leaf string) string {
	p.mu.Lock()
	changes := p.desired[leaf]
	p.mu.Unlock()
	told, again, last := 0, 0, 0.0
	for _, s := range p.crew.heard(leaf) {
		if s.Desired == nil {
			continue
		}
		told++
		version, _ := s.Desired["$version"].(float64)
		switch {
		case version == last:
			again++
		case version < last:
			p.t.Errorf("%s was told of version %v after %v", leaf, version, last)
		}
		last = version
	}
	if again > len(p.kills) {
		p.t.Errorf("%s was told %d times of a version that it knew, in %d kills", leaf, again, len(p.kills))
	}
	if !p.knows(leaf) {
		p.t.Errorf("%s knows %v, the hub has %v", leaf, p.toldOf(leaf), p.hubTwin(leaf).Properties.Desired)
	}
	return fmt.Sprintf("%d changes, told %d times, %d of a version twice", changes, told, again)
}

func (p *play) judgeCalls(leaf string) string {
	p.mu.Lock()
	calls := p.calls[leaf]
	p.mu.Unlock()
	seen := make(map[int]int)
	for _, s := range p.crew.heard(leaf) {
		if s.Method == 0 {
			continue
		}
		if seen[s.Method]++; seen[s.Method] > 1 {
			p.t.Errorf("%s was called twice with %d", leaf, s.Method)
		}
		if want := fmt.Sprintf(`{"n":%d,"to":%q}`, s.Method, leaf); string(s.Payload) != want {
			p.t.Errorf("%s was called with %s", leaf, s.Payload)
		}
	}
	answered := 0
	refused := make(map[int]int)
	for _, c := range calls {
		switch c.code {
		case 0:
			if answered++; seen[c.n] == 0 {
				p.t.Errorf("call %d of %s is answered, and the leaf never saw it", c.n, leaf)
			}
		case 404103, 504101:
			refused[c.code]++
		default:
			p.t.Errorf("call %d of %s: %d", c.n, leaf, c.code)
		}
	}
	p.repeated += refused[404103] + refused[504101]
	return fmt.Sprintf("%d calls, %d answered, %v", len(calls), answered, refused)
}

func (p *play) judgeFiles(leaf string) string {
	count, tries := 0, 0
	for _, s := range p.crew.heard(leaf) {
		if s.Uploaded == "" {
			continue
		}
		count, tries = count+1, tries+s.Tries
		if n := p.noticed(leaf + "/" + s.Uploaded); n > s.Tries {
			p.t.Errorf("%s: the hub told %d times of %s, which took %d tries", leaf, n, s.Uploaded, s.Tries)
		}
		line := leaf + " " + s.Uploaded + "\n"
		const size = 400_000
		if got := p.stored(leaf, s.Uploaded); got != strings.Repeat(line, size/len(line)+1)[:size] {
			p.t.Errorf("%s: %s has %d bytes that are not the leaf's", leaf, s.Uploaded, len(got))
		}
	}
	return fmt.Sprintf("%d files in %d tries; %v", count, tries, p.failures(leaf))
}

// failures counts what a leaf was told in vain, by the words.
func (p *play) failures(leaf string) map[string]int {
	why := make(map[string]int)
	for _, s := range p.crew.heard(leaf) {
		if s.Failed != "" {
			why[s.Why]++
		}
	}
	return why
}
