// Command guest is the first program of a virtual machine, whose power button is the
// gateway's. It runs the real fieldgate, asks the machine's owner to press the button and
// looks whether that is noticed. It prints what happens, and OK at the end.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	time.AfterFunc(4*patience, off) // whatever hangs
	if err := run(); err != nil {
		fmt.Println("FAILED:", err)
	} else {
		fmt.Println("OK")
	}
	off()
}

// off switches the machine off; it returns only if it cannot.
func off() { fmt.Println(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)) }

// patience bounds each step.
const patience = time.Minute

// config has a hub that is not there: the button needs none.
const config = `
[gateway]
data_dir = "/tmp/data"
[store]
allow_any_filesystem = true
[control]
socket = "/tmp/control.sock"
[hub]
host = "hub.example"
address = "127.0.0.1:1"
device_id = "gate-7"
key_file = "/tmp/gate.key"
[enrol]
by = "dps"
id_scope = "0ne00012345"
group_key_file = "/tmp/gate.key"
[board]
button = "auto"
button_pressed = "high"
[[broker.listener]]
address = "127.0.0.1:1883"
plain = true
`

// board is of the gateway's state what this is about.
type board struct {
	Board struct {
		Kind     string
		Hardware []struct {
			Name, Device, Why string
			Up                bool
		}
		Presses map[string]int64
		Signal  string
	}
}

// look asks the gateway.
func look() (b board, err error) {
	out, err := exec.Command("/fieldgate", "status", "--output", "json", "--socket", "/tmp/control.sock").Output()
	if err == nil {
		err = json.Unmarshal(out, &b)
	}
	return b, err
}

// step waits for a condition.
func step(what string, met func(board) bool) error {
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		b, err := look()
		switch {
		case err == nil && met(b):
			fmt.Println(what)
			return nil
		case time.Now().After(limit):
			return fmt.Errorf("waited in vain: %s: %+v, %w", what, b, err)
		}
	}
}

// loopback switches on the network that a machine has by itself.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

func run() error {
	if err := errors.Join(
		unix.Mount("proc", "/proc", "proc", 0, ""), unix.Mount("sysfs", "/sys", "sysfs", 0, ""), unix.Mount("dev", "/dev", "devtmpfs", 0, ""),
		os.WriteFile("/tmp/gate.key", []byte("MDEyMzQ1Njc4OWFiY2RlZg=="), 0o600), os.WriteFile("/tmp/fieldgate.toml", []byte(config), 0o600),
		loopback(),
	); err != nil {
		return err
	}
	gateway := exec.Command("/fieldgate", "run", "--config", "/tmp/fieldgate.toml")
	gateway.Stdout, gateway.Stderr = os.Stdout, os.Stdout
	if err := gateway.Start(); err != nil {
		return err
	}
	if err := step("the button is heard", heard); err != nil {
		return err
	}
	// A press lasts 100 ms, whatever the machine is doing; one that is over before a slow
	// machine has looked is none. So it is pressed until it was noticed often enough, and never
	// noticed more often than it was pressed.
	asked, noticed := int64(0), int64(0)
	for limit := time.Now().Add(patience); noticed < 3; {
		if time.Now().After(limit) {
			return fmt.Errorf("pressed %d times, noticed %d times", asked, noticed)
		}
		fmt.Println("HOST press")
		asked++
		for again := time.Now().Add(5 * time.Second); time.Now().Before(again); time.Sleep(50 * time.Millisecond) {
			if b, err := look(); err == nil && b.Board.Presses["short"] > noticed {
				noticed = b.Board.Presses["short"]
				break
			}
		}
		if noticed > asked {
			return fmt.Errorf("pressed %d times, noticed %d times", asked, noticed)
		}
	}
	fmt.Printf("pressed %d times, noticed %d times\n", asked, noticed)
	// Each press opens the pairing window or closes it.
	if err := step("the pairing window has followed", func(b board) bool {
		n := b.Board.Presses["short"]
		return b.Board.Presses["long"] == 0 && (b.Board.Signal == "pairing") == (n%2 == 1)
	}); err != nil {
		return err
	}
	if err := gateway.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	if err := gateway.Wait(); err != nil {
		return fmt.Errorf("the gateway does not end in order: %w", err)
	}
	return reset()
}

// reset holds the button until the gateway asks for a factory reset. QEMU's button cannot
// be held, but with the levels of its line exchanged it is held all the time, and let
// go for as long as it is pressed otherwise.
func reset() error {
	held := strings.Replace(config, `button_pressed = "high"`, `button_pressed = "low"`, 1)
	if err := os.WriteFile("/tmp/fieldgate.toml", []byte(held), 0o600); err != nil {
		return err
	}
	gateway := exec.Command("/fieldgate", "run", "--config", "/tmp/fieldgate.toml")
	gateway.Stdout, gateway.Stderr = os.Stdout, os.Stdout
	gateway.Env = append(os.Environ(), "FIELDGATE_APPLIANCE=1")
	if err := gateway.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- gateway.Wait() }()
	if err := step("the button is heard again", heard); err != nil {
		return err
	}
	// A button that is down from the start is none that was pressed.
	select {
	case err := <-ended:
		return fmt.Errorf("the gateway has ended before the button was let go: %w", err)
	case <-time.After(15 * time.Second):
	}
	if b, err := look(); err != nil || b.Board.Presses["long"] != 0 {
		return fmt.Errorf("a long press before the button was let go: %+v, %w", b, err)
	}
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		fmt.Println("HOST press")
		select {
		case err := <-ended:
			_, asked := os.Stat("/tmp/.factory-reset")
			if failed, ok := errors.AsType[*exec.ExitError](err); !ok || failed.ExitCode() != 79 || asked != nil {
				return fmt.Errorf("no factory reset: %w, %w", err, asked)
			}
			fmt.Println("the long press asks for a factory reset")
			return nil
		case <-time.After(20 * time.Second): // more than a long press: it was not noticed
		}
	}
	return errors.New("waited in vain for a factory reset")
}

// heard says that the button is in use.
func heard(b board) bool {
	for _, h := range b.Board.Hardware {
		if h.Name == "button" {
			return h.Up && h.Device == "9030000.pl061:3" && b.Board.Kind == "QEMU virt"
		}
	}
	return false
}
