package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/twin"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// The topics on which the gateway says on the local broker how it is.
const (
	saidHealth = "fieldgate/status/health" // {"pid":…,"status":"up" or "failing","time":since when, Unix time}
	saidBridge = "fieldgate/status/bridge" // 1 while there is a connection to the hub, else 0
	saidState  = "fieldgate/status/state"  // the state, as in status --output json
	// saidPairing is the pairing window, as in pair status --output json: without its code.
	saidPairing = "fieldgate/status/pairing"
)

const (
	// announceEvery is how often the gateway looks whether there is something to say.
	announceEvery = time.Second
	// sayStateEvery is how often the whole state is said, which always changes.
	sayStateEvery = 10 * time.Second
)

// announce tells those who do not ask how the gateway is: who listens on the local
// broker, and the hub.
func (g *assembly) announce(ctx context.Context) error {
	r := g.reporter()
	if r != nil {
		var asking sync.WaitGroup
		defer asking.Wait()
		r.ask = func(ctx context.Context) { asking.Go(func() { g.askOwn(ctx) }) } // others are told meanwhile
	}
	health := ""
	var stateSaid time.Time
	for tick := time.NewTicker(announceEvery); ; {
		s := g.collect()
		now := "up"
		if s.Store.Failing != "" {
			now = "failing"
		}
		if now != health {
			health = now
			g.say(saidHealth, map[string]any{"pid": os.Getpid(), "status": now, "time": s.Now.Unix()})
			stateSaid = time.Time{}
		}
		if g.broker.Say(saidBridge, []byte(map[bool]string{true: "1", false: "0"}[s.Uplink.Connected])) {
			stateSaid = time.Time{}
		}
		g.say(saidPairing, g.window.State())
		if time.Since(stateSaid) >= sayStateEvery {
			stateSaid = time.Now()
			g.say(saidState, s)
		}
		if r != nil && s.Uplink.Connected {
			r.look(ctx, &s, time.Now())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return nil
		}
	}
}

func (g *assembly) say(topic string, v any) {
	text, _ := json.Marshal(v) // plain values: it cannot fail
	g.broker.Say(topic, text)
}

// What of the state is in the gateway's own reported twin, below fieldgate.status, by
// where it stands in the state; within a list it is of each element. There is no more
// than fits, and no leaf's name, which could not be a key there.
var (
	// reportedWords are worth a write to the hub when they change.
	reportedWords = []string{
		"name", "build.version", "build.revision", "started", "clock", "uplink.hub", "uplink.transport", "uplink.since",
		"store.failing", "store.hindered", "leaves.admitted", "leaves.waiting", "leaves.refused", "leaves.enrolling",
		"drivers.name", "drivers.up", "drivers.error", "board.kind", "board.model", "board.throttled", "board.watchdog_starving",
		"update.state", "update.version", "update.url", "update.error", "update.time",
	}
	// reportedFigures go along, and are worth a write once in a while.
	reportedFigures = []string{
		"messages.taken", "messages.sent", "messages.dropped", "messages.rejected", "leaves.present", "leaves.taken", "leaves.unasked", "store.dead_letters",
		"store.bytes_on_disk", "store.bytes_written_last_day", "store.damaged_messages", "board.temperature_celsius",
		"machine.data_free_bytes", "certificates.hub",
	}
)

const (
	// reportBurst is how many reports may come at once, before there is one in each
	// interval.
	reportBurst = 6
	// readEvery is how often the twin is read again where the hub does not give it: it
	// may take the device by now.
	readEvery = time.Minute
)

// reporter keeps the gateway's own reported twin as the state is: changes of words at
// once, figures when the interval is over, and never more than one write in each
// interval and a few ahead. One goroutine uses it.
type reporter struct {
	every  time.Duration
	report func(patch []byte, done func(version int64, err error))
	known  func(ctx context.Context) (json.RawMessage, bool) // fieldgate.status at the hub
	// ask finds out whether the hub takes the gateway's own device, without waiting for
	// that; taken notes that it does, and refused says that by its last word it does not.
	ask     func(ctx context.Context)
	taken   func()
	refused func() bool

	allowed  float64   // writes
	counted  time.Time // when allowed was last counted
	has      []byte    // what the hub has; nil: not known
	words    string    // of that
	at       time.Time // of the last report
	asked    time.Time // when ask was called last
	doubt    bool      // the hub has not taken a report, and was not asked since
	answered chan answer
	under    []byte // way, nil for nothing
	underWay string // the words of it
}

// answer is what came of a report. Version 0 without an error is one that is kept, since
// the hub did not take it.
type answer struct {
	version int64
	err     error
}

// reporter returns nil where the gateway has no twin of its own, or is not to say
// anything there.
func (g *assembly) reporter() *reporter {
	own, every := g.cfg.Hub.Own.DeviceID, g.cfg.Gateway.ReportEvery.D()
	if own == "" || every == 0 || g.cfg.Hub.isBroker() {
		return nil
	}
	return &reporter{
		every: every, allowed: reportBurst, answered: make(chan answer, 1),
		taken:   func() { g.ownRefused.note(nil, g.log) },
		refused: func() bool { return g.ownRefused.text() != "" },
		report:  func(patch []byte, done func(int64, error)) { g.twins.Report(own, patch, done) },
		known: func(ctx context.Context) (json.RawMessage, bool) {
			document, age, err := g.twins.Look(ctx, own)
			var at struct {
				Reported struct {
					Fieldgate struct{ Status json.RawMessage }
				}
			}
			if err != nil || age != 0 || json.Unmarshal(document, &at) != nil {
				g.askOwn(ctx)
				return nil, false
			}
			g.ownRefused.note(nil, g.log)
			return at.Reported.Fieldgate.Status, true
		},
	}
}

// askOwn asks the hub for the gateway's own twin, and notes whether it takes that device.
// Where it cannot be asked, its last word stands.
func (g *assembly) askOwn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Twin.HubWait.D())
	defer cancel()
	_, err := g.uplink.GetTwin(ctx, g.cfg.Hub.Own.DeviceID)
	f, refused := errors.AsType[*uplink.Fault](err)
	if err == nil || refused && f.Remedy == uplink.Refused {
		g.ownRefused.note(err, g.log)
	}
}

// ownRefused is why the hub does not take the gateway's own device. Over AMQP the
// connection stands all the same, and leaves go on. Safe for concurrent use.
type ownRefused struct{ why atomic.Pointer[string] }

// note keeps the hub's last word, nil for taken, and logs what is news.
func (o *ownRefused) note(err error, log *slog.Logger) {
	if err == nil {
		if o.why.Swap(nil) != nil {
			log.Info("hub takes the gateway's own device", "event", "own-device-taken")
		}
		return
	}
	why := err.Error()
	if o.why.Swap(&why) == nil {
		log.Warn("hub refuses the gateway's own device", "event", "own-device-refused", "error", err)
	}
}

// text is empty where the device is taken, or the hub was not asked yet.
func (o *ownRefused) text() string {
	if why := o.why.Load(); why != nil {
		return *why
	}
	return ""
}

// look reports what is to be reported.
func (r *reporter) look(ctx context.Context, s *state, now time.Time) {
	if r.under != nil {
		select {
		case got := <-r.answered:
			if got.err == nil {
				r.has, r.words = r.under, r.underWay
			} else {
				r.has = nil // read it again
			}
			r.under = nil
			if got.err == nil {
				r.doubt = got.version == 0
				if !r.doubt {
					r.taken()
				}
			}
		default:
			return
		}
	}
	if r.has != nil && (r.doubt || r.refused()) && now.Sub(r.asked) >= readEvery {
		r.asked, r.doubt = now, false
		r.ask(ctx)
	}
	if !r.counted.IsZero() {
		r.allowed = min(reportBurst, r.allowed+now.Sub(r.counted).Seconds()/r.every.Seconds())
	}
	r.counted = now
	words := string(pick(s, reportedWords))
	spent := r.allowed < 1 // then it may be read, and no more
	switch {
	case r.has == nil && spent && now.Sub(r.at) < min(r.every, readEvery):
		return
	case r.has != nil && (spent || words == r.words && now.Sub(r.at) < r.every):
		return
	}
	if !spent {
		r.allowed--
	}
	r.at = now
	if r.has == nil { // of a former run there may be what is no more
		has, known := r.known(ctx)
		if !known {
			return
		}
		r.has = append([]byte{}, has...) // never nil again
		if spent {
			return
		}
	}
	want := pick(s, append(append([]string{}, reportedWords...), reportedFigures...))
	patch, err := twin.Patch(r.has, want)
	if err != nil || patch == nil {
		r.has, r.words = want, words
		return
	}
	r.under, r.underWay = want, words
	text, _ := json.Marshal(map[string]any{"fieldgate": map[string]any{"status": json.RawMessage(patch)}}) // it is JSON
	r.report(text, func(version int64, err error) { r.answered <- answer{version, err} })
}

// pick returns those values of the state, as JSON. What is null is left out.
func pick(s *state, paths []string) []byte {
	text, _ := json.Marshal(s) // plain values: it cannot fail
	var all map[string]any
	_ = json.Unmarshal(text, &all)
	out := make(map[string]any)
	for _, path := range paths {
		pickInto(out, all, strings.Split(path, "."))
	}
	text, _ = json.Marshal(out)
	return text
}

func pickInto(out, from map[string]any, path []string) {
	name := path[0]
	v, known := from[name]
	switch v := v.(type) {
	case nil:
	case map[string]any:
		if len(path) == 1 {
			out[name] = v
			return
		}
		inner, _ := out[name].(map[string]any)
		if inner == nil {
			inner = make(map[string]any)
		}
		pickInto(inner, v, path[1:])
		if len(inner) > 0 {
			out[name] = inner
		}
	case []any:
		if len(path) == 1 {
			out[name] = v
			return
		}
		list, _ := out[name].([]any)
		for i, x := range v[:min(len(v), maxReportedList)] {
			if i == len(list) {
				list = append(list, make(map[string]any))
			}
			if element, ok := x.(map[string]any); ok {
				pickInto(list[i].(map[string]any), element, path[1:])
			}
		}
		out[name] = list
	case string:
		out[name] = cut(v, maxFacts)
	default:
		if known {
			out[name] = v
		}
	}
}

// maxReportedList bounds lists in the twin, which has room for 32 KiB.
const maxReportedList = 20

// minReport and maxReport bound the interval of reports.
const (
	minReport = time.Second
	maxReport = 7 * 24 * time.Hour
)

// validateReport checks the interval of reports.
func validateReport(every gateway.Duration) error {
	if every != 0 && (every.D() < minReport || every.D() > maxReport) {
		return gateway.BadKey("report_every", "%v is out of range: %v to %v, or 0s for no reports", every, gateway.Duration(minReport), gateway.Duration(maxReport))
	}
	return nil
}
