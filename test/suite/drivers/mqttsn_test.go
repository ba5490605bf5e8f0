package drivers_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/suite/drivers"
)

func TestMQTTSN(t *testing.T) {
	k := drivers.Kind{
		Baud:     wireBaud,
		Inflight: 1, // as many as a client has
		Repeats:  true,
		Driver: func(t testing.TB, port string) gateway.Driver {
			c := mqttsn.DefaultPortConfig()
			c.Port, c.Leaf, c.Link.Predefined = port, "leaf", map[string]string{"1": "telemetry"}
			d, err := mqttsn.NewDriver(c, clock, slog.New(slog.DiscardHandler))
			must(t, err)
			return d
		},
		Wire: func(_ testing.TB, port string) drivers.Wire {
			return &serialNode{node: newNode(), port: port}
		},
	}
	k.Run(t)
}

// node is an MQTT-SN client that publishes its readings one after the other with
// QoS 1, each until it is acknowledged.
type node struct {
	said, acked atomic.Int64
	news        chan struct{} // capacity 1: there is something to say
	heard       chan *mqttsn.Message
}

func newNode() node {
	return node{news: make(chan struct{}, 1), heard: make(chan *mqttsn.Message, 100)}
}

// listen reads until the line is closed. What is not asked for is lost.
func (n *node) listen(far io.Reader) {
	var frames hdlc.Reader
	buf := make([]byte, 256)
	for {
		got, err := far.Read(buf)
		if err != nil {
			return
		}
		frames.Feed(buf[:got], func(content []byte) {
			if m, err := mqttsn.Parse(slices.Clone(content)); err == nil {
				select {
				case n.heard <- m:
				default:
				}
			}
		})
	}
}

// serialNode is one on a serial line.
type serialNode struct {
	node
	port string

	far    *os.File
	near   *os.File // keeps the line there while no driver has it open
	unplug func()
	work   sync.WaitGroup
}

func (n *serialNode) Plug(t testing.TB) {
	t.Helper()
	far, near, err := pty.Open()
	must(t, err)
	must(t, unix.SetNonblock(int(far.Fd()), true))
	must(t, os.Symlink(near.Name(), n.port))
	n.far, n.near = far, near
	ctx, cancel := context.WithCancel(context.Background())
	n.unplug = cancel
	n.work.Go(func() { n.listen(far) })
	n.work.Go(func() { n.publish(ctx, far) })
}

// publish publishes what there is to say. In between it looks whether its session is there
// still.
func (n *node) publish(ctx context.Context, far io.Writer) {
	connected := false
	for ctx.Err() == nil {
		next := n.acked.Load() + 1
		m := &mqttsn.Message{Type: mqttsn.Connect, Protocol: mqttsn.Protocol, Flags: mqttsn.Flags{Clean: true}, Text: []byte("leaf")}
		switch {
		case connected && next > n.said.Load():
			select {
			case <-n.news:
				continue
			case <-ctx.Done():
				continue
			case <-time.After(100 * time.Millisecond):
				m = &mqttsn.Message{Type: mqttsn.PingReq}
			}
		case connected:
			m = &mqttsn.Message{
				Type: mqttsn.Publish, Flags: mqttsn.Flags{QoS: 1, Topic: mqttsn.Predefined}, TopicID: 1, MessageID: uint16(next),
				Data: strconv.AppendInt(nil, next, 10),
			}
		}
		answer := n.ask(ctx, far, m)
		switch {
		case answer == nil:
		case answer.Type == mqttsn.Disconnect:
			connected = false
		case answer.Code != mqttsn.Accepted:
			time.Sleep(10 * time.Millisecond) // congestion
		case answer.Type == mqttsn.ConnAck:
			connected = true
		case answer.Type == mqttsn.PingResp:
		default:
			n.acked.Store(next)
		}
	}
}

// ask sends a message until there is an answer, and nil at the end.
func (n *node) ask(ctx context.Context, far io.Writer, m *mqttsn.Message) *mqttsn.Message {
	for {
		if _, err := far.Write(hdlc.Append(nil, m.Append(nil), false)); err != nil {
			return nil
		}
		m.Flags.DUP = m.Type == mqttsn.Publish
		again := time.After(200 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case a := <-n.heard:
				if a.Type == mqttsn.Disconnect || a.Type == mqttsn.ConnAck && m.Type == mqttsn.Connect || a.Type == mqttsn.PingResp && m.Type == mqttsn.PingReq ||
					a.Type == mqttsn.PubAck && a.MessageID == m.MessageID && m.Type == mqttsn.Publish {
					return a
				}
			case <-again:
				waiting = false
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (n *serialNode) Unplug() {
	if n.far == nil {
		return
	}
	n.unplug()
	_ = os.Remove(n.port)
	_ = n.near.Close()
	_ = n.far.Close()
	n.far = nil
	n.work.Wait()
}

func (n *node) Say(_ testing.TB, reading int) {
	n.said.Store(int64(reading))
	select {
	case n.news <- struct{}{}:
	default:
	}
}

func (n *serialNode) Half(t testing.TB) { n.Noise(t, []byte{0x7E, 0x0A}) }

func (n *serialNode) Noise(t testing.TB, noise []byte) {
	t.Helper()
	must(t, n.far.SetWriteDeadline(time.Now().Add(30*time.Second)))
	_, err := n.far.Write(noise)
	must(t, err)
}

func (n *node) Number(m *gateway.Message) (reading int) {
	_, _ = fmt.Sscan(string(m.Body), &reading)
	return reading
}

func (n *node) Acked() int { return int(n.acked.Load()) }
