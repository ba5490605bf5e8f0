package site

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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
name = "localhost"
data_dir = %q

[hub]
host = %q
address = "127.0.0.1:%d"
ca_file = %q
keep_alive = %q

# Quick to come back: on the bench nobody waits for a minute.
[uplink]
backoff_min = "100ms"
backoff_max = "1s"
%s
[[broker.listener]]
address = %q
cert_file = %q
key_file = %q

[lane.alarm]
custody = %q
%s
[lane.telemetry]
custody = %q
%s
[store]
%s%s
[metrics]
address = %q
%s`, c.DataDir, HubHost, s.hub.AMQPPort, s.hub.CAFile, keepAliveOfHub, c.Uplink,
		s.broker, s.path("gateway/broker.crt"), s.path("gateway/broker.key"),
		c.Custody, c.Lane, c.Custody, c.Lane, c.Store, fileSystemLine(s.plan.Dir), s.metrics, c.Tail)
	return b.String()
}

// File systems on which the gateway's promises hold, by their magic numbers
// (statfs(2)).
const (
	ext4Magic = 0xEF53
	f2fsMagic = 0xF2F52010
)

// fileSystemLine admits a bench whose folder is on a file system that no
// gateway in the field would have: there is no power cut to survive.
func fileSystemLine(dir string) string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err == nil && (fs.Type == ext4Magic || fs.Type == f2fsMagic) {
		return ""
	}
	return "allow_any_filesystem = true\n"
}

func (s *Site) leafText() string {
	var b strings.Builder
	for _, d := range s.plan.Leaves {
		fmt.Fprintf(&b, "[[leaf]]\nid = %q\nkey_file = %q\n", d.ID, s.secret(d, "key"))
		if d.Kind == MQTT3 || d.Kind == MQTT5 {
			fmt.Fprintf(&b, "password_file = %q\n", s.secret(d, "hash"))
		}
		b.WriteByte('\n')
		if d.Kind == Serial {
			fmt.Fprintf(&b, "[[serial]]\nport = %q\nformat = \"json\"\nleaf = %q\nack = \"line\"\n\n", s.port(d), d.ID)
		}
	}
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
