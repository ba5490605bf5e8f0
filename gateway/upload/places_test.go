package upload

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// slowBench is a door at which leaves put blocks as slowly as they like.
type slowBench struct {
	*door
	t   *testing.T
	srv *httptest.Server
}

func newSlowBench(t *testing.T, grace, look time.Duration) *slowBench {
	spool := mustOpen(t, t.TempDir(), func(*Config) {})
	d := &door{Spool: spool, clock: clock, places: newPlaces()}
	d.places.grace, d.places.look = grace, look
	b := &slowBench{door: d, t: t, srv: httptest.NewTLSServer(d.handler())}
	t.Cleanup(b.srv.Close)
	return b
}

// put begins to put a block of a new file of the leaf; what it returns ends the
// block and says what became of it.
func (b *slowBench) put(leaf string) (end func() int) {
	b.t.Helper()
	id, err := b.Begin(leaf, "f", time.Now())
	must(b.t, err)
	f, err := b.find(id)
	must(b.t, err)
	in, out := io.Pipe()
	address := fmt.Sprintf("%s/%s/%s/f?file=%s&sig=%s&comp=block&blockid=MDAwMDAw", b.srv.URL, container, leaf, id, url.QueryEscape(b.headOf(f).Secret))
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPut, address, in)
	must(b.t, err)
	status := make(chan int, 1)
	go func() {
		defer in.Close()
		res, err := b.srv.Client().Do(req)
		if err != nil {
			status <- 0 // the connection was closed before it was answered
			return
		}
		res.Body.Close()
		status <- res.StatusCode
	}()
	_, _ = io.WriteString(out, "x")
	return func() int {
		out.Close()
		return <-status
	}
}

// readers waits until so many blocks are being read.
func (b *slowBench) readers(n int) {
	b.t.Helper()
	for limit := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		b.places.mu.Lock()
		got := len(b.places.reading)
		b.places.mu.Unlock()
		if got == n {
			return
		}
		if time.Now().After(limit) {
			b.t.Fatalf("%d blocks are being read, want %d", got, n)
		}
	}
}

// Leaves that are slow hold all places; another one gets one, and of the slow only
// one is cut off for that. Its block comes again.
func TestSlowLeavesKeepNobodyOut(t *testing.T) {
	b := newSlowBench(t, 0, time.Millisecond)
	ends := make([]func() int, maxBodies)
	for i := range ends {
		ends[i] = b.put(fmt.Sprintf("slow-%d", i))
		b.readers(i + 1)
	}
	if got := b.put("quick")(); got != http.StatusCreated {
		t.Errorf("the quick leaf: %d", got)
	}
	cut := 0
	for i, end := range ends {
		switch got := end(); got {
		case http.StatusCreated:
		case http.StatusServiceUnavailable, 0:
			cut++
			if got := b.put(fmt.Sprintf("slow-%d", i) + "-again")(); got != http.StatusCreated {
				t.Errorf("the block that came again: %d", got)
			}
		default:
			t.Errorf("slow-%d: %d", i, got)
		}
	}
	if cut != 1 {
		t.Errorf("%d leaves were cut off, want 1", cut)
	}
}

// While nobody waits a leaf may be as slow as it is, and nobody is cut off who has
// hardly begun.
func TestSlowLeafAloneIsLeftAlone(t *testing.T) {
	b := newSlowBench(t, time.Hour, time.Millisecond)
	ends := make([]func() int, maxBodies)
	for i := range ends {
		ends[i] = b.put(fmt.Sprintf("slow-%d", i))
		b.readers(i + 1)
	}
	b.places.cutSlowest(time.Now())
	waiting := b.put("quick")
	for i, end := range ends {
		if got := end(); got != http.StatusCreated {
			t.Errorf("slow-%d: %d", i, got)
		}
	}
	if got := waiting(); got != http.StatusCreated {
		t.Errorf("the leaf that waited: %d", got)
	}
}

// A leaf has one place only, however many connections it has.
func TestALeafHasOnePlace(t *testing.T) {
	b := newSlowBench(t, time.Hour, time.Hour)
	first := b.put("pump-1")
	b.readers(1)
	second := b.put("pump-1")
	if got := b.put("pump-2")(); got != http.StatusCreated {
		t.Errorf("another leaf: %d", got)
	}
	b.readers(1)
	for _, end := range []func() int{first, second} {
		if got := end(); got != http.StatusCreated {
			t.Errorf("the leaf: %d", got)
		}
	}
}

// Who has proven nothing keeps no connection at the door: not by asking again and
// again, nor by a request that never ends.
func TestStrangersDoNotStay(t *testing.T) {
	b := newBench(t)
	srv := b.door()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	trust := &tls.Config{RootCAs: roots}
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /devices/pump-1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
		"POST /devices/pump-1/files/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: token of pump-2\r\nContent-Length: 1000\r\n\r\n{",
		"PUT /fieldgate/pump-1/x?file=1&sig=2&comp=block HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx",
	} {
		c, err := tls.Dial("tcp", srv.Listener.Addr().String(), trust)
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		_, err = io.WriteString(c, request)
		must(t, err)
		text, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 40") {
			t.Errorf("%.40s: %.60s, then %v", request, text, err)
		}
	}
}
