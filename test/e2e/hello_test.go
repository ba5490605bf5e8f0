package e2e

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// plugIn makes a port lead to a device that says its reading again and again, and answers
// HELLO as meter-1 with a key, nil for none. unplug pulls it out.
func plugIn(t *testing.T, port, reading string, key []byte) (unplug func()) {
	t.Helper()
	device, far, err := pty.Open()
	must(t, err)
	must(t, unix.SetNonblock(int(device.Fd()), true)) // else closing does not end reading
	must(t, os.Symlink(far.Name(), port+".next"))
	must(t, os.Rename(port+".next", port))
	ctx, stop := context.WithCancel(context.Background())
	said, heard := make(chan struct{}), make(chan struct{})
	say := func(text string) {
		_ = device.SetWriteDeadline(time.Now().Add(time.Second)) // while nobody reads the line fills
		_, _ = device.WriteString(text)
	}
	answers := make(chan string, 16)
	go func() {
		defer close(said)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
				say(reading + "\r\n")
			case text := <-answers:
				say(text)
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
	go func() {
		defer close(heard)
		for lines := bufio.NewScanner(device); lines.Scan(); {
			if nonce, ok := strings.CutPrefix(lines.Text(), "HELLO "); ok && key != nil {
				mac := hmac.New(sha256.New, key)
				mac.Write([]byte("fieldgate hello 1 " + strings.TrimSpace(nonce) + " meter-1"))
				answers <- fmt.Sprintf("HELLO meter-1 %x\r\n", mac.Sum(nil))
			}
		}
	}()
	pulled := false
	unplug = func() {
		if pulled {
			return
		}
		pulled = true
		far.Close()
		stop()
		<-said
		device.Close()
		<-heard
	}
	t.Cleanup(unplug)
	return unplug
}

// A device that has a key proves it when it is paired, and whenever it is plugged in:
// nobody else speaks in its place.
func TestPairSerialByKey(t *testing.T) {
	t.Parallel()
	ctx := testContext(t, 3*patience)
	s := running(ctx, t, site.Plan{Leaves: []site.Device{{ID: "gate-7", Kind: site.Gateway}}, Config: site.Config{Hub: ownDevice}})
	c := &terminal{t, ctx, s}
	dir := t.TempDir()
	port, key := filepath.Join(dir, "tty-meter"), []byte("0123456789abcdef0123456789abcdef")
	digits := fmt.Sprintf("%x", key)
	right, wrong := filepath.Join(dir, "right.key"), filepath.Join(dir, "wrong.key")
	must(t, os.WriteFile(right, []byte(digits+"\n"), 0o600))
	must(t, os.WriteFile(wrong, []byte(strings.Repeat("ab", 32)+"\n"), 0o600))
	unplug := plugIn(t, port, `{"from":"leaf"}`, key)
	args := []string{"pair", "serial", port, "--config", s.ConfigFile(), "--as", "meter-1", "--auth", "gateway", "--baud", "9600", "--format", "json"}
	pair := func(code int, more ...string) string {
		t.Helper()
		return c.gets(code, append(args[:len(args):len(args)], more...)...)
	}
	says := func(out, want string) {
		t.Helper()
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q: %s", want, out)
		}
	}
	says(pair(9), "the device has a key, and it was not given\nnext: give it: --key-file FILE")

	// A wrong key is counted like a wrong code.
	c.gets(0, "pair", "open", "--transport", "serial")
	for range 5 {
		says(pair(6, "--key-file", wrong), `it has another key`)
	}
	says(c.gets(0, "pair", "status"), "last    wrong codes were tried")
	says(pair(9, "--key-file", right), "a window can be opened again in")
	for {
		var state struct{ Retry time.Time }
		must(t, json.Unmarshal([]byte(c.gets(0, "pair", "status", "--output", "json")), &state))
		if state.Retry.IsZero() {
			break
		}
		select {
		case <-time.After(time.Until(state.Retry)):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}

	// At a terminal it is asked for, and not shown.
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "fieldgate"), append(args[:len(args):len(args)], "--socket", filepath.Join(s.Dir(), "gateway", "control.sock"))...)
	screen, keys, err := pty.Open()
	must(t, err)
	defer screen.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = keys, keys, keys
	must(t, cmd.Start())
	keys.Close()
	shown, typed := "", false
	for buf := make([]byte, 1024); ; {
		n, err := screen.Read(buf)
		if shown += string(buf[:n]); err != nil {
			break
		}
		if !typed && strings.Contains(shown, "Key of meter-1: ") {
			typed = true
			_, err := screen.WriteString(digits + "\n")
			must(t, err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, shown)
	}
	says(shown, "proof   its key: HELLO is answered as meter-1\r\nmeter-1 is bound to "+port+", json at 9600 baud\r\n")
	if strings.Contains(shown, digits) {
		t.Errorf("the key is shown: %s", shown)
	}
	must(t, filepath.WalkDir(s.Dir(), func(name string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // what comes and goes meanwhile
		}
		if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), digits) {
			t.Errorf("the key can be read in %s", name)
		}
		return nil
	}))
	awaitEvents(ctx, t, s, 3)

	// Others are plugged in where it was: one without a key, one with another.
	unplug()
	unplug = plugIn(t, port, `{"from":"another"}`, nil)
	status := func(want string) {
		t.Helper()
		must(t, s.Await(ctx, want, func() bool { return strings.Contains(c.gets(0, "status"), want) }))
	}
	status("unproven: what comes is thrown away until HELLO is answered with the key of meter-1")
	status("the device does not answer HELLO")
	unplug()
	unplug = plugIn(t, port, `{"from":"another"}`, []byte("fedcba9876543210"))
	status("it has another key")
	text, err := os.ReadFile(s.Log("fieldgate"))
	must(t, err)
	says(string(text), "leaf-unproven")

	// It is back, after a restart of the gateway.
	s.Gateway().Kill()
	unplug()
	before := len(s.Events())
	plugIn(t, port, `{"from":"leaf"}`, key)
	must(t, s.StartGateway(ctx))
	for _, e := range awaitEvents(ctx, t, s, before+3) {
		if string(e.Body) != `{"from":"leaf"}` {
			t.Errorf("from %s came %s", e.Device, e.Body)
		}
	}
	c.gets(0, "device", "remove", "meter-1")
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.ConfigFile()), "leaf.d", "*.line.key")); len(left) > 0 {
		t.Errorf("of a leaf that was removed there is %v", left)
	}
}
