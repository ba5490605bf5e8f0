package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/test/fakebluez"
	"github.com/fieldgate/fieldgate/test/leafsim"
	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// From nothing to the first message at the hub, on each wire, and gone again, while
// others are at work: their connections stay, and nothing of theirs is lost. What is
// removed is let go of at once.
func TestLeavesOfDriversComeAndGo(t *testing.T) {
	t.Parallel()
	if _, err := fakebluez.FindBus(); err != nil {
		need(t, err.Error())
	}
	ctx := testContext(t, 4*patience)
	pump, node := site.Device{ID: "pump-1", Kind: site.MQTT3}, site.Device{ID: "node-1", Kind: site.MQTTSN, New: true}
	s := newSite(ctx, t, site.Plan{Leaves: []site.Device{
		pump, {ID: "valve-1", Kind: site.Valve}, node, {ID: "valve-2", Kind: site.Valve, New: true}, {ID: "room-1", Kind: site.BTHome, New: true},
	}})
	enrolling(t, s)
	must(t, s.StartGateway(ctx))
	c := &terminal{t, ctx, s}
	crew := launch(ctx, t, s, []site.Device{pump}, leafsim.Options{Rate: 20})
	from := func(leaf string) int {
		n := 0
		for _, e := range s.Events() {
			if e.Device == leaf {
				n++
			}
		}
		return n
	}
	radio := s.Radio()
	must(t, s.Await(ctx, "those that are there", func() bool { return crew.Stats().Connected && from("valve-1") > 0 }))

	meter, _ := meterAt(ctx, t, unix.B9600)
	line := filepath.Join(s.Dir(), "leaf", "tty-node-1")
	speaking, silence := context.WithCancel(ctx)
	defer silence()
	leaf, err := s.Leaf(node, leafsim.Options{Rate: 5})
	must(t, err)
	spoken := make(chan error, 1)
	go func() { spoken <- leaf.Run(speaking) }()
	must(t, s.Await(ctx, "the port of the node", func() bool { _, err := os.Stat(line); return err == nil }))
	valve := filepath.Join(s.Dir(), "valve.toml")
	must(t, os.WriteFile(valve, []byte("\n[[ble.device.characteristic]]\nuuid = \"6e400002-b5a3-f393-e0a9-e50e24dcca9e\"\nname = \"position\"\nformat = \"uint8\"\nread = \"once\"\n"), 0o600))
	address := func(leaf string) string { return radio.Device(leaf).Address }

	ways := []struct {
		leaf string
		pair []string
	}{
		{"meter-1", []string{"serial", meter, "--config", s.ConfigFile(), "--for", "2m"}},
		{"node-1", []string{"serial", line, "--config", s.ConfigFile(), "--baud", "115200", "--format", "mqtt-sn"}},
		{"valve-2", []string{"ble", address("valve-2"), "--passkey", "123456", "--characteristics", valve}},
		{"room-1", []string{"ble", address("room-1"), "--advertised"}},
	}
	for _, w := range ways {
		begin := time.Now()
		c.gets(0, append(append([]string{"pair"}, w.pair...), "--as", w.leaf)...)
		must(t, s.Await(ctx, "the first message of "+w.leaf, func() bool { return from(w.leaf) > 0 }))
		t.Logf("%s: from the command to the first message at the hub %v", w.leaf, time.Since(begin).Round(time.Millisecond))
	}
	before := metric(ctx, s, "fieldgate_messages_received_total")
	for _, w := range ways {
		begin := time.Now()
		c.gets(0, "device", "remove", w.leaf)
		if d := radio.Device(w.leaf); d != nil && (d.Connected() || d.Bonded()) {
			t.Errorf("%s is removed, and its device connected (%v) or paired (%v)", w.leaf, d.Connected(), d.Bonded())
		}
		t.Logf("%s: removed and let go of in %v", w.leaf, time.Since(begin).Round(time.Millisecond))
		if out := c.gets(0, "status"); strings.Contains(out, meter+" up") && w.leaf == "meter-1" {
			t.Errorf("the port is open:\n%s", out)
		}
	}
	if after := metric(ctx, s, "fieldgate_messages_received_total"); after < before {
		t.Errorf("a counter has gone down from %v to %v", before, after)
	}
	// All of it is free for others.
	c.gets(0, "pair", "serial", meter, "--config", s.ConfigFile(), "--for", "2m", "--as", "meter-2")
	c.gets(0, "pair", "ble", address("room-1"), "--advertised", "--as", "room-2")
	for _, leaf := range []string{"meter-2", "room-2"} {
		must(t, s.Await(ctx, "the first message of "+leaf, func() bool { return from(leaf) > 0 }))
	}
	silence()
	<-spoken
	must(t, crew.Finish(ctx))
	if n := crew.Stats().Connects; n != 1 {
		t.Errorf("pump-1 has connected %d times", n)
	}
	if n := radio.Device("valve-1").Connects(); n != 1 {
		t.Errorf("valve-1 was connected %d times", n)
	}
	must(t, s.AwaitArrival(ctx))
}
