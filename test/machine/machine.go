// Package machine runs virtual machines, for what only a true kernel with true devices
// can show. They are emulated: /dev/kvm is of no use in a virtual machine that emulates
// it badly.
//
// A machine prints what happens, and asks its owner for things, like having something
// plugged in, by lines that begin with HOST.
package machine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Need skips on a developer's machine, and fails where everything has to be there.
func Need(t *testing.T, missing string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot be tested: %s", missing)
	}
	t.Skipf("skipped: %s", missing)
}

// Program finds QEMU for an architecture; see Need.
func Program(t *testing.T, arch string) string {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-" + arch)
	if err != nil {
		Need(t, "qemu-system-"+arch+" is not installed")
	}
	return qemu
}

// Fetched says whether the fetch.sh of this folder, as it is now, has run to its end and
// filled the folder into.
func Fetched(into string) bool {
	script, err := os.ReadFile("fetch.sh")
	done, absent := os.ReadFile(filepath.Join(into, "complete"))
	return err == nil && absent == nil && bytes.Equal(script, done)
}

// Build builds a static program for an architecture of Go's from a folder.
func Build(t *testing.T, arch, pkg, file string) {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", file, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// Ended is what a machine leaves behind.
type Ended struct {
	Printed []byte   // and what QEMU said besides
	Events  []string // names of QEMU's events, like "WATCHDOG", in order
}

// Said says whether the machine printed a line that is this one.
func (e Ended) Said(line string) bool {
	for l := range bytes.Lines(e.Printed) {
		if string(bytes.TrimSpace(l)) == line {
			return true
		}
	}
	return false
}

// machine is one that runs.
type machine struct {
	dir string // for sockets
	qmp *qmp

	cables map[string]net.Conn // of serial adapters; only Run's goroutine uses it

	mu      sync.Mutex
	printed bytes.Buffer // guarded by mu
}

// Run boots a machine with the arguments of QEMU, and does what it asks for until it ends:
// when it switches itself off, is reset, or ctx ends. dir is an empty folder.
//
//	HOST plug NUMBER LINE    puts a USB serial adapter with this serial number in; what is at
//	                         its other end sends the line twice a second
//	HOST unplug NUMBER       takes it out again, in the middle of whatever it does
//	HOST press               presses the power button for 100 ms (QEMU, hw/gpio/gpio_key.c)
func Run(ctx context.Context, dir, qemu string, args ...string) (Ended, error) {
	m := &machine{dir: dir, cables: make(map[string]net.Conn)}
	socket := filepath.Join(dir, "qmp")
	args = append(slices.Clone(args), "-nic", "none", "-nographic", "-no-reboot", "-qmp", "unix:"+socket+",server=on,wait=off")
	vm := exec.CommandContext(ctx, qemu, args...)
	out, err := vm.StdoutPipe()
	if err != nil {
		return Ended{}, err
	}
	vm.Stderr = m
	if err := vm.Start(); err != nil {
		return Ended{}, err
	}
	if m.qmp, err = dialQMP(ctx, socket); err != nil {
		_ = vm.Process.Kill()
		return Ended{Printed: m.printed.Bytes()}, errors.Join(err, vm.Wait())
	}
	var wrong error
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fmt.Fprintln(m, lines.Text())
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "HOST" {
			if err := m.do(ctx, words[1], words[2:]); err != nil {
				wrong = errors.Join(wrong, fmt.Errorf("%s: %w", lines.Text(), err))
			}
		}
	}
	err = errors.Join(vm.Wait(), wrong)
	for _, c := range m.cables {
		c.Close()
	}
	return Ended{m.printed.Bytes(), m.qmp.end()}, err
}

// Write keeps what is printed.
func (m *machine) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.printed.Write(p)
}

// do does one thing for the machine.
func (m *machine) do(ctx context.Context, what string, args []string) error {
	switch {
	case what == "plug" && len(args) == 2:
		return m.plug(ctx, args[0], args[1])
	case what == "unplug" && len(args) == 1:
		return m.unplug(ctx, args[0])
	case what == "press" && len(args) == 0:
		return m.qmp.call("system_powerdown", nil)
	}
	return errors.New("nobody knows what that is")
}

type dict = map[string]any

func (m *machine) plug(ctx context.Context, number, line string) error {
	socket := filepath.Join(m.dir, number)
	if err := errors.Join(
		m.qmp.call("chardev-add", dict{"id": "cable-" + number, "backend": dict{"type": "socket", "data": dict{
			"addr": dict{"type": "unix", "data": dict{"path": socket}}, "server": true, "wait": false,
		}}}),
		m.qmp.call("device_add", dict{"driver": "usb-serial", "id": number, "serial": number, "chardev": "cable-" + number, "bus": "xhci.0"}),
	); err != nil {
		return err
	}
	// QEMU puts the adapter in when there is something at its other end.
	cable, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	m.cables[number] = cable
	go func() {
		for {
			if _, err := fmt.Fprintf(cable, "%s\n", line); err != nil {
				return // it is unplugged, or the machine has ended
			}
			time.Sleep(500 * time.Millisecond)
		}
	}()
	return nil
}

func (m *machine) unplug(ctx context.Context, number string) error {
	cable := m.cables[number]
	if cable == nil {
		return errors.New("it is not plugged in")
	}
	delete(m.cables, number)
	if err := errors.Join(m.qmp.call("device_del", dict{"id": number}), cable.Close()); err != nil {
		return err
	}
	// The device lets go of it a moment later.
	for {
		err := m.qmp.call("chardev-remove", dict{"id": "cable-" + number})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// qmp is the way to QEMU (QEMU, docs/interop/qmp-spec.rst).
type qmp struct {
	conn    net.Conn
	answers chan qmpLine
	ended   chan struct{}
	events  []string // read when ended is closed
}

// qmpLine is what QEMU says.
type qmpLine struct {
	Event string
	Error *struct{ Desc string }
}

func dialQMP(ctx context.Context, socket string) (*qmp, error) {
	q := &qmp{answers: make(chan qmpLine, 1), ended: make(chan struct{})}
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			q.conn = conn
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("QEMU does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	go func() {
		defer close(q.ended)
		defer close(q.answers)
		for in, first := json.NewDecoder(q.conn), true; ; first = false {
			var line qmpLine
			switch err := in.Decode(&line); {
			case err != nil:
				return
			case line.Event != "":
				q.events = append(q.events, line.Event)
			case !first: // which is the greeting
				q.answers <- line
			}
		}
	}()
	return q, q.call("qmp_capabilities", nil)
}

// call has QEMU do something. One call at a time.
func (q *qmp) call(what string, args dict) error {
	if args == nil {
		args = dict{}
	}
	text, err := json.Marshal(dict{"execute": what, "arguments": args})
	if err == nil {
		_, err = q.conn.Write(text)
	}
	if err != nil {
		return err
	}
	answer, ok := <-q.answers
	switch {
	case !ok:
		return errors.New("QEMU has gone")
	case answer.Error != nil:
		return fmt.Errorf("%s: %s", what, answer.Error.Desc)
	}
	return nil
}

// end waits until QEMU has nothing more to say, and returns what has happened.
func (q *qmp) end() []string {
	<-q.ended
	_ = q.conn.Close()
	return q.events
}
