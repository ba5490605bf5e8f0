package control

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Fault is one switch of the hub.
type Fault struct {
	Name    string
	Args    []string // names of its arguments, all required
	Example string   // of its arguments
	Help    string
	do      func(h *hubsim.Hub, args []string) (string, error)
}

// Faults are all switches, in the order of help texts.
var Faults = []Fault{
	{"cut", nil, "", "stop all traffic without closing a socket; new connections hang", plain((*hubsim.Hub).Cut)},
	{"half-open", nil, "", "hear clients and let no answer through; new connections hang", plain((*hubsim.Hub).HalfOpen)},
	{"restore", nil, "", "end cut and half-open; the sockets of before are closed", plain((*hubsim.Hub).Restore)},
	{"reset", nil, "", "close all sockets with RST", func(h *hubsim.Hub, _ []string) (string, error) {
		return count(h.Reset(), "connection"), nil
	}},
	{
		"detach",
		[]string{"DEVICE", "CONDITION"},
		"pump-1 amqp:link:detach-forced",
		"detach the device's links with an AMQP condition",
		func(h *hubsim.Hub, a []string) (string, error) { return count(h.DetachLink(a[0], a[1]), "link"), nil },
	},
	{
		"end-session",
		[]string{"DEVICE"},
		"pump-1",
		"end the AMQP sessions that carry the device's links",
		func(h *hubsim.Hub, a []string) (string, error) { return count(h.EndSession(a[0]), "link"), nil },
	},
	{
		"malform",
		[]string{"DEVICE"},
		"pump-1",
		"send a broken frame or packet on the device's connections",
		func(h *hubsim.Hub, a []string) (string, error) { return count(h.Malform(a[0]), "connection"), nil },
	},
	{
		"slow-settle",
		[]string{"DURATION"},
		"3s",
		"settle telemetry only after this time; 0s ends it",
		duration(slowSettle),
	},
	{"settle-never", []string{"on|off"}, "on", "take telemetry and never settle it", onOff((*hubsim.Hub).SettleNever)},
	{"settle-twice", []string{"on|off"}, "on", "settle telemetry twice", onOff((*hubsim.Hub).SettleTwice)},
	{
		"reject",
		[]string{"DEVICE", "CONDITION", "N"},
		"pump-1 amqp:internal-error 3",
		"reject the device's next N telemetry messages; 0 ends it",
		reject,
	},
	{
		"throttle",
		[]string{"on|off"},
		"on",
		"answer 429 to tokens and amqp:resource-limit-exceeded to telemetry",
		onOff((*hubsim.Hub).Throttle),
	},
	{"quota", []string{"on|off"}, "on", "refuse telemetry as if the daily quota were used up", onOff((*hubsim.Hub).Quota)},
	{
		"tier",
		[]string{"TIER", "UNITS"},
		"S1 1",
		"have the rates and quota of a tier: F1, S1, S2, S3, or off",
		tier,
	},
	{
		"refuse-token",
		[]string{"DEVICE", "on|off"},
		"pump-1 on",
		"refuse the device's good tokens with 401; those that are there stay good",
		func(h *hubsim.Hub, a []string) (string, error) {
			return onOff(func(h *hubsim.Hub, on bool) { h.RefuseToken(a[0], on) })(h, a[1:])
		},
	},
	{
		"expire-certificate",
		[]string{"on|off"},
		"on",
		"show new clients a certificate that ended an hour ago",
		onOff((*hubsim.Hub).ExpireCertificate),
	},
	{
		"clock-skew",
		[]string{"DURATION"},
		"-10m",
		"put the clock by which tokens are judged ahead, or back; 0s ends it",
		duration(func(h *hubsim.Hub, d time.Duration) error {
			h.ClockSkew(d)
			return nil
		}),
	},
	{"enable", []string{"DEVICE"}, "pump-1", "enable a device", setEnabled(true)},
	{"disable", []string{"DEVICE"}, "pump-1", "disable a device, at once on live connections too", setEnabled(false)},
}

// act is what a switch does; the text says it in words.
type act = func(h *hubsim.Hub, args []string) (string, error)

func plain(do func(*hubsim.Hub)) act {
	return func(h *hubsim.Hub, _ []string) (string, error) {
		do(h)
		return "", nil
	}
}

func onOff(set func(*hubsim.Hub, bool)) act {
	return func(h *hubsim.Hub, args []string) (string, error) {
		if args[0] != "on" && args[0] != "off" {
			return "", fmt.Errorf("%q: write on or off", args[0])
		}
		set(h, args[0] == "on")
		return "", nil
	}
}

func duration(set func(*hubsim.Hub, time.Duration) error) act {
	return func(h *hubsim.Hub, args []string) (string, error) {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return "", fmt.Errorf("%q: write a time such as 500ms, 3s or 10m", args[0])
		}
		return "", set(h, d)
	}
}

func slowSettle(h *hubsim.Hub, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s: nothing is settled before it comes", d)
	}
	h.SlowSettle(d)
	return nil
}

func reject(h *hubsim.Hub, args []string) (string, error) {
	n, err := strconv.Atoi(args[2])
	if err != nil || n < 0 {
		return "", fmt.Errorf("%q: write how many; 0 ends it", args[2])
	}
	h.Reject(args[0], args[1], n)
	return "", nil
}

func tier(h *hubsim.Hub, args []string) (string, error) {
	units, err := strconv.Atoi(args[1])
	if err != nil {
		return "", fmt.Errorf("%q: write how many units", args[1])
	}
	name := args[0]
	if name == "off" {
		name = ""
	}
	return "", h.SetTier(name, units)
}

func setEnabled(enabled bool) act {
	return func(h *hubsim.Hub, a []string) (string, error) {
		if !h.SetEnabled(a[0], enabled) {
			return "", fmt.Errorf("there is no device %q", a[0])
		}
		return "", nil
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// FindFault returns the switch of that name.
func FindFault(name string) (Fault, bool) {
	i := slices.IndexFunc(Faults, func(f Fault) bool { return f.Name == name })
	if i < 0 {
		return Fault{}, false
	}
	return Faults[i], true
}

// pull works one switch and returns what it did, in words.
func pull(hub *hubsim.Hub, name string, args []string) (string, error) {
	f, ok := FindFault(name)
	if !ok {
		return "", fmt.Errorf("there is no fault %q", name)
	}
	if len(args) != len(f.Args) {
		return "", fmt.Errorf("fault %s wants %d arguments (%s), not %d", name, len(f.Args), strings.Join(f.Args, " "), len(args))
	}
	if err := known(hub, f, args); err != nil {
		return "", err
	}
	did, err := f.do(hub, args)
	if err != nil {
		return "", fmt.Errorf("fault %s: %w", name, err)
	}
	text := strings.Join(append([]string{name}, args...), " ")
	if did != "" {
		text += ": " + did
	}
	return text, nil
}

// known is an error when a switch is for a device that there is not: a typing
// mistake would look like a fault without effect.
func known(hub *hubsim.Hub, f Fault, args []string) error {
	i := slices.Index(f.Args, "DEVICE")
	if i < 0 {
		return nil
	}
	if _, err := hub.Domain().Registry.Find(registry.ID{Device: args[i]}); err != nil {
		return fmt.Errorf("there is no device %q: see \"hubsim device list\"", args[i])
	}
	return nil
}
