package websocket_test

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/websocket"
)

// once is a listener with one connection.
type once struct{ conns chan net.Conn }

func (l *once) Accept() (net.Conn, error) {
	if nc, ok := <-l.conns; ok {
		return nc, nil
	}
	return nil, net.ErrClosed
}

func (l *once) Close() error   { return nil }
func (l *once) Addr() net.Addr { return &net.TCPAddr{} }

// FuzzAccept lets clients ask for the upgrade, and say what follows it, in any
// way. The server must neither panic nor stay.
func FuzzAccept(f *testing.F) {
	const upgrade = "GET /$iothub/websocket HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	for _, frames := range []string{
		"",
		"\x82\x81\x00\x00\x00\x00\x10", // one byte, as Node begins
		"\x02\x81\x00\x00\x00\x00a\x89\x80\x00\x00\x00\x00\x80\x81\x01\x02\x03\x04b", // in two parts around a ping
		"\x81\x81\x00\x00\x00\x00t", // text
		"\x82\x01x",                 // not masked
		"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", // huge
		"\x88\x82\x00\x00\x00\x00\x03\xe8",                         // close
		"\xf2\x80\x00\x00\x00\x00",                                 // reserved bits
	} {
		f.Add([]byte(upgrade + frames))
	}
	f.Add([]byte(strings.Replace(upgrade, "13", "12", 1)))
	f.Add([]byte(strings.Replace(upgrade, "mqtt", "soap, \"", 1)))
	f.Fuzz(func(t *testing.T, said []byte) {
		near, far := net.Pipe()
		listener := &once{make(chan net.Conn, 1)}
		listener.conns <- far
		var parts sync.WaitGroup
		accepted := func(w http.ResponseWriter, r *http.Request) {
			nc, protocol, err := websocket.Accept(w, r, "mqtt", "AMQPWSB10")
			if err != nil {
				return
			}
			if protocol != "mqtt" && protocol != "AMQPWSB10" {
				t.Errorf("agreed on %q", protocol)
			}
			_, err = io.Copy(io.Discard, nc)
			if _, again := nc.Read(make([]byte, 1)); again == nil || (err != nil && !errors.Is(again, err)) {
				t.Errorf("after %v reading gives %v", err, again)
			}
			_ = nc.Close()
		}
		gone := make(chan struct{})
		var end sync.Once
		server := &http.Server{
			Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { parts.Add(1); defer parts.Done(); accepted(w, r) }),
			ErrorLog: log.New(io.Discard, "", 0),
			ConnState: func(_ net.Conn, s http.ConnState) {
				if s == http.StateClosed || s == http.StateHijacked {
					end.Do(func() { close(gone) })
				}
			},
		}
		parts.Go(func() { _, _ = io.Copy(io.Discard, near) })
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		_, _ = near.Write(said)
		_ = near.Close()
		<-gone
		close(listener.conns)
		<-served
		parts.Wait()
	})
}
