package broker

import (
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"testing"
)

// What a silent leaf with the subscriptions of a stock SDK costs, heap and stacks.
// The leaf's own end is counted too.
func TestIdleLeafMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector's memory would be measured")
	}
	for _, way := range []struct {
		name string
		most int // bytes, with subscriptions
		dial func(*bench) (net.Conn, error)
	}{
		{"plain", 48 << 10, func(b *bench) (net.Conn, error) { return net.Dial("tcp", b.plain) }},
		{"TLS", 96 << 10, func(b *bench) (net.Conn, error) {
			return tls.Dial("tcp", b.tls, &tls.Config{RootCAs: b.roots})
		}},
	} {
		t.Run(way.name, func(t *testing.T) { idleLeaves(t, way.most, way.dial) })
	}
}

func idleLeaves(t *testing.T, most int, dial func(*bench) (net.Conn, error)) {
	const leaves = 300
	b := newBench(t, func(c *Config) { c.MaxConnections = 2 * leaves })
	for i := range leaves {
		b.addLeaf(fmt.Sprintf("leaf-%d", i))
	}
	heap0, stack0 := memory()
	var wires []*wire
	for i := range leaves {
		id := fmt.Sprintf("leaf-%d", i)
		c, err := dial(b)
		if err != nil {
			t.Fatal(err)
		}
		w := b.wire(c)
		if code, _ := w.connect(hello{clientID: id, user: hubUser(id), password: b.token(id), keep: true}); code != 0 {
			t.Fatalf("%s: code %d", id, code)
		}
		wires = append(wires, w)
	}
	for i, w := range wires {
		w.listen(1, fmt.Sprintf("devices/leaf-%d/messages/devicebound/#", i))
		w.listen(0, "$iothub/twin/res/#", "$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#")
	}
	heap, stack := memory()
	each := (heap - heap0 + stack - stack0) / leaves
	t.Logf("a leaf costs %d bytes: %d of heap and %d of stacks", each, (heap-heap0)/leaves, (stack-stack0)/leaves)
	if each > most {
		t.Errorf("a silent leaf costs %d bytes, want %d at most", each, most)
	}
}

// memory is what heap and stacks take, in bytes.
func memory() (heap, stack int) {
	runtime.GC()
	runtime.GC() // what finalizers held is free only now
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc), int(m.StackInuse)
}
