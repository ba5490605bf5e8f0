package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// event is what the vendor's leaf says.
type event struct {
	Ready    bool            `json:"ready"`
	Command  *string         `json:"command"`
	ID       string          `json:"id"`
	To       string          `json:"to"`
	Method   json.RawMessage `json:"method"`
	Desired  map[string]any  `json:"desired"`
	Reported json.RawMessage `json:"reported"`
	Twin     *struct {
		Desired, Reported map[string]any
	} `json:"twin"`
	MS     *float64        `json:"ms"`
	Failed json.RawMessage `json:"failed"`
	Why    string          `json:"why"`
}

// stockLeaf is a running leaf of the vendor's SDK behind the gateway.
type stockLeaf struct {
	t   *testing.T
	s   *site.Site
	ctx context.Context
	in  io.Writer

	mu     sync.Mutex
	events []event // guarded by mu
}

// startStockLeaf starts a leaf and waits until it is connected, has its twin and
// listens for everything.
func startStockLeaf(ctx context.Context, t *testing.T, s *site.Site, transport, address string) *stockLeaf {
	t.Helper()
	node, scripts := nodeScripts(t)
	cmd := exec.CommandContext(ctx, node, filepath.Join(scripts, "gateway-down.js"), transport,
		s.ConnectionString("node-leaf")+";GatewayHostName="+address, s.CAFile())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	l := &stockLeaf{t: t, s: s, ctx: ctx, in: in}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("the leaf says %q", lines.Text())
			}
			l.mu.Lock()
			l.events = append(l.events, e)
			l.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		in.Close()
		<-ended
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			t.Errorf("the SDK's leaf: %v", err)
		}
	})
	l.await("ready", func(e event) bool { return e.Ready })
	return l
}

func nodeScripts(t *testing.T) (node, scripts string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		need(t, "node is not installed")
	}
	scripts, err = filepath.Abs("../node")
	must(t, err)
	if _, err := os.Stat(filepath.Join(scripts, "node_modules", "azure-iot-device-mqtt")); err != nil {
		need(t, "test/node has no node_modules: run npm ci there")
	}
	return node, scripts
}

func (l *stockLeaf) tell(order string) {
	l.t.Helper()
	_, err := io.WriteString(l.in, order+"\n")
	must(l.t, err)
}

// find returns the last event of a kind and how many there are.
func (l *stockLeaf) find(kind func(event) bool) (last event, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if kind(e) {
			last = e
			n++
		}
	}
	return last, n
}

func (l *stockLeaf) await(what string, kind func(event) bool) event {
	l.t.Helper()
	must(l.t, l.s.Await(l.ctx, what, func() bool { _, n := l.find(kind); return n > 0 }))
	e, _ := l.find(kind)
	return e
}

// commands are the bodies of the commands that have come, in order.
func (l *stockLeaf) commands() (bodies []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Command != nil {
			bodies = append(bodies, *e.Command)
		}
	}
	return bodies
}

// twin has the leaf read its twin.
func (l *stockLeaf) twin() event {
	l.t.Helper()
	isTwin := func(e event) bool { return e.Twin != nil || string(e.Failed) == `"twin"` }
	_, before := l.find(isTwin)
	l.tell(`"twin"`)
	must(l.t, l.s.Await(l.ctx, "a twin", func() bool { _, n := l.find(isTwin); return n > before }))
	e, _ := l.find(isTwin)
	if e.Twin == nil {
		l.t.Fatalf("the leaf cannot read its twin: %s", e.Why)
	}
	return e
}

// report has the leaf report and waits until the SDK says that it is taken.
func (l *stockLeaf) report(patch string) {
	l.t.Helper()
	isReport := func(e event) bool {
		return string(e.Reported) == patch || string(e.Failed) == `{"report":`+patch+`}`
	}
	_, before := l.find(isReport)
	l.tell(`{"report":` + patch + `}`)
	must(l.t, l.s.Await(l.ctx, "a report to be taken", func() bool { _, n := l.find(isReport); return n > before }))
	if e, _ := l.find(isReport); e.Reported == nil {
		l.t.Fatalf("the leaf cannot report: %s", e.Why)
	}
}

// send queues commands at the hub, numbered from n on.
func (l *stockLeaf) send(prefix string, from, to int) {
	l.t.Helper()
	for i := from; i < to; i++ {
		must(l.t, l.s.Hub().Send(l.ctx, "node-leaf", prefix+strconv.Itoa(i)))
	}
}

// queued says how many commands the hub still has for the leaf.
func (l *stockLeaf) queued() int { return queued(l.ctx, l.t, l.s, "node-leaf") }

func queued(ctx context.Context, t *testing.T, s *site.Site, leaf string) int {
	t.Helper()
	text, err := s.Hub().Devices(ctx)
	must(t, err)
	fields := strings.Fields(text[strings.Index(text, leaf):])
	n, err := strconv.Atoi(fields[3])
	must(t, err)
	return n
}

// delivered waits until all commands have come and the hub has none left, and
// checks their order. most is how often one may come.
func (l *stockLeaf) delivered(prefix string, n, most int) {
	l.t.Helper()
	var want []string
	for i := range n {
		want = append(want, prefix+strconv.Itoa(i))
	}
	must(l.t, l.s.Await(l.ctx, fmt.Sprintf("%d commands %s", n, prefix), func() bool {
		got := l.commands()
		return !slices.ContainsFunc(want, func(body string) bool { return !slices.Contains(got, body) }) && l.queued() == 0
	}))
	times := make(map[string]int)
	var first []string
	for _, body := range l.commands() {
		if !strings.HasPrefix(body, prefix) {
			continue
		}
		if times[body]++; times[body] == 1 {
			first = append(first, body)
		}
		if times[body] > most {
			l.t.Errorf("command %s came %d times, want %d at most", body, times[body], most)
		}
	}
	if !slices.Equal(first, want) {
		l.t.Errorf("commands came as %v", first)
	}
}

// desire changes a desired property at the hub.
func (l *stockLeaf) desire(name string, value int) {
	l.t.Helper()
	_, err := l.s.Hub().Twin(l.ctx, "node-leaf", fmt.Sprintf(`{"properties":{"desired":{%q:%d}}}`, name, value))
	must(l.t, err)
}

// told waits until the leaf was told of a desired property, and checks that it
// was told once.
func (l *stockLeaf) told(name string, value int) {
	l.t.Helper()
	is := func(e event) bool { return e.Desired[name] == float64(value) }
	l.await("desired property "+name, is)
	if e, n := l.find(is); n != 1 {
		l.t.Errorf("desired %s=%d came %d times, the last as %v", name, value, n, e.Desired)
	}
}

// hubReported waits until the hub has a reported property.
func (l *stockLeaf) hubReported(name string, value int) {
	l.t.Helper()
	must(l.t, l.s.Await(l.ctx, "reported property "+name+" at the hub", func() bool {
		text, err := l.s.Hub().Twin(l.ctx, "node-leaf", "")
		must(l.t, err)
		var twin struct {
			Properties struct{ Reported map[string]any }
		}
		must(l.t, json.Unmarshal([]byte(text), &twin))
		return twin.Properties.Reported[name] == float64(value)
	}))
}

// call waits until a method call is answered by the leaf: while it is away the
// hub's callers hear that it is.
func (l *stockLeaf) call(payload string) {
	l.t.Helper()
	var answer string
	must(l.t, l.s.Await(l.ctx, "a method to be answered", func() bool {
		var err error
		answer, err = l.s.Hub().Call(l.ctx, "node-leaf", "blink", payload)
		return err == nil
	}))
	if want := `207 {"echo":` + payload + `}`; answer != want {
		l.t.Errorf("method answered %q, want %q", answer, want)
	}
}

// socketNumber makes the addresses of this process differ.
var socketNumber atomic.Uint32

// socketAddress finds a loopback address whose port 443 nobody holds.
func socketAddress(t *testing.T) string {
	t.Helper()
	for range 50 {
		pid := os.Getpid()
		address := fmt.Sprintf("127.%d.%d.%d", 128+pid>>8&63, pid&255, 1+socketNumber.Add(1)%250)
		l, err := net.Listen("tcp", address+":443")
		if err == nil {
			l.Close()
			return address
		}
		if os.IsPermission(err) {
			need(t, "port 443 is for root")
		}
	}
	t.Fatal("no loopback address with a free port 443")
	return ""
}

// The vendor's own Node device SDK, as it is, with everything that comes down:
// while the hub is there, with the link cut in the middle, and with the gateway
// killed in the middle. Over MQTT and over MQTT in WebSockets.
func TestNodeSDKDown(t *testing.T) {
	for _, transport := range []string{"mqtt", "mqtt-ws"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			nodeScripts(t)
			ctx := testContext(t, 2*patience)
			socket := socketAddress(t)
			s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "node-leaf", Kind: site.SDK}}, Socket: socket})
			address := strings.Replace(s.Broker(), "127.0.0.1", "localhost", 1)
			if transport == "mqtt-ws" {
				address = socket
			}
			l := startStockLeaf(ctx, t, s, transport, address)
			for _, story := range []struct {
				name string
				tell func(*stockLeaf)
			}{{"online", onlineStory}, {"cut", cutStory}, {"killed", killStory}, {"cold", coldStory}, {"killed often", manyKillsStory}} {
				began := time.Now()
				story.tell(l)
				t.Logf("%s: %v", story.name, time.Since(began).Round(time.Millisecond))
			}
		})
	}
}

func onlineStory(l *stockLeaf) {
	l.send("online-", 0, 20)
	l.delivered("online-", 20, 1)
	if e, _ := l.find(func(e event) bool { return e.Command != nil }); e.To != "/devices/node-leaf/messages/deviceBound" {
		l.t.Errorf("a command to %q", e.To)
	}
	l.report(`{"online":1}`)
	l.hubReported("online", 1)
	l.desire("online", 2)
	l.told("online", 2)
	twin := l.twin().Twin
	if twin.Desired["online"] != 2.0 || twin.Reported["online"] != 1.0 {
		l.t.Errorf("twin: %v", twin)
	}
	l.call(`{"n":1}`)
	l.tell(`{"report":{"a.b":{"$c":1}}}`)
	e := l.await("a refusal", func(e event) bool { return e.Failed != nil })
	if e.Why == "" {
		l.t.Error("a bad patch is refused without a word")
	}
}

func cutStory(l *stockLeaf) {
	l.send("cut-", 0, 10) // the cut comes while they are on their way
	must(l.t, l.s.Cut(l.ctx))
	l.desire("cut", 3)
	l.report(`{"cut":1}`)
	l.report(`{"cut":2,"more":3}`)
	twin := l.twin()
	if twin.Twin.Reported["cut"] != 2.0 || twin.Twin.Desired["online"] != 2.0 {
		l.t.Errorf("twin while the hub is away: %v", twin.Twin)
	}
	l.t.Logf("twin while the hub is away: %v ms", *twin.MS)
	l.send("cut-", 10, 20)
	must(l.t, l.s.Restore(l.ctx))
	l.delivered("cut-", 20, 1)
	l.told("cut", 3)
	l.hubReported("cut", 2)
	l.hubReported("more", 3)
	l.call(`{"n":2}`)
}

func killStory(l *stockLeaf) {
	l.send("kill-", 0, 10)
	// What is not answered the SDK reports again by itself, some seconds later and
	// behind what was reported since: nobody can tell which value stays in the end.
	l.tell(`{"report":{"dying":1}}`)
	l.s.Gateway().Kill()
	l.send("kill-", 10, 20)
	l.desire("killed", 4)
	must(l.t, l.s.StartGateway(l.ctx))
	// A command whose acknowledgement died with the gateway comes once more.
	l.delivered("kill-", 20, 2)
	// The SDK does not subscribe to its twin again: the gateway has to remember.
	l.told("killed", 4)
	l.report(`{"killed":1}`)
	l.report(`{"killed":2}`)
	l.hubReported("killed", 2)
	if twin := l.twin().Twin; twin.Desired["killed"] != 4.0 {
		l.t.Errorf("twin after the kill: %v", twin)
	}
	l.call(`{"n":3}`)
}

// coldStory is a gateway that starts while the hub is away, after a stop and after
// the power went when the hub had just taken a report: what it knows of the leaf is
// on flash.
func coldStory(l *stockLeaf) {
	must(l.t, l.s.Cut(l.ctx))
	must(l.t, l.s.Gateway().Stop())
	must(l.t, l.s.StartGateway(l.ctx))
	l.cold(2)
	must(l.t, l.s.Restore(l.ctx))
	l.call(`{"n":5}`) // the hub is there again
	l.report(`{"killed":3}`)
	l.s.Gateway().Kill()
	must(l.t, l.s.Cut(l.ctx))
	must(l.t, l.s.StartGateway(l.ctx))
	l.cold(3)
	l.report(`{"cold":1}`)
	l.send("cold-", 0, 5)
	l.s.Gateway().Kill() // what was taken is on flash
	must(l.t, l.s.StartGateway(l.ctx))
	must(l.t, l.s.Restore(l.ctx))
	l.delivered("cold-", 5, 1)
	l.hubReported("cold", 1)
	l.call(`{"n":4}`)
}

// cold has the leaf read its twin after a start without the hub.
func (l *stockLeaf) cold(killed float64) {
	l.t.Helper()
	twin := l.twin()
	if twin.Twin.Desired["killed"] != 4.0 || twin.Twin.Reported["killed"] != killed {
		l.t.Errorf("twin after a cold start: %v, want killed=%v reported", twin.Twin, killed)
	}
	l.t.Logf("twin after a cold start: %v ms", *twin.MS)
}

// manyKillsStory kills the gateway again and again while commands come: none is
// lost, and one comes again only as often as its acknowledgement died with a
// gateway.
func manyKillsStory(l *stockLeaf) {
	rounds, each := 12, 8
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		must(l.t, l.s.Await(l.ctx, "room in the hub's queue", func() bool { return l.queued() <= 40 }))
		seen := len(l.commands())
		l.send("kills-", round*each, (round+1)*each)
		// The kill comes at another point of their way each time.
		must(l.t, l.s.Await(l.ctx, "commands", func() bool { return len(l.commands()) >= seen+round%each }))
		l.s.Gateway().Kill()
		must(l.t, l.s.StartGateway(l.ctx))
	}
	l.delivered("kills-", rounds*each, 1+rounds)
}

// mosquitto_sub as in the README: a plain leaf gets its commands in order, those
// that were sent while it was away too.
func TestMosquittoSub(t *testing.T) {
	t.Parallel()
	sub, err := exec.LookPath("mosquitto_sub")
	if err != nil {
		need(t, "mosquitto_sub is not installed (Debian package mosquitto-clients)")
	}
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "pump-1", Kind: site.MQTT3}}})
	_, port, _ := strings.Cut(s.Broker(), ":")
	var got []string // each once
	listen := func(more []string, n int) {
		args := append([]string{
			"-h", "localhost", "-p", port, "--cafile", s.CAFile(), "-u", "pump-1", "-P", site.Password("pump-1"),
			"-i", "pump-1", "-c", "-q", "1", "-v", "-t", "leaf/pump-1/command/+", "-C", strconv.Itoa(n),
		}, more...)
		out, err := exec.CommandContext(ctx, sub, args...).Output()
		must(t, err)
		for line := range strings.Lines(string(out)) {
			// It leaves without a look at what it has not read, and then the kernel
			// may drop its last acknowledgement on the way: that command comes again.
			if line = strings.TrimSpace(line); !slices.Contains(got, line) {
				got = append(got, line)
			}
		}
	}
	var want []string
	for _, more := range [][]string{{"-V", "mqttv311"}, {"-V", "mqttv5", "-x", "600"}} {
		for range 3 { // the first time it is not known yet, then it is away
			for range 3 {
				body := strconv.Itoa(len(want))
				must(t, s.Hub().Send(ctx, "pump-1", body))
				want = append(want, "leaf/pump-1/command/message "+body)
			}
			for len(got) < len(want) {
				listen(more, len(want)-len(got))
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
