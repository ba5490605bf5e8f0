package main

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/fieldgate/fieldgate/test/leafsim"
)

// The Nordic UART Service, as firmware of Zephyr's offers it.
const (
	uartService = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
	uartIn      = "6e400002-b5a3-f393-e0a9-e50e24dcca9e" // the gateway writes to it
	uartOut     = "6e400003-b5a3-f393-e0a9-e50e24dcca9e" // is notified
)

// node is a leaf that speaks MQTT-SN over the Nordic UART Service, on a controller of its
// own. As the leaf's end of a line it is an io.ReadWriteCloser; what is written while
// nobody listens is lost, as in the air.
type node struct {
	*peripheral
	*leafsim.Leaf
	out dbus.ObjectPath

	mu sync.Mutex
	// guarded by mu:
	news   sync.Cond // there is something unread, or the end
	unread []byte
	closed bool
	count  byte     // in the advertisement; it grows
	heard  []string // what came from the hub
}

// newNode makes a node that is not in the air yet.
func newNode(controller uint16, id string) (*node, error) {
	p, err := newPeripheral(controller, "/node", uartService)
	if err != nil {
		return nil, err
	}
	n := &node{peripheral: p}
	n.news.L = &n.mu
	n.Leaf = leafsim.New(leafsim.Options{ID: id, Rate: 2, Line: &leafsim.SN{
		Open:    func() (io.ReadWriteCloser, error) { return n, nil },
		Filters: []string{"command/#"},
		Heard: func(_ string, payload []byte) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.heard = append(n.heard, string(payload))
		},
	}})
	p.characteristic("in", uartIn, map[string]any{
		"WriteValue": func(v []byte, _ props) *dbus.Error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.unread = append(n.unread, v...)
			n.news.Broadcast()
			return nil
		},
	}, "write", "write-without-response")
	nothing := func() *dbus.Error { return nil } // bluetoothd sends to who listens, and to nobody else
	n.out = p.characteristic("out", uartOut, map[string]any{"StartNotify": nothing, "StopNotify": nothing}, "notify")
	p.advertised(func() props {
		return props{
			"Type": dbus.MakeVariant("peripheral"), "LocalName": dbus.MakeVariant("node"), "Discoverable": dbus.MakeVariant(true),
			"ManufacturerData": dbus.MakeVariant(n.shownCount()),
		}
	})
	return n, p.register()
}

// shownCount is what changes in the advertisement, under the number that stands for no
// company.
func (n *node) shownCount() map[uint16]dbus.Variant {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.count++
	return map[uint16]dbus.Variant{0xFFFF: dbus.MakeVariant([]byte{n.count})}
}

// begin puts the node in the air, and has it speak for as long as the machine runs. Whoever
// waits for its words notices when there are none.
func (n *node) begin() error {
	if err := n.advertise(true); err != nil {
		return err
	}
	go func() { _ = n.Run(context.Background()) }()
	go func() {
		for range time.Tick(tickEvery) { // see leaf.tick
			_ = n.changed(n.advert(), "LEAdvertisement1", "ManufacturerData", n.shownCount())
		}
	}()
	return nil
}

// told says whether the hub has told the node that.
func (n *node) told(what string) func() bool {
	return func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return slices.Contains(n.heard, what)
	}
}

// Read waits for what the gateway writes. The error is io.EOF, after Close.
func (n *node) Read(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.unread) == 0 {
		if n.closed {
			return 0, io.EOF
		}
		n.news.Wait()
	}
	some := copy(b, n.unread)
	n.unread = slices.Delete(n.unread, 0, some)
	return some, nil
}

// Write notifies, in pieces that fit into packets of any size.
func (n *node) Write(b []byte) (int, error) {
	for piece := range slices.Chunk(b, 20) {
		if err := n.notify(n.out, piece); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// Close ends reading.
func (n *node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.news.Broadcast()
	return nil
}
