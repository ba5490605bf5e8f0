package broker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// socketPath is where stock SDKs look for MQTT over WebSocket (wire contract,
	// section 2.8).
	socketPath = "/$iothub/websocket"
	// maxUpgrade bounds the HTTP request that asks for a WebSocket, in bytes.
	maxUpgrade = 8 << 10
	// socketBuffer is the size of the buffers of a WebSocket, one for each way.
	socketBuffer = 1 << 10
)

// socket is a connection over WebSocket as a stream of bytes: frames do not line
// up with packets (wire contract, section 2.8). Before upgrade it must not be
// read or written. Reads come from one goroutine, writes from any.
type socket struct {
	net.Conn // below the WebSocket
	ws       *websocket.Conn
	frame    io.Reader // what is left of the message being read

	writing sync.Mutex // one Write at a time
}

var errUpgrade = errors.New("not a request for MQTT over WebSocket")

// upgrade answers the HTTP request with which a WebSocket begins, and keeps the
// deadline of the connection as it is. It takes one request only. What asks for
// something else is for other, with what has been read of it; nil is nobody.
func (s *socket) upgrade(deadline time.Time, other func(c net.Conn, before []byte) error) error {
	var before bytes.Buffer
	in := bufio.NewReaderSize(io.TeeReader(&io.LimitedReader{R: s.Conn, N: maxUpgrade}, &before), socketBuffer)
	r, err := http.ReadRequest(in)
	if err != nil {
		return fmt.Errorf("%w: %w", errUpgrade, err)
	}
	w := &upgradeAnswer{conn: s.Conn, in: in, header: make(http.Header)}
	if r.URL.Path != socketPath && other != nil {
		return other(s.Conn, before.Bytes())
	}
	if r.URL.Path != socketPath {
		w.refuse(http.StatusNotFound, "MQTT over WebSocket is at "+socketPath)
		return errUpgrade
	}
	if !slices.Contains(websocket.Subprotocols(r), "mqtt") {
		w.refuse(http.StatusBadRequest, "the subprotocol is mqtt")
		return errUpgrade
	}
	upgrader := websocket.Upgrader{Subprotocols: []string{"mqtt"}, ReadBufferSize: socketBuffer, WriteBufferSize: socketBuffer, Error: w.fail}
	if s.ws, err = upgrader.Upgrade(w, r, nil); err != nil {
		return fmt.Errorf("%w: %w", errUpgrade, err)
	}
	return s.Conn.SetDeadline(deadline) // the upgrade has taken it away
}

// upgradeAnswer is what an upgrader needs of an HTTP server.
type upgradeAnswer struct {
	conn   net.Conn
	in     *bufio.Reader
	header http.Header
}

func (w *upgradeAnswer) Header() http.Header { return w.header }

// Write and WriteHeader are not used: an upgrader fails through fail.
func (w *upgradeAnswer) Write(p []byte) (int, error) { return len(p), nil }

func (w *upgradeAnswer) WriteHeader(int) {}

// Hijack gives the connection away. The upgrader refuses a client that has sent
// more than the request by now.
func (w *upgradeAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(w.in, bufio.NewWriterSize(w.conn, socketBuffer)), nil
}

func (w *upgradeAnswer) fail(_ http.ResponseWriter, _ *http.Request, status int, reason error) {
	w.refuse(status, reason.Error())
}

// refuse writes an answer that ends the connection.
func (w *upgradeAnswer) refuse(status int, text string) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, http.StatusText(status), len(text), text)
	_, _ = w.conn.Write(b.Bytes()) // it is closed next, whether or not it was read
}

// Read returns bytes of binary messages; a message of text is no MQTT
// (MQTT 5.0, section 6).
func (s *socket) Read(p []byte) (int, error) {
	for {
		if s.frame == nil {
			kind, frame, err := s.ws.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errMalformed
			}
			s.frame = frame
		}
		n, err := s.frame.Read(p)
		if errors.Is(err, io.EOF) {
			s.frame, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write sends one message.
func (s *socket) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetWriteDeadline bounds the writes that begin after it: a WebSocket sets the
// deadline of the connection itself.
func (s *socket) SetWriteDeadline(t time.Time) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.ws.SetWriteDeadline(t)
}
