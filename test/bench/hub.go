package bench

import (
	"errors"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
)

// The hub runs in a process of its own, this program with the argument "hub", so
// that neither the load nor the hub slows the other one down unseen. They talk
// over standard input and output.

// HubCalls is what the hub's process can be asked to do.
type HubCalls struct{ hub *hubsim.Hub }

// HubConfig is what the hub is started with.
type HubConfig struct {
	Dir     string
	Devices map[string]string
}

// Nothing is the answer of calls that have none.
type Nothing struct{}

// keepEvents is as many as any measurement sends.
const keepEvents = 4_000_000

// Start starts the hub.
func (h *HubCalls) Start(cfg HubConfig, info *hubsim.Info) (err error) {
	h.hub, err = hubsim.Start(hubsim.Config{
		Dir: cfg.Dir, Host: hubHost, Devices: cfg.Devices,
		Keep: events.Bounds{Events: keepEvents, Bytes: 8 << 30},
	})
	if err == nil {
		*info = h.hub.Info()
	}
	return err
}

// Stats returns the hub's counts.
func (h *HubCalls) Stats(_ Nothing, s *hubsim.Stats) error {
	*s = h.hub.Stats()
	return nil
}

// Arrived looks through all that has arrived.
func (h *HubCalls) Arrived(p Phase, a *Arrivals) error {
	t := make(tallies)
	for x := range h.hub.Arrivals() {
		if m, ok := readMark(x.Body); ok && m.phase == p {
			t.add(x.Body, x.Enqueued)
		}
	}
	*a = t.arrivals(p)
	return nil
}

// Cut cuts the hub's links.
func (h *HubCalls) Cut(Nothing, *Nothing) error {
	h.hub.Cut()
	return nil
}

// Restore ends that.
func (h *HubCalls) Restore(Nothing, *Nothing) error {
	h.hub.Restore()
	return nil
}

// pipes is standard input and output as one connection.
type pipes struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipes) Close() error { return errors.Join(p.ReadCloser.Close(), p.WriteCloser.Close()) }

// ServeHub is the hub's process: it serves until its standard input ends.
func ServeHub() error {
	server := rpc.NewServer()
	calls := &HubCalls{}
	if err := server.RegisterName("Hub", calls); err != nil {
		return err
	}
	server.ServeConn(pipes{os.Stdin, os.Stdout})
	if calls.hub != nil {
		return calls.hub.Close()
	}
	return nil
}

// hubProcess is the hub as the measuring process sees it.
type hubProcess struct {
	cmd    *exec.Cmd
	client *rpc.Client
	info   hubsim.Info
}

func startHub(program, dir string, leaves []string) (*hubProcess, error) {
	h := &hubProcess{cmd: exec.Command(program, "hub")}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	h.cmd.Stderr = os.Stderr
	in, err := h.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	h.client = rpc.NewClient(pipes{out, in})
	cfg := HubConfig{Dir: dir, Devices: make(map[string]string, len(leaves))}
	for _, leaf := range leaves {
		cfg.Devices[leaf] = ""
	}
	if err := h.client.Call("Hub.Start", cfg, &h.info); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *hubProcess) stats() (s hubsim.Stats, err error) {
	return s, h.client.Call("Hub.Stats", Nothing{}, &s)
}

func (h *hubProcess) arrived(p Phase) (a Arrivals, err error) {
	return a, h.client.Call("Hub.Arrived", p, &a)
}

func (h *hubProcess) do(what string) error {
	return h.client.Call("Hub."+what, Nothing{}, new(Nothing))
}

func (h *hubProcess) cpu() (time.Duration, error) {
	s, err := h.stats()
	return time.Duration(s.CPUSeconds * float64(time.Second)), err
}

func (h *hubProcess) close() error { return errors.Join(h.client.Close(), h.cmd.Wait()) }
