package port

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/gateway"
)

// far is the other end of a port.
type far struct {
	*os.File
	device string
}

func newFar(t *testing.T) *far {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	t.Cleanup(func() { master.Close() })
	if err := unix.SetNonblock(int(master.Fd()), true); err != nil {
		t.Fatal(err)
	}
	return &far{master, slave.Name()}
}

// plug makes path lead to the device, as udev does.
func (f *far) plug(t *testing.T, path string) {
	t.Helper()
	if err := os.Symlink(f.device, path); err != nil {
		t.Fatal(err)
	}
}

func config(name string) Config {
	c := Default()
	c.Port = name
	return c
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// keep runs a keeper whose driver echoes.
func keep(t *testing.T, c Config) (k *Keeper, stop func()) {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	k = NewKeeper(c, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		k.Run(ctx, func(_ context.Context, p *Port) error {
			buf := make([]byte, 64)
			for {
				n, err := p.Read(buf)
				if err != nil {
					return err
				}
				if _, err := p.Write(buf[:n], time.Second); err != nil {
					return err
				}
			}
		})
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return k, stop
}

func (f *far) echo(t *testing.T, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(f, got); err != nil || string(got) != text {
		t.Fatalf("echo %q, %v, want %q", got, err, text)
	}
}

// An adapter that is pulled out comes back under another name; its link leads
// there.
func TestPluggedOutAndInElsewhere(t *testing.T) {
	link := filepath.Join(t.TempDir(), "usb-meter")
	k, _ := keep(t, config(link))
	var devices []string
	for i := range int64(3) {
		f := newFar(t)
		f.plug(t, link)
		until(t, "open", func() bool { s := k.State(); return s.Open && s.Opened == i+1 })
		devices = append(devices, k.State().Device)
		f.echo(t, "hello")
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		f.Close()
		until(t, "gone", func() bool { return !k.State().Open })
	}
	if devices[0] == devices[1] && devices[1] == devices[2] {
		t.Skip("the system gave the same name three times")
	}
	if s := k.Driver("serial:x", "serial"); s.Up || s.Err == nil || s.Ups != 3 || s.Since.IsZero() {
		t.Errorf("state %+v, want down after three openings, and why", s)
	}
}

// A port whose other end takes nothing holds up neither its writer for longer
// than the writer said, nor whoever closes it.
func TestWriteThatHangs(t *testing.T) {
	f := newFar(t)
	c := config(f.device)
	p, err := Open(&c)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4096)
	for err == nil { // until its buffer is full
		_, err = p.Write(block, 10*time.Millisecond)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write: %v, want a deadline", err)
	}
	ended := make(chan error)
	go func() {
		_, err := p.Write(block, time.Hour)
		ended <- err
	}()
	p.Close()
	if err := <-ended; err == nil {
		t.Error("a write of a closed port succeeded")
	}
	<-p.closed
	again, err := Open(&c)
	if err != nil {
		t.Fatalf("a port that was closed cannot be opened again: %v", err)
	}
	again.Close()
	<-again.closed
}

// stuck is a library whose Close does not return.
type stuck struct{ io.Closer }

func (s stuck) Close() error { select {} }

func TestCloseThatHangs(t *testing.T) {
	f := newFar(t)
	c := config(f.device)
	p, err := Open(&c)
	if err != nil {
		t.Fatal(err)
	}
	real := p.lib
	t.Cleanup(func() { real.Close() })
	p.lib = stuck{real}
	k := NewKeeper(c, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	if err := k.serve(ctx, p, func(context.Context, *Port) error {
		cancel()
		_, err := p.Read(make([]byte, 1))
		return err
	}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the driver's read ended with %v, want closed", err)
	}
}

func TestOneOwner(t *testing.T) {
	f := newFar(t)
	c := config(f.device)
	p, err := Open(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(&c); !errors.Is(err, ErrBusy) {
		t.Errorf("second opening: %v, want busy", err)
	}
	p.Close()
	<-p.closed
}

// A pseudo-terminal cannot switch directions, and says so; that is not silently
// left out.
func TestRS485(t *testing.T) {
	f := newFar(t)
	c := config(f.device)
	c.RS485, c.RS485Before, c.RS485After = true, gateway.Duration(2*time.Millisecond), gateway.Duration(time.Millisecond)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(&c); !errors.Is(err, errNoRS485) {
		t.Errorf("opening: %v, want that it cannot", err)
	}
	// As C sees it: flags, delay before, delay after, then zeros up to 32 bytes.
	got := *(*[8]uint32)(unsafe.Pointer(c.rs485()))
	if want := [8]uint32{rs485Enabled | rs485RTSOnSend, 2, 1}; got != want {
		t.Errorf("struct serial_rs485 is %v, want %v", got, want)
	}
	c.RS485Invert = true
	if got := c.rs485().Iflag; got != rs485Enabled|rs485RTSAfterSend {
		t.Errorf("inverted flags are %b", got)
	}
}

func TestUevents(t *testing.T) {
	for text, want := range map[string]bool{
		"add@/devices/x/ttyUSB0\x00ACTION=add\x00DEVPATH=/devices/x\x00SUBSYSTEM=tty\x00DEVNAME=ttyUSB0\x00": true,
		"remove@/x\x00ACTION=remove\x00SUBSYSTEM=tty\x00":                                                    true,
		"change@/x\x00ACTION=change\x00SUBSYSTEM=tty\x00":                                                    false,
		"add@/x\x00ACTION=add\x00SUBSYSTEM=usb\x00":                                                          false,
		"libudev\x00\xfe\xed\xca\xfe":                                                                        false,
		"":                                                                                                   false,
	} {
		if got := isTerminal([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if isKernel(&unix.SockaddrNetlink{Pid: 4711}) || !isKernel(&unix.SockaddrNetlink{}) {
		t.Error("only the kernel's own events count")
	}
}

// The kernel tells of a terminal that is plugged in. Writing to a device's uevent
// has it tell once more (Linux, Documentation/ABI/testing/sysfs-uevent).
func TestKernelTells(t *testing.T) {
	all, err := filepath.Glob("/sys/class/tty/*/uevent")
	if err != nil || len(all) == 0 {
		t.Skip("the kernel shows no terminals here")
	}
	ctx, cancel := context.WithCancel(context.Background())
	news := make(chan struct{}, 1)
	var running sync.WaitGroup
	running.Go(func() { plugged(ctx, func() { signal(news) }) })
	defer running.Wait()
	defer cancel()
	end := time.After(20 * time.Second)
	for { // until somebody listens
		if err := os.WriteFile(all[0], []byte("add"), 0); err != nil {
			t.Skipf("only root may have the kernel say it again: %v", err)
		}
		select {
		case <-news:
			return
		case <-time.After(20 * time.Millisecond):
		case <-end:
			t.Fatal("the kernel was not heard")
		}
	}
}

// Listening ends when it is told to, and costs nothing afterwards.
func TestListeningEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { plugged(ctx, func() {}) })
	cancel()
	running.Wait()
}

// tree makes a /sys with two adapters of one serial number, one of another with
// two interfaces, and a port of the board.
func tree(t *testing.T) places {
	t.Helper()
	at := places{sys: t.TempDir(), dev: "/dev"}
	usb := "devices/pci0000:00/usb1/1-1/"
	for file, text := range map[string]string{
		usb + "1-1.1/idVendor": "0403\n", usb + "1-1.1/serial": "A50285BI\n",
		usb + "1-1.1/1-1.1:1.0/bInterfaceNumber": "00\n", usb + "1-1.1/1-1.1:1.0/ttyUSB0/port_number": "0\n",
		usb + "1-1.2/idVendor": "0403\n", usb + "1-1.2/serial": "QUAD\n",
		usb + "1-1.2/1-1.2:1.0/bInterfaceNumber": "00\n", usb + "1-1.2/1-1.2:1.0/ttyUSB1/port_number": "0\n",
		usb + "1-1.2/1-1.2:1.1/bInterfaceNumber": "01\n", usb + "1-1.2/1-1.2:1.1/ttyUSB2/port_number": "0\n",
		usb + "1-1.3/idVendor": "1a86\n", usb + "1-1.3/serial": "0001\n",
		usb + "1-1.3/1-1.3:1.0/bInterfaceNumber": "00\n",
		usb + "1-1.4/idVendor":                   "1a86\n", usb + "1-1.4/serial": "0001\n",
		usb + "1-1.4/1-1.4:1.0/bInterfaceNumber": "00\n",
		"devices/platform/serial8250/uevent":     "\n",
	} {
		file = filepath.Join(at.sys, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for tty, device := range map[string]string{
		"ttyUSB0": usb + "1-1.1/1-1.1:1.0/ttyUSB0", "ttyUSB1": usb + "1-1.2/1-1.2:1.0/ttyUSB1",
		"ttyUSB2": usb + "1-1.2/1-1.2:1.1/ttyUSB2", "ttyACM0": usb + "1-1.3/1-1.3:1.0", "ttyACM1": usb + "1-1.4/1-1.4:1.0",
		"ttyS0": "devices/platform/serial8250", "tty1": "",
	} {
		dir := filepath.Join(at.sys, "class", "tty", tty)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if device == "" {
			continue
		}
		if err := os.Symlink(filepath.Join(at.sys, device), filepath.Join(dir, "device")); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

func TestNamesOfUSB(t *testing.T) {
	at := tree(t)
	for _, tt := range []struct {
		name, device string
		err          error
	}{
		{"usb:A50285BI", "/dev/ttyUSB0", nil},
		{"usb:A50285BI/0", "/dev/ttyUSB0", nil},
		{"usb:A50285BI/1", "", errNotPlugged},
		{"usb:a50285bi", "", errNotPlugged},
		{"usb:QUAD/1", "/dev/ttyUSB2", nil},
		{"usb:QUAD", "", errors.ErrUnsupported}, // which of the two
		{"usb:0001", "", errTwice},
		{"usb-port:1-1.3", "/dev/ttyACM0", nil},
		{"usb-port:1-1.2/0", "/dev/ttyUSB1", nil},
		{"usb-port:1-1", "", errNotPlugged}, // a hub
	} {
		device, err := at.find(tt.name)
		ok := errors.Is(err, tt.err)
		if tt.err == errors.ErrUnsupported {
			ok = err != nil
		}
		if device != tt.device || !ok {
			t.Errorf("%s is %q, %v, want %q, %v", tt.name, device, err, tt.device, tt.err)
		}
	}
}

func TestBadPorts(t *testing.T) {
	for key, c := range map[string]func(*Config){
		"port":         func(c *Config) { c.Port = "usb:" },
		"port ":        func(c *Config) { c.Port = "usb-port:../../x" },
		"rs485_before": func(c *Config) { c.RS485Before = gateway.Duration(time.Millisecond) },
		"rs485_after":  func(c *Config) { c.RS485, c.RS485After = true, gateway.Duration(1500*time.Microsecond) },
		"rs485_invert": func(c *Config) { c.RS485Invert = true },
	} {
		cfg := config("usb:A1")
		c(&cfg)
		bad, ok := errors.AsType[*gateway.KeyError](cfg.Validate())
		if !ok || bad.Key != key && bad.Key+" " != key {
			t.Errorf("%s: %v", key, bad)
		}
	}
}

func TestTimeOnTheLine(t *testing.T) {
	c := config("usb:A1")
	c.Baud, c.Parity = 9600, "even"
	if got := c.Time(3.5).Round(time.Microsecond); got != 4010*time.Microsecond {
		t.Errorf("3.5 characters of 11 bits at 9600 baud take %v, want 4.010ms", got)
	}
}

func FuzzNames(f *testing.F) {
	f.Add("usb:A50285BI/1")
	f.Add("usb-port:1-1.2")
	f.Fuzz(func(t *testing.T, name string) {
		c := config(name)
		_ = c.Validate()
		_, _ = places{sys: "/nowhere", dev: "/dev"}.find(name)
	})
}
