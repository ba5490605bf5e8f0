package websocket_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"

	"github.com/fieldgate/fieldgate/test/hubsim/websocket"
)

// accepted is a stream that the server has accepted.
type accepted struct {
	net.Conn
	protocol string
}

// serve starts an HTTP server that accepts two subprotocols, and returns its
// address and the streams.
func serve(t *testing.T) (address string, streams chan accepted) {
	t.Helper()
	streams = make(chan accepted, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, protocol, err := websocket.Accept(w, r, "mqtt", "AMQPWSB10")
		if err == nil {
			t.Cleanup(func() { _ = nc.Close() })
			streams <- accepted{nc, protocol}
		}
	}))
	t.Cleanup(s.Close)
	return "ws" + strings.TrimPrefix(s.URL, "http") + "/$iothub/websocket", streams
}

func dial(t *testing.T) (*gorilla.Conn, net.Conn) {
	t.Helper()
	address, streams := serve(t)
	dialer := gorilla.Dialer{Subprotocols: []string{"mqtt"}, EnableCompression: true}
	ws, response, err := dialer.Dial(address, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	if e := response.Header.Get("Sec-WebSocket-Extensions"); e != "" {
		t.Errorf("the extension %q was agreed", e)
	}
	return ws, (<-streams).Conn
}

func TestSubprotocols(t *testing.T) {
	for _, v := range []struct {
		offered []string
		want    string // "" for a refusal
	}{
		{[]string{"mqtt"}, "mqtt"},
		{[]string{"AMQPWSB10"}, "AMQPWSB10"},
		{[]string{"mqttv3.1", "AMQPWSB10", "mqtt"}, "mqtt"},
		{[]string{"soap"}, ""},
		{nil, ""},
	} {
		t.Run(fmt.Sprint(v.offered), func(t *testing.T) {
			address, streams := serve(t)
			dialer := gorilla.Dialer{Subprotocols: v.offered}
			ws, response, err := dialer.Dial(address, http.Header{"Origin": {"http://elsewhere.test"}})
			if v.want == "" {
				if err == nil || response == nil || response.StatusCode != http.StatusBadRequest {
					t.Errorf("got %v, want status 400", response)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			if got := (<-streams).protocol; got != v.want || ws.Subprotocol() != v.want {
				t.Errorf("got %s, and the client %s, want %s", got, ws.Subprotocol(), v.want)
			}
		})
	}
}

// A request that is no upgrade is answered as one.
func TestPlainRequest(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Sec-WebSocket-Protocol", "mqtt")
	w := httptest.NewRecorder()
	if _, _, err := websocket.Accept(w, r, "mqtt"); err == nil || w.Code != http.StatusBadRequest {
		t.Errorf("got %v with status %d, want an error with status 400", err, w.Code)
	}
}

// The borders of messages mean nothing in either direction (trap 9.29).
func TestStream(t *testing.T) {
	ws, nc := dial(t)
	for _, part := range [][]byte{{0x10}, nil, []byte("abc"), bytes.Repeat([]byte("x"), 100<<10)} {
		if err := ws.WriteMessage(gorilla.BinaryMessage, part); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 4+100<<10)
	if _, err := io.ReadFull(nc, got); err != nil || string(got[:5]) != "\x10abcx" {
		t.Errorf("got %q and %v", got[:5], err)
	}
	if _, err := nc.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if kind, b, err := ws.ReadMessage(); kind != gorilla.BinaryMessage || string(b) != "answer" || err != nil {
		t.Errorf("got kind %d, %q and %v", kind, b, err)
	}
}

func TestText(t *testing.T) {
	ws, nc := dial(t)
	if err := ws.WriteMessage(gorilla.TextMessage, []byte("text")); err != nil {
		t.Fatal(err)
	}
	for range 2000 { // the error stays, and the library does not mind being asked
		if _, err := nc.Read(make([]byte, 1)); err == nil {
			t.Fatal("text was read as bytes")
		}
	}
	if _, _, err := ws.ReadMessage(); !gorilla.IsCloseError(err, gorilla.CloseUnsupportedData) {
		t.Errorf("the client got %v, want close code 1003", err)
	}
}

func TestPing(t *testing.T) {
	ws, nc := dial(t)
	go func() { _, _ = nc.Read(make([]byte, 1)) }() // ends with the connection
	pong := make(chan string, 1)
	ws.SetPongHandler(func(text string) error {
		pong <- text
		return nc.Close()
	})
	if err := ws.WriteControl(gorilla.PingMessage, []byte("hello"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	_, _, _ = ws.ReadMessage() // until the server closes
	if got := <-pong; got != "hello" {
		t.Errorf("got %q", got)
	}
}

// The client's close frame is the end of the stream, and is answered.
func TestClientCloses(t *testing.T) {
	ws, nc := dial(t)
	if err := ws.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, ""), time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the end of the stream", err)
	}
	if _, _, err := ws.ReadMessage(); !gorilla.IsCloseError(err, gorilla.CloseNormalClosure) {
		t.Errorf("the client got %v, want close code 1000", err)
	}
}

// CloseWrite ends one direction only; Close both.
func TestServerCloses(t *testing.T) {
	ws, nc := dial(t)
	if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write([]byte("x")); err == nil {
		t.Error("something was written behind the close frame")
	}
	if err := ws.WriteMessage(gorilla.BinaryMessage, []byte("on its way")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); !gorilla.IsCloseError(err, gorilla.CloseNormalClosure) { // answers it too
		t.Errorf("the client got %v, want close code 1000", err)
	}
	if b, err := io.ReadAll(nc); string(b) != "on its way" || err != nil {
		t.Errorf("got %q and %v", b, err)
	}
	if err := nc.Close(); err != nil {
		t.Error(err)
	}
}

func TestDeadlines(t *testing.T) {
	_, nc := dial(t)
	if err := nc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: got %v", err)
	}
	// Writing waits for the client, until the deadline comes to a write that
	// is under way.
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := nc.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}()
	if err := nc.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: got %v", err)
	}
}

func TestReadLimit(t *testing.T) {
	ws, nc := dial(t)
	go func() { _ = ws.WriteMessage(gorilla.BinaryMessage, make([]byte, 17<<20)) }() // ends with the connection
	if n, err := io.Copy(io.Discard, nc); err == nil || n > 16<<20 {
		t.Errorf("%d bytes of one message were read, with %v", n, err)
	}
}
