package broker

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// visitTimeout bounds one HTTP request; a block of a file may take its time.
const visitTimeout = 5 * time.Minute

// errVisit says that a connection was one of HTTP and nothing more.
var errVisit = errors.New("was no request for MQTT over WebSocket, and served as HTTP")

// visit is a connection on which something else than MQTT over WebSocket is asked
// for. before is what has been read of it.
type visit struct {
	net.Conn
	before bytes.Reader
	certs  []*x509.Certificate
	over   chan struct{} // closed when it is
	close  sync.Once
}

func (v *visit) Read(p []byte) (int, error) {
	if v.before.Len() > 0 {
		return v.before.Read(p)
	}
	return v.Conn.Read(p)
}

func (v *visit) Close() error {
	v.close.Do(func() { close(v.over) })
	return v.Conn.Close()
}

// visitListener gives one connection to an HTTP server, and ends with it.
type visitListener struct {
	first chan *visit // capacity 1
	visit *visit
}

func (l *visitListener) Accept() (net.Conn, error) {
	select {
	case v := <-l.first:
		return v, nil
	case <-l.visit.over:
		return nil, net.ErrClosed
	}
}

func (l *visitListener) Close() error   { return nil }
func (l *visitListener) Addr() net.Addr { return l.visit.LocalAddr() }

type visitCerts struct{}

// newVisitors makes the HTTP server for connections that are visits.
func (b *Broker) newVisitors(door func(prove func(*http.Request, string) error) http.Handler) *http.Server {
	return &http.Server{
		Handler:           door(b.prove),
		ReadHeaderTimeout: b.cfg.Load().ConnectTimeout.D(),
		ReadTimeout:       visitTimeout,
		WriteTimeout:      visitTimeout,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    maxUpgrade,
		ErrorLog:          log.New(io.Discard, "", 0), // of strangers' connections there is nothing to say
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, visitCerts{}, c.(*visit).certs)
		},
	}
}

// receive serves a connection as HTTP until it ends. The gateway that stops closes
// it, as it does with all who have not logged in.
func (b *Broker) receive(s *session, c net.Conn, before []byte) error {
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	v := &visit{Conn: c, certs: s.certs, over: make(chan struct{})}
	v.before.Reset(before)
	l := &visitListener{first: make(chan *visit, 1), visit: v}
	l.first <- v
	_ = b.visitors.Serve(l) // it always ends with an error: that there is nobody more
	return errVisit
}

// prove says whether an HTTP request is that of the leaf: by a token in its header,
// else by the certificate of its connection.
func (b *Broker) prove(r *http.Request, leaf string) error {
	if token := r.Header.Get("Authorization"); token != "" {
		_, err := b.checkToken(r.Context(), leaf, token)
		return err
	}
	certs, _ := r.Context().Value(visitCerts{}).([]*x509.Certificate)
	if len(certs) == 0 {
		return pairing.ErrCredentials
	}
	_, err := b.table.CheckCertificate(leaf, certs, b.clock())
	return err
}
