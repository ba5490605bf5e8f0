package hubsim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

// handshakeTimeout is how long a client may take for TLS.
const handshakeTimeout = 30 * time.Second

// listeners are the sockets on which a hub waits for clients.
type listeners struct{ mqtt, amqp, https net.Listener }

// listen opens the listeners, all or none.
func listen(cfg Config) (l listeners, err error) {
	for _, one := range []struct {
		listener *net.Listener
		port     int
	}{{&l.mqtt, cfg.MQTTPort}, {&l.amqp, cfg.AMQPPort}, {&l.https, cfg.HTTPSPort}} {
		*one.listener, err = net.Listen("tcp", net.JoinHostPort(cfg.Bind, strconv.Itoa(one.port)))
		if err != nil {
			return listeners{}, errors.Join(err, l.close())
		}
	}
	return l, nil
}

func (l listeners) close() (err error) {
	for _, one := range []net.Listener{l.mqtt, l.amqp, l.https} {
		if one != nil {
			err = errors.Join(err, one.Close())
		}
	}
	return err
}

// portOf returns the port on which a listener waits.
func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// serve starts to take clients on all listeners.
func (h *Hub) serve() {
	h.parts.Go(func() { h.accept(h.listeners.mqtt, h.speakMQTT) })
	h.parts.Go(func() { h.accept(h.listeners.amqp, h.speakAMQP) })
	h.parts.Go(func() {
		// It ends with the listener, and says so with an error.
		_ = h.https.Serve(gatedListener{h.listeners.https, h})
	})
}

// accept takes connections until the listener is closed.
func (h *Hub) accept(l net.Listener, speak func(net.Conn, []*x509.Certificate) error) {
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			h.cfg.Log.Warn("cannot accept", "error", err)
			continue
		}
		gated := h.gate.wrap(nc)
		h.parts.Go(func() {
			err := h.greet(gated, speak)
			if err != nil {
				h.cfg.Log.Debug("connection ended", "peer", nc.RemoteAddr().String(), "error", err)
			}
		})
	}
}

// greet does the TLS handshake and speaks with the client until it is gone.
func (h *Hub) greet(nc *gatedConn, speak func(net.Conn, []*x509.Certificate) error) error {
	stream := &tlsConn{tls.Server(nc, h.tls), nc}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	err := stream.HandshakeContext(ctx)
	cancel()
	if err != nil {
		return errors.Join(err, nc.Close())
	}
	return speak(stream, stream.ConnectionState().PeerCertificates)
}

func (h *Hub) speakAMQP(nc net.Conn, certificates []*x509.Certificate) error {
	return server.Serve(nc, server.Config{
		IdleTimeout: h.cfg.IdleTimeout, Credit: h.cfg.Credit, Certificates: certificates, Log: h.cfg.Log,
	}, h.provisioning.Beside(h.amqp.Connect))
}

func (h *Hub) speakMQTT(nc net.Conn, certificates []*x509.Certificate) error {
	cfg := mqtt.Config{Certificates: certificates, Log: h.cfg.Log}
	return mqtt.Serve(nc, cfg, func(c *mqtt.Conn, login mqtt.Login) (mqtt.Routes, bool, byte) {
		if h.provisioning.Owns(login.User) {
			return h.provisioning.ConnectMQTT(c, login)
		}
		return h.mqtt.Connect(c, login)
	})
}

// tlsConn closes its socket without waiting for a peer that no longer reads.
type tlsConn struct {
	*tls.Conn
	socket *gatedConn
}

// Close says goodbye when that is possible at once.
func (c *tlsConn) Close() error {
	if c.socket.isDead() {
		return c.socket.Close()
	}
	return c.Conn.Close()
}

// gatedListener hands the HTTPS server connections with TLS behind the gate.
type gatedListener struct {
	net.Listener
	h *Hub
}

// Accept waits for a client. The handshake is the server's to do.
func (l gatedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(l.h.gate.wrap(nc), l.h.tls), nil
}
