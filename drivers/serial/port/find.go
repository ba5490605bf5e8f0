package port

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// places are where the system shows its devices. Tests have others.
type places struct{ sys, dev string }

var system = places{sys: "/sys", dev: "/dev"}

// errNotPlugged says that no device fits the name now.
var errNotPlugged = errors.New("it is not plugged in")

// errTwice says that a serial number tells nothing: cheap adapters all have the
// same.
var errTwice = errors.New("there are several adapters with this serial number: name the socket, like \"usb-port:1-1.2\"")

// usbName is a port named by its USB device.
type usbName struct {
	by    string // the attribute: serial, or the socket
	value string
	iface int // -1: the only one
}

const (
	bySerial = "serial number"
	bySocket = "socket"
)

var socketName = regexp.MustCompile(`^[0-9]+-[0-9]+(\.[0-9]+)*$`)

// parseUSB reads the forms usb:NUMBER and usb-port:SOCKET, with /INTERFACE.
func parseUSB(name string) (u usbName, ok bool) {
	u.iface = -1
	if u.value, ok = strings.CutPrefix(name, "usb:"); ok {
		u.by = bySerial
	} else if u.value, ok = strings.CutPrefix(name, "usb-port:"); ok {
		u.by = bySocket
	} else {
		return usbName{}, false
	}
	if i := strings.LastIndexByte(u.value, '/'); i >= 0 {
		if n, err := strconv.ParseUint(u.value[i+1:], 10, 8); err == nil {
			u.value, u.iface = u.value[:i], int(n)
		}
	}
	ok = u.value != "" && !strings.ContainsRune(u.value, 0) && (u.by == bySerial || socketName.MatchString(u.value))
	return u, ok
}

// Find returns the device that a configured name means now, like /dev/ttyUSB0. It
// opens nothing.
func Find(name string) (device string, err error) { return system.find(name) }

// find returns the device that a configured name means now.
func (at places) find(name string) (device string, err error) {
	u, isUSB := parseUSB(name)
	if !isUSB {
		return filepath.EvalSymlinks(name)
	}
	entries, err := os.ReadDir(filepath.Join(at.sys, "class", "tty"))
	if err != nil {
		return "", err
	}
	found := make(map[int]string) // by interface
	for _, e := range entries {
		number, fits := at.fits(e.Name(), u)
		if !fits {
			continue
		}
		if _, twice := found[number]; twice {
			return "", errTwice
		}
		found[number] = filepath.Join(at.dev, e.Name())
	}
	switch {
	case len(found) == 0:
		return "", errNotPlugged
	case len(found) > 1:
		return "", fmt.Errorf("this adapter has several ports: write which one, like \"%s/0\"", name)
	}
	return slices.Collect(maps.Values(found))[0], nil
}

// fits says whether the terminal is the one that is meant, or, where no interface
// is named, one of those; number is its interface.
func (at places) fits(tty string, u usbName) (number int, fits bool) {
	dir, err := filepath.EvalSymlinks(filepath.Join(at.sys, "class", "tty", tty, "device"))
	if err != nil {
		return 0, false // a terminal without a device: a console, a pseudo-terminal
	}
	number = -1
	for ; len(dir) > len(at.sys); dir = filepath.Dir(dir) {
		if text, ok := attribute(dir, "bInterfaceNumber"); ok && number < 0 {
			n, err := strconv.ParseUint(text, 16, 8)
			if err != nil {
				return 0, false
			}
			number = int(n)
		}
		if _, ok := attribute(dir, "idVendor"); !ok {
			continue
		}
		is := filepath.Base(dir)
		if u.by == bySerial {
			is, _ = attribute(dir, "serial")
		}
		return number, is == u.value && (u.iface < 0 || u.iface == number)
	}
	return 0, false
}

// attribute reads a file of sysfs.
func attribute(dir, name string) (text string, ok bool) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(b)), err == nil
}
