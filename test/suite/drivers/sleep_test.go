package drivers_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/fakebluez"
	"github.com/fieldgate/fieldgate/test/suite/drivers"
)

// A node that sleeps with its radio off: what the hub sends meanwhile is parked, also over
// the loss of the connection, and delivered when the node is back and asks, once; then
// it sleeps again. Packets are as small as they may be.
func TestNodeOverBLESleeps(t *testing.T) {
	z := startRadio(t)
	n := &sleeper{node: newNode(), t: t, u: fakebluez.NewUART(leafAddress, 23, "write")}
	r := reach{device: z.Add(n.u.Device)}
	var listening sync.WaitGroup
	listening.Go(func() { n.listen(n.u) })
	defer func() { n.u.Close(); listening.Wait() }()

	log := slog.New(slog.DiscardHandler)
	d := bleDriver(t, func(c *ble.Config) {
		link := mqttsn.DefaultConfig()
		link.Predefined, link.Wake = map[string]string{"2": "command/open"}, 0
		node := ble.DefaultNode(mqttsn.Format)
		node.Address, node.Leaf, node.Pairing = leafAddress, "leaf", ble.PairingNone
		node.Protocol = mqttsn.New(link, []string{"leaf"}, clock, log)
		c.Nodes = []ble.NodeConfig{node}
	})
	var kept drivers.Notes
	down, err := gateway.NewDown(nil, &kept, clock, log)
	must(t, err)
	down.LinkUp()
	defer down.LinkDown()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = d.Run(ctx, gateway.Ways{Attendance: down, Notes: &kept}) })

	// Awake it subscribes, and is sent a command.
	r.come(func(context.Context) {})
	defer r.Unplug()
	n.say(&mqttsn.Message{Type: mqttsn.Connect, Protocol: mqttsn.Protocol, Duration: 600, Text: []byte("leaf")}, mqttsn.ConnAck)
	n.say(&mqttsn.Message{Type: mqttsn.Subscribe, Flags: mqttsn.Flags{QoS: 1, Topic: mqttsn.Predefined}, MessageID: 1, TopicID: 2}, mqttsn.SubAck)
	first := command(down, 1, "one")
	n.hears("one")
	wantVerdict(t, first)

	// It says good night and puts its radio off.
	n.say(&mqttsn.Message{Type: mqttsn.Disconnect, HasDuration: true, Duration: 600}, mqttsn.Disconnect)
	r.Unplug()
	var waiting []<-chan gateway.Verdict
	for i, text := range []string{"two", "three"} {
		waiting = append(waiting, command(down, uint64(i+2), text))
	}
	for _, c := range waiting {
		select {
		case v := <-c:
			t.Fatalf("a command to a leaf that sleeps: %v", v)
		default:
		}
	}

	// It wakes.
	r.come(func(context.Context) {})
	ping := mqttsn.Message{Type: mqttsn.PingReq, Text: []byte("leaf")}
	for end := time.Now().Add(30 * time.Second); !slices.Contains(n.got, "three") && time.Now().Before(end); {
		n.say(&ping, mqttsn.Publish, mqttsn.PingResp)
	}
	for _, c := range waiting {
		wantVerdict(t, c)
	}
	if want := []string{"one", "two", "three"}; !slices.Equal(n.got, want) {
		t.Errorf("the node was sent %q, want %q", n.got, want)
	}
}

// sleeper is an MQTT-SN client that says one thing after the other.
type sleeper struct {
	node
	t   *testing.T
	u   *fakebluez.UART
	got []string
}

// say sends a message until one of these types has come. Publications that come are
// acknowledged.
func (n *sleeper) say(m *mqttsn.Message, answers ...mqttsn.Type) {
	n.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		n.send(m)
		again := time.After(500 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case a := <-n.heard:
				n.take(a)
				if slices.Contains(answers, a.Type) {
					return
				}
			case <-again:
				waiting = false
			}
		}
	}
	n.t.Fatalf("no answer to a message of type %02X", m.Type)
}

// hears waits for a publication.
func (n *sleeper) hears(text string) {
	n.t.Helper()
	limit := time.After(30 * time.Second)
	for !slices.Contains(n.got, text) {
		select {
		case a := <-n.heard:
			n.take(a)
		case <-limit:
			n.t.Fatalf("heard %q, not %q", n.got, text)
		}
	}
}

func (n *sleeper) take(m *mqttsn.Message) {
	if m.Type != mqttsn.Publish {
		return
	}
	if text := string(m.Data); !slices.Contains(n.got, text) {
		n.got = append(n.got, text)
	}
	n.send(&mqttsn.Message{Type: mqttsn.PubAck, TopicID: m.TopicID, MessageID: m.MessageID})
}

func (n *sleeper) send(m *mqttsn.Message) {
	n.t.Helper()
	_, err := n.u.Write(hdlc.Append(nil, m.Append(nil), false))
	must(n.t, err)
}

// command offers a command as the hub does. The verdict comes on the channel.
func command(down *gateway.Down, number uint64, text string) <-chan gateway.Verdict {
	word := make(chan gateway.Verdict, 1)
	c := &gateway.Command{
		Leaf: "leaf", Number: number, Enqueued: time.Unix(int64(number), 0), LockedTo: time.Now().Add(time.Hour), Body: []byte(text),
		Properties: []gateway.Property{{Name: "command", Value: "open"}},
	}
	down.Command(c, func(v gateway.Verdict) { word <- v })
	return word
}

func wantVerdict(t *testing.T, word <-chan gateway.Verdict) {
	t.Helper()
	select {
	case v := <-word:
		if v != gateway.Completed {
			t.Errorf("a command ended with %v", v)
		}
	case <-time.After(30 * time.Second):
		t.Error("no word on a command")
	}
}
