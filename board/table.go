package board

import (
	"os"
	"runtime"
	"slices"
	"strings"
)

// kind is a row of the table of boards: how they differ, as far as the gateway
// has to know. "" in a field: the kind has none.
type kind struct {
	name       string
	compatible []string // any of these, as the device tree spells it
	leds       []string // names of its status LED, the newest kernel's first
	trigger    string   // what that LED shows by itself
	chip       string   // label of the GPIO chip whose lines are on the pin header
	line       int      // line for a button there
	thermal    string   // type of the processor's thermal zone
}

// On all Raspberry Pi the button's line is GPIO 26: pin 37 of the header, beside
// ground on pin 39, so that a button, or a jumper, fits on the two; no bus can be
// put there (Raspberry Pi documentation, "GPIO"). The labels of the chips are
// those of the vendor's and the mainline kernels (pinctrl-bcm2835.c,
// pinctrl-rp1.c), the LED is called led0 by kernels before 6.1.
const piLine = 26

var piLEDs = []string{"ACT", "led0"}

func pi(name, chip string, compatible ...string) *kind {
	return &kind{
		name: "Raspberry Pi " + name, compatible: compatible, leds: piLEDs, trigger: "mmc0",
		chip: chip, line: piLine, thermal: "cpu-thermal",
	}
}

// kinds is the table of boards. The compatible names are those of the kernel's
// device trees (arch/arm64/boot/dts/broadcom, Documentation/devicetree/bindings/arm/bcm2835.yaml).
var kinds = []*kind{
	pi("3", "pinctrl-bcm2835", "raspberrypi,3-model-b", "raspberrypi,3-model-b-plus", "raspberrypi,3-model-a-plus", "raspberrypi,3-compute-module"),
	pi("Zero 2 W", "pinctrl-bcm2835", "raspberrypi,model-zero-2-w", "raspberrypi,model-zero-2"),
	pi("4", "pinctrl-bcm2711", "raspberrypi,4-model-b", "raspberrypi,400"),
	pi("CM4", "pinctrl-bcm2711", "raspberrypi,4-compute-module", "raspberrypi,4-compute-module-s"),
	pi("5", "pinctrl-rp1", "raspberrypi,5-model-b", "raspberrypi,500"),
	pi("CM5", "pinctrl-rp1", "raspberrypi,5-compute-module"),
	// The machine "virt" has one GPIO chip of 8 lines, of which 3 is the power button
	// (QEMU, hw/arm/virt.c).
	{name: "QEMU virt", compatible: []string{"linux,dummy-virt"}, chip: "9030000.pl061", line: 3},
}

// Model says which board it is.
type Model struct {
	name string // of the device tree
	kind *kind
}

// model finds out which board this is: by what the device tree is compatible with,
// which tells one kind from another where the model's name only reads well.
func (r root) model() Model {
	name, _ := os.ReadFile(r.path("proc/device-tree/model"))
	compatible, _ := os.ReadFile(r.path("proc/device-tree/compatible"))
	m := Model{name: printable(string(name)), kind: &kind{name: "generic " + runtime.GOARCH}}
	// A list of names, the most exact first, each of which ends with a zero byte.
	for is := range strings.SplitSeq(string(compatible), "\x00") {
		for _, k := range kinds {
			if slices.Contains(k.compatible, is) {
				m.kind = k
				return m
			}
		}
	}
	return m
}

// printable is text from a file of the kernel's, without its end and without what
// does not belong on a screen.
func printable(text string) string {
	text, _, _ = strings.Cut(text, "\x00")
	const longest = 128
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r == '\uFFFD' {
			return -1
		}
		return r
	}, text[:min(len(text), longest)])
	return strings.TrimSpace(text)
}
