package broker

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

func TestConfig(t *testing.T) {
	for _, tc := range []struct {
		text string
		key  string // that is wrong; "" for none
	}{
		{``, ""},
		{"max_packet_size = \"256KiB\"\nmax_keepalive = \"20m\"\n[[listener]]\naddress = \":8883\"\ncert_file = \"c\"\nkey_file = \"k\"", ""},
		{"[[listener]]\naddress = \"127.0.0.1:1883\"\nplain = true", ""},
		{"[[listener]]\naddress = \"[::1]:1883\"\nplain = true", ""},
		{"[[listener]]\naddress = \"localhost:1883\"\nplain = true", ""},
		{"[[listener]]\naddress = \":1883\"\nplain = true", "listener[0].plain"},
		{"[[listener]]\naddress = \"192.168.1.1:1883\"\nplain = true", "listener[0].plain"},
		{"[[listener]]\naddress = \"gateway:1883\"\nplain = true", "listener[0].plain"},
		{"[[listener]]\naddress = \"8883\"\ncert_file = \"c\"\nkey_file = \"k\"", "listener[0].address"},
		{"[[listener]]\naddress = \":8883\"\ncert_file = \"c\"\nkey_file = \"k\"\n[[listener]]\naddress = \":8884\"", "listener[1].cert_file"},
		{"[[listener]]\naddress = \":8883\"\ncert_file = \"c\"", "listener[0].key_file"},
		{`max_packet_size = "2MiB"`, "max_packet_size"},
		{`max_connections = 0`, "max_connections"},
		{`max_connections_per_leaf = 0`, "max_connections_per_leaf"},
		{`max_inflight_messages = 65536`, "max_inflight_messages"},
		{`max_subscriptions = 4`, "max_subscriptions"},
		{`max_keepalive = "1d"`, "max_keepalive"},
		{`connect_timeout = "0s"`, "connect_timeout"},
		{`write_timeout = "1h"`, "write_timeout"},
		{`refuse_delay = "2m"`, "refuse_delay"},
	} {
		cfg := DefaultConfig()
		if err := toml.Unmarshal([]byte(tc.text), &cfg); err != nil {
			t.Fatalf("%s: %v", tc.text, err)
		}
		err := cfg.Validate()
		key := ""
		if wrong, ok := errors.AsType[*gateway.KeyError](err); ok {
			key = wrong.Key
		}
		if key != tc.key || (err == nil) != (tc.key == "") {
			t.Errorf("%s: %v, want an error about %q", tc.text, err, tc.key)
		}
	}
}

// A broker that cannot listen says so, and leaves nothing open.
func TestCannotListen(t *testing.T) {
	b := newBench(t, nil)
	dir := t.TempDir()
	cert, key := b.certificate(dir)
	for name, second := range map[string]Listener{
		"address in use": {Address: b.plain, Plain: true},
		"no certificate": {Address: "127.0.0.1:0", CertFile: filepath.Join(dir, "missing"), KeyFile: key},
	} {
		cfg := DefaultConfig()
		cfg.Listeners = []Listener{{Address: "127.0.0.1:0", CertFile: cert, KeyFile: key}, second}
		table := pairing.NewTable(hubHost, nil, identity.NewKeyring(hubHost))
		broker, err := New(cfg, table, b.clock, Parts{Up: b.path, Attendance: b.desk, Twins: b.twins, Notes: b.notes}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := broker.Run(ctx); err == nil {
			t.Errorf("%s: no error", name)
		}
		if broker.Addrs() != nil {
			t.Errorf("%s: has addresses", name)
		}
	}
	if _, err := listen([]Listener{{Address: "0.0.0.0:0", Plain: true}}); err == nil {
		t.Error("plain text on all addresses")
	}
}
