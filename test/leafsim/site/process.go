package site

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is a running program. Its methods are safe for concurrent use.
type Process struct {
	name string
	log  string // file that its output goes to
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Spawn starts a program with variables added to our environment. Its output is
// added to the log file. The kernel kills it when this process dies, however
// that happens.
func Spawn(log string, env []string, program string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		// Ctrl-C at the terminal is for the parent, which ends its children in
		// the right order.
		Setpgid: true,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{name: filepath.Base(program), log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // what there is to know is in cmd.ProcessState
		close(p.done)
	}()
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Said is the end of what the program has written to its log, for error messages.
func (p *Process) Said() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1000):])
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is the program's exit code once Done is closed; -1 if a signal
// ended it.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Killed says, once Done is closed, whether signal 9 has ended the program.
func (p *Process) Killed() bool {
	<-p.done
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Kill ends the program as a power cut would, with signal 9, and waits for the
// kernel to be done with it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // an error says that it has ended
	<-p.done
}

// stopTime is how long a program may take to end by itself.
const stopTime = 15 * time.Second

// Stop asks the program to end and waits until it has. One that does not is
// killed, which is an error, as is an exit code other than 0.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTime):
		p.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM, see %s", p.name, stopTime, p.log)
	}
	if code := p.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with exit code %d, see %s", p.name, code, p.log)
	}
	return nil
}
