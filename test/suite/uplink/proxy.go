package suite

import (
	"bufio"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// Proxy is a small HTTP proxy that makes tunnels, and misbehaves when told to.
// What can be seen of it is behind its methods, which are safe for concurrent use.
type Proxy struct {
	listener net.Listener
	proof    string // what a client must show, "" for nothing
	parts    sync.WaitGroup

	mu      sync.Mutex // guards everything below
	answer  string     // said in the place of the true one, "" for that
	silent  bool       // says nothing at all
	tunnels []string   // where they led, in their order
	conns   map[net.Conn]bool
}

// StartProxy starts one that the end of the test closes. With a user it wants the
// password.
func StartProxy(t *testing.T, user, password string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, conns: make(map[net.Conn]bool)}
	if user != "" {
		p.proof = "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	p.parts.Go(p.serve)
	t.Cleanup(p.close)
	return p
}

// Address is where it listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Answer has it say this to CONNECT from now on, and nothing after it; "" ends it.
func (p *Proxy) Answer(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = text
}

// Silence has it say nothing to CONNECT while on.
func (p *Proxy) Silence(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = on
}

// Tunnels returns where tunnels led, in the order in which they were made.
func (p *Proxy) Tunnels() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.tunnels...)
}

func (p *Proxy) serve() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.keep(c)
		p.parts.Go(func() {
			defer p.drop(c)
			p.speak(c)
		})
	}
}

func (p *Proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
}

func (p *Proxy) drop(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.parts.Wait()
}

func (p *Proxy) speak(c net.Conn) {
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil || r.Method != http.MethodConnect {
		return
	}
	p.mu.Lock()
	answer, silent := p.answer, p.silent
	p.mu.Unlock()
	switch {
	case silent:
		_, _ = io.Copy(io.Discard, c)
	case answer != "":
		_, _ = io.WriteString(c, answer)
	case p.proof != "" && r.Header.Get("Proxy-Authorization") != p.proof:
		_, _ = io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"site\"\r\nContent-Length: 0\r\n\r\n")
	default:
		p.tunnel(c, in, r.Host)
	}
}

func (p *Proxy) tunnel(c net.Conn, in io.Reader, target string) {
	far, err := net.Dial("tcp", target)
	if err != nil {
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	p.mu.Lock()
	p.tunnels = append(p.tunnels, target)
	p.conns[far] = true
	p.mu.Unlock()
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	p.parts.Go(func() {
		defer c.Close()
		defer p.drop(far)
		_, _ = io.Copy(c, far)
	})
	_, _ = io.Copy(far, in)
	far.Close()
}
