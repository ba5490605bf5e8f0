package hubsim

import (
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/arm"
	"github.com/fieldgate/fieldgate/test/hubsim/blob"
	"github.com/fieldgate/fieldgate/test/hubsim/rest"
	"github.com/fieldgate/fieldgate/test/hubsim/websocket"
)

// Where the WebSockets are (wire contract, sections 2.8, 3.1 and 5.9), and what
// may run inside.
const (
	deviceSocket  = "/$iothub/websocket"
	eventSocket   = "/$servicebus/websocket"
	mqttInSocket  = "mqtt"
	amqpInSocket  = "AMQPWSB10"
	headerTimeout = 30 * time.Second
)

// front makes the server of the HTTPS port: requests of services and devices,
// registrants, the resource provider, blobs, and both stream protocols inside
// WebSockets.
func (h *Hub) front() (*http.Server, error) {
	endpoint, blobs, err := h.storage()
	if err != nil {
		return nil, err
	}
	h.blobEndpoint = endpoint
	api := rest.New(h.hub)
	provider := h.provider()
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch { // no mux: it would answer strange paths with other ones, outside of the form of errors
			case r.URL.Path == deviceSocket, r.URL.Path == eventSocket:
				h.socket(w, r)
			case strings.HasPrefix(r.URL.Path, h.provisioning.Path()):
				h.provisioning.ServeHTTP(w, r)
			case arm.Owns(r.URL.Path):
				provider.ServeHTTP(w, r)
			case blobs != nil && blob.Owns(r.URL.Path):
				blobs.ServeHTTP(w, r)
			default:
				api.ServeHTTP(w, r)
			}
		}),
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(h.cfg.Log.Handler(), slog.LevelDebug),
		ConnContext:       api.ConnContext,
		ConnState:         h.connState,
	}, nil
}

// provider makes the resource provider. New keys are kept for the next start.
func (h *Hub) provider() *arm.Provider {
	return arm.New(h.hub, arm.Config{
		Endpoint: "sb://" + net.JoinHostPort(h.cfg.Bind, strconv.Itoa(portOf(h.listeners.amqp))) + "/",
		Jobs:     transfers{h.hub.Transfers},
		Changed: func() {
			if err := h.save(); err != nil {
				h.cfg.Log.Error("cannot keep the new keys", "error", err)
			}
		},
	})
}

// connState keeps Close waiting until the server has let go of a connection. One
// that became a WebSocket is let go by socket.
func (h *Hub) connState(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew: // called by the goroutine that accepts, which is a part itself
		h.parts.Add(1)
	case http.StateClosed:
		h.parts.Done()
	}
}

// socket speaks the protocol that the client asks for inside a WebSocket.
func (h *Hub) socket(w http.ResponseWriter, r *http.Request) {
	stream, protocol, err := websocket.Accept(w, r, mqttInSocket, amqpInSocket)
	if err != nil {
		h.cfg.Log.Debug("no WebSocket", "peer", r.RemoteAddr, "error", err)
		return
	}
	defer h.parts.Done() // the server counts this connection no more
	var certificates []*x509.Certificate
	if r.TLS != nil {
		certificates = r.TLS.PeerCertificates
	}
	speak := h.speakAMQP
	if protocol == mqttInSocket {
		speak = h.speakMQTT
	}
	if err := speak(stream, certificates); err != nil {
		h.cfg.Log.Debug("connection ended", "peer", r.RemoteAddr, "error", err)
	}
}
