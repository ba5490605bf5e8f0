package mqtt_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

// serverTLS makes a server's configuration and a client's that trusts it.
func serverTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"hub.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return server, &tls.Config{RootCAs: roots, ServerName: "hub.test"}
}

// overTLS serves one TCP connection with TLS and returns the client's end, with
// CONNECT exchanged.
func overTLS(t *testing.T) (net.Conn, *routes) {
	t.Helper()
	serverConfig, clientConfig := serverTLS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &routes{closed: make(chan bool, 1)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		_ = mqtt.Serve(tls.Server(nc, serverConfig), mqtt.Config{}, func(conn *mqtt.Conn, _ mqtt.Login) (mqtt.Routes, bool, byte) {
			r.conn = conn
			return r, false, mqtt.Accepted
		})
	}()
	nc, err := tls.Dial("tcp", l.Addr().String(), clientConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = nc.Close()
		_ = l.Close()
		<-served
	})
	if err := hello(60).Write(nc); err != nil {
		t.Fatal(err)
	}
	if _, err := packets.ReadPacket(nc); err != nil {
		t.Fatal(err)
	}
	return nc, r
}

func TestAbortResets(t *testing.T) {
	nc, r := overTLS(t)
	r.conn.Abort()
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset connection", err)
	}
	<-r.closed
}

// A connection that we close does not reset under the last acknowledgements,
// though the client has sent more than we read.
func TestLastWordsArrive(t *testing.T) {
	nc, r := overTLS(t)
	r.publish = func(p mqtt.Publish, done func(error)) {
		if p.Topic == "last" {
			done(errors.New("enough"))
			return
		}
		done(nil)
	}
	var out bytes.Buffer
	for _, p := range []*packets.PublishPacket{publish("first", 1, 1), publish("last", 1, 2)} {
		if err := p.Write(&out); err != nil {
			t.Fatal(err)
		}
	}
	big := publish("never read", 0, 0)
	big.Payload = make([]byte, 64<<10)
	for range 4 {
		if err := big.Write(&out); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nc.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	<-r.closed
	in := bufio.NewReader(nc)
	if p, err := packets.ReadPacket(in); err != nil || p.Details().MessageID != 1 {
		t.Errorf("got %v and %v, want PUBACK 1", p, err)
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the orderly end of the stream", err)
	}
}
