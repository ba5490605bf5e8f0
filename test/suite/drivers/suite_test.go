package drivers_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/drivers/serial"
	"github.com/fieldgate/fieldgate/drivers/serial/modbus/master"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/test/leafsim/meter"
	"github.com/fieldgate/fieldgate/test/suite/drivers"
)

func clock() gateway.Instant {
	return gateway.Instant{Wall: time.Now().UTC(), Quality: gateway.Synced, Boot: 1, Uptime: time.Hour}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wireBaud is as fast as the UARTs of boards and adapters usually go.
const wireBaud = 1_000_000

func TestLines(t *testing.T) {
	for format, say := range map[string]string{
		serial.FormatJSON:  `{"seq":%d,"n":%[1]d}`,
		serial.FormatSenML: `[{"n":"n","v":%d}]`,
		serial.FormatText:  "%d",
	} {
		t.Run(format, func(t *testing.T) {
			k := drivers.Kind{
				Baud:     wireBaud,
				Inflight: 4,
				Driver: func(t testing.TB, port string) gateway.Driver {
					c := serial.DefaultConfig()
					c.Port, c.Format, c.Leaf, c.Ack, c.MaxInflight = port, format, "leaf", serial.AckLine, 4
					d, err := serial.New(c, clock, slog.New(slog.DiscardHandler))
					must(t, err)
					return d
				},
				Wire: func(_ testing.TB, port string) drivers.Wire {
					return &lines{port: port, say: say, text: format == serial.FormatText}
				},
			}
			k.Run(t)
		})
	}
}

// lines is a leaf that sends lines.
type lines struct {
	port, say string
	text      bool

	far    *os.File
	near   *os.File // keeps the line there while no driver has it open
	reader sync.WaitGroup
	acked  atomic.Int64 // answers that say yes
}

func (l *lines) Plug(t testing.TB) {
	t.Helper()
	far, near, err := pty.Open()
	must(t, err)
	must(t, unix.SetNonblock(int(far.Fd()), true))
	must(t, os.Symlink(near.Name(), l.port))
	l.far, l.near = far, near
	l.reader.Go(func() {
		for s := bufio.NewScanner(far); s.Scan(); {
			var n int64
			if _, err := fmt.Sscanf(s.Text(), `{"ack":%d}`, &n); err == nil {
				l.acked.Store(n)
			} else if _, err := fmt.Sscanf(s.Text(), "ACK %d", &n); err == nil {
				l.acked.Store(n)
			}
		}
	})
}

func (l *lines) Unplug() {
	if l.far == nil {
		return
	}
	_ = os.Remove(l.port)
	_ = l.near.Close()
	_ = l.far.Close()
	l.far = nil
	l.reader.Wait()
}

func (l *lines) write(t testing.TB, text string) {
	t.Helper()
	must(t, l.far.SetWriteDeadline(time.Now().Add(30*time.Second)))
	_, err := l.far.WriteString(text)
	must(t, err)
}

// Say begins with a line end: what was on the line before is not part of it. A text
// may be the tail of one right after the opening, and is not taken then.
func (l *lines) Say(t testing.TB, n int) {
	t.Helper()
	l.write(t, "\n"+fmt.Sprintf(l.say, n)+"\n")
}

func (l *lines) Half(t testing.TB) { l.write(t, fmt.Sprintf(l.say, 999)[:1]) }

// Noise has nothing in it that would be text, and so a reading, by chance.
func (l *lines) Noise(t testing.TB, noise []byte) {
	l.write(t, strings.ReplaceAll(string(noise), "\n", "\xff\n"))
}

func (l *lines) Number(m *gateway.Message) (n int) {
	var pack []struct{ V int }
	var object struct{ N int }
	switch {
	case json.Unmarshal(m.Body, &pack) == nil && len(pack) == 1:
		return pack[0].V
	case json.Unmarshal(m.Body, &object) == nil:
		return object.N
	}
	_, _ = fmt.Sscan(string(m.Body), &n)
	return n
}

func (l *lines) Acked() int { return int(l.acked.Load()) }

func TestModbus(t *testing.T) {
	k := drivers.Kind{
		Polled: true, Baud: wireBaud, Inflight: 4,
		Driver: func(t testing.TB, port string) gateway.Driver {
			c := master.DefaultConfig()
			c.Port, c.Baud, c.MaxInflight = port, 115200, 4
			c.Slaves = []master.SlaveConfig{{
				Address: 1, Leaf: "leaf", Timeout: gateway.Duration(50 * time.Millisecond),
				Registers: []master.RegisterConfig{{Name: "n", Table: "holding", Poll: gateway.Duration(10 * time.Millisecond), Report: "change"}},
			}}
			d, err := master.New(c, clock, slog.New(slog.DiscardHandler))
			must(t, err)
			return d
		},
		Wire: func(_ testing.TB, port string) drivers.Wire {
			return &slave{port: port, device: &meter.Slave{Holding: []uint16{0}, Dead: true}}
		},
	}
	k.Run(t)
}

// slave is a leaf that is polled. Until it has something to say it is not there.
type slave struct {
	port   string
	device *meter.Slave
	bus    *meter.Bus
}

func (s *slave) Plug(t testing.TB) {
	t.Helper()
	if s.bus != nil {
		must(t, s.bus.Plug())
		return
	}
	var err error
	s.bus, err = meter.Start(s.port, map[byte]*meter.Slave{1: s.device})
	must(t, err)
}

func (s *slave) Unplug() {
	if s.bus != nil {
		s.bus.Unplug()
	}
}

func (s *slave) Say(_ testing.TB, n int) {
	s.bus.Do(1, func(m *meter.Slave) { m.Holding[0], m.Dead = uint16(n), false })
}

func (s *slave) Half(t testing.TB) { must(t, s.bus.Babble([]byte{1, 3, 2})) }

func (s *slave) Noise(t testing.TB, noise []byte) { must(t, s.bus.Babble(noise)) }

func (s *slave) Number(m *gateway.Message) int {
	var object struct{ N int }
	if json.Unmarshal(m.Body, &object) != nil {
		return 0
	}
	return object.N
}

func (s *slave) Acked() int { return -1 }
