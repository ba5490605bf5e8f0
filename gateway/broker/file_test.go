package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/plain"
)

// fakeFiles stands where the spool is.
type fakeFiles struct {
	mu  sync.Mutex
	all []string
	err error
}

func (f *fakeFiles) note(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.all = append(f.all, fmt.Sprintf(format, args...))
	}
	return f.err
}

func (f *fakeFiles) Part(leaf, name string, n int, content []byte, _ time.Time) error {
	return f.note("%s %s %d %s", leaf, name, n, content)
}

func (f *fakeFiles) End(leaf, name string) (bool, error) {
	return true, f.note("%s %s end", leaf, name)
}

func (f *fakeFiles) GiveUp(leaf, name string) error { return f.note("%s %s cancel", leaf, name) }

func (f *fakeFiles) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.all, ", ")
}

func newFileBench(t *testing.T) (*bench, *fakeFiles) {
	b := newBench(t, nil)
	b.end()
	files := &fakeFiles{}
	b.files = files
	b.start()
	return b, files
}

func TestFilesInParts(t *testing.T) {
	bothVersions(t, func(t *testing.T, version byte) {
		b, files := newFileBench(t)
		w := b.leaf("pump-1", version)
		for i, part := range []string{"1", "2", "end", "cancel"} {
			w.publish(uint16(i+1), "leaf/pump-1/file/a%2Fb/"+part, "x"+part)
			w.puback(uint16(i + 1))
		}
		if got, want := files.text(), "pump-1 a/b 1 x1, pump-1 a/b 2 x2, pump-1 a/b end, pump-1 a/b cancel"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if n := b.path.count(); n != 0 {
			t.Errorf("%d messages", n)
		}
	})
}

// A part that is not on flash is not acknowledged.
func TestPartNotTaken(t *testing.T) {
	b, files := newFileBench(t)
	files.err = gateway.ErrStoreFull
	w := b.leaf("pump-1", version5)
	w.publish(1, "leaf/pump-1/file/a/1", "x")
	w.expect("PUBACK", 0x40, 0, 1, 0x97)
	w = b.leaf("pump-1", version311)
	w.publish(1, "leaf/pump-1/file/a/1", "x")
	for _, p := range w.expectClosed() {
		if p[0]>>4 == 4 {
			t.Errorf("acknowledged with % x", p)
		}
	}
}

func TestFileTopics(t *testing.T) {
	for _, topic := range []string{
		"leaf/pump-2/file/a/1", "leaf/pump-1/file/a", "leaf/pump-1/file/a/0", "leaf/pump-1/file/a/01", "leaf/pump-1/file/a/+1", "leaf/pump-1/file/a/-1",
		"leaf/pump-1/file/a/1/2", "leaf/pump-1/file//1", "leaf/pump-1/file/%zz/1", "leaf/pump-1/file/a/4294967296", "leaf/pump-1/file/a/END",
	} {
		if f, ok := parseFile("pump-1", topic); ok {
			t.Errorf("%s is %+v", topic, f)
		}
	}
}

func FuzzFileTopic(f *testing.F) {
	f.Add("leaf/pump-1/file/a%2Fb/12")
	f.Add("leaf/pump-1/file/a/end")
	f.Fuzz(func(t *testing.T, topic string) {
		part, ok := parseFile("pump-1", topic)
		if ok && (part.name == "" || part.n < 0 || (part.n == 0) == (part.word == "") || !plain.Names(strings.SplitN(topic, "/", 3)[1], "pump-1")) {
			t.Errorf("%q is %+v", topic, part)
		}
	})
}

// HTTP beside MQTT over WebSocket: who asks is known by a token or a certificate.
func TestVisitors(t *testing.T) {
	b := socketBench(t, nil)
	b.end()
	b.door = func(prove func(*http.Request, string) error) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := prove(r, "pump-1"); err != nil {
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			n, _ := io.Copy(io.Discard, r.Body) // what the client sent is judged by the test
			fmt.Fprint(w, n)
		})
	}
	b.start()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.roots}}}
	defer client.CloseIdleConnections()
	ask := func(token string, size int) (string, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+b.tls+"/x", strings.NewReader(strings.Repeat("x", size)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", token)
		res, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return strings.TrimSpace(string(text)), errors.Join(err)
	}
	for range 3 { // on one connection
		if got, err := ask(b.token("pump-1"), 3_000_000); err != nil || got != "3000000" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for _, token := range []string{"", "x", b.token("pump-2")} {
		if got, err := ask(token, 1); err != nil || got != "no" {
			t.Errorf("with token %q: %q, %v", token, got, err)
		}
	}
	ws, _, err := b.dialSocket(socketPath, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	w := b.wire(&singleBytes{Conn: ws.NetConn(), ws: ws})
	if code, _ := w.connect(hello{clientID: "pump-1", user: hubUser("pump-1"), password: b.token("pump-1")}); code != 0 {
		t.Errorf("MQTT beside it: code %d", code)
	}
	if n := b.b.State().Garbage; n != 0 {
		t.Errorf("%d connections counted as garbage", n)
	}
}
