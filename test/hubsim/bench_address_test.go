package hubsim_test

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// benchNumber makes the addresses of this process differ.
var benchNumber atomic.Uint32

// benchHub starts a hub on the ports that the vendor's clients insist on: 443,
// 5671 and 8883. Each hub gets a loopback address of its own, so that tests of
// several processes do not meet. The address is also the hub's name. Ports below
// 1024 need root or a capability; without it the test is skipped on a
// developer's machine.
func benchHub(t *testing.T, cfg hubsim.Config) *hubsim.Hub {
	t.Helper()
	cfg.Bind = benchAddress(t)
	cfg.Host = cfg.Bind
	cfg.MQTTPort, cfg.AMQPPort, cfg.HTTPSPort = 8883, 5671, 443
	return start(t, cfg)
}

// benchAddress finds a loopback address whose port 443 nobody holds.
func benchAddress(t *testing.T) string {
	t.Helper()
	var failed error
	for range 50 {
		n := benchNumber.Add(1)
		pid := os.Getpid()
		address := fmt.Sprintf("127.%d.%d.%d", 64+pid>>8&63, pid&255, 1+n%250)
		l, err := net.Listen("tcp", net.JoinHostPort(address, "443"))
		if err == nil {
			_ = l.Close() // it was only a question
			return address
		}
		failed = err
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot listen on port 443 of any address tried: %v", failed)
	}
	t.Skipf("this test needs port 443 of a loopback address: %v", failed)
	return ""
}
