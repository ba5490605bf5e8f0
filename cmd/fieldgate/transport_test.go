package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
	"github.com/fieldgate/fieldgate/test/hubsim"
	suite "github.com/fieldgate/fieldgate/test/suite/uplink"
)

// TestRunOverEveryTransport: one message of an MQTT leaf reaches the hub on each
// way, through a proxy, with nothing but the configuration saying so.
func TestRunOverEveryTransport(t *testing.T) {
	for _, transport := range dial.Transports {
		t.Run(transport, func(t *testing.T) {
			hub, err := hubsim.Start(hubsim.Config{
				Dir: t.TempDir(), Host: "hub.test", Devices: map[string]string{"pump-1": hubKey, "gate-7": hubKey},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer hub.Close()
			info := hub.Info()
			port := map[string]int{
				dial.Auto: info.AMQPPort, dial.AMQP: info.AMQPPort, dial.MQTT: info.MQTTPort,
				dial.AMQPWebSocket: info.HTTPSPort, dial.MQTTWebSocket: info.HTTPSPort,
			}[transport]
			proxy := suite.StartProxy(t, "gate", "open sesame")
			file := folder(t, fmt.Sprintf(`
[gateway]
data_dir = "data"
[hub]
host = "hub.test"
transport = %q
address = "%s:%d"
ca_file = %q
device_id = "gate-7"
key_file = "pump-1.key"
proxy = "http://gate@%s"
proxy_password_file = "proxy.password"
[[broker.listener]]
address = "127.0.0.1:0"
plain = true
[store]
allow_any_filesystem = true
[metrics]
address = "127.0.0.1:0"
[log]
format = "json"
[[leaf]]
id = "pump-1"
key_file = "pump-1.key"
password_file = "pump-1.hash"
`, transport, info.Bind, port, info.CAFile, proxy.Address()))
			d := start(t, file)
			addresses, _ := d.logged("ready", "", "")["addresses"].([]any)
			d.logged("connected to hub", "", "")
			publish(t, fmt.Sprint(addresses[0]), "leaf/pump-1/telemetry", "21.5")
			for a := range hub.Watch(t.Context(), 0) {
				leaf := cmp.Or(a.Properties["fieldgate-leaf"], a.Device)
				if leaf != "pump-1" || string(a.Body) != "21.5" {
					t.Errorf("got %+v", a)
				}
				break
			}
			if n := len(proxy.Tunnels()); n != 1 {
				t.Errorf("%d tunnels through the proxy, want 1", n)
			}
			used := strings.Replace(transport, dial.Auto, dial.AMQP, 1)
			metrics := scrape(t, fmt.Sprint(d.logged("listening", "for", "metrics")["address"]))
			if want := fmt.Sprintf("fieldgate_uplink_transport_info{transport=%q} 1\n", used); !strings.Contains(metrics, want) {
				t.Errorf("metrics have no %s", want)
			}
			if code := d.end(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			log := strings.Join(d.log.lines(), "")
			for _, secret := range []string{hubKey, "sesame", "SharedAccessSignature"} {
				if strings.Contains(log, secret) {
					t.Errorf("the log has %q in it", secret)
				}
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), "data")); err != nil {
				t.Error(err)
			}
		})
	}
}

// publish sends one message as pump-1 and waits until the gateway answers for it.
func publish(t *testing.T, address, topic, body string) {
	t.Helper()
	client := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + address).
		SetClientID("pump-1").SetUsername("pump-1").SetPassword("open sesame"))
	if token := client.Connect(); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	defer client.Disconnect(100)
	if token := client.Publish(topic, 1, false, body); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
}

// throughProxy is a configuration whose hub is to be reached through a proxy.
func throughProxy(t *testing.T, caFile, proxy string) *tables {
	t.Helper()
	cfg := defaults()
	cfg.Hub.CAFile, cfg.Hub.Proxy = caFile, "http://gate@"+proxy
	cfg.Hub.ProxyPasswordFile = filepath.Join(t.TempDir(), "proxy.password")
	if err := os.WriteFile(cfg.Hub.ProxyPasswordFile, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &cfg
}

func wallClock() gateway.Instant { return gateway.Instant{Wall: time.Now()} }

// TestRequestsGoThroughTheProxy: where the only way out is a proxy, leaves are
// enrolled through it as well, and files sent, also to another address than the
// hub's.
func TestRequestsGoThroughTheProxy(t *testing.T) {
	hub, err := hubsim.Start(hubsim.Config{Dir: t.TempDir(), Host: "hub.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	info := hub.Info()
	proxy := suite.StartProxy(t, "gate", "open sesame")
	cfg := throughProxy(t, info.CAFile, proxy.Address())
	target := fmt.Sprintf("%s:%d", info.Bind, info.HTTPSPort)
	client, err := httpClient(cfg, wallClock, map[string]string{"hub.test:443": target})
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	for _, address := range []string{target, "hub.test"} {
		answer, err := client.Get("https://" + address + "/devices/pump-1")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	if led := proxy.Tunnels(); !slices.Equal(led, []string{target, target}) {
		t.Errorf("tunnels led to %v, want twice %s", led, target)
	}
	cfg.Hub.ProxyPasswordFile += ".missing"
	if _, err := httpClient(cfg, nil, nil); err == nil {
		t.Error("a password that cannot be read is no error")
	}
}

// A proxy that does not take the password is not asked again and again, and the
// password is in no error.
func TestProxyThatRefusesIsLeftAlone(t *testing.T) {
	proxy := suite.StartProxy(t, "gate", "another")
	cfg := throughProxy(t, "", proxy.Address())
	client, err := httpClient(cfg, wallClock, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		answer, err := client.Get("https://hub.test/")
		if err == nil {
			answer.Body.Close()
			t.Fatal("no error")
		}
		if text := err.Error(); !strings.Contains(text, "does not take the user or password") || strings.Contains(text, "sesame") {
			t.Errorf("error: %v", err)
		}
		if i == 0 {
			proxy.Answer("HTTP/1.1 503 asked again\r\n\r\n")
		}
	}
}
