package site

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// Config is what a story may want to be different in the gateway's
// configuration. The zero value is the ordinary one.
type Config struct {
	DataDir string // default: gateway/data in the site's folder
	Custody string // of both lanes, "relay" or "disk"; default "relay"
	Lane    string // more lines for both lanes
	Hub     string // more lines for [hub]
	Uplink  string // more lines for [uplink]
	Store   string // lines for [store]
	Tail    string // more tables, at the end of the file
}

// keepAliveOfHub is short, so that a cut link is noticed within a story.
const keepAliveOfHub = "2s"

// writeConfig writes what a user would write: the configuration, one file of
// leaves in leaf.d, and a file per secret.
func (s *Site) writeConfig(ctx context.Context) error {
	c := &s.plan.Config
	if c.DataDir == "" {
		c.DataDir = s.path("gateway/data")
	}
	if c.Custody == "" {
		c.Custody = "relay"
	}
	if err := os.WriteFile(s.ConfigFile(), []byte(s.configText(c)), 0o644); err != nil {
		return err
	}
	if err := s.writeSecrets(ctx); err != nil {
		return err
	}
	return os.WriteFile(s.path("gateway/leaf.d/bench.toml"), []byte(s.leafText()), 0o644)
}

func (s *Site) configText(c *Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Gateway of the bench.

[gateway]
name = %q
data_dir = %q

[hub]
host = %q
address = %q
https_address = %q
ca_file = %q
keep_alive = %q
%s
# Quick to come back: on the bench nobody waits for a minute.
[uplink]
backoff_min = "100ms"
backoff_max = "1s"
%s
[[broker.listener]]
address = %q
cert_file = %q
key_file = %q

%s[lane.alarm]
custody = %q
%s
[lane.telemetry]
custody = %q
%s
[store]
%s%s
[control]
socket = "control.sock"

[metrics]
address = %q
%s`, cmp.Or(s.plan.Socket, "localhost"), c.DataDir, HubHost, s.hubAt, net.JoinHostPort("127.0.0.1", strconv.Itoa(s.hub.HTTPSPort)), s.hub.CAFile, keepAliveOfHub, c.Hub, c.Uplink,
		s.broker, s.path("gateway/broker.crt"), s.path("gateway/broker.key"), s.socketText(),
		c.Custody, c.Lane, c.Custody, c.Lane, c.Store, fileSystemLine(c.DataDir), s.metrics, c.Tail)
	return b.String()
}

func (s *Site) socketText() string {
	if s.plan.Socket == "" {
		return ""
	}
	return fmt.Sprintf("[[broker.listener]]\naddress = %q\ncert_file = %q\nkey_file = %q\nwebsocket = true\n\n",
		s.plan.Socket+":443", s.path("gateway/broker.crt"), s.path("gateway/broker.key"))
}

// File systems on which the gateway's promises hold, by their magic numbers
// (statfs(2)).
const (
	ext4Magic = 0xEF53
	f2fsMagic = 0xF2F52010
)

// fileSystemLine admits a bench whose data folder, which need not be there yet,
// is on a file system that no gateway in the field would have.
func fileSystemLine(dir string) string {
	var fs syscall.Statfs_t
	err := syscall.Statfs(dir, &fs)
	for errors.Is(err, syscall.ENOENT) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = syscall.Statfs(dir, &fs)
	}
	if err == nil && (fs.Type == ext4Magic || fs.Type == f2fsMagic) {
		return ""
	}
	return "allow_any_filesystem = true\n"
}

func (s *Site) leafText() string {
	var b strings.Builder
	for _, d := range s.plan.Leaves {
		if d.Kind == Gateway || d.New {
			continue
		}
		fmt.Fprintf(&b, "[[leaf]]\nid = %q\nkey_file = %q\n", d.ID, s.secret(d, "key"))
		if d.Auth != "" {
			fmt.Fprintf(&b, "auth = %q\n", d.Auth)
		}
		if d.Kind == MQTT3 || d.Kind == MQTT5 {
			fmt.Fprintf(&b, "password_file = %q\n", s.secret(d, "hash"))
		}
		b.WriteString(d.More + "\n")
		if d.Kind == Serial {
			fmt.Fprintf(&b, "[[serial]]\nport = %q\nformat = \"json\"\nleaf = %q\nack = \"line\"\n\n", s.port(d), d.ID)
		}
		if d.Kind == MQTTSN {
			fmt.Fprintf(&b, "[[serial]]\nport = %q\nformat = \"mqtt-sn\"\nleaf = %q\n\n", s.port(d), d.ID)
		}
	}
	s.busText(&b)
	s.radioText(&b)
	return b.String()
}

func (s *Site) secret(d Device, kind string) string { return s.path("gateway/" + d.ID + "." + kind) }

// hashers is how many passwords are hashed at once: hashing is slow by design.
const hashers = 2

// writeSecrets writes the leaves' keys, and the hashes of their passwords as
// the gateway's own command makes them.
func (s *Site) writeSecrets(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(hashers)
	for _, d := range s.plan.Leaves {
		if d.New {
			continue
		}
		group.Go(func() error {
			key, err := s.hub.key(d.ID)
			if err != nil {
				return err
			}
			if err := os.WriteFile(s.secret(d, "key"), []byte(key+"\n"), 0o600); err != nil {
				return err
			}
			if d.Kind != MQTT3 && d.Kind != MQTT5 {
				return nil
			}
			hash := exec.CommandContext(ctx, s.program("fieldgate"), "device", "hash-password")
			hash.Stdin = strings.NewReader(Password(d.ID) + "\n")
			text, err := hash.Output()
			if err != nil {
				return fmt.Errorf("fieldgate device hash-password: %w", err)
			}
			return os.WriteFile(s.secret(d, "hash"), text, 0o600)
		})
	}
	return group.Wait()
}
