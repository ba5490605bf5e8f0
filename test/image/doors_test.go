package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// scanned are the ports that are tried from outside: all that are well known, and
// others where something could listen. That nothing else listens is asked inside.
var scanned = func() (all []int) {
	for port := 1; port <= 1024; port++ {
		all = append(all, port)
	}
	return append(all, 1883, 2222, 2375, 4840, 5353, 5355, 5432, 5671, 5672, 6443, 8000, 8080, 8443, 8883, 9001, 9090, 9100, 9600)
}()

// open are those that may answer.
var open = []int{22, 8883}

// checkDoors looks who answers, and whether anybody could log in without a key.
func (w *twin) checkDoors(ctx context.Context) {
	w.t.Helper()
	w.reachAll(ctx)
	var mu sync.Mutex
	var answer []int
	var group sync.WaitGroup
	limit := make(chan struct{}, 64)
	for _, port := range scanned {
		group.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			if w.answers(ctx, port) {
				mu.Lock()
				defer mu.Unlock()
				answer = append(answer, port)
			}
		})
	}
	group.Wait()
	slices.Sort(answer)
	if !slices.Equal(answer, open) {
		w.t.Errorf("ports %v answer, want %v", answer, open)
	}
	const listening = " | tr -s ' ' | cut -d' ' -f4 | grep -vE '^(127\\.|\\[::1\\])' | grep -oE '[0-9]+$' | sort -un | tr '\\n' ' '"
	w.expect(ctx, "ss -Htln"+listening, "22 8883")
	w.expect(ctx, "ss -Huln"+listening, "68 5353") // DHCP, and the name on the local network
	w.expect(ctx, "grep -v '^[^:]*:[*]:' /etc/shadow || echo locked", "locked")
	w.expect(ctx, "sshd -T 2>/dev/null | grep -E '^(passwordauthentication|kbdinteractiveauthentication|permitemptypasswords) yes' || echo keys", "keys")
}

// reachAll makes every port reachable that is looked at. Not before: to wait at a
// thousand of them costs an emulator most of a processor.
func (w *twin) reachAll(ctx context.Context) {
	w.t.Helper()
	monitor, err := new(net.Dialer).DialContext(ctx, "unix", w.monitor())
	must(w.t, err)
	defer monitor.Close()
	var group sync.WaitGroup
	group.Go(func() { io.Copy(io.Discard, monitor) }) // it repeats what it is told
	for _, port := range scanned {
		if !slices.Contains(open, port) {
			_, err := fmt.Fprintf(monitor, "hostfwd_add net %s\n", w.forward(port))
			must(w.t, err)
		}
	}
	w.await(ctx, "the last port to be reachable", func() bool {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", w.port(scanned[len(scanned)-1]))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	monitor.Close()
	group.Wait()
}

// answers says whether somebody is behind a port. The emulator takes every
// connection, and ends it when the machine refuses.
func (w *twin) answers(ctx context.Context, port int) bool {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", w.port(port))
	if err != nil {
		w.t.Errorf("port %d was not looked at: %v", port, err)
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if port == 8883 {
		return tls.Client(c, &tls.Config{RootCAs: w.trusted, ServerName: "gateway"}).HandshakeContext(ctx) == nil
	}
	_, err = c.Read(make([]byte, 1))
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// checkName looks whether the machine is found by its name and by what it offers. It
// returns the name.
func (w *twin) checkName(ctx context.Context) string {
	w.t.Helper()
	name, err := w.shell(ctx, "cat /proc/sys/kernel/hostname")
	serial, _ := w.shell(ctx, "tail -c 5 /etc/machine-id")
	if err != nil || name != "fieldgate-"+serial {
		w.t.Errorf("the machine is called %q (%v), its number ends in %q", name, err, serial)
	}
	// What resolved would answer.
	const zone = "resolvectl query -p mdns --network=no --cache=no --legend=no --type="
	for service, port := range map[string]int{"_fieldgate._tcp": 8883, "_secure-mqtt._tcp": 8883, "_ssh._tcp": 22} {
		instance := name + "." + service + ".local"
		w.await(ctx, service+" to be announced", func() bool {
			offered, _ := w.shell(ctx, zone+"PTR "+service+".local")
			return strings.Contains(offered, "IN PTR "+instance+" ")
		})
		place, err := w.shell(ctx, zone+"SRV "+instance)
		if want := "IN SRV 0 0 " + strconv.Itoa(port) + " " + name + ".local "; err != nil || !strings.Contains(place, want) {
			w.t.Errorf("%s is at %q, %v, want %q", service, place, err, want)
		}
	}
	greeting, err := w.login(ctx, "exit\n")
	if err != nil || !strings.Contains(greeting, "uplink   connected") || !strings.Contains(greeting, "run: fieldgate status") {
		w.t.Errorf("a login is greeted with %q, %v", greeting, err)
	}
	return name
}
