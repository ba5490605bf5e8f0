package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A newcomer who copies the README's lines, one block after the other, has a hub and a
// gateway that run, and the first message at the hub. Nothing is changed in them but the
// addresses, on which others of this machine may listen.
func TestReadmeIsTypedLiterally(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"mosquitto_pub", "jq", "bash"} {
		if _, err := exec.LookPath(program); err != nil {
			need(t, program+" is not installed: test/setup.sh installs it")
		}
	}
	text, err := os.ReadFile("../../README.md")
	must(t, err)
	_, page, found := strings.Cut(string(text), "### First try\n")
	blocks := typed(page)
	if !found || len(blocks) < 3 {
		t.Fatal("the README has no first try")
	}
	first, look := blocks[0], blocks[1]
	first, built := strings.CutPrefix(first, "make build\n")
	pub := ""
	for _, b := range blocks {
		if strings.HasPrefix(b, "mosquitto_pub ") {
			pub = b
			break
		}
	}
	if !built || !strings.Contains(look, "hubsim arrivals") || pub == "" {
		t.Fatalf("the blocks are not what they were:\n%s\n%s\n%s", first, look, pub)
	}
	hub, port := unusedHub(t), unusedPort(t)
	at := strings.NewReplacer("127.0.0.5", hub, "127.0.0.1:8883", "127.0.0.1:"+port, "-p 8883", "-p "+port,
		"[control]", "[metrics]\naddress = \"\"\n\n[control]") // its port too may be another's

	dir := folder(t)
	must(t, os.Symlink(bin, filepath.Join(dir, "bin")))
	script := "set -e\n" + at.Replace(first) + "\n" + at.Replace(pub) + `
until hubsim arrivals --dir hub | grep -q pump-1; do sleep 0.2; done
` + at.Replace(look) + `
fieldgate device add pump-7
fieldgate device list
`
	ctx := testContext(t, 3*patience)
	c := exec.CommandContext(ctx, "bash", "-c", script)
	c.Dir = dir
	// What the script leaves running ends with it, as with a terminal that is closed.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 10 * time.Second
	out, err := c.CombinedOutput()
	if c.Process != nil {
		if end := syscall.Kill(-c.Process.Pid, syscall.SIGTERM); end != nil && !errors.Is(end, syscall.ESRCH) {
			t.Error(end)
		}
	}
	if err != nil {
		for _, name := range []string{"hub.log", "gateway.log"} {
			text, _ := os.ReadFile(filepath.Join(dir, "try", name))
			t.Logf("%s:\n%s", name, text)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{`"pump-1"`, "DeviceId=pump-7;", "GatewayHostName=localhost", "uplink   connected", "1 of 1 taken by the hub"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("says nothing of %q:\n%s", want, out)
		}
	}
	must(t, awaitGone(ctx, net.JoinHostPort(hub, "5671")))
	must(t, awaitGone(ctx, "127.0.0.1:"+port))
}

// typed are the blocks of a page that are to be typed: those in no language.
func typed(page string) (blocks []string) {
	within, block := "", new(strings.Builder)
	for line := range strings.Lines(page) {
		fence, is := strings.CutPrefix(line, "```")
		switch {
		case is && within == "":
			within = "in " + fence
			block.Reset()
		case is:
			if within == "in \n" {
				blocks = append(blocks, block.String())
			}
			within = ""
		default:
			block.WriteString(line)
		}
	}
	return blocks
}

// unusedHub is an address on whose ports for a hub nobody listens.
func unusedHub(t *testing.T) string {
	t.Helper()
next:
	for i := 1; i < 250; i++ {
		host := fmt.Sprintf("127.83.%d.5", i)
		for _, port := range []string{"443", "5671", "8883"} {
			l, err := net.Listen("tcp", net.JoinHostPort(host, port))
			if errors.Is(err, os.ErrPermission) {
				need(t, "ports below 1024 are not ours")
			}
			if err != nil {
				continue next
			}
			must(t, l.Close())
		}
		return host
	}
	t.Fatal("somebody listens everywhere")
	return ""
}

// unusedPort is one that no connection gets by itself (ip(7), ip_local_port_range).
func unusedPort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10000 + rand.IntN(20000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			must(t, l.Close())
			return port
		}
	}
	t.Fatal("somebody listens everywhere")
	return ""
}

// awaitGone waits until nobody listens any more: the test leaves nothing behind.
func awaitGone(ctx context.Context, address string) error {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return ctx.Err()
		}
		c.Close()
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
