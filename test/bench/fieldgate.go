package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/faultproxy"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

const hubHost = "bench.hub.test"

// fieldgate is a Fieldgate in front of a hub.
type fieldgate struct {
	dir     string
	program string
	custody string
	env     []string          // added to the process's environment
	link    *faultproxy.Proxy // the way to the hub; nil: it is on this machine
	address string
	door    Door
	hub     *hubProcess
	process *site.Process
}

// newFieldgate lays out a gateway with these leaves, its hub running, and starts
// it.
func newFieldgate(ctx context.Context, env *Env, custody string, leaves []string) (Rig, error) {
	return newFarFieldgate(ctx, env, custody, leaves, 0)
}

// newFarFieldgate is newFieldgate with a hub to which each byte takes a while, and back
// again.
func newFarFieldgate(ctx context.Context, env *Env, custody string, leaves []string, delay time.Duration) (_ *fieldgate, err error) {
	dir, err := os.MkdirTemp(env.Dir, "fieldgate-")
	if err != nil {
		return nil, err
	}
	g := &fieldgate{dir: dir, program: filepath.Join(env.Bin, "fieldgate"), custody: custody}
	if env.Profiles != "" {
		g.env = []string{"FIELDGATE_PROFILES=" + env.Profiles}
	}
	if g.hub, err = startHub(env.Self, filepath.Join(dir, "hub"), leaves); err != nil {
		return nil, err
	}
	if delay > 0 {
		link := faultproxy.Link{Latency: delay}
		g.link, err = faultproxy.Start(faultproxy.Config{To: g.hubAddress(), Up: link, Down: link})
		if err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	if err := errors.Join(g.configure(leaves), g.Start(ctx)); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *fieldgate) configure(leaves []string) (err error) {
	if g.address, err = site.FreeAddress(); err != nil {
		return err
	}
	ca, cert, key := g.path("ca.pem"), g.path("cert.pem"), g.path("key.pem")
	if err := site.MakeCertificates(ca, cert, key); err != nil {
		return err
	}
	g.door.Address = g.address
	if g.door.TLS, err = site.Trust(ca); err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, `[gateway]
name = "localhost"
data_dir = %q

[hub]
host = %q
address = %q
ca_file = %q

[uplink]
backoff_min = "100ms"
backoff_max = "500ms"

[[broker.listener]]
address = %q
cert_file = %q
key_file = %q

[store]
allow_any_filesystem = true

[metrics]
address = ""

[control]
socket = %q

[log]
level = "warn"

[lane.alarm]
custody = %q

[lane.telemetry]
custody = %q

`, g.path("data"), hubHost, g.farAddress(), g.hub.info.CAFile, g.address, cert, key, g.path("control.sock"), g.custody, g.custody)
	logins := make(map[string]leafsim.Login)
	for _, leaf := range leaves {
		_, secret, _ := strings.Cut(g.hub.info.Devices[leaf].ConnectionString, "SharedAccessKey=")
		if logins[leaf], err = leafsim.TokenLogin(hubHost, secret); err != nil {
			return err
		}
		file := g.path(leaf + ".key")
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&text, "[[leaf]]\nid = %q\nkey_file = %q\n\n", leaf, file)
	}
	g.door.Login = func(leaf string) (string, string) { return logins[leaf](leaf) }
	return os.WriteFile(g.path("fieldgate.toml"), []byte(text.String()), 0o600)
}

func (g *fieldgate) hubAddress() string { return fmt.Sprintf("127.0.0.1:%d", g.hub.info.AMQPPort) }

// farAddress is where the gateway finds the hub.
func (g *fieldgate) farAddress() string {
	if g.link != nil {
		return g.link.Addr().String()
	}
	return g.hubAddress()
}

func (g *fieldgate) path(name string) string { return filepath.Join(g.dir, name) }

func (g *fieldgate) Name() string { return "fieldgate " + g.custody }
func (g *fieldgate) Door() Door   { return g.door }
func (g *fieldgate) PID() int     { return g.process.PID() }
func (g *fieldgate) Kill()        { g.process.Kill() }

func (g *fieldgate) Start(ctx context.Context) (err error) {
	g.process, err = site.Spawn(g.path("fieldgate.log"), g.env, g.program, "run", "--config", g.path("fieldgate.toml"))
	if err != nil {
		return err
	}
	return listening(ctx, g.address, g.process)
}

func (g *fieldgate) Arrived(p Phase) (Arrivals, error) { return g.hub.arrived(p) }

func (g *fieldgate) Count() (int, error) {
	s, err := g.hub.stats()
	return int(s.Messages), err
}

func (g *fieldgate) Cut() error                     { return g.hub.do("Cut") }
func (g *fieldgate) Restore(context.Context) error  { return g.hub.do("Restore") }
func (g *fieldgate) FarCPU() (time.Duration, error) { return g.hub.cpu() }

func (g *fieldgate) Close() error {
	var errs []error
	if g.process != nil {
		select {
		case <-g.process.Done():
		default:
			errs = append(errs, g.process.Stop())
		}
	}
	if g.link != nil {
		errs = append(errs, g.link.Close())
	}
	errs = append(errs, g.hub.close())
	if err := errors.Join(errs...); err != nil {
		return err // the folder stays, for whoever looks for the reason
	}
	return os.RemoveAll(g.dir)
}

// listening waits until a program accepts connections.
func listening(ctx context.Context, address string, p *site.Process) error {
	for {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.Done():
			return fmt.Errorf("process %d ended with exit code %d: %s", p.PID(), p.ExitCode(), p.Said())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
