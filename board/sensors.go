package board

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Throttle is a reason for which the processor is slower than it could be.
type Throttle string

// The reasons.
const (
	UnderVoltage Throttle = "under-voltage" // the power supply or its cable is too weak
	Capped       Throttle = "frequency-capped"
	Throttling   Throttle = "throttled"
	Hot          Throttle = "hot" // the soft limit of temperature, or the kernel's own cooling
)

// ThrottleReasons are all of them, in the order of the firmware's bits.
var ThrottleReasons = []Throttle{UnderVoltage, Capped, Throttling, Hot}

// read reads a small file of the kernel's.
func (r root) read(name string) (text string, ok bool) { return readText(r.path(name)) }

func readText(name string) (text string, ok bool) {
	b, err := os.ReadFile(name)
	return strings.TrimSpace(string(b)), err == nil
}

func (r root) glob(pattern string) []string {
	names, _ := filepath.Glob(r.path(pattern)) // the only error is a bad pattern
	return names
}

// zones are the types of thermal zones that are a processor's, best first.
var zones = []string{"cpu-thermal", "cpu_thermal", "soc-thermal", "x86_pkg_temp", "acpitz"}

// temperature returns that of the processor in degrees Celsius: of the board's
// zone, or of the first whose type is a processor's, or else of the first.
func (r root) temperature(k *kind) *float64 {
	var found *float64
	best := len(zones) + 1
	for _, dir := range r.glob("sys/class/thermal/thermal_zone*") {
		text, ok := readText(filepath.Join(dir, "temp"))
		milli, err := strconv.Atoi(text)
		// Beyond what silicon survives the sensor is broken, or absent.
		if !ok || err != nil || milli < -60_000 || milli > 200_000 {
			continue
		}
		is, _ := readText(filepath.Join(dir, "type"))
		rank := slices.Index(zones, is)
		if rank < 0 {
			rank = len(zones)
		}
		if k.thermal != "" && is == k.thermal {
			rank = -1
		}
		if rank < best {
			degrees := float64(milli) / 1000
			best, found = rank, &degrees
		}
	}
	return found
}

// throttling asks whoever knows: the firmware of a Raspberry Pi, its sensor of
// voltage, and the kernel's cooling of processors.
func (r root) throttling() (now, since []Throttle, known bool) {
	add := func(to *[]Throttle, t Throttle) {
		if !slices.Contains(*to, t) {
			*to = append(*to, t)
		}
	}
	// Raspberry Pi documentation, "vcgencmd get_throttled": bits 0 to 3 are now, 16
	// to 19 since power-on, in the order of ThrottleReasons. In hexadecimal.
	for _, file := range slices.Concat(
		r.glob("sys/devices/platform/*firmware/get_throttled"), r.glob("sys/devices/platform/*/*firmware/get_throttled")) {
		text, _ := readText(file)
		bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 32)
		if err != nil {
			continue
		}
		known = true
		for i, t := range ThrottleReasons {
			if bits>>i&1 != 0 {
				add(&now, t)
			}
			if bits>>(16+i)&1 != 0 {
				add(&since, t)
			}
		}
	}
	// Kernel documentation, hwmon/raspberrypi-hwmon: 1 after under-voltage, until it is over.
	for _, dir := range r.glob("sys/class/hwmon/hwmon*") {
		if name, _ := readText(filepath.Join(dir, "name")); name != "rpi_volt" {
			continue
		}
		alarm, ok := readText(filepath.Join(dir, "in0_lcrit_alarm"))
		known = known || ok
		if alarm == "1" {
			add(&now, UnderVoltage)
		}
	}
	// Kernel documentation, driver-api/thermal: a cooling device that slows
	// processors down is at state 0 while it does not.
	for _, dir := range r.glob("sys/class/thermal/cooling_device*") {
		if is, _ := readText(filepath.Join(dir, "type")); !strings.Contains(is, "cpufreq") && is != "Processor" {
			continue
		}
		state, ok := readText(filepath.Join(dir, "cur_state"))
		known = known || ok
		if n, err := strconv.Atoi(state); err == nil && n > 0 {
			add(&now, Hot)
		}
	}
	return now, since, known
}

// SerialPort is a port that leaves could be wired to.
type SerialPort struct {
	// Name is how to call it in [[serial]] port so that it stays the same one: by the
	// serial number of the USB adapter, by its socket if it has none, or by its device
	// if it is a port of the board.
	Name   string
	Device string // at present, like /dev/ttyUSB0
}

// SerialPorts lists those of the machine whose /sys is in that folder, "/" for this
// one.
func SerialPorts(folder string) []SerialPort { return root(folder).serialPorts() }

// serialPorts lists them.
func (r root) serialPorts() []SerialPort {
	var all []SerialPort
	for _, tty := range r.glob("sys/class/tty/*") {
		// Most are consoles and pseudo-terminals, which have none: one call for each of
		// them, and not one for each part of its path.
		if _, err := os.Stat(filepath.Join(tty, "device")); err != nil {
			continue
		}
		dir, err := filepath.EvalSymlinks(filepath.Join(tty, "device"))
		if err != nil {
			continue // just pulled out
		}
		if kind, ok := readText(filepath.Join(tty, "type")); ok && kind == "0" {
			continue // the kernel keeps room for it, but there is no hardware
		}
		device := "/dev/" + filepath.Base(tty)
		all = append(all, SerialPort{cmp.Or(r.usbName(dir), device), device})
	}
	// Two adapters with one serial number cannot be told apart by it.
	seen := make(map[string]int)
	for _, p := range all {
		seen[p.Name]++
	}
	for i, p := range all {
		if dir, err := filepath.EvalSymlinks(filepath.Join(r.path("sys/class/tty"), filepath.Base(p.Device), "device")); err == nil && seen[p.Name] > 1 {
			all[i].Name = cmp.Or(r.socketName(dir), p.Device)
		}
	}
	return all
}

// usbName names the USB device to which the folder belongs, "" if to none.
func (r root) usbName(dir string) string {
	device, iface := r.usbDevice(dir)
	if serial, ok := readText(filepath.Join(device, "serial")); device != "" && ok && serial != "" {
		return "usb:" + serial + iface
	}
	return r.socketName(dir)
}

func (r root) socketName(dir string) string {
	device, iface := r.usbDevice(dir)
	if device == "" {
		return ""
	}
	return "usb-port:" + filepath.Base(device) + iface
}

// usbDevice returns the folder of the USB device above, and which of its
// interfaces this is, like "/1", "" where it has but one.
func (r root) usbDevice(dir string) (device, iface string) {
	for ; len(dir) > len(string(r)) && dir != "/"; dir = filepath.Dir(dir) {
		if number, ok := readText(filepath.Join(dir, "bInterfaceNumber")); ok && iface == "" {
			if n, err := strconv.ParseUint(number, 16, 8); err == nil {
				iface = "/" + strconv.FormatUint(n, 10)
			}
		}
		if _, ok := readText(filepath.Join(dir, "idVendor")); !ok {
			continue
		}
		if n, _ := readText(filepath.Join(dir, "bNumInterfaces")); n == "1" {
			iface = ""
		}
		return dir, iface
	}
	return "", ""
}

// RTC is a clock of the board that may go on without power.
type RTC struct {
	Device string // like rtc0
	Name   string // of its driver
	// Set says that it shows a time after the program's own making: one whose
	// battery is flat or missing shows 1970 or 2000.
	Set bool
	// Setter says that the kernel has set the clock from it at start.
	Setter bool
}

// rtcs lists them.
func (r root) rtcs() []RTC {
	var all []RTC
	for _, dir := range r.glob("sys/class/rtc/rtc*") {
		c := RTC{Device: filepath.Base(dir)}
		name, _ := readText(filepath.Join(dir, "name"))
		c.Name = printable(name)
		epoch, _ := readText(filepath.Join(dir, "since_epoch"))
		if n, err := strconv.ParseInt(epoch, 10, 64); err == nil {
			c.Set = time.Unix(n, 0).After(earliest)
		}
		setter, _ := readText(filepath.Join(dir, "hctosys"))
		c.Setter = setter == "1"
		all = append(all, c)
	}
	return all
}
