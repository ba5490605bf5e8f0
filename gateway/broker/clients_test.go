package broker

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	paho311 "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/gateway"
)

// bodies returns what the path was handed, in order.
func (f *fakePath) bodies() (all []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.messages {
		all = append(all, string(m.Body))
	}
	return all
}

func numbers(n int) (all []string) {
	for i := range n {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// Eclipse Paho for MQTT 3.1.1, with a token, as fast as it can.
func TestPaho311(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxInflightMessages = 32 })
	opts := paho311.NewClientOptions().AddBroker("ssl://" + b.tls).SetTLSConfig(&tls.Config{RootCAs: b.roots}).
		SetClientID("pump-1").SetUsername(hubUser("pump-1")).SetPassword(b.token("pump-1")).
		SetCleanSession(false).SetAutoReconnect(false).SetOrderMatters(true)
	client := paho311.NewClient(opts)
	if tok := client.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatalf("connect: %v", tok.Error())
	}
	defer client.Disconnect(100)
	const n = 500
	var tokens []paho311.Token
	for i := range n {
		tokens = append(tokens, client.Publish("devices/pump-1/messages/events/n="+strconv.Itoa(i), 1, false, strconv.Itoa(i)))
	}
	for i, tok := range tokens {
		if !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatalf("message %d: %v", i, tok.Error())
		}
	}
	if got, want := b.path.bodies(), numbers(n); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %v", got)
	}
	// An acknowledgement is counted when it has been written, so the leaf may
	// have it first.
	b.until("500 counted", func() bool { return b.b.State().Acknowledged == n })
	if got := b.b.State().Published[gateway.LaneTelemetry].QoS1; got != n {
		t.Errorf("published %d, want %d", got, n)
	}
}

// Eclipse Paho for MQTT 5: many publishers at once, kept within the bound that
// the broker told.
func TestPaho5(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxInflightMessages = 16 })
	conn, err := tls.Dial("tcp", b.tls, &tls.Config{RootCAs: b.roots})
	if err != nil {
		t.Fatal(err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: packets.NewThreadSafeConn(conn)})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ack, err := client.Connect(ctx, &paho.Connect{
		ClientID: "pump-1", Username: "pump-1", UsernameFlag: true, Password: []byte(secret), PasswordFlag: true,
		CleanStart: true, KeepAlive: 30,
	})
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	if ack.Properties.ReceiveMaximum == nil || *ack.Properties.ReceiveMaximum != 16 || ack.Properties.MaximumQoS == nil || *ack.Properties.MaximumQoS != 1 {
		t.Errorf("receive maximum %v, maximum QoS %v; want 16, 1", ack.Properties.ReceiveMaximum, ack.Properties.MaximumQoS)
	}
	defer client.Disconnect(&paho.Disconnect{})
	var publishers sync.WaitGroup
	const n = 1000
	for i := range 50 {
		publishers.Go(func() {
			for range n / 50 {
				if _, err := client.Publish(ctx, &paho.Publish{Topic: topic1, QoS: 1, Payload: []byte{byte(i)}}); err != nil {
					t.Errorf("publisher %d: %v", i, err)
					return
				}
			}
		})
	}
	publishers.Wait()
	if got := b.path.count(); got != n {
		t.Errorf("%d handed over, want %d", got, n)
	}
	answer, err := client.Publish(ctx, &paho.Publish{Topic: "leaf/pump-2/telemetry", QoS: 1})
	if answer == nil || answer.ReasonCode != 0x87 {
		t.Errorf("spoofed topic: %+v, %v; want reason 0x87", answer, err)
	}
}

// tool returns the path of a program, or skips the test where it may be absent.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("%s is not installed", name)
	default:
		t.Skipf("%s is not installed (Debian package mosquitto-clients)", name)
	}
	return path
}

// mosquitto runs one of mosquitto's clients as a user would.
func (b *bench) mosquitto(name, stdin string, args ...string) (string, error) {
	b.Helper()
	host, port, err := net.SplitHostPort(b.tls)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	common := []string{"-h", host, "-p", port, "--cafile", b.ca, "-q", "1"}
	cmd := exec.CommandContext(ctx, tool(b.T, name), append(common, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestMosquittoPub(t *testing.T) {
	for _, version := range []string{"mqttv311", "mqttv5"} {
		t.Run(version, func(t *testing.T) {
			b := newBench(t, nil)
			lines := strings.Join(numbers(100), "\n") + "\n"
			out, err := b.mosquitto("mosquitto_pub", lines, "-V", version, "-u", "pump-1", "-P", secret, "-t", topic1, "-l")
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got := b.path.bodies(); strings.Join(got, " ") != strings.Join(numbers(100), " ") {
				t.Errorf("got %v", got)
			}
			if out, err := b.mosquitto("mosquitto_pub", "", "-V", version, "-u", "pump-1", "-P", "guess", "-t", topic1, "-m", "x"); err == nil {
				t.Errorf("wrong password: no error, %s", out)
			}
			if out, err := b.mosquitto("mosquitto_pub", "", "-V", "mqttv311", "-i", "pump-1", "-u", hubUser("pump-1"), "-P", b.token("pump-1"),
				"-t", "devices/pump-1/messages/events/a=b", "-m", "x"); err != nil {
				t.Errorf("IoT Hub form: %v: %s", err, out)
			}
			if n := b.path.count(); n != 101 {
				t.Errorf("%d handed over, want 101", n)
			}
		})
	}
}

func TestMosquittoSub(t *testing.T) {
	b := newBench(t, nil)
	out, err := b.mosquitto("mosquitto_sub", "", "-V", "mqttv5", "-u", "pump-1", "-P", secret, "-t", "leaf/pump-2/#", "-W", "10")
	if err != nil || !strings.Contains(out, "denied") {
		t.Errorf("another leaf's topics: %v, %s", err, out)
	}
	out, _ = b.mosquitto("mosquitto_sub", "", "-V", "mqttv5", "-u", "pump-1", "-P", secret, "-t", "leaf/pump-1/#", "-W", "1", "-d")
	if !strings.Contains(out, "SUBACK") || strings.Contains(out, "denied") {
		t.Errorf("own topics: %s", out)
	}
}

// Many leaves at once that connect, publish, vanish with messages in flight and
// send these again: the messages of each are handed over one after the other,
// none is left out, and only those whose acknowledgement was under way when the
// connection broke may be repeated.
func TestManyLeaves(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxInflightMessages = 8 })
	const leaves, messages = 20, 60
	for i := range leaves {
		b.addLeaf("leaf-" + strconv.Itoa(i))
	}
	var running sync.WaitGroup
	for i := range leaves {
		running.Go(func() {
			acknowledged := 0
			for acknowledged < messages {
				acknowledged = b.publishSome("leaf-"+strconv.Itoa(i), acknowledged, messages)
			}
		})
	}
	running.Wait()
	b.until("all gone", func() bool { return len(b.b.State().Leaves) == 0 })
	if b.path.overlaps > 0 {
		t.Errorf("%d times two messages of one leaf at once", b.path.overlaps)
	}
	last := make(map[string]int)
	for i := range b.path.count() {
		m := b.path.message(i)
		n, err := strconv.Atoi(string(m.Body))
		if err != nil || n > last[m.Leaf] {
			t.Errorf("%s: got %q, want at most %d", m.Leaf, m.Body, last[m.Leaf])
		}
		last[m.Leaf] = max(last[m.Leaf], n+1)
	}
	for leaf, n := range last {
		if n != messages {
			t.Errorf("%s: %d messages, want %d", leaf, n, messages)
		}
	}
}

// publishSome publishes on one connection, at most 25 messages from the first
// that is not acknowledged, and returns how many are acknowledged then.
func (b *bench) publishSome(id string, from, to int) int {
	conn, err := net.DialTimeout("tcp", b.plain, patience)
	if err != nil {
		b.Error(err)
		return to
	}
	defer conn.Close()
	w := b.wire(conn)
	w.version = version311
	conn.Write(hello{clientID: id, user: hubUser(id), password: b.token(id), keep: true}.packet()) // an error shows in read
	if first, body, err := w.read(); err != nil || first != 0x20 || body[1] != 0 {
		b.Errorf("%s: % x % x %v", id, first, body, err)
		return to
	}
	sent := min(to, from+25)
	for n := from; n < sent; n++ {
		p := w.publication(uint16(n+1), fmt.Sprintf("leaf/%s/telemetry", id), strconv.Itoa(n))
		p[0] |= 0x08 // it may have been sent before
		conn.Write(p)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	acknowledged := from
	for acknowledged < min(sent, from+17) { // and cut while some are in flight
		first, body, err := w.read()
		if err != nil || first != 0x40 || int(body[0])<<8|int(body[1]) != acknowledged+1 {
			b.Errorf("%s: % x % x %v, want PUBACK %d", id, first, body, err, acknowledged+1)
			return to
		}
		acknowledged++
	}
	return acknowledged
}
