package site

import (
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Many at once get addresses that are free, and no two the same.
func TestFreeAddresses(t *testing.T) {
	const askers, each = 8, 100
	var mu sync.Mutex
	seen := make(map[string]bool)
	var all sync.WaitGroup
	for range askers {
		all.Go(func() {
			for range each {
				address, err := FreeAddress()
				if err != nil {
					t.Error(err)
					return
				}
				for range 2 { // a server that is started later, and again
					l, err := net.Listen("tcp", address)
					if err != nil {
						t.Error(err)
						return
					}
					l.Close()
				}
				mu.Lock()
				if seen[address] {
					t.Errorf("%s was given twice", address)
				}
				seen[address] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

// A port that somebody listens on is not given, nor one that the system gives to
// outgoing connections.
func TestFreeAddressIsNobodysPort(t *testing.T) {
	address, err := FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil || host != "127.0.0.1" {
		t.Fatalf("%s: %v", address, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < lowestPort || port >= systemsPort {
		t.Errorf("%s is not in the range", address)
	}
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\t")
		if low, err := strconv.Atoi(first); err == nil && port >= low {
			t.Errorf("the system gives ports from %d on, and %d is one of them", low, port)
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	given.Delete(address) // as in another process
	next := net.JoinHostPort(host, strconv.Itoa(port+1))
	_, known := given.Load(next)
	again, err := freeAddress(port, port+2)
	if known || err != nil { // the other one is somebody's too
		if err == nil {
			t.Errorf("%s was given, and both were taken", again)
		}
		return
	}
	if again != next {
		t.Errorf("%s was given while somebody listens there", again)
	}
	if last, err := freeAddress(port, port+2); err == nil {
		t.Errorf("%s was given, and both are taken", last)
	}
}
