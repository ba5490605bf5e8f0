package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// enrolBench is a gateway whose leaf nobody has registered at the hub.
type enrolBench struct {
	t      *testing.T
	hub    *hubsim.Hub
	dir    string
	broker string
	cmd    *exec.Cmd
}

func newEnrolBench(t *testing.T, enrol func(*enrolBench, hubsim.Info) string) *enrolBench {
	t.Helper()
	b := &enrolBench{t: t, dir: folder(t)}
	var err error
	b.hub, err = hubsim.Start(hubsim.Config{Dir: filepath.Join(b.dir, "hub"), Host: "127.0.0.1"})
	must(t, err)
	t.Cleanup(func() { b.hub.Close() })
	b.broker, err = site.FreeAddress()
	must(t, err)
	hash := exec.Command(filepath.Join(bin, "fieldgate"), "device", "hash-password")
	hash.Stdin = strings.NewReader("secret of the leaf\n")
	text, err := hash.Output()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(b.dir, "pump-1.hash"), text, 0o600))
	info := b.hub.Info()
	config := fmt.Sprintf(`[gateway]
data_dir = %q
[hub]
host = %q
address = "127.0.0.1:%d"
ca_file = %q
%s[enrol]
%s
[[leaf]]
id = "pump-1"
password_file = "pump-1.hash"
`, filepath.Join(b.dir, "data"), info.Host, info.AMQPPort, info.CAFile, b.rest(), enrol(b, info))
	must(t, os.WriteFile(filepath.Join(b.dir, "fieldgate.toml"), []byte(config), 0o600))
	return b
}

// rest is what stands in every configuration here: a broker without TLS, and no
// doors for operators.
func (b *enrolBench) rest() string {
	return fmt.Sprintf(`[store]
allow_any_filesystem = true
[control]
socket = ""
[metrics]
address = ""
[[broker.listener]]
address = %q
plain = true
`, b.broker)
}

func (b *enrolBench) secret(name, text string) string {
	must(b.t, os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600))
	return name
}

// start starts the gateway; stop stops it.
func (b *enrolBench) start() {
	b.t.Helper()
	log, err := os.OpenFile(filepath.Join(b.dir, "fieldgate.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(b.t, err)
	defer log.Close()
	b.cmd = exec.Command(filepath.Join(bin, "fieldgate"), "run", "--config", filepath.Join(b.dir, "fieldgate.toml"))
	b.cmd.Stderr = log
	must(b.t, b.cmd.Start())
	b.t.Cleanup(b.stop)
}

func (b *enrolBench) stop() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	if err := b.cmd.Wait(); err != nil {
		b.t.Errorf("the gateway ended with %v", err)
	}
	b.cmd = nil
}

// publish sends one message as the leaf and waits for its acknowledgement.
func (b *enrolBench) publish(ctx context.Context, body string) {
	b.t.Helper()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + b.broker).SetClientID("pump-1").SetUsername("pump-1").
		SetPassword("secret of the leaf").SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond)
	client := mqtt.NewClient(o)
	defer client.Disconnect(100)
	for _, step := range []func() mqtt.Token{
		client.Connect,
		func() mqtt.Token { return client.Publish("leaf/pump-1/telemetry", 1, false, body) },
	} {
		token := step()
		select {
		case <-token.Done():
			must(b.t, token.Error())
		case <-ctx.Done():
			b.t.Fatal("the leaf waits in vain")
		}
	}
}

func (b *enrolBench) await(ctx context.Context, what string, condition func() bool) {
	b.t.Helper()
	for !condition() {
		select {
		case <-ctx.Done():
			b.t.Fatalf("never: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *enrolBench) arrived() (bodies []string) {
	for a := range b.hub.Arrivals() {
		bodies = append(bodies, a.Device+":"+string(a.Body))
	}
	return bodies
}

// A leaf that nobody has registered publishes: its messages are in custody, the
// gateway enrols it, and they arrive under its own identity; again after a
// restart, and after somebody has deleted it at the hub.
func testEnrolment(t *testing.T, enrol func(*enrolBench, hubsim.Info) string) {
	ctx := testContext(t, patience)
	b := newEnrolBench(t, enrol)
	b.start()
	b.publish(ctx, "1")
	b.await(ctx, "the first message arrives", func() bool { return len(b.arrived()) == 1 })
	b.stop()
	b.start()
	b.publish(ctx, "2")
	b.await(ctx, "the second message arrives", func() bool { return len(b.arrived()) == 2 })
	if got := strings.Join(b.arrived(), " "); got != "pump-1:1 pump-1:2" {
		t.Errorf("arrived: %s", got)
	}
	pump := registry.ID{Device: "pump-1"}
	must(t, b.hub.Domain().Registry.Delete(pump, ""))
	b.stop() // whatever is open goes
	b.start()
	b.publish(ctx, "3")
	b.await(ctx, "it is made anew", func() bool {
		_, err := b.hub.Domain().Registry.Find(pump)
		return err == nil
	})
	b.await(ctx, "the third message arrives", func() bool { return len(b.arrived()) == 3 })
}

func TestEnrolmentByGroup(t *testing.T) {
	t.Parallel()
	testEnrolment(t, func(b *enrolBench, info hubsim.Info) string {
		return fmt.Sprintf("by = \"dps\"\nhost = \"127.0.0.1:%d\"\nid_scope = %q\ngroup_key_file = %q",
			info.HTTPSPort, info.DPS.IDScope, b.secret("group.key", info.DPS.GroupKey))
	})
}

func TestEnrolmentInTheRegistry(t *testing.T) {
	t.Parallel()
	testEnrolment(t, func(b *enrolBench, info hubsim.Info) string {
		_, key, _ := strings.Cut(info.OwnerConnectionString, "SharedAccessKey=")
		return fmt.Sprintf("by = \"registry\"\naddress = %q\npolicy = \"iothubowner\"\npolicy_key_file = %q",
			net.JoinHostPort("127.0.0.1", strconv.Itoa(info.HTTPSPort)), b.secret("owner.key", key))
	})
}
