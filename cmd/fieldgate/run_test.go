package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
)

// writer keeps what is written, from many goroutines, and tells whoever waits.
type writer struct {
	mu      sync.Mutex
	text    bytes.Buffer  // guarded by mu
	changed chan struct{} // closed at the next write, guarded by mu; nil when nobody waits
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
	return w.text.Write(p)
}

func (w *writer) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(strings.Lines(w.text.String()))
}

// wait returns what was written so far and what is closed when there is more.
func (w *writer) wait() ([]string, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return slices.Collect(strings.Lines(w.text.String())), w.changed
}

// daemon is "fieldgate run" within the test.
type daemon struct {
	t    *testing.T
	log  writer
	stop context.CancelFunc
	code chan int
}

func start(t *testing.T, file string) *daemon {
	ctx, stop := untilSignal(t.Context())
	d := &daemon{t: t, stop: stop, code: make(chan int, 1)}
	go func() {
		d.code <- execute(ctx, []string{"run", "--config", file}, streams{strings.NewReader(""), io.Discard, &d.log})
	}()
	return d
}

// logged waits for a log line with that message and returns it.
func (d *daemon) logged(msg, key, value string) map[string]any {
	d.t.Helper()
	for {
		lines, more := d.log.wait()
		for _, text := range lines {
			var line map[string]any
			if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == msg && (key == "" || line[key] == value) {
				return line
			}
		}
		select {
		case <-more:
		case code := <-d.code:
			d.t.Fatalf("ended with %d before it logged %q:\n%s", code, msg, strings.Join(d.log.lines(), ""))
		}
	}
}

// end asks the daemon to end, as systemd would, and returns its exit code.
func (d *daemon) end() int {
	d.t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	code := <-d.code
	d.stop()
	return code
}

// The hub of the example does not exist: that is no reason not to serve leaves.
func TestRunWithoutAHub(t *testing.T) {
	file := folder(t, exampleText(t))
	for round := range 2 { // the second time on the store of the first
		d := start(t, file)
		ready := d.logged("ready", "", "")
		addresses, _ := ready["addresses"].([]any)
		if len(addresses) != 2 {
			t.Fatalf("ready with the addresses %v, want two", ready["addresses"])
		}
		for _, a := range addresses {
			c, err := net.Dial("tcp", fmt.Sprint(a))
			if err != nil {
				t.Fatalf("ready, but %v", err)
			}
			c.Close()
		}
		metrics := scrape(t, fmt.Sprint(d.logged("listening", "for", "metrics")["address"]))
		for _, want := range []string{
			"fieldgate_uplink_up 0\n",
			`fieldgate_store_messages{lane="telemetry"} 0` + "\n",
			`fieldgate_store_limit_bytes{lane="telemetry"} 2.68435456e+08` + "\n",
			`fieldgate_messages_dropped_total{reason="ttl"} 0` + "\n",
			`fieldgate_leaf_connected{transport="mqtt"} 0` + "\n",
			`fieldgate_leaf_connected{transport="serial"} 0` + "\n",
			`fieldgate_driver_up{driver="serial:/dev/serial/by-id/usb-meter"} 0` + "\n",
			`fieldgate_build_info{revision=`,
			"fieldgate_start_time_seconds ",
			"fieldgate_uplink_ack_duration_seconds_count 0\n",
			"fieldgate_store_sync_duration_seconds_count 0\n",
			`fieldgate_uplink_bytes_total{cause="payload"} 0` + "\n",
			`fieldgate_uplink_watchdog_total{rung="process"} 0` + "\n",
			`fieldgate_certificate_expiry_timestamp_seconds{name="listener0"} `,
			"fieldgate_store_written_last_day_bytes 0\n",
			"fieldgate_store_drain_seconds 0\n",
		} {
			if !strings.Contains(metrics, want) {
				t.Errorf("metrics have no %q", want)
			}
		}
		if code := d.end(); code != exitOK {
			t.Fatalf("round %d: exit code %d, want 0:\n%s", round, code, strings.Join(d.log.lines(), ""))
		}
	}
}

func scrape(t *testing.T, address string) string {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %v, %v", resp.Status, err)
	}
	return string(body)
}

func TestTakenAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()

	t.Run("of the broker ends the daemon", func(t *testing.T) {
		d := start(t, folder(t, strings.Replace(exampleText(t), "127.0.0.1:0", taken, 1)))
		if code := <-d.code; code != exitFailed {
			t.Errorf("exit code %d, want %d", code, exitFailed)
		}
		if out := strings.Join(d.log.lines(), ""); !strings.Contains(out, "address already in use") || !strings.Contains(out, "\nnext: ") {
			t.Errorf("output does not say why, or what next:\n%s", out)
		}
	})
	t.Run("of the metrics does not", func(t *testing.T) {
		text := exampleText(t)
		at := strings.Index(text, "[metrics]")
		d := start(t, folder(t, text[:at]+strings.Replace(text[at:], "127.0.0.1:0", taken, 1)))
		d.logged("metrics are not served", "", "")
		d.logged("ready", "", "")
		if code := d.end(); code != exitOK {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

func TestLockedStore(t *testing.T) {
	file := folder(t, exampleText(t))
	first := start(t, file)
	first.logged("ready", "", "")
	second := start(t, file)
	if code := <-second.code; code != exitFailed {
		t.Errorf("exit code of the second %d, want %d", code, exitFailed)
	}
	if out := strings.Join(second.log.lines(), ""); !strings.Contains(out, "next: stop the other fieldgate first") {
		t.Errorf("output does not say what to do:\n%s", out)
	}
	if code := first.end(); code != exitOK {
		t.Errorf("exit code of the first %d, want 0", code)
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	file := folder(t, strings.Replace(exampleText(t), `level = "info"`, `level = "debug"`, 1))
	d := start(t, file)
	d.logged("ready", "", "")
	if code := d.end(); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
	out := strings.Join(d.log.lines(), "")
	for _, secret := range []string{hubKey, passwordHash, "PRIVATE KEY", "sesame"} {
		if strings.Contains(out, secret) {
			t.Errorf("the log has %q in it", secret)
		}
	}
}

// recorded makes parts that note when they start and end.
type recorded struct {
	mu    sync.Mutex
	notes []string // guarded by mu
}

func (r *recorded) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, s)
}

func (r *recorded) part(name string) part {
	return part{name, func(ctx context.Context) error {
		<-ctx.Done()
		r.note(name)
		return nil
	}}
}

func TestStagesStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorded
		ctx, stop := context.WithCancel(t.Context())
		result := make(chan error)
		go func() {
			result <- runStages(ctx, []part{r.part("path")}, []part{r.part("uplink")}, []part{r.part("door"), r.part("door")})
		}()
		synctest.Wait()
		if len(r.notes) != 0 {
			t.Errorf("ended before they were stopped: %v", r.notes)
		}
		stop()
		if err := <-result; err != nil {
			t.Errorf("error %v, want none", err)
		}
		if got := strings.Join(r.notes, " "); got != "door door uplink path" {
			t.Errorf("ended in the order %q", got)
		}
	})
}

func TestStagesFailTogether(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		run  func(context.Context) error
		want error
	}{
		{"failing", func(context.Context) error { return boom }, boom},
		{"ending", func(context.Context) error { return nil }, errEnded},
		{"failing at the end", func(ctx context.Context) error { <-ctx.Done(); return boom }, boom},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r recorded
				ctx, stop := context.WithCancel(t.Context())
				result := make(chan error)
				go func() { result <- runStages(ctx, []part{r.part("path")}, []part{{"bad", c.run}}) }()
				synctest.Wait()
				stop()
				err := <-result
				if !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "bad: ") {
					t.Errorf("error %v, want bad: %v", err, c.want)
				}
				if got := strings.Join(r.notes, " "); got != "path" {
					t.Errorf("ended: %q, want the path as well", got)
				}
			})
		})
	}
}
