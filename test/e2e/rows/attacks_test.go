package rows

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/e2e/report"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
)

const mallory = "mallory"

// TestAttacks lets one leaf try to see and to act as others through the real
// program: over both listeners and both versions of MQTT, on topics of every
// dialect and of rules, with wills, sessions and tokens of others, and at the HTTP
// door. The hub's account says what it was able to do, the victims what they got.
func TestAttacks(t *testing.T) {
	t.Parallel()
	victims := []string{"victim", "meter", "lamp", "far"}
	b := newBench(t, plan{
		leaves: []string{mallory, "victim", "meter", "lamp", "z2m"}, others: []string{"far"}, socket: true,
		tail: `[[leaf]]
id = "far"
auth = "relay"
[[map]]
topic = "tele/{leaf}/{channel}"
[[map]]
topic = "cmnd/{leaf}/{name}"
kind = "command"
[[map]]
topic = "zigbee2mqtt/{leaf}"
login = "z2m"
[[map]]
topic = "zigbee2mqtt/{leaf}/set"
kind = "command"
login = "z2m"
`,
	})
	b.start()
	b.await("the connection", b.connected)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	v := &victim{b: b, w: b.listening("victim", 4)}
	v.w.c.SetReadDeadline(time.Time{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		v.live()
	}()
	rounds := 0
	for _, address := range []string{b.broker, b.socket + ":443"} {
		for _, version := range []byte{4, 5} {
			b.stolenLogins(address, version, victims)
			rounds += b.spoof(random, address, version, v)
		}
	}
	b.atTheDoor(victims)
	v.w.c.Close()
	<-ended
	if v.seen != v.served {
		t.Errorf("the victim got %d things of %d", v.seen, v.served)
	}
	for _, id := range victims {
		for _, body := range b.arrivedFrom(id) {
			t.Errorf("arrived as %s: %s", id, body)
		}
		if got := b.hubTwin(id).Properties.Reported; got["of"] != nil {
			t.Errorf("reported as %s: %v", id, got)
		}
	}
	if d, ok := b.domain().FileNotices.Receive(); ok && !bytes.Contains(d.Message.Body, []byte(`"`+mallory+"/")) {
		t.Errorf("a file as %s", d.Message.Body)
	}
	b.await("what it could do under its own name", func() bool { return len(b.arrivedFrom(mallory)) > 0 })
	t.Logf("%d topics, %d messages under its own name", rounds, len(b.arrivedFrom(mallory)))
	b.oneConnection()
}

// victim is served meanwhile.
type victim struct {
	b *bench
	w *wire

	mu           sync.Mutex // guards what follows
	served, seen int
}

func (v *victim) live() {
	for {
		p, err := v.w.until(publish)
		if err != nil {
			return
		}
		topic, packetID, body := v.w.publication(p)
		if packetID > 0 {
			_ = v.w.answer(packetID, 0)
		}
		if rid, ok := strings.CutPrefix(topic, "$iothub/methods/POST/open/?$rid="); ok {
			_ = v.w.say(0, "$iothub/methods/res/200/?$rid="+rid, []byte(`"of the victim"`))
		}
		if !bytes.Contains(body, []byte("for the victim")) {
			v.b.t.Errorf("the victim got %s on %s", body, topic)
		}
		v.mu.Lock()
		v.seen++
		v.mu.Unlock()
	}
}

// serve sends the victim one of each.
func (v *victim) serve(n int) {
	v.b.t.Helper()
	must(v.b.t, v.b.send("victim", fmt.Sprint("v", n), []byte("for the victim")))
	a, err := v.b.domain().Methods.Invoke(v.b.ctx, id("victim"), methods.Call{
		Name: "open", Payload: []byte(`"for the victim"`), ConnectTimeout: time.Minute, ResponseTimeout: time.Minute,
	})
	if err != nil || string(a.Payload) != `"of the victim"` {
		v.b.t.Errorf("the victim's method answered %s, %v", a.Payload, err)
	}
	v.mu.Lock()
	v.served += 2
	served := v.served
	v.mu.Unlock()
	v.b.await("the victim to have it", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.seen >= served
	})
}

// stolenLogins tries to come in as others, and to take their sessions.
func (b *bench) stolenLogins(address string, version byte, victims []string) {
	own := b.as(mallory, version)
	for _, id := range victims {
		for _, h := range []hello{
			// its session; its name with the own token; its token, signed with the own key;
			// another's name beside the own client id; its module
			{client: id, user: own.user, password: own.password},
			{client: id, user: strings.Replace(own.user, mallory, id, 1), password: own.password},
			{client: id, user: strings.Replace(own.user, mallory, id, 1), password: token(id, b.key(mallory))},
			{client: mallory, user: strings.Replace(own.user, mallory, id, 1), password: own.password},
			{client: id + "/m", user: strings.Replace(own.user, "/"+mallory+"/", "/"+id+"/m/", 1), password: own.password},
			{client: mallory, user: own.user, password: own.password, will: "devices/" + id + "/messages/events/"},
			{client: mallory, user: own.user, password: own.password, will: "leaf/" + id + "/telemetry"},
			{client: mallory, user: own.user, password: own.password, will: "tele/" + id + "/x"},
			{client: mallory, user: own.user, password: own.password, will: "zigbee2mqtt/" + id},
		} {
			for _, keep := range []bool{true, false} {
				h.version, h.keep = version, keep
				w, code, present, err := b.enter(address, h)
				if err != nil {
					continue // hung up on
				}
				// A will on a topic of a rule is chatter: it may be left, and goes nowhere.
				ours := h.client == mallory && h.user == own.user && !strings.HasPrefix(h.will, "devices/") && !strings.HasPrefix(h.will, "leaf/")
				if code == 0 && !ours {
					b.t.Errorf("let in: %+v, session present %v", h, present)
				}
				w.c.Close() // without a goodbye: a will is due
			}
		}
	}
}

// words are what hostile topics are made of.
var words = strings.Fields(`leaf devices $iothub victim meter lamp far z2m mallory tele cmnd zigbee2mqtt telemetry alarm messages events
	devicebound twin GET PATCH res 204 200 properties reported desired methods POST file x 1 end command reply set ?$rid=1 # + .. victim%2f
	%76ictim VICTIM mallory%2f..%2fvictim $share g $SYS modules`)

// forms are topics that do something for the leaf that is named, if it is the own one.
var forms = []string{
	"devices/%s/messages/events/", "devices/%s/messages/devicebound/#", "devices/%s/modules/m/messages/events/", "leaf/%s/telemetry", "leaf/%s/alarm/x",
	"leaf/%s/twin/reported", "leaf/%s/twin/get", "leaf/%s/twin/#", "leaf/%s/command/+", "leaf/%s/reply/1/200", "leaf/%s/file/f/1", "leaf/%s/file/f/end",
	"tele/%s/x", "cmnd/%s/+", "zigbee2mqtt/%s", "zigbee2mqtt/%s/set", "$share/g/leaf/%s/#", "$iothub/methods/res/200/?$rid=%s", "$iothub/+/%s/#",
	"leaf/mallory/../%s/telemetry", "/leaf/%s/telemetry", "+/%s/#", "#", "leaf/#", "$iothub/#", "zigbee2mqtt/#", "tele/#", "cmnd/#",
}

func hostile(random *rand.Rand) string {
	if random.IntN(2) == 0 {
		form, id := forms[random.IntN(len(forms))], [...]string{"victim", "meter", "lamp", "far", mallory}[random.IntN(5)]
		return strings.Replace(form, "%s", id, 1)
	}
	levels := make([]string, 1+random.IntN(6))
	for i := range levels {
		levels[i] = words[random.IntN(len(words))]
	}
	return strings.Join(levels, "/")
}

// spoof publishes and subscribes for a while, with the victim being served.
func (b *bench) spoof(random *rand.Rand, address string, version byte, v *victim) (rounds int) {
	b.t.Helper()
	// Who does what is another's is thrown out, so each has a few topics only.
	const each = 5
	connections := 15
	if report.Nightly() {
		connections = 100
	}
	for n := range connections {
		h := b.as(mallory, version)
		h.keep = n%2 == 0
		w, code, _, err := b.enter(address, h)
		must(b.t, err)
		if code != 0 {
			b.t.Fatalf("CONNACK %d", code)
		}
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for {
				p, err := w.read()
				if err != nil || p.kind() == pingresp {
					return
				}
				if p.kind() != publish {
					continue
				}
				if topic, _, body := w.publication(p); bytes.Contains(body, []byte("victim")) || strings.Contains(topic, "victim") {
					b.t.Errorf("the attacker got %s on %s", body, topic)
				}
			}
		}()
		// Of what follows hardly anything is its own, and some of it throws it out.
		must(b.t, w.say(each+1, "devices/"+mallory+"/messages/events/", []byte(`{"of":"mallory"}`)))
		var topics []string
		for i := range each {
			topic := hostile(random)
			topics = append(topics, topic)
			if random.IntN(2) == 0 {
				body := []byte{0, byte(i + 1)}
				if version == 5 {
					body = append(body, 0)
				}
				err = w.send(0x82, append(append(body, text(topic)...), 1))
			} else {
				err = w.say(uint16(i+1)*uint16(random.IntN(2)), topic, []byte(`{"of":"mallory"}`))
			}
			if err != nil {
				break // thrown out
			}
			rounds++
		}
		_ = w.send(0xc0, nil) // ping: what was before it has been looked at
		if n%5 == 0 {
			v.serve(rounds)
		}
		select {
		case <-watched:
		case <-time.After(200 * time.Millisecond): // with MQTT 3.1.1 it may be left waiting
		}
		w.c.Close()
		<-watched
		if b.t.Failed() {
			b.t.Logf("topics: %q", topics)
			return rounds
		}
	}
	return rounds
}

// atTheDoor tries the HTTP door with the attacker's own token, and with none.
func (b *bench) atTheDoor(victims []string) {
	trust := b.trust()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true}}
	ask := func(method, path, proof, body string) (int, string) {
		req, err := http.NewRequestWithContext(b.ctx, method, "https://"+b.socket+path, strings.NewReader(body))
		must(b.t, err)
		if proof != "" {
			req.Header.Set("Authorization", proof)
		}
		res, err := client.Do(req)
		must(b.t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		must(b.t, err)
		return res.StatusCode, string(text)
	}
	own := token(mallory, b.key(mallory))
	for _, id := range victims {
		for _, proof := range []string{own, "", token(id, b.key(mallory)), token(mallory, b.key(id))} {
			for _, path := range []string{"/devices/" + id + "/files?api-version=2021-04-12", "/devices/" + id + "/files/notifications/1", "/devices/mallory/../" + id + "/files", "/devices/%2e%2e/" + id + "/files"} {
				if status, said := ask(http.MethodPost, path, proof, `{"blobName":"f","isSuccess":true}`); status < 300 {
					b.t.Errorf("POST %s: %d %s", path, status, said)
				}
			}
		}
	}
	// A name that leads out of the leaf's own folder is a name like another, or none.
	for _, name := range []string{"../victim/f", "/victim/f", "..", "a/../../victim/f"} {
		status, said := ask(http.MethodPost, "/devices/mallory/files?api-version=2021-04-12", own, fmt.Sprintf(`{"blobName":%q}`, name))
		if status < 300 && !strings.Contains(said, `"blobName":"mallory/`) {
			b.t.Errorf("the name %s: %d %s", name, status, said)
		}
	}
	// The file of another, with the attacker's proof: neither written, finished nor
	// cancelled.
	status, said := ask(http.MethodPost, "/devices/victim/files?api-version=2021-04-12", token("victim", b.key("victim")), `{"blobName":"own.txt"}`)
	if status != http.StatusOK {
		b.t.Fatalf("the victim's own file: %d %s", status, said)
	}
	_, correlation, _ := strings.Cut(said, `"correlationId":"`)
	correlation, _, _ = strings.Cut(correlation, `"`)
	for _, way := range []struct{ method, path, body string }{
		{http.MethodPut, "/fieldgate/victim/own.txt?file=" + correlation + "&sig=guess&comp=block&blockid=AAAA", "x"},
		{http.MethodPut, "/fieldgate/victim/own.txt?file=" + correlation + "&comp=blocklist", "<BlockList/>"},
		{http.MethodPost, "/devices/mallory/files/notifications/" + correlation, `{"isSuccess":true}`},
		{http.MethodPost, "/devices/mallory/files/notifications/" + correlation, `{"isSuccess":false}`},
	} {
		if status, said := ask(way.method, way.path, own, way.body); status < 300 {
			b.t.Errorf("%s %s: %d %s", way.method, way.path, status, said)
		}
	}
}
