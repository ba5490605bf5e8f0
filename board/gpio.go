package board

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/driver/driverreg"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/host/v3/gpioioctl"
)

// Of periph only gpioioctl is used, the GPIO character device: its drivers of
// boards guess the board wrong and take lines by aliases that do not exist on
// every kernel. What has to be known about gpioioctl v3.8.5:
//
//   - It looks at the chips once in the life of the process.
//   - A chip that it meets twice, as on a Raspberry Pi 5 where gpiochip4 is a link
//     to gpiochip0, it closes twice, and descriptor 0 besides. So it is asked before
//     this program has anything open that could be hit, and descriptor 0 is put back.
//   - A chip whose lines it cannot read, as on kernels without the second version of
//     the interface (before 5.10), leaves two files for the garbage collector that
//     close one descriptor. So it is not asked there.
var chips = sync.OnceValues(func() ([]*gpioioctl.GPIOChip, error) {
	if found, _ := filepath.Glob("/dev/gpiochip*"); len(found) == 0 {
		return nil, errors.New("there is no GPIO chip")
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return nil, err
	}
	var major, minor int
	release := unix.ByteSliceToString(kernel.Release[:])
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major < 5 || major == 5 && minor < 10 {
		return nil, fmt.Errorf("the kernel %s is too old for lines of GPIO chips: 5.10 is needed", release)
	}
	_, err := driverreg.Init()
	if _, closed := unix.FcntlInt(0, unix.F_GETFD, 0); errors.Is(closed, unix.EBADF) {
		// The lowest descriptor that is free is the one that open returns.
		if _, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return nil, err
		}
	}
	if len(gpioioctl.Chips) == 0 && err == nil {
		err = errors.New("no GPIO chip can be opened: may this user read /dev/gpiochip*?")
	}
	return gpioioctl.Chips, err
})

// openLine has the kernel report the edges of a line, CHIP:LINE, pulled to the
// level that it has while the button is not down.
func openLine(r root, name string, pressedHigh bool) (input, error) {
	label, number, err := ParseLine(name)
	if err != nil {
		return nil, err
	}
	if r != "/" {
		return nil, errors.New("lines of GPIO chips are only looked for in /dev")
	}
	all, err := chips()
	if err != nil {
		return nil, err
	}
	labels := make([]string, len(all))
	for i, chip := range all {
		labels[i] = chip.Label()
		if chip.Label() != label {
			continue
		}
		if number >= chip.LineCount() {
			return nil, fmt.Errorf("the GPIO chip %s has only %d lines", label, chip.LineCount())
		}
		pull := gpio.PullUp
		if pressedHigh {
			pull = gpio.PullDown
		}
		line := chip.ByNumber(number)
		if err := line.In(pull, gpio.BothEdges); err != nil {
			return nil, fmt.Errorf("cannot have the line: %w", err)
		}
		return line, nil
	}
	return nil, fmt.Errorf("there is no GPIO chip %s, but %s", label, strings.Join(labels, ", "))
}
