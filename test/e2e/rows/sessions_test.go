package rows

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// logged returns the times of the lines about a leaf in the gateway's log.
func (b *bench) logged(message, leaf string) (times []time.Time) {
	text, err := os.ReadFile(b.file("fieldgate.log"))
	must(b.t, err)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "msg=\""+message+"\"") && strings.Contains(line, "leaf="+leaf+" ") {
			at, err := time.Parse(time.RFC3339Nano, strings.TrimPrefix(strings.Fields(line)[0], "time="))
			must(b.t, err)
			times = append(times, at)
		}
	}
	return times
}

// excused says that the SDK has taken a command and told nobody. To renew a token
// it removes everybody who listens to its MQTT client and only then ends the
// connection, in good order: what comes between is acknowledged and dropped
// (azure-iot-mqtt-base 1.13, _disconnectClient). It would do so at the hub, too.
func (p *play) excused(leaf string, completed time.Time) bool {
	return p.renewing && slices.ContainsFunc(p.logged("leaf disconnected", leaf), func(at time.Time) bool {
		return completed.After(at.Add(-time.Second)) && completed.Before(at.Add(time.Second))
	})
}

// The SDK renews its token by a new connection, without subscribing again: its
// kept session goes on where it was, again and again, and after a restart of the
// gateway. Nothing is lost and nothing comes twice, for nothing breaks.
func TestTokenRenewal(t *testing.T) {
	nodeScripts(t)
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	t.Parallel()
	const valid = 6 // seconds; the SDK renews when half of it is left
	p := newPlay(t, []string{"telemetry", "command", "twin", "reported", "desired", "method"}, valid, patience)
	renewed := func(times int) {
		t.Helper()
		before := make(map[string]int)
		for _, l := range p.leaves {
			before[l.ID] = len(p.logged("leaf connected", l.ID))
		}
		for _, l := range p.leaves {
			p.await(l.ID+" to renew its token", func() bool { return len(p.logged("leaf connected", l.ID)) >= before[l.ID]+times })
		}
		p.advance()
	}
	renewed(2)
	must(t, p.gateway.Stop())
	p.kills = append(p.kills, kill{died: time.Now(), reborn: time.Now()})
	p.start()
	p.advance()
	renewed(1)
	p.end()
	p.judgeAll("Renewed tokens and a restart")
}
