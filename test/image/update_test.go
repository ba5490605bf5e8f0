package image

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// An update that the hub asks for, from A to B; then one with a gateway that does not
// start, installed by hand, and one that is no system at all: by itself the machine is
// back in B each time. A leaf publishes all the time, and nothing that was acknowledged
// is lost. Before, everything that must be refused is.
func TestUpdate(t *testing.T) {
	nightly(t)
	image := imageFolder(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	b := &bench{t: t, image: image, dir: t.TempDir()}
	first := b.version(ctx)
	broken := filepath.Join(b.dir, "broken")
	must(t, os.WriteFile(broken, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	newer := b.whole(ctx, "1000.1.0", "../../bin/fieldgate-arm64")
	mute := b.whole(ctx, "1000.2.0", broken)

	w := newCard(ctx, t, image)
	address := w.serve(filepath.Dir(newer))
	w.put(ctx, "fieldgate.toml", w.file)
	w.on(ctx)
	w.await(ctx, "the leaf to be acknowledged", func() bool { return w.publish("first") == nil })
	w.awaitSlots(ctx, "A yes yes good "+first+"\nB - - empty -")

	w.refuses(ctx, "slot B is empty", "rollback")
	for name, r := range b.refusals(ctx, first) {
		w.send(ctx, r.file)
		w.refuses(ctx, r.says, "install", "/data/update.raucb")
		// What was begun is in no slot, and not started.
		if got := w.slots(ctx); !strings.HasPrefix(got, "A yes yes good "+first+"\nB - - ") {
			t.Errorf("after an update %s the slots are\n%s", name, got)
		}
	}
	if out, err := w.shell(ctx, "setpriv --reuid=fieldgate --clear-groups busctl call de.pengutronix.rauc / de.pengutronix.rauc.Installer GetPrimary"); err == nil || !strings.Contains(out, "denied") {
		t.Errorf("RAUC, asked by the gateway's user, says %v\n%s", err, out)
	}

	l := w.startLoad(ctx)
	answer, err := w.hub.Domain().Methods.Invoke(ctx, registry.ID{Device: "gate"}, methods.Call{
		Name: "update", Payload: json.RawMessage(fmt.Sprintf(`{"url": "%s%s"}`, address, filepath.Base(newer))), ConnectTimeout: time.Minute, ResponseTimeout: time.Minute,
	})
	if err != nil || answer.Status != http.StatusAccepted {
		t.Fatalf("the hub asks for the update: %d %s, %v", answer.Status, answer.Payload, err)
	}
	w.awaitReported(ctx, "good", "1000.1.0")
	w.awaitSlots(ctx, "A - - good "+first+"\nB yes yes good 1000.1.0")

	w.install(ctx, mute)
	w.awaitSlots(ctx, "A - - bad 1000.2.0\nB yes yes good 1000.1.0")
	w.awaitReported(ctx, "rolled back", "1000.2.0")
	w.refuses(ctx, "no starts left", "rollback")

	w.install(ctx, b.small(ctx, "noise", "qemu_aarch64", "1000.3.0", filepath.Join(image, "keys")))
	w.awaitSlots(ctx, "A - - bad 1000.3.0\nB yes yes good 1000.1.0")
	w.settled(ctx, l)
}

// whole makes an image of a version as the card's was made, with that program as its
// gateway, and returns its update.
func (b *bench) whole(ctx context.Context, version, program string) string {
	b.t.Helper()
	out := filepath.Join(b.dir, version)
	must(b.t, os.Mkdir(out, 0o755))
	must(b.t, os.Symlink(filepath.Join(b.image, "debian"), filepath.Join(out, "debian")))
	b.program(ctx, []string{"VERSION=" + version, "KEYS=" + filepath.Join(b.image, "keys")}, "./twin.sh", program, out)
	must(b.t, os.Remove(filepath.Join(out, "qemu_aarch64.img")))
	return filepath.Join(out, "qemu_aarch64.raucb")
}

// serve offers the files of a folder to the machine and allows the hub to name them. It
// returns the folder's address.
func (w *twin) serve(dir string) string {
	w.t.Helper()
	public, private := w.certificate(net.IPv4(10, 0, 2, 2))
	pair, err := tls.X509KeyPair([]byte(public), []byte(private))
	must(w.t, err)
	s := httptest.NewUnstartedServer(http.FileServer(http.Dir(dir)))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	w.t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	must(w.t, err)
	address := "https://10.0.2.2:" + port + "/"
	const ca = "ca = \"\"\"\r\n"
	w.file = strings.Replace(w.file, ca, ca+strings.ReplaceAll(public, "\n", "\r\n"), 1) + fmt.Sprintf("[update]\r\nfrom = [%q]\r\n", address)
	return address
}

// send puts an update on the card's data partition.
func (w *twin) send(ctx context.Context, file string) {
	w.t.Helper()
	text, err := os.Open(file)
	must(w.t, err)
	defer text.Close()
	c := w.client(ctx, "cat >/data/update.raucb")
	c.Stdin = text
	if out, err := c.CombinedOutput(); err != nil {
		w.t.Fatalf("sending %s: %v\n%s", file, err, out)
	}
}

// install installs an update as an operator does, and starts the machine anew.
func (w *twin) install(ctx context.Context, file string) {
	w.t.Helper()
	w.send(ctx, file)
	if out, err := w.shell(ctx, "fieldgate update install /data/update.raucb"); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	w.shell(ctx, "systemctl reboot") // the connection may break before it answers
}

// refuses runs a command of update that must be refused by policy.
func (w *twin) refuses(ctx context.Context, says string, args ...string) {
	w.t.Helper()
	out, _ := w.shell(ctx, "fieldgate update "+strings.Join(args, " ")+"; echo code $?")
	if !strings.HasSuffix(out, "code 9") || !strings.Contains(out, says) {
		w.t.Errorf("update %q: want code 9 and %q\n%s", args, says, out)
	}
	w.t.Logf("update %q: %s", args, out)
}

// slots is what the machine says of its slots, in one line each, "" while it does not
// answer.
func (w *twin) slots(ctx context.Context) string {
	out, err := w.shell(ctx, "fieldgate update status")
	if err != nil {
		return ""
	}
	lines := strings.Split(out, "\n")[1:]
	for i, line := range lines {
		fields := strings.Fields(line)
		lines[i] = strings.Join(fields[:min(5, len(fields))], " ") // without the time
	}
	return strings.Join(lines, "\n")
}

// awaitSlots waits until the machine says that of its slots.
func (w *twin) awaitSlots(ctx context.Context, want string) {
	w.t.Helper()
	last := ""
	w.await(ctx, "the slots "+strings.ReplaceAll(want, "\n", ", "), func() bool {
		if now := w.slots(ctx); now != last {
			w.t.Logf("slots: %s", strings.ReplaceAll(now, "\n", ", "))
			last = now
		}
		return last == want
	})
}

// awaitReported waits until the gateway's own twin at the hub says that of an update.
func (w *twin) awaitReported(ctx context.Context, state, version string) {
	w.t.Helper()
	type told struct{ State, Version, Error string }
	var last told
	w.await(ctx, version+" to be reported as "+state, func() bool {
		document, err := w.hub.Domain().Twins.ForDevice(registry.ID{Device: "gate"})
		var at struct {
			Reported struct {
				Fieldgate struct{ Status struct{ Update told } }
			}
		}
		if err != nil || json.Unmarshal(document, &at) != nil {
			w.t.Fatalf("%v\n%s", err, document)
		}
		if now := at.Reported.Fieldgate.Status.Update; now != last {
			w.t.Logf("reported: %+v", now)
			last = now
		}
		return last.State == state && last.Version == version
	})
}

// load is a leaf that publishes without end, and remembers what was acknowledged.
type load struct {
	stop  context.CancelFunc
	ended chan struct{}

	mu    sync.Mutex
	acked []string
}

// startLoad starts one. The machine may go away at any time.
func (w *twin) startLoad(ctx context.Context) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{stop: cancel, ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		for ctx.Err() == nil {
			w.publishAll(ctx, l)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}()
	w.t.Cleanup(func() { cancel(); <-l.ended })
	return l
}

// publishAll publishes as long as one connection lasts.
func (w *twin) publishAll(ctx context.Context, l *load) {
	client, err := w.connect()
	if err != nil {
		return
	}
	defer client.Disconnect(0)
	for ctx.Err() == nil {
		body := fmt.Sprintf(`{"n":%d}`, l.count())
		if wait(client.Publish("devices/pump-1/messages/events/", 1, false, body)) != nil {
			return
		}
		l.mu.Lock()
		l.acked = append(l.acked, body)
		l.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// settled stops the load and waits until the hub has everything that was acknowledged.
func (w *twin) settled(ctx context.Context, l *load) {
	w.t.Helper()
	l.stop()
	<-l.ended
	if len(l.acked) == 0 {
		w.t.Fatal("there was no load")
	}
	w.await(ctx, "everything that was acknowledged to be at the hub", func() bool { return len(w.missing(l.acked)) == 0 })
	w.t.Logf("%d messages were acknowledged, and all of them are at the hub", len(l.acked))
}

// missing returns what the hub has not got.
func (w *twin) missing(bodies []string) []string {
	there := make(map[string]bool)
	for a := range w.hub.Arrivals() {
		there[string(a.Body)] = true
	}
	return slices.DeleteFunc(slices.Clone(bodies), func(body string) bool { return there[body] })
}
