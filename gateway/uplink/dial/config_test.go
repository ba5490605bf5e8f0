package dial_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

func valid() dial.Config {
	c := dial.DefaultConfig()
	c.Host = "myhub.azure-devices.net"
	return c
}

func TestConfig(t *testing.T) {
	good := valid()
	if err := good.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for key, spoils := range map[string][]func(*dial.Config){
		"host":              {func(c *dial.Config) { c.Host = "" }, func(c *dial.Config) { c.Host = "hub:5671" }},
		"transport":         {func(c *dial.Config) { c.Transport = "" }, func(c *dial.Config) { c.Transport = "AMQP" }},
		"address":           {func(c *dial.Config) { c.Address = "hub" }, func(c *dial.Config) { c.Address = "hub:0" }, func(c *dial.Config) { c.Address = ":5671" }},
		"websocket_address": {func(c *dial.Config) { c.WebSocketAddress = "hub" }, func(c *dial.Config) { c.Transport, c.WebSocketAddress = dial.AMQP, "hub:443" }},
		"proxy": {
			func(c *dial.Config) { c.Proxy = "10.0.0.1:3128" },
			func(c *dial.Config) { c.Proxy = "https://10.0.0.1:3128" },
			func(c *dial.Config) { c.Proxy = "http://10.0.0.1" },
			func(c *dial.Config) { c.Proxy = "http://user:secret@10.0.0.1:3128" },
			func(c *dial.Config) { c.Proxy = "http://10.0.0.1:3128/path" },
			func(c *dial.Config) { c.Proxy = "http://secret%zz@10.0.0.1:3128" },
		},
		"proxy_password_file": {
			func(c *dial.Config) { c.ProxyPasswordFile = "p" },
			func(c *dial.Config) { c.Proxy, c.ProxyPasswordFile = dial.FromEnvironment, "p" },
			func(c *dial.Config) { c.Proxy, c.ProxyPasswordFile = "http://10.0.0.1:3128", "p" },
		},
		"probe_interval": {func(c *dial.Config) { c.ProbeInterval = 0 }},
		"token_ttl":      {func(c *dial.Config) { c.TokenTTL = gateway.Duration(time.Second) }},
		"keep_alive":     {func(c *dial.Config) { c.KeepAlive = 0 }},
		"timeout":        {func(c *dial.Config) { c.Timeout = gateway.Duration(time.Hour) }},
		"command_lock":   {func(c *dial.Config) { c.CommandLock = 0 }},
	} {
		for i, spoil := range spoils {
			c := valid()
			spoil(&c)
			err := c.Validate()
			if e, ok := errors.AsType[*gateway.KeyError](err); !ok || e.Key != key {
				t.Errorf("%s, %d: got %v", key, i, err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%s, %d: a secret is shown: %v", key, i, err)
			}
		}
	}
}

func TestWays(t *testing.T) {
	for _, c := range []struct {
		transport, address, socket string
		want                       []string
	}{
		{dial.Auto, "", "", []string{"amqp myhub.azure-devices.net:5671", "amqp-ws myhub.azure-devices.net:443"}},
		{dial.Auto, "10.0.0.5:1", "", []string{"amqp 10.0.0.5:1"}},
		{dial.Auto, "10.0.0.5:1", "10.0.0.5:2", []string{"amqp 10.0.0.5:1", "amqp-ws 10.0.0.5:2"}},
		{dial.Auto, "", "10.0.0.5:2", []string{"amqp myhub.azure-devices.net:5671", "amqp-ws 10.0.0.5:2"}},
		{dial.AMQP, "", "", []string{"amqp myhub.azure-devices.net:5671"}},
		{dial.AMQPWebSocket, "", "", []string{"amqp-ws myhub.azure-devices.net:443"}},
		{dial.MQTT, "", "", []string{"mqtt myhub.azure-devices.net:8883"}},
		{dial.MQTTWebSocket, "10.0.0.5:1", "", []string{"mqtt-ws 10.0.0.5:1"}},
	} {
		cfg := valid()
		cfg.Transport, cfg.Address, cfg.WebSocketAddress = c.transport, c.address, c.socket
		var got []string
		for _, way := range cfg.Ways() {
			if err := way.Validate(); err != nil {
				t.Errorf("%+v: %v", c, err)
			}
			got = append(got, way.Transport+" "+way.Target())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

func TestFilesThatAreNotGood(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, spoils := range map[string][]func(*dial.Config, string){
		"ca_file":             {func(c *dial.Config, file string) { c.CAFile = file }},
		"proxy_password_file": {func(c *dial.Config, file string) { c.Proxy, c.ProxyPasswordFile = "http://u@h:1", file }},
	} {
		for _, spoil := range spoils {
			for _, file := range []string{empty, filepath.Join(dir, "missing")} {
				c := valid()
				spoil(&c, file)
				_, err := dial.New(c, nil)
				if e, ok := errors.AsType[*gateway.KeyError](err); !ok || e.Key != key {
					t.Errorf("%s %s: got %v", key, file, err)
				}
			}
		}
	}
}
