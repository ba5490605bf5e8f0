package board

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// tree makes a machine from files. One whose content is "-> X" is a link to X.
func tree(t *testing.T, files map[string]string) root {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		err := os.WriteFile(file, []byte(text), 0o600)
		if to, link := strings.CutPrefix(text, "-> "); link {
			_ = os.Remove(file)
			err = os.Symlink(filepath.Join(dir, to), file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root(dir)
}

// pi4 is a Raspberry Pi 4 as the vendor's kernel shows it, with an FTDI adapter.
var pi4 = map[string]string{
	"proc/device-tree/model":                                    "Raspberry Pi 4 Model B Rev 1.4\x00",
	"proc/device-tree/compatible":                               "raspberrypi,4-model-b\x00brcm,bcm2711\x00",
	"sys/class/leds/ACT/brightness":                             "0\n",
	"sys/class/leds/ACT/max_brightness":                         "1\n",
	"sys/class/leds/ACT/trigger":                                "none timer [mmc0] heartbeat\n",
	"sys/class/leds/PWR/brightness":                             "255\n",
	"sys/class/thermal/thermal_zone0/type":                      "cpu-thermal\n",
	"sys/class/thermal/thermal_zone0/temp":                      "48199\n",
	"sys/devices/platform/soc/soc:firmware/get_throttled":       "50005\n",
	"sys/class/hwmon/hwmon1/name":                               "rpi_volt\n",
	"sys/class/hwmon/hwmon1/in0_lcrit_alarm":                    "1\n",
	"sys/class/tty/ttyAMA0/device":                              "-> sys/devices/platform/soc/fe201000.serial",
	"sys/devices/platform/soc/fe201000.serial/x":                "",
	"sys/class/tty/tty1/active":                                 "",
	"sys/class/tty/ttyUSB0/device":                              "-> sys/devices/pci/usb1/1-1/1-1.2/1-1.2:1.0/ttyUSB0",
	"sys/devices/pci/usb1/1-1/1-1.2/idVendor":                   "0403\n",
	"sys/devices/pci/usb1/1-1/1-1.2/serial":                     "A50285BI\n",
	"sys/devices/pci/usb1/1-1/1-1.2/bNumInterfaces":             " 1\n",
	"sys/devices/pci/usb1/1-1/1-1.2/1-1.2:1.0/ttyUSB0/x":        "",
	"sys/devices/pci/usb1/1-1/1-1.2/1-1.2:1.0/bInterfaceNumber": "00\n",
	"dev/watchdog0":                                             "",
}

func TestKinds(t *testing.T) {
	for compatible, want := range map[string]string{
		"raspberrypi,3-model-b-plus\x00brcm,bcm2837\x00":   "Raspberry Pi 3",
		"raspberrypi,model-zero-2-w\x00brcm,bcm2837\x00":   "Raspberry Pi Zero 2 W",
		"raspberrypi,4-model-b\x00brcm,bcm2711\x00":        "Raspberry Pi 4",
		"raspberrypi,4-compute-module\x00brcm,bcm2711\x00": "Raspberry Pi CM4",
		"raspberrypi,5-model-b\x00brcm,bcm2712\x00":        "Raspberry Pi 5",
		"linux,dummy-virt\x00":                             "QEMU virt",
		"vendor,unheard-of\x00":                            "generic " + runtime.GOARCH,
		"":                                                 "generic " + runtime.GOARCH,
		"\x00\x00\xff\xfe":                                 "generic " + runtime.GOARCH,
	} {
		r := tree(t, map[string]string{"proc/device-tree/compatible": compatible})
		if got := r.model(); got.kind.name != want || got.name != "" {
			t.Errorf("%q is %q, model %q; want %q", compatible, got.kind.name, got.name, want)
		}
	}
}

// Rows of the table are complete, and no name is in two of them.
func TestTable(t *testing.T) {
	seen := make(map[string]string)
	for _, k := range kinds {
		if k.name == "" || len(k.compatible) == 0 {
			t.Errorf("row %+v is not complete", k)
		}
		for _, c := range k.compatible {
			if seen[c] != "" {
				t.Errorf("%s is in the rows of %s and %s", c, seen[c], k.name)
			}
			seen[c] = k.name
		}
	}
}

func TestPi4(t *testing.T) {
	r := tree(t, pi4)
	b := Open(Config{Root: string(r), LED: Auto, Button: Auto, WatchdogTimeout: time.Second}, slog.New(slog.DiscardHandler))
	s := b.State()
	if s.Kind != "Raspberry Pi 4" || s.Model != "Raspberry Pi 4 Model B Rev 1.4" {
		t.Errorf("it is a %q, model %q", s.Kind, s.Model)
	}
	want := []Part{
		{"led", false, "ACT", "not started"},
		{"button", false, "pinctrl-bcm2711:26", "lines of GPIO chips are only looked for in /dev"},
		{"watchdog", false, "", "off in the configuration"},
	}
	if !slices.Equal(s.Parts, want) {
		t.Errorf("parts are %+v, want %+v", s.Parts, want)
	}
	if s.Temperature == nil || *s.Temperature != 48.199 {
		t.Errorf("temperature is %v, want 48.199", s.Temperature)
	}
	if !s.ThrottleKnown || !slices.Equal(s.Throttled, []Throttle{UnderVoltage, Throttling}) || !slices.Equal(s.Throttles, s.Throttled) {
		t.Errorf("throttled %v %v, since power-on %v", s.ThrottleKnown, s.Throttled, s.Throttles)
	}
	if ports := []SerialPort{{"/dev/ttyAMA0", "/dev/ttyAMA0"}, {"usb:A50285BI", "/dev/ttyUSB0"}}; !slices.Equal(s.Serial, ports) {
		t.Errorf("serial ports are %v, want %v", s.Serial, ports)
	}
	if len(s.RTCs) != 0 {
		t.Errorf("it has a clock: %v", s.RTCs)
	}
}

// A machine with nothing at all is no failure: every piece says why it is not there.
func TestNothingThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Open(Config{Root: string(tree(t, nil)), LED: Auto, Button: Auto, Watchdog: true, WatchdogTimeout: time.Second}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		b.Show(Failed)
		synctest.Wait()
		s := b.State()
		for _, p := range s.Parts {
			if p.Up || p.What != "" || p.Why == "" || p.Why == "not started" {
				t.Errorf("part %+v", p)
			}
		}
		if s.Temperature != nil || s.ThrottleKnown || s.Signal != Failed || len(s.Serial)+len(s.RTCs)+len(s.Starving) > 0 {
			t.Errorf("state %+v", s)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestTemperature(t *testing.T) {
	zone := func(n, kind, temp string) map[string]string {
		dir := "sys/class/thermal/thermal_zone" + n
		return map[string]string{dir + "/type": kind + "\n", dir + "/temp": temp + "\n"}
	}
	for _, c := range []struct {
		name  string
		zones []map[string]string
		want  float64 // 0: unknown
	}{
		{"the processor's, not the first", []map[string]string{zone("0", "gpu", "90000"), zone("1", "soc-thermal", "45000")}, 45},
		{"a type that is unknown", []map[string]string{zone("0", "aml", "-5500")}, -5.5},
		{"broken sensor", []map[string]string{zone("0", "cpu-thermal", "-274000"), zone("1", "gpu", "nonsense")}, 0},
		{"broken sensor of the processor", []map[string]string{zone("0", "cpu-thermal", "850000"), zone("1", "gpu", "40000")}, 40},
	} {
		files := make(map[string]string)
		for _, z := range c.zones {
			maps.Copy(files, z)
		}
		got := tree(t, files).temperature(&kind{})
		if got == nil && c.want != 0 || got != nil && *got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestThrottling(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		now   []Throttle
		known bool
	}{
		"firmware, all well":  {map[string]string{"sys/devices/platform/soc/soc:firmware/get_throttled": "0\n"}, nil, true},
		"with a prefix":       {map[string]string{"sys/devices/platform/soc@107c000000:firmware/get_throttled": "0x8\n"}, []Throttle{Hot}, true},
		"garbage":             {map[string]string{"sys/devices/platform/soc/soc:firmware/get_throttled": "\xff\n"}, nil, false},
		"kernel cools":        {map[string]string{"sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n", "sys/class/thermal/cooling_device0/cur_state": "2\n"}, []Throttle{Hot}, true},
		"a fan is no trouble": {map[string]string{"sys/class/thermal/cooling_device0/type": "pwm-fan\n", "sys/class/thermal/cooling_device0/cur_state": "2\n"}, nil, false},
	} {
		if now, _, known := tree(t, c.files).throttling(); !slices.Equal(now, c.now) || known != c.known {
			t.Errorf("%s: %v %v, want %v %v", name, now, known, c.now, c.known)
		}
	}
}

func TestSerialNamesThatStay(t *testing.T) {
	files := make(map[string]string)
	add := func(tty, socket, serial, iface, ifaces string) {
		dev := "sys/devices/usb1/" + socket
		files["sys/class/tty/"+tty+"/device"] = "-> " + dev + "/" + socket + ":1." + iface
		files[dev+"/idVendor"], files[dev+"/bNumInterfaces"] = "1a86\n", ifaces+"\n"
		files[dev+"/"+socket+":1."+iface+"/bInterfaceNumber"] = "0" + iface + "\n"
		if serial != "" {
			files[dev+"/serial"] = serial + "\n"
		}
	}
	add("ttyACM0", "1-1", "S1", "0", "2")
	add("ttyUSB0", "1-2", "", "0", "1")
	add("ttyUSB1", "1-3.1", "0001", "0", "1") // cheap ones all have
	add("ttyUSB2", "1-3.2", "0001", "0", "1") // the same number
	files["sys/class/tty/ttyS0/device"], files["sys/class/tty/ttyS0/type"] = "-> sys/devices/platform/serial8250", "0\n"
	files["sys/devices/platform/serial8250/x"] = ""
	want := []SerialPort{
		{"usb:S1/0", "/dev/ttyACM0"},
		{"usb-port:1-2", "/dev/ttyUSB0"},
		{"usb-port:1-3.1", "/dev/ttyUSB1"},
		{"usb-port:1-3.2", "/dev/ttyUSB2"},
	}
	if got := tree(t, files).serialPorts(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRTCs(t *testing.T) {
	got := tree(t, map[string]string{
		"sys/class/rtc/rtc0/name": "rpi-rtc 1f\n", "sys/class/rtc/rtc0/since_epoch": "12\n", "sys/class/rtc/rtc0/hctosys": "0\n",
		"sys/class/rtc/rtc1/name": "rtc-ds1307 1-0068\n", "sys/class/rtc/rtc1/since_epoch": "1900000000\n", "sys/class/rtc/rtc1/hctosys": "1\n",
	}).rtcs()
	if want := []RTC{{"rtc0", "rpi-rtc 1f", false, false}, {"rtc1", "rtc-ds1307 1-0068", true, true}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The LED blinks in its pattern, changes at once, and is in the end what it was.
func TestLED(t *testing.T) {
	r := tree(t, pi4)
	synctest.Test(t, func(t *testing.T) {
		read := func(file string) string {
			text, _ := r.read("sys/class/leds/ACT/" + file)
			return text
		}
		b := Open(Config{Root: string(r), LED: Auto, Button: Off, WatchdogTimeout: time.Second}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		for _, s := range Signals {
			b.Show(s)
			synctest.Wait()
			for round := range 2 {
				for i, span := range patterns[s] {
					for range 2 { // at the beginning of the span, and just before its end
						want := "1"
						if i%2 == 1 {
							want = "0"
						}
						if got := read("brightness"); got != want {
							t.Fatalf("%v, round %d, step %d: brightness %s, want %s", s, round, i, got, want)
						}
						time.Sleep(span / 2)
						synctest.Wait()
					}
				}
			}
			if got := b.State(); got.Signal != s || !got.Parts[0].Up || read("trigger") != "none" {
				t.Errorf("%v: state %+v, trigger %s", s, got.Parts[0], read("trigger"))
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if read("trigger") != "mmc0" || read("brightness") != "0" {
			t.Errorf("left behind: trigger %s, brightness %s", read("trigger"), read("brightness"))
		}
	})
}

// A signal is told from another by its rhythm.
func TestPatternsDiffer(t *testing.T) {
	if len(patterns) != len(Signals) {
		t.Fatalf("%d patterns for %d signals", len(patterns), len(Signals))
	}
	seen := make(map[string]Signal)
	for _, s := range Signals {
		var key strings.Builder
		for _, span := range patterns[s] {
			key.WriteString(span.String() + " ")
		}
		if other, twice := seen[key.String()]; twice {
			t.Errorf("%v looks like %v", s, other)
		}
		seen[key.String()] = s
		if n := len(patterns[s]); n != 1 && n%2 != 0 {
			t.Errorf("%v ends with the LED on: it would run into the next", s)
		}
	}
}

// An LED that cannot be written is told, and used when it can be.
func TestLEDComesBack(t *testing.T) {
	r := tree(t, map[string]string{"sys/class/leds/red/brightness": "0"})
	file := r.path("sys/class/leds/red/brightness")
	synctest.Test(t, func(t *testing.T) {
		b := Open(Config{Root: string(r), LED: "red", Button: Off, WatchdogTimeout: time.Second}, slog.New(slog.DiscardHandler))
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		if p := b.State().Parts[0]; p.Up || !strings.Contains(p.Why, "no such file") {
			t.Errorf("part %+v, want it down", p)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retryLED)
		synctest.Wait()
		if p := b.State().Parts[0]; !p.Up || p.Why != "" {
			t.Errorf("part %+v, want it up", p)
		}
		stop()
		<-done
	})
}

// contact is a line whose level a test sets.
type contact struct {
	mu    sync.Mutex
	level gpio.Level    // guarded by mu
	edges chan struct{} // as the kernel's queue: what does not fit is dropped
	dead  atomic.Bool   // waiting fails at once
}

func (c *contact) set(l gpio.Level) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.level == l {
		return
	}
	c.level = l
	select {
	case c.edges <- struct{}{}:
	default:
	}
}

func (c *contact) Read() gpio.Level {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.level
}

func (c *contact) WaitForEdge(timeout time.Duration) bool {
	if c.dead.Load() {
		return false
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-c.edges:
		return true
	case <-t.C:
		return false
	}
}

// press runs a button with a contact, that is high while nobody presses it, and
// returns what it said.
func press(t *testing.T, start gpio.Level, hand func(c *contact)) (said []Press, b *button) {
	synctest.Test(t, func(t *testing.T) {
		c := &contact{level: start, edges: make(chan struct{}, queued)}
		b = newButton(root(t.TempDir()), Config{Button: Off}, &kind{}, slog.New(slog.DiscardHandler))
		b.line = c
		b.tell = func(p Press) { said = append(said, p) }
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { b.run(ctx) })
		synctest.Wait()
		hand(c)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		stop()
		run.Wait()
	})
	return said, b
}

func TestButton(t *testing.T) {
	hold := func(d time.Duration) func(*contact) {
		return func(c *contact) {
			c.set(gpio.Low)
			time.Sleep(d)
			c.set(gpio.High)
		}
	}
	bounce := func(c *contact, to gpio.Level) {
		for range 6 {
			c.set(to)
			time.Sleep(time.Millisecond)
			c.set(!to)
			time.Sleep(time.Millisecond)
		}
		c.set(to)
	}
	for _, c := range []struct {
		name  string
		start gpio.Level
		hand  func(*contact)
		want  []Press
	}{
		{"short", gpio.High, hold(300 * time.Millisecond), []Press{Short}},
		{"just short", gpio.High, hold(shortPress - time.Millisecond), []Press{Short}},
		{"neither", gpio.High, hold(shortPress + time.Second), nil},
		{"just not long", gpio.High, hold(longPress - 2*settle), nil},
		{"long", gpio.High, hold(longPress + time.Second), []Press{Long}},
		{"a glitch", gpio.High, hold(settle / 4), nil},
		{"long counts while it is held", gpio.High, func(c *contact) {
			c.set(gpio.Low)
			time.Sleep(longPress + time.Second)
		}, []Press{Long}},
		{"held for an hour", gpio.High, hold(time.Hour), []Press{Long}},
		{"bouncing", gpio.High, func(c *contact) {
			bounce(c, gpio.Low)
			time.Sleep(time.Second)
			bounce(c, gpio.High)
		}, []Press{Short}},
		{"twice", gpio.High, func(c *contact) {
			hold(200 * time.Millisecond)(c)
			time.Sleep(200 * time.Millisecond)
			hold(200 * time.Millisecond)(c)
		}, []Press{Short, Short}},
		{"stuck from the start", gpio.Low, func(*contact) { time.Sleep(time.Minute) }, nil},
		{"stuck, then free", gpio.Low, func(c *contact) {
			time.Sleep(time.Minute)
			c.set(gpio.High)
			time.Sleep(time.Second)
			hold(200 * time.Millisecond)(c)
		}, []Press{Short}},
	} {
		t.Run(c.name, func(t *testing.T) {
			said, b := press(t, c.start, c.hand)
			if !slices.Equal(said, c.want) {
				t.Errorf("said %v, want %v", said, c.want)
			}
			if _, presses, last := b.state(); presses[Short]+presses[Long] != int64(len(c.want)) || last.IsZero() != (len(c.want) == 0) {
				t.Errorf("counted %v, last %v", presses, last)
			}
		})
	}
}

// A line that swings at 10 kHz is looked at no more often than contacts settle.
func TestNoisyLine(t *testing.T) {
	said, _ := press(t, gpio.High, func(c *contact) {
		for range 20_000 {
			c.set(gpio.Low)
			time.Sleep(50 * time.Microsecond)
			c.set(gpio.High)
			time.Sleep(50 * time.Microsecond)
		}
	})
	if slices.Contains(said, Long) || len(said) > 100 {
		t.Errorf("two seconds of noise were %d presses", len(said))
	}
}

func TestDeafLine(t *testing.T) {
	said, b := press(t, gpio.High, func(c *contact) {
		c.dead.Store(true)
		time.Sleep(10 * time.Second)
	})
	if p, _, _ := b.state(); len(said) != 0 || p.Up || p.Why != errDeaf.Error() {
		t.Errorf("said %v, part %+v", said, p)
	}
}

func TestParseLine(t *testing.T) {
	for text, want := range map[string]struct {
		chip string
		line int
	}{
		"pinctrl-bcm2711:26":  {"pinctrl-bcm2711", 26},
		"1f000d0000.gpio:a:0": {"1f000d0000.gpio:a", 0},
		"26":                  {}, ":26": {}, "a:": {}, "a:-1": {}, "a:x": {}, "a:99999": {}, "": {},
	} {
		chip, line, err := ParseLine(text)
		if chip != want.chip || line != want.line || (err == nil) != (want.chip != "") {
			t.Errorf("%q: %q %d %v", text, chip, line, err)
		}
	}
}

// dog runs a watchdog on a file, which keeps what a device would be fed with.
func dog(t *testing.T, test func(b *Board, fed func() string)) (left string) {
	r := tree(t, pi4)
	synctest.Test(t, func(t *testing.T) {
		read := func() string {
			text, err := os.ReadFile(r.path(device))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		b := Open(Config{Root: string(r), LED: Off, Button: Off, Watchdog: true, WatchdogTimeout: 15 * time.Second}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		part := b.Progress("path", time.Minute)
		other := b.Progress("other", 24*time.Hour)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		part.Made()
		other.Made()
		test(b, read)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		left = read()
	})
	return left
}

func TestWatchdogIsFedOnProgressOnly(t *testing.T) {
	left := dog(t, func(b *Board, fed func() string) {
		p := b.dog.watched[0]
		for range 100 { // progress every 30 s
			before := len(fed())
			time.Sleep(30 * time.Second)
			synctest.Wait()
			p.Made()
			if n := len(fed()) - before; n != int(30*time.Second/(unknownTimeout/3)) {
				t.Fatalf("fed %d times in 30 s", n)
			}
		}
		if s := b.State(); s.Fed == 0 || len(s.Starving) > 0 || !s.Parts[2].Up {
			t.Errorf("with progress: %+v", s)
		}
		time.Sleep(time.Minute) // its bound
		synctest.Wait()
		before := fed()
		time.Sleep(time.Hour / 2)
		synctest.Wait()
		if n := len(fed()) - len(before); n != 0 {
			t.Errorf("fed %d times without progress", n)
		}
		if s := b.State(); !slices.Equal(s.Starving, []string{"path"}) {
			t.Errorf("starving for %v", s.Starving)
		}
		if strings.Contains(fed(), "V") {
			t.Error("disarmed while it was armed")
		}
		p.Made()
		before = fed()
		time.Sleep(unknownTimeout)
		synctest.Wait()
		if len(fed()) == len(before) {
			t.Error("not fed again after progress")
		}
	})
	if !strings.HasSuffix(left, "V") {
		t.Errorf("not disarmed: it was left with %q at the end", left[max(0, len(left)-3):])
	}
}

func TestWatchdogOfAnother(t *testing.T) {
	r := tree(t, map[string]string{"dev/watchdog0/busy": ""}) // a folder cannot be opened for writing either
	synctest.Test(t, func(t *testing.T) {
		b := Open(Config{Root: string(r), LED: Off, Button: Off, Watchdog: true, WatchdogTimeout: 15 * time.Second}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		if p := b.State().Parts[2]; p.Up || p.Why == "not started" || b.State().Fed != 0 {
			t.Errorf("part %+v", p)
		}
		stop()
		<-done
	})
}

func FuzzSysfs(f *testing.F) {
	f.Add("raspberrypi,4-model-b\x00", "50005", "48000")
	f.Add("\x00", "0x", "-")
	dir := f.TempDir()
	files := []string{
		"proc/device-tree/compatible", "proc/device-tree/model", "sys/devices/platform/soc/soc:firmware/get_throttled",
		"sys/class/thermal/thermal_zone0/temp", "sys/class/thermal/thermal_zone0/type", "sys/class/rtc/rtc0/since_epoch", "sys/class/rtc/rtc0/name",
		"sys/class/leds/ACT/trigger", "sys/class/leds/ACT/brightness",
	}
	for _, name := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, a, b, c string) {
		for i, name := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte([]string{a, b, c}[i%3]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		board := Open(Config{Root: dir, LED: Auto, Button: Off}, slog.New(slog.DiscardHandler))
		s := board.State()
		if s.Temperature != nil && (*s.Temperature < -60 || *s.Temperature > 200) {
			t.Errorf("temperature %v", *s.Temperature)
		}
		if strings.ContainsAny(s.Model, "\x00\n\x1b") || strings.ContainsAny(board.led.trigger, " \n") {
			t.Errorf("model %q", s.Model)
		}
	})
}
