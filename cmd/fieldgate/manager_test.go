package main

import (
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// serviceManager hears what the daemon says, as systemd does.
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
}

func listenAsManager(t *testing.T) *serviceManager {
	t.Helper()
	file := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: file, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", file)
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", "")
	return &serviceManager{t, conn}
}

// heard returns the lines of the next message.
func (s *serviceManager) heard() []string {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		s.t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	n, err := s.conn.Read(buffer)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Split(string(buffer[:n]), "\n")
}

// The service manager hears of progress only while there is some, of readiness once,
// and of the state when it changes.
func TestManagerHearsOfProgress(t *testing.T) {
	s := listenAsManager(t)
	var log writer
	m := newManager(slog.New(slog.NewTextHandler(&log, nil)))
	for _, step := range []struct {
		ready  bool
		late   []string
		status string
		want   []string
	}{
		{false, nil, "away", []string{"STATUS=away", "WATCHDOG=1"}},
		{true, nil, "away", []string{"READY=1", "WATCHDOG=1"}},
		{true, nil, "away", []string{"WATCHDOG=1"}},
		{true, []string{"path"}, "hangs", []string{"STATUS=hangs"}},
		{true, []string{"path"}, "hangs", nil},
		{true, nil, "hangs", []string{"WATCHDOG=1"}},
	} {
		m.tell(step.ready, step.late, step.status)
		if step.want == nil {
			continue // what comes next shows that nothing was said
		}
		if got := s.heard(); !slices.Equal(got, step.want) {
			t.Errorf("after %+v it heard %q", step, got)
		}
	}
	if lines := log.lines(); len(lines) != 1 || !strings.Contains(lines[0], "of=path") {
		t.Errorf("the log has %q, want one line about the path", lines)
	}
}

func TestManagerIsToldByTheDaemon(t *testing.T) {
	s := listenAsManager(t)
	d := start(t, folder(t, exampleText(t)))
	fed := 0
	for ready, status := false, ""; !ready || fed < 2 || status == ""; {
		for _, line := range s.heard() {
			ready = ready || line == "READY=1"
			if line == "WATCHDOG=1" {
				fed++
			}
			if text, ok := strings.CutPrefix(line, "STATUS="); ok {
				status = text
			}
		}
	}
	if code := d.end(); code != exitOK {
		t.Errorf("ended with %d", code)
	}
}

// Nobody has to listen.
func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	var log writer
	newManager(slog.New(slog.NewTextHandler(&log, nil))).tell(true, nil, "well")
	if lines := log.lines(); len(lines) > 0 {
		t.Errorf("it said %q", lines)
	}
}

func TestStatusLine(t *testing.T) {
	for _, c := range []struct {
		u    uplink.State
		want string
	}{
		{uplink.State{Connected: true, LastError: "old"}, "connected to hub"},
		{uplink.State{}, "hub is not reached"},
		{uplink.State{LastError: "no route\nto host"}, "hub is not reached: no route to host"},
	} {
		if got := statusLine("hub", new(gateway.State), &c.u); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
