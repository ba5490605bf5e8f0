package suite

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
	"github.com/fieldgate/fieldgate/test/e2e/report"
)

const proxyPassword = "open sesame: 100% sécret"

// throughProxy has the way lead through a proxy at the address.
func throughProxy(t *testing.T, address, user string) func(*Settings) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "proxy.password")
	if err := os.WriteFile(file, []byte(proxyPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(s *Settings) {
		s.Way.Proxy = "http://" + address
		if user != "" {
			s.Way.Proxy, s.Way.ProxyPasswordFile = "http://"+user+"@"+address, file
		}
	}
}

// TestThroughProxy has a proxy that wants a password between gateway and hub: for
// the plays in which connections matter most, and for the whole suite where there
// is time (three minutes).
func TestThroughProxy(t *testing.T) {
	for _, transport := range []string{dial.AMQP, dial.AMQPWebSocket, dial.MQTT, dial.MQTTWebSocket} {
		t.Run(transport, func(t *testing.T) {
			p := StartProxy(t, "gate", proxyPassword)
			way := throughProxy(t, p.Address(), "gate")
			adjust := func(s *Settings) {
				way(s)
				s.OneConnection = true
			}
			t.Run("one tunnel", func(t *testing.T) {
				everythingArrives(t, transport, adjust)
				if n := len(p.Tunnels()); n != 1 {
					t.Errorf("%d tunnels, want 1", n)
				}
			})
			if report.Nightly() {
				Run(t, transport, way)
				return
			}
			t.Run("resets", func(t *testing.T) { resets(t, transport, adjust) })
			t.Run("silent cut", func(t *testing.T) { silentCut(t, transport, adjust) })
		})
	}
}

// TestThroughTinyproxy is the same with a proxy that others have written.
func TestThroughTinyproxy(t *testing.T) {
	program, err := exec.LookPath("tinyproxy")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("cannot be tested: there is no tinyproxy")
		}
		t.Skip("there is no tinyproxy here: make setup installs it")
	}
	port := freePort(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "tinyproxy.conf")
	// Its passwords have neither blanks nor colons.
	const password = "open-sesame"
	text := fmt.Sprintf("Port %d\nListen 127.0.0.1\nTimeout 600\nMaxClients 50\nBasicAuth gate %s\n", port, password)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(program, "-d", "-c", config)
	server.Stdout, server.Stderr = t.Output(), t.Output()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	address := fmt.Sprintf("127.0.0.1:%d", port)
	awaitListener(t, address)
	file := filepath.Join(dir, "password")
	for _, transport := range []string{dial.AMQP, dial.AMQPWebSocket, dial.MQTT} {
		t.Run(transport, func(t *testing.T) {
			adjust := func(s *Settings) {
				s.Way.Proxy, s.Way.ProxyPasswordFile = "http://gate@"+address, file
			}
			write(t, file, password)
			everythingArrives(t, transport, adjust)
			write(t, file, "wrong")
			b := NewBench(t, transport, Leaves(1), adjust)
			b.Await("the refusal", func() bool { return strings.Contains(b.Uplink.State().LastError, "does not take the user or password") })
		})
	}
	t.Run("a hub that is not there", func(t *testing.T) {
		write(t, file, password)
		b := NewBench(t, dial.AMQP, Leaves(1), func(s *Settings) {
			s.Way.Proxy, s.Way.ProxyPasswordFile = "http://gate@"+address, file
			s.Way.Address = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		})
		b.Await("why is said", func() bool {
			return strings.Contains(b.Uplink.State().LastError, "makes no connection to") || strings.Contains(b.Uplink.State().LastError, "cannot reach")
		})
	})
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func awaitListener(t *testing.T, address string) {
	t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}

func TestProxyFaults(t *testing.T) {
	p := StartProxy(t, "gate", proxyPassword)
	settings := func(user string) dial.Config {
		s := Settings{Way: dial.DefaultConfig()}
		throughProxy(t, p.Address(), user)(&s)
		s.Way.Host, s.Way.Transport, s.Way.Address = Host, dial.AMQP, "127.0.0.1:9"
		return s.Way
	}
	for _, c := range []struct {
		name, user, answer string
		silent             bool
		refused            bool // the long schedule; else another way may be tried
		want               string
	}{
		{name: "no user", refused: true, want: "wants a user and password"},
		{name: "wrong user", user: "other", refused: true, want: "does not take the user or password"},
		{name: "502", user: "gate", want: "cannot reach 127.0.0.1:9"},
		{name: "503", user: "gate", answer: "HTTP/1.1 503 Busy\r\n\r\n", want: "503 Busy"},
		{name: "403", user: "gate", answer: "HTTP/1.0 403 Filtered\r\n\r\n", want: "does not allow connections to 127.0.0.1:9"},
		{name: "302", user: "gate", answer: "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", want: "makes no connection"},
		{name: "garbage", user: "gate", answer: "SSH-2.0-x\r\n\r\n", want: "no answer of a proxy"},
		{name: "endless header", user: "gate", answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 100<<10), want: "no answer of a proxy"},
		{name: "hangs up", user: "gate", answer: " ", want: "no answer of a proxy"},
		{name: "silent", user: "gate", silent: true, want: "no answer in time"},
		{name: "no TLS behind it", user: "gate", answer: "HTTP/1.1 200 OK\r\n\r\nhello", want: "cannot secure the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.Answer(c.answer)
			p.Silence(c.silent)
			defer p.Silence(false)
			d, err := dial.New(settings(c.user), systemClock)
			if err != nil {
				t.Fatal(err)
			}
			limit := patience
			if c.silent {
				limit = time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err = d.Dial(ctx, "")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
			_, unreachable := errors.AsType[*uplink.Unreachable](err)
			fault, isFault := errors.AsType[*uplink.Fault](err)
			if c.refused && (!isFault || fault.Remedy != uplink.Refused) || !c.refused && !unreachable {
				t.Errorf("%v asks for %+v, unreachable %v", err, fault, unreachable)
			}
			for _, secret := range secrets {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, d, d), secret) {
					t.Errorf("the password is shown: %v", err)
				}
			}
		})
	}
}

// secrets are the spellings in which the password must not be seen.
var secrets = []string{proxyPassword, "sesame", base64.StdEncoding.EncodeToString([]byte("gate:" + proxyPassword))}

func TestProxyPasswordIsNowhere(t *testing.T) {
	var log bytes.Buffer
	p := StartProxy(t, "gate", "another")
	b := NewBench(t, dial.AMQP, Leaves(1), throughProxy(t, p.Address(), "gate"), func(s *Settings) { s.Log = &log })
	b.Await("the refusal", func() bool { return b.Uplink.State().Connects[uplink.ConnectRefused] > 0 })
	state := fmt.Sprintf("%+v", b.Uplink.State())
	b.End()
	for _, secret := range secrets {
		if strings.Contains(state, secret) || strings.Contains(log.String(), secret) {
			t.Errorf("the password is shown in the state\n%s\nor the log\n%s", state, &log)
		}
	}
	if !strings.Contains(log.String(), "407") {
		t.Errorf("the log does not say why:\n%s", &log)
	}
}

func TestProxyOfTheEnvironment(t *testing.T) {
	// The environment is read once for the whole process, so the test begins one.
	if os.Getenv("HTTPS_PROXY") == "" {
		p := StartProxy(t, "gate", "sesame")
		child := exec.Command(os.Args[0], "-test.run=^TestProxyOfTheEnvironment$", "-test.v")
		child.Env = append(os.Environ(), "HTTPS_PROXY=http://gate:sesame@"+p.Address(), "NO_PROXY=direct.test")
		out, err := child.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("PASS")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	for name, want := range map[string]string{"hub.test:5671": "proxy", "direct.test:5671": "lookup direct.test"} {
		cfg := dial.DefaultConfig()
		cfg.Host, cfg.Transport, cfg.Address, cfg.Proxy = Host, dial.AMQP, name, dial.FromEnvironment
		d, err := dial.New(cfg, systemClock)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err = d.Dial(ctx, "")
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}
