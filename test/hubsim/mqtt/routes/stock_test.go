package routes_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// patience bounds every wait for a stock client. It is not a claim about speed.
const patience = 30 * time.Second

// listen serves TCP without TLS, and returns the address.
func (b *bench) listen() *net.TCPAddr {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.served.Go(func() {
		for {
			nc, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				b.serve(nc)
			}
		}
	})
	b.t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr)
}

// wait waits for a step of a Paho client.
func wait(t *testing.T, step paho.Token) {
	t.Helper()
	if !step.WaitTimeout(patience) {
		t.Fatal("the client waits for ever")
	}
	if err := step.Error(); err != nil {
		t.Fatal(err)
	}
}

// Paho loses its connection and comes back without subscribing again; what was
// under way comes again.
func TestPaho(t *testing.T) {
	b := newBench(t)
	got := make(chan paho.Message, 100)
	back := make(chan struct{}, 1)
	options := paho.NewClientOptions().AddBroker("tcp://" + b.listen().String()).
		SetClientID("pump-1").SetUsername(hostName + "/pump-1/?api-version=2021-04-12").
		SetPassword(b.token(pump, time.Hour)).SetCleanSession(false).SetAutoAckDisabled(true).
		SetMaxReconnectInterval(time.Second).
		SetReconnectingHandler(func(paho.Client, *paho.ClientOptions) {
			select {
			case back <- struct{}{}:
			default:
			}
		})
	c := paho.NewClient(options)
	wait(t, c.Connect())
	defer c.Disconnect(250)
	wait(t, c.Subscribe(commandFilter, 2, func(_ paho.Client, m paho.Message) { got <- m }))
	for n := range 10 {
		wait(t, c.Publish(eventTopic+"n="+fmt.Sprint(n), byte(n%2), false, fmt.Sprint(n)))
	}
	b.command(message.Message{Body: []byte("stop")})
	if m := receive(t, got); m.Duplicate() || string(m.Payload()) != "stop" {
		t.Errorf("got %s", m.Payload())
	}
	b.hub.Presence.End(pump, refusal.New(503001, "the test closes the connection"))
	receive(t, back)
	m := receive(t, got)
	if !m.Duplicate() || string(m.Payload()) != "stop" {
		t.Errorf("got %s with DUP %v, want stop again", m.Payload(), m.Duplicate())
	}
	m.Ack()
	wait(t, c.Publish(eventTopic, 1, true, "last"))
	if left := b.hub.Commands.Len(pump); left != 0 { // PUBACK came before the message
		t.Errorf("%d commands are left", left)
	}
	var bodies []string
	for _, e := range b.events() {
		bodies = append(bodies, string(e.message.Body))
	}
	if want := strings.Fields("0 1 2 3 4 5 6 7 8 9 last"); !slices.Equal(bodies, want) {
		t.Errorf("got %v, want %v", bodies, want)
	}
}

// receive takes the next value.
func receive[T any](t testing.TB, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatal("nothing has come")
	}
	return v
}

// mosquitto makes the command line of one of Mosquitto's clients, as the pump.
func (b *bench) mosquitto(ctx context.Context, program string, address *net.TCPAddr, args ...string) *exec.Cmd {
	b.t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			b.t.Fatalf("Mosquitto's clients are missing: %v", err)
		}
		b.t.Skip("Mosquitto's clients are not installed")
	}
	return exec.CommandContext(ctx, path, append([]string{
		"-h", address.IP.String(), "-p", fmt.Sprint(address.Port), "-V", "mqttv311", "-i", "pump-1",
		"-u", hostName + "/pump-1/?api-version=2021-04-12", "-P", b.token(pump, time.Hour),
	}, args...)...)
}

func TestMosquittoPublishes(t *testing.T) {
	b := newBench(t)
	address := b.listen()
	for _, qos := range []string{"0", "1"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := b.mosquitto(ctx, "mosquitto_pub", address, "-q", qos, "-t", eventTopic+"qos="+qos, "-m", "hello")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	list := b.awaitEvents(2)
	for i, e := range list {
		if v, _ := e.message.Property("qos"); v != fmt.Sprint(i) || string(e.message.Body) != "hello" {
			t.Errorf("event %d is %+v", i, *e.message)
		}
	}
}

// awaitEvents returns the events when there are n.
func (b *bench) awaitEvents(n int) []stored {
	b.t.Helper()
	receive(b.t, b.hub.Events.Wait(uint64(n)-1))
	return b.events()
}

// Mosquitto's subscriber keeps its session, takes commands, and leaves a will
// when it is killed.
func TestMosquittoSubscribes(t *testing.T) {
	b := newBench(t)
	address := b.listen()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	subscribe := func(more ...string) *exec.Cmd {
		return b.mosquitto(ctx, "mosquitto_sub", address, append([]string{"-c", "-q", "1", "-v", "-t", commandFilter}, more...)...)
	}
	if out, err := subscribe("-E").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.command(message.Message{ID: "m-1", Body: []byte("stop")})
	b.command(message.Message{Body: []byte("start")})
	out, err := subscribe("-C", "2").Output()
	if want := commandTopic + "&%24.mid=m-1 stop\n" + commandTopic + " start\n"; err != nil || string(out) != want {
		t.Errorf("got %q and %v, want %q", out, err, want)
	}

	cmd := subscribe("--will-topic", eventTopic, "--will-payload", "gone")
	var seen bytes.Buffer
	cmd.Stdout = &seen
	arrivals := b.hub.Presence.Arrivals()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	receive(t, arrivals)
	_ = cmd.Process.Kill() // it is ours, and Wait tells
	_ = cmd.Wait()
	will := b.awaitEvents(1)[0].message
	if kind, _ := will.Property("iothub-MessageType"); kind != "Will" || string(will.Body) != "gone" {
		t.Errorf("got %+v", *will)
	}
}
