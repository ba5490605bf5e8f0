package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// console is fieldgate top in a terminal of 80 columns and 24 lines.
type console struct {
	terminal
	socket string // of tmux
}

func (c *console) tmux(args ...string) string {
	c.t.Helper()
	out, err := exec.CommandContext(c.ctx, "tmux", append([]string{"-f", "/dev/null", "-S", c.socket}, args...)...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// open runs top in a terminal; what is printed at its end stays to be seen.
func (c *console) open() {
	c.t.Helper()
	c.t.Cleanup(func() { _ = exec.Command("tmux", "-S", c.socket, "kill-server").Run() })
	c.tmux("new-session", "-d", "-x", "80", "-y", "24", "-s", "top",
		fmt.Sprintf("%s top --socket %s; echo it ended with $?; cat", filepath.Join(bin, "fieldgate"), filepath.Join(c.s.Dir(), "gateway", "control.sock")))
}

// shows waits until the screen has all of the texts.
func (c *console) shows(texts ...string) {
	c.t.Helper()
	c.await(fmt.Sprintf("%q", texts), func(screen string) bool {
		return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(screen, text) })
	})
}

// await waits until the screen is as it is to be.
func (c *console) await(what string, met func(screen string) bool) {
	c.t.Helper()
	for {
		screen := c.tmux("capture-pane", "-p", "-t", "top")
		if met(screen) {
			c.t.Logf("\n%s", screen)
			return
		}
		select {
		case <-c.ctx.Done():
			c.t.Fatalf("waited in vain for %s; the screen is\n%s", what, screen)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *console) press(keys ...string) {
	c.tmux(append([]string{"send-keys", "-t", "top"}, keys...)...)
}

// An operator looks at a gateway that has one trouble after the other.
func TestTopInATerminal(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("tmux"); err != nil {
		need(t, "tmux is not installed: test/setup.sh installs it")
	}
	ctx := testContext(t, 3*patience)
	leaves := devices(6, site.MQTT3)
	s := running(ctx, t, site.Plan{Leaves: leaves, Config: site.Config{Lane: "max_bytes = \"11MiB\"\n", Store: "segment_size = \"1MiB\"\n"}})
	c := &console{terminal: terminal{t, ctx, s}, socket: filepath.Join(s.Dir(), "tmux")}
	c.open()
	c.shows("UPLINK  connected", site.HubHost, "LEAVES  6, 0 connected", "WARNINGS")

	launch(ctx, t, s, leaves[:5], leafsim.Options{Rate: 10, Size: 20000})
	c.shows("LEAVES  6, 5 connected", "0 messages, ", "sent/s", "last message taken by the hub 0s ago")

	must(t, s.Fault(ctx, "disable", "leaf-002"))
	c.shows("the hub refuses 1 leaf, whose messages are kept here", "1 refused by the hub", "leaf-002     connected now          hub refuses it: wrong key or disabled")
	c.press("Home", "Enter")
	c.shows("LEAF    leaf-002", "REFUSES IT", "asked again", "twin")
	// Until the library has seen that nothing follows, Escape is the begin of a key.
	c.press("Escape")
	c.shows("LEAVES  6")
	c.press("f", "005", "Enter")
	c.shows(`filter "005": 1`)
	c.press("Escape")
	c.shows("LEAVES  6, 5 connected, 1 away, 1 refused by the hub; by trouble\n")
	c.press("s")
	c.shows("by name")
	must(t, s.Fault(ctx, "enable", "leaf-002"))

	must(t, s.Cut(ctx))
	c.shows("UPLINK  NOT CONNECTED")
	c.shows("STATE   THE STORE IS FULL", "FULL, leaves wait") // on a slow machine it was before, of what is kept for leaf-002
	must(t, s.Restore(ctx))
	c.shows("UPLINK  connected")

	s.Gateway().Kill()
	c.shows("NO ANSWER from the daemon", "What follows is how it was before", "old | UPLINK")
	must(t, s.StartGateway(ctx))
	c.await("the new daemon", func(screen string) bool {
		return !strings.Contains(screen, "NO ANSWER") && strings.Contains(screen, "UPLINK  connected")
	})
	c.press("q")
	c.shows("it ended with 0")
}
