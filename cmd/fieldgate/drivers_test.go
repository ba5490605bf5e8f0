package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
)

// What a driver says reaches the operator's screen and its metrics are added up
// by kind.
func TestStatesOfDrivers(t *testing.T) {
	since := time.Now().Add(-90 * time.Second)
	drivers := []gateway.DriverState{
		{
			Name: "modbus:usb:A1", Kind: "modbus", Up: true, Since: since, Leaves: 1, Logins: map[string]int64{"accepted": 2},
			Discarded: map[string]int64{"checksum": 3},
			Peers:     []gateway.PeerState{{Leaf: "meter-1", Up: true, Since: since}, {Leaf: "meter-2", Err: "no answer", Since: since}},
			Note:      "slow", Strangers: []gateway.Stranger{{Address: "A4:C1:38:00:00:01", What: "bthome", Count: 3}},
		},
		{Name: "modbus:usb:B2", Kind: "modbus", Err: errors.New("unplugged"), Since: since, Discarded: map[string]int64{"checksum": 4}},
	}
	s := state{Now: time.Now(), Drivers: driverStatesOf(drivers)}
	var out strings.Builder
	s.print(&out)
	for _, want := range []string{
		"modbus   usb:A1 up 1m30s, 3 discarded\n", "         meter-1 up 1m30s\n", "         meter-2 down 1m30s: no answer\n",
		"         slow\n", "         strangers: 1,",
		"modbus   usb:B2 down 1m30s: unplugged, 4 discarded\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status has no %q:\n%s", want, &out)
		}
	}
	if x := s.Drivers[0].Strangers; len(x) != 1 || x[0].What != "bthome" || x[0].Count != 3 {
		t.Errorf("strangers %+v", x)
	}
	sum := waysOf(broker.State{}, drivers)["modbus"]
	if sum.Connected != 1 || sum.Logins["accepted"] != 2 || sum.Discarded["checksum"] != 7 {
		t.Errorf("sum of both is %+v", sum)
	}
	if drivers[0].Discarded["checksum"] != 3 {
		t.Error("adding up changed what a driver said")
	}
}
