package mqttsn_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
)

func validPort() mqttsn.PortConfig {
	c := mqttsn.DefaultPortConfig()
	c.Port, c.Leaf = "/dev/serial/by-id/usb-FTDI_FT232R_A9", "n1"
	return c
}

func TestDefaultsNeedOnlyPortAndLeaf(t *testing.T) {
	c := validPort()
	d, err := mqttsn.NewDriver(c, clock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.Name(), "mqtt-sn:/dev/serial/by-id/usb-FTDI_FT232R_A9"; got != want {
		t.Errorf("name is %q, want %q", got, want)
	}
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct {
		set       func(*mqttsn.PortConfig)
		key, hint string
	}{
		{func(c *mqttsn.PortConfig) { c.Port = "/dev/ttyUSB0" }, "port", "by-id"},
		{func(c *mqttsn.PortConfig) { c.Leaf = "" }, "leaf", "leaves"},
		{func(c *mqttsn.PortConfig) { c.Nodes = []string{"n2"} }, "leaves", "only one"},
		{func(c *mqttsn.PortConfig) { c.Leaf, c.Nodes = "", []string{"n1", "n2", "n1"} }, "leaves[2]", "twice"},
		{func(c *mqttsn.PortConfig) { c.Leaf, c.Nodes = "", []string{"n 1"} }, "leaves[0]", "letters"},
		{func(c *mqttsn.PortConfig) { c.Leaf = strings.Repeat("x", 24) }, "leaf", "23"},
		{func(c *mqttsn.PortConfig) { c.Link.Retry = 0 }, "retry", "100ms"},
		{func(c *mqttsn.PortConfig) { c.Link.Retries = 11 }, "retries", "1 to 10"},
		{func(c *mqttsn.PortConfig) { c.Link.Wake = gateway.Duration(time.Minute) }, "wake", "10s"},
		{func(c *mqttsn.PortConfig) { c.Link.MaxMessage = 2048 }, "max_message", "1KiB"},
		{func(c *mqttsn.PortConfig) { c.Link.GatewayID = 256 }, "gateway_id", "255"},
		{func(c *mqttsn.PortConfig) { c.Link.Advertise = gateway.Duration(time.Millisecond) }, "advertise", "1s"},
		{func(c *mqttsn.PortConfig) { c.Link.Predefined = map[string]string{"01": "telemetry"} }, "predefined.01", "65534"},
		{func(c *mqttsn.PortConfig) { c.Link.Predefined = map[string]string{"65535": "telemetry"} }, "predefined.65535", "65534"},
		{func(c *mqttsn.PortConfig) { c.Link.Predefined = map[string]string{"1": "command/+"} }, "predefined.1", "telemetry"},
		{func(c *mqttsn.PortConfig) { c.Link.Short = map[string]string{"abc": "telemetry"} }, "short.abc", "two"},
		{func(c *mqttsn.PortConfig) { c.Link.Short = map[string]string{"ab": "other"} }, "short.ab", "telemetry"},
	} {
		c := validPort()
		tt.set(&c)
		_, err := mqttsn.NewDriver(c, clock, slog.New(slog.DiscardHandler))
		bad, ok := errors.AsType[*gateway.KeyError](err)
		if !ok || bad.Key != tt.key || !strings.Contains(bad.Error(), tt.hint) {
			t.Errorf("got %v, want key %s with the hint %s", err, tt.key, tt.hint)
		}
	}
}

// client is the leaf's end of a pseudo-terminal.
type client struct {
	*os.File
	device string
	frames chan []byte
}

func newClient(t *testing.T) *client {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() }) // without a gateway reading would fail
	// The library leaves it in blocking mode, in which Close ends no read.
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil {
		t.Fatal(err)
	}
	c := &client{master, slave.Name(), make(chan []byte, 1000)}
	t.Cleanup(func() { c.Close() })
	return c
}

// listen reads until the terminal is closed.
func (c *client) listen() {
	var r hdlc.Reader
	buf := make([]byte, 256)
	for {
		n, err := c.Read(buf)
		r.Feed(buf[:n], func(content []byte) { c.frames <- slices.Clone(content) })
		if err != nil {
			close(c.frames)
			return
		}
	}
}

// ask sends a message until one of the wanted type has come. What is on the line
// before the port is open, and set up, is lost as on a line.
func (c *client) ask(t *testing.T, message string, want mqttsn.Type) *mqttsn.Message {
	t.Helper()
	for range 300 {
		if _, err := c.Write(hdlc.Append(nil, bytesOf(t, message), false)); err != nil {
			t.Fatal(err)
		}
		wait := time.After(100 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case frame, ok := <-c.frames:
				if !ok {
					t.Fatal("the terminal is closed")
				}
				if m, err := mqttsn.Parse(frame); err == nil && m.Type == want {
					return m
				}
			case <-wait:
				waiting = false
			}
		}
	}
	t.Fatalf("no answer of type %02X to %s", want, message)
	return nil
}

// The driver on a terminal: a leaf connects and publishes, is unplugged, and goes on
// at another device with its session.
func TestDriverOnATerminal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "port")
	cfg := validPort()
	cfg.Port, cfg.Link.Predefined = path, map[string]string{"1": "telemetry"}
	d, err := mqttsn.NewDriver(cfg, clock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var above custody
	n := &notes{m: make(map[string][]byte)}
	down, err := gateway.NewDown(nil, n, clock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		_ = d.Run(ctx, gateway.Ways{Up: &above, Attendance: down, Twins: &above, Notes: n, Leaves: &everybody{}})
	})

	for i, text := range []string{"one", "two"} {
		c := newClient(t)
		_ = os.Remove(path)
		if err := os.Symlink(c.device, path); err != nil {
			t.Fatal(err)
		}
		running.Go(c.listen)
		if i == 0 {
			if m := c.ask(t, "__ 04 04 01 0000 'n1'", mqttsn.ConnAck); m.Code != mqttsn.Accepted {
				t.Fatalf("CONNACK %d", m.Code)
			}
		}
		m := c.ask(t, "__ 0C 21 0001 000"+string(rune('1'+i))+" '"+text+"'", mqttsn.PubAck)
		if m.Code != mqttsn.Accepted {
			t.Fatalf("PUBACK %d", m.Code)
		}
		c.Close()
	}
	if got := above.texts(); !slices.Contains(got, "one") || got[len(got)-1] != "two" {
		t.Errorf("in custody %q", got)
	}
	if s := d.State(); s.Kind != "mqtt-sn" || s.Ups != 2 || s.Leaves != 1 || len(s.Peers) != 1 {
		t.Errorf("state %+v", s)
	}
}
