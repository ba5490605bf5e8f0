// Package websocket lets the hub's stream protocols run inside a WebSocket
// (wire contract, sections 2.8 and 3.1).
package websocket

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// maxMessage is how many bytes one message of a client may have. It is a stream
// to us and takes no memory; clients put as much into a message as they have.
const maxMessage = 16 << 20

// closeTimeout is how long the close frame may wait for a client that does not
// read.
const closeTimeout = time.Second

// Accept answers the upgrade request. The stream it returns has no frames: what
// the client sends in pieces is read as one stream (trap 9.29). protocol is the
// one of protocols that was agreed, the earlier the better; a client that wants
// none of them is refused, the error then has been answered.
//
// The stream also has CloseWrite, which sends the close frame and leaves reading
// open until the client's, and NetConn, which returns what lies under it.
func Accept(w http.ResponseWriter, r *http.Request, protocols ...string) (nc net.Conn, protocol string, err error) {
	offered := websocket.Subprotocols(r)
	if !slices.ContainsFunc(protocols, func(p string) bool { return slices.Contains(offered, p) }) {
		http.Error(w, "the subprotocol must be "+strings.Join(protocols, " or "), http.StatusBadRequest)
		return nil, "", fmt.Errorf("a WebSocket client offers the subprotocols %q", offered)
	}
	upgrader := websocket.Upgrader{
		Subprotocols: protocols,
		CheckOrigin:  func(*http.Request) bool { return true }, // tokens decide, not where a page came from
	}
	ws, err := upgrader.Upgrade(&hijacker{ResponseWriter: w}, r, nil)
	if err != nil {
		return nil, "", fmt.Errorf("cannot upgrade to WebSocket: %w", err)
	}
	ws.SetReadLimit(maxMessage)
	return &stream{ws: ws}, ws.Subprotocol(), nil
}

// hijacker hands the library a socket whose write deadline is left to us: it
// would set its own before each write, and could only be told another one
// between two writes.
type hijacker struct{ http.ResponseWriter }

// Hijack takes the socket from the HTTP server.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &socket{nc}, rw, nil
}

// socket is a connection that ignores the library's write deadlines.
type socket struct{ net.Conn }

// SetWriteDeadline does nothing.
func (*socket) SetWriteDeadline(time.Time) error { return nil }

// stream is a WebSocket without its frames.
type stream struct {
	ws *websocket.Conn

	// One goroutine reads at a time.
	message io.Reader // what is left of the client's message; nil between messages
	failed  error     // of reading, and stays

	writing sync.Mutex // held while a message is written
	closing sync.Once  // the close frame is sent
}

// Read reads what the client sent, across the borders of its messages. It is
// io.EOF after the client's close frame.
func (s *stream) Read(b []byte) (int, error) {
	if s.failed != nil {
		return 0, s.failed
	}
	n, err := s.read(b)
	s.failed = plain(err)
	return n, s.failed
}

// plain turns the library's own error for a deadline that has passed into
// everybody's.
func plain(err error) error {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return os.ErrDeadlineExceeded
	}
	return err
}

func (s *stream) read(b []byte) (int, error) {
	for {
		if s.message == nil {
			kind, message, err := s.ws.NextReader()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived) {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				s.sayGoodbye(websocket.CloseUnsupportedData)
				return 0, errors.New("a WebSocket message of text, not of bytes")
			}
			s.message = message
		}
		n, err := s.message.Read(b)
		if errors.Is(err, io.EOF) {
			s.message, err = nil, nil
		}
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
	}
}

// Write sends b as one message.
func (s *stream) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ws.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, plain(err)
	}
	return len(b), nil
}

// CloseWrite sends the close frame, behind which nothing can be written. The
// client's answer ends the reading.
func (s *stream) CloseWrite() error { return s.sayGoodbye(websocket.CloseNormalClosure) }

func (s *stream) sayGoodbye(code int) (err error) {
	s.closing.Do(func() {
		_ = s.SetWriteDeadline(time.Now().Add(closeTimeout))
		err = s.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(closeTimeout))
	})
	return err
}

// Close sends the close frame, unless that was done, and closes the socket.
func (s *stream) Close() error {
	_ = s.sayGoodbye(websocket.CloseNormalClosure) // who has gone need not hear it
	return s.ws.Close()
}

// NetConn returns the connection under the WebSocket.
func (s *stream) NetConn() net.Conn { return s.ws.NetConn().(*socket).Conn }

// LocalAddr is where the hub is.
func (s *stream) LocalAddr() net.Addr { return s.ws.LocalAddr() }

// RemoteAddr is where the client is.
func (s *stream) RemoteAddr() net.Addr { return s.ws.RemoteAddr() }

// SetDeadline sets both deadlines.
func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads, one that waits included. After it has passed
// once, nothing can be read any more.
func (s *stream) SetReadDeadline(t time.Time) error { return s.ws.SetReadDeadline(t) }

// SetWriteDeadline bounds writes, one that waits included.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.NetConn().SetWriteDeadline(t) }
