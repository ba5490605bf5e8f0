package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// socketPath is where the hub's WebSocket is; the query says that we show no
// certificate, so that the hub does not ask for one (wire contract, section 2.8).
const socketPath = "/$iothub/websocket?iothub-no-client-cert=true"

// socketBuffer is the size of each of the two buffers of a WebSocket, in bytes.
const socketBuffer = 16 << 10

// upgrade makes a WebSocket of a TLS connection to the hub.
func (d *Dialer) upgrade(ctx context.Context, s *Stream, subprotocol string) (net.Conn, error) {
	dialer := websocket.Dialer{
		NetDialTLSContext: func(context.Context, string, string) (net.Conn, error) { return s, nil },
		Subprotocols:      []string{subprotocol},
		ReadBufferSize:    socketBuffer,
		WriteBufferSize:   socketBuffer,
	}
	ws, answer, err := dialer.DialContext(ctx, "wss://"+hostInURL(d.cfg.Host)+socketPath, nil)
	if err != nil {
		if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("the answer is %.100q", answer.Status)
		}
		return nil, err
	}
	if ws.Subprotocol() != subprotocol {
		return nil, fmt.Errorf("the far side does not speak %s", subprotocol)
	}
	return &socket{Conn: ws}, nil
}

// hostInURL puts brackets around an IPv6 address.
func hostInURL(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// socket is a WebSocket as a stream: what is written goes out as one binary
// message, and messages that come in are one after the other (wire contract,
// section 2.8: they do not line up with packets).
type socket struct {
	*websocket.Conn
	rest io.Reader // of the message that is being read; nil between messages
}

// errText says that the far side speaks another protocol.
var errText = errors.New("a text message on a WebSocket that carries bytes")

// Read reads what the far side says.
func (s *socket) Read(b []byte) (int, error) {
	for {
		if s.rest == nil {
			kind, r, err := s.NextReader()
			if err != nil {
				return 0, closing(err)
			}
			if kind != websocket.BinaryMessage {
				return 0, errText
			}
			s.rest = r
		}
		n, err := s.rest.Read(b)
		if errors.Is(err, io.EOF) {
			s.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// closing makes the end of a stream of a WebSocket's.
func closing(err error) error {
	e, ok := errors.AsType[*websocket.CloseError](err)
	switch {
	case !ok:
		return err
	case e.Code == websocket.CloseNormalClosure, e.Code == websocket.CloseGoingAway:
		return io.EOF
	}
	return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
}

// Write writes b as one message.
func (s *socket) Write(b []byte) (int, error) {
	if err := s.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetDeadline is for both directions.
func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// goodbyeTimeout is how long the word of goodbye may take to be written.
const goodbyeTimeout = time.Second

// Close says goodbye, if that is possible at once, and closes.
func (s *socket) Close() error {
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = s.WriteControl(websocket.CloseMessage, bye, time.Now().Add(goodbyeTimeout))
	return s.Conn.Close()
}
