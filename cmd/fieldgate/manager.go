package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// manager is who has started the daemon and wants to hear how it is: systemd, by
// sd_notify(3). Without one nothing is said. Not safe for concurrent use.
type manager struct {
	watched bool // it restarts the daemon unless it hears of progress
	ready   bool // it has been told so
	status  string
	late    []string
	log     *slog.Logger
}

func newManager(log *slog.Logger) *manager {
	every, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("cannot tell whether the service manager watches", "error", err)
	}
	return &manager{watched: every > 0, log: log}
}

// tell says when leaves can connect and, each time that nothing is late, that there
// is progress: a daemon of which a part hangs is killed and started again.
func (m *manager) tell(ready bool, late []string, status string) {
	var lines []string
	if ready && !m.ready {
		lines = append(lines, systemd.SdNotifyReady)
	}
	if status != m.status {
		lines = append(lines, "STATUS="+status)
	}
	if m.watched && len(late) == 0 {
		lines = append(lines, systemd.SdNotifyWatchdog)
	}
	if m.watched && len(late) > 0 && !slices.Equal(late, m.late) {
		m.log.Error("the service manager is not told of progress: there is none", "of", strings.Join(late, ", "))
	}
	m.late = late
	if len(lines) > 0 && m.say(lines...) {
		m.ready, m.status = m.ready || ready, status
	}
}

// say returns whether it was heard, or there is nobody.
func (m *manager) say(lines ...string) bool {
	_, err := systemd.SdNotify(false, strings.Join(lines, "\n"))
	if err != nil {
		m.log.Warn("cannot tell the service manager", "error", err)
	}
	return err == nil
}

// statusLine is how the gateway is in a few words, without numbers that change each
// time.
func statusLine(hub string, p *gateway.State, u *uplink.State) string {
	line := "connected to " + hub
	if !u.Connected {
		line = hub + " is not reached"
		if u.LastError != "" {
			line += ": " + u.LastError
		}
	}
	if p.Store.Failing != nil {
		line = fmt.Sprintf("flash cannot be written: %v; %s", p.Store.Failing, line)
	}
	return strings.Join(strings.Fields(line), " ") // of one line
}
