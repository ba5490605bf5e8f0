package dial_test

import (
	"bufio"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
	"github.com/fieldgate/fieldgate/test/faultproxy"
)

// talker is a server that takes whatever comes and talks all the time. It returns
// its address and its certificate's file.
func talker(t *testing.T) (address, ca string) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS() // for its certificate
	s.Close()
	pair := s.TLS.Certificates[0]
	ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c) }()
			go func() {
				defer c.Close()
				for {
					if _, err := c.Write([]byte("still here")); err != nil {
						return
					}
					time.Sleep(50 * time.Millisecond)
				}
			}()
		}
	}()
	return listener.Addr().String(), ca
}

// tunneller is an HTTP proxy that knows CONNECT and nothing else.
func tunneller(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				request, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				far, err := net.Dial("tcp", request.Host)
				if err != nil {
					return
				}
				defer far.Close()
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				go func() { _, _ = io.Copy(far, in) }()
				_, _ = io.Copy(c, far)
			}()
		}
	}()
	return listener.Addr().String()
}

// A far side that does not hear us but talks all the time: the kernel ends the
// connection. The socket there drops what arrives, so its TCP acknowledges nothing.
func TestFarSideThatDoesNotHearIsNoticed(t *testing.T) {
	address, ca := talker(t)
	for name, to := range map[string]string{"hub": address, "proxy": tunneller(t)} {
		t.Run(name, func(t *testing.T) {
			deaf, err := faultproxy.Start(faultproxy.Config{To: to})
			if err != nil {
				t.Fatal(err)
			}
			defer deaf.Close()
			cfg := valid()
			cfg.Transport, cfg.Address, cfg.ServerName, cfg.CAFile = dial.AMQP, address, "example.com", ca
			cfg.KeepAlive = gateway.Duration(time.Second)
			if name == "proxy" {
				cfg.Proxy = "http://" + deaf.Addr().String()
			} else {
				cfg.Address = deaf.Addr().String()
			}
			d, err := dial.New(cfg, func() gateway.Instant { return gateway.Instant{Wall: time.Now(), Quality: gateway.Synced} })
			if err != nil {
				t.Fatal(err)
			}
			stream, err := d.Dial(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Abort()
			if err := deaf.Deafen(true); err != nil {
				t.Fatal(err)
			}
			_ = stream.SetDeadline(time.Now().Add(time.Minute)) // a hang must end
			for b := make([]byte, 100); err == nil; {
				if _, err = stream.Write([]byte("anybody?")); err == nil {
					_, err = stream.Read(b)
				}
			}
			if !errors.Is(err, syscall.ETIMEDOUT) {
				t.Error(err)
			}
		})
	}
}
