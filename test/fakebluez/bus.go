// Package fakebluez is a BlueZ without a radio, on a D-Bus of its own: adapters,
// devices that advertise and that can be connected and paired, and everything that
// can go wrong with them. What it answers is taken from BlueZ 5.66; it is no proof of
// what the kernel or a radio do.
package fakebluez

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoBus says that the program dbus-daemon is not installed.
var ErrNoBus = errors.New("dbus-daemon is not installed")

// Bus is a private message bus.
type Bus struct {
	Address string // for DBUS_SYSTEM_BUS_ADDRESS

	daemon *exec.Cmd
}

// Everybody may do everything. Without the rules on eavesdropping the daemon does not
// answer Hello.
const busConfig = `<busconfig>
<type>session</type>
<listen>unix:path=%s</listen>
<auth>EXTERNAL</auth>
<policy context="default">
<allow user="*"/><allow own="*"/>
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
</policy>
</busconfig>
`

// FindBus looks for the program of the bus. The error is ErrNoBus.
func FindBus() (program string, err error) {
	if program, err = exec.LookPath("dbus-daemon"); err != nil {
		return "", ErrNoBus
	}
	return program, nil
}

// StartBus starts a bus whose socket is in dir, an existing folder with a short name.
func StartBus(dir string) (*Bus, error) {
	program, err := FindBus()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, filepath.Join(dir, "bus")), 0o600); err != nil {
		return nil, err
	}
	b := &Bus{daemon: exec.Command(program, "--nofork", "--nopidfile", "--nosyslog", "--print-address", "--config-file="+config)}
	out, err := b.daemon.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.daemon.Start(); err != nil {
		return nil, err
	}
	b.Address, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dbus-daemon does not say where it listens: %w", err), b.Stop())
	}
	b.Address = strings.TrimSpace(b.Address)
	return b, nil
}

// Stop ends the bus.
func (b *Bus) Stop() error {
	err := b.daemon.Process.Kill()
	_ = b.daemon.Wait() // it was killed
	return err
}
