package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// meterAt is a device on a serial line that says a reading again and again, at one
// speed: whoever listens at another hears noise. It returns the port, and how often it
// has spoken.
func meterAt(ctx context.Context, t *testing.T, speed uint32) (port string, said *atomic.Int64) {
	t.Helper()
	device, far, err := pty.Open()
	must(t, err)
	port, said = filepath.Join(t.TempDir(), "tty-meter"), new(atomic.Int64)
	must(t, os.Symlink(far.Name(), port))
	speaking, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
			case <-speaking.Done():
				tick.Stop()
				return
			}
			text := "\xf8\x00\x80\x78\x00\xf8\n"
			if set, err := unix.IoctlGetTermios(int(far.Fd()), unix.TCGETS); err == nil && set.Cflag&unix.CBAUD == speed {
				text = "{\"temperature\":21.5}\r\n"
			}
			_ = device.SetWriteDeadline(time.Now().Add(time.Second)) // while nobody reads the line fills
			_, _ = device.WriteString(text)
			said.Add(1)
		}
	}()
	t.Cleanup(func() { stop(); <-ended; device.Close(); far.Close() })
	return port, said
}

// A device on a serial port is heard, bound by its port and a name, and forgotten,
// with the hub away: what it says meanwhile is at the hub afterwards.
func TestPairSerial(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	s := newSite(ctx, t, site.Plan{Leaves: []site.Device{{ID: "pump-1", Kind: site.MQTT3}}})
	enrolling(t, s)
	must(t, s.StartGateway(ctx))
	c := &terminal{t, ctx, s}
	port, said := meterAt(ctx, t, unix.B9600)
	pair := func(code int, more ...string) string {
		t.Helper()
		return c.gets(code, append([]string{"pair", "serial", port, "--config", s.ConfigFile()}, more...)...)
	}
	out := pair(0, "--for", "2m")
	for _, want := range []string{"baud    9600\n", "format  json\n", "heard   {\"temperature\":21.5}\n", "--as LEAF --baud 9600 --format json\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q: %s", want, out)
		}
	}
	if out := c.gets(0, "device", "list"); strings.Contains(out, "meter-1") {
		t.Errorf("listening has bound something: %s", out)
	}
	must(t, s.Cut(ctx))
	if out := pair(9, "--as", "pump-1", "--baud", "9600", "--format", "json"); !strings.Contains(out, "pump-1") {
		t.Errorf("a name that is taken is refused like this: %s", out)
	}
	if out := pair(0, "--as", "meter-1", "--for", "2m"); !strings.HasSuffix(out, "meter-1 is bound to "+port+", json at 9600 baud\n") {
		t.Errorf("it says: %s", out)
	}
	if out := pair(9, "--as", "meter-2"); !strings.Contains(out, "belongs to meter-1") {
		t.Errorf("a port that is taken is refused like this: %s", out)
	}
	must(t, s.Await(ctx, "readings to wait", func() bool { return metric(ctx, s, "fieldgate_store_messages") >= 3 }))
	s.Gateway().Kill()
	must(t, s.StartGateway(ctx))
	must(t, s.Restore(ctx))
	for _, e := range awaitEvents(ctx, t, s, 10)[:10] {
		if e.Device != "meter-1" || string(e.Body) != `{"temperature":21.5}` {
			t.Errorf("from %s came %s", e.Device, e.Body)
		}
	}
	c.gets(0, "device", "remove", "meter-1")
	must(t, s.Await(ctx, "nothing to be left", func() bool { return metric(ctx, s, "fieldgate_store_messages") == 0 }))
	taken := func() float64 { return metric(ctx, s, "fieldgate_messages_received_total") }
	before, spoke := taken(), said.Load()
	must(t, s.Await(ctx, "the device to say more", func() bool { return said.Load() >= spoke+20 }))
	if now := taken(); now != before {
		t.Errorf("of a leaf that was removed %v readings were taken", now-before)
	}
	// The port is free, for another name.
	pair(0, "--as", "meter-2", "--for", "2m")
}

// Two operators pair at the same time: the second is told that the window is the first
// one's, and a command that fails ends nothing but its own.
func TestTwoPair(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 2*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "gate-7", Kind: site.Gateway}}, Config: site.Config{Hub: ownDevice}})
	c := &terminal{t, ctx, s}
	silent, far, err := pty.Open()
	must(t, err)
	defer silent.Close()
	defer far.Close()
	port, said := meterAt(ctx, t, unix.B9600)
	pair := func(code int, more ...string) string {
		t.Helper()
		return c.gets(code, append([]string{"pair", "serial", port, "--config", s.ConfigFile(), "--as", "meter-2", "--auth", "gateway"}, more...)...)
	}
	status := func(want string) {
		t.Helper()
		must(t, s.Await(ctx, want, func() bool { return strings.Contains(c.gets(0, "pair", "status"), want) }))
	}
	listen := func() (first *exec.Cmd, complaint *strings.Builder) {
		t.Helper()
		first, complaint = exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), "pair", "serial", far.Name(), "--config", s.ConfigFile(),
			"--as", "meter-1", "--auth", "gateway", "--for", "10m", "--socket", filepath.Join(s.Dir(), "gateway", "control.sock")), new(strings.Builder)
		first.Stderr = complaint
		must(t, first.Start())
		status("leaf    meter-1, claimed\nat      " + far.Name())
		return first, complaint
	}
	first, _ := listen()
	for _, more := range [][]string{nil, {"--baud", "9600", "--format", "json"}} {
		out := pair(9, more...)
		for _, want := range []string{`over serial until 20`, `, for "meter-1" at ` + far.Name() + ", claimed by ", "\nnext: wait until that is over, or end it: fieldgate pair close\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("it does not say %q: %s", want, out)
			}
		}
	}
	status("leaf    meter-1, claimed")
	// Who does the same beside it, and fails, ends it for nobody else.
	c.gets(1, "pair", "serial", far.Name(), "--config", s.ConfigFile(), "--as", "meter-1", "--baud", "9600", "--format", "json", "--no-hello", "--hub-key-file", "nowhere")
	status("leaf    meter-1, claimed")
	must(t, first.Process.Signal(os.Interrupt))
	_ = first.Wait() // it has failed
	status(`last    the command that was to pair "meter-1" has failed`)

	// Nor is anything left of one that is killed and can give up nothing.
	first, _ = listen()
	status("window  open")
	must(t, first.Process.Kill())
	_ = first.Wait()
	status(`window  closed`)
	status(`last    the command that was to pair "meter-1" has failed`)

	// Its window is ended, and another one opened: that is none of its business.
	first, _ = listen()
	c.gets(0, "device", "reject", "meter-1")
	c.gets(0, "pair", "open", "--transport", "serial")
	must(t, first.Process.Signal(os.Interrupt))
	_ = first.Wait()
	status("window  open")

	// A claim that has come to nothing leaves the operator's window to the next one.
	if out := pair(7, "--for", "1ms"); strings.Contains(out, "pairing window open") {
		t.Errorf("in a window that is open it says %s", out)
	}
	if out := c.gets(0, "pair", "status"); !strings.Contains(out, "window  open") || strings.Contains(out, "leaf ") {
		t.Errorf("the window is %s", out)
	}
	pair(0, "--baud", "9600", "--format", "json")
	spoke := said.Load()
	must(t, s.Await(ctx, "the device to say more", func() bool { return said.Load() >= spoke+5 }))
	for _, e := range awaitEvents(ctx, t, s, 3)[:3] {
		if string(e.Body) != `{"temperature":21.5}` {
			t.Errorf("there came %s", e.Body)
		}
	}
}
