package dial

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/seal"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// proxy is an HTTP proxy that makes tunnels. Its errors name the proxy and never
// what proves us to it.
type proxy struct {
	address string
	prove   func() string // the value of Proxy-Authorization, "" for none; a function, so that nothing prints it
}

// proxyChoice returns the proxy for an address, nil for none.
type proxyChoice func(address string) (*proxy, error)

// proxyFunc returns what net/http asks for the proxy of a request, nil for none. It
// reads the file of the password. Errors are of type *gateway.KeyError.
func (c *Config) proxyFunc() (func(*http.Request) (*url.URL, error), error) {
	switch c.Proxy {
	case "":
		return nil, nil
	case FromEnvironment:
		return http.ProxyFromEnvironment, nil
	}
	u, err := url.Parse(c.Proxy)
	if err != nil {
		return nil, gateway.BadKey("proxy", "is not a URL")
	}
	if c.ProxyPasswordFile == "" {
		return http.ProxyURL(u), nil
	}
	text, err := seal.ReadFile(c.ProxyPasswordFile)
	if err != nil {
		return nil, gateway.BadKey("proxy_password_file", "cannot be read: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return nil, gateway.BadKey("proxy_password_file", "%s is empty", c.ProxyPasswordFile)
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return http.ProxyURL(u), nil
}

// chooseProxy asks for each address: NO_PROXY may name it.
func chooseProxy(cfg *Config) (proxyChoice, error) {
	choose, err := cfg.proxyFunc()
	if err != nil {
		return nil, err
	}
	if choose == nil {
		return func(string) (*proxy, error) { return nil, nil }, nil
	}
	return func(address string) (*proxy, error) {
		u, err := choose(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
		switch {
		case err != nil:
			return nil, errors.New("HTTPS_PROXY in the environment is not the URL of a proxy") // err shows it, password and all
		case u == nil:
			return nil, nil
		case u.Scheme != "http":
			return nil, fmt.Errorf("HTTPS_PROXY in the environment is a proxy of the kind %s: only http is supported", u.Scheme)
		}
		return newProxy(u), nil
	}, nil
}

// DialTCP returns what makes connections to any address, "host:port", on the way of
// the uplink: through the proxy if there is one. It is for requests over TLS. After
// the proxy has refused our user and password it is asked again only when pause is
// over: proxies lock accounts. It reads the file of the password. Errors are of
// type *gateway.KeyError.
func (c *Config) DialTCP(pause time.Duration) (func(ctx context.Context, network, address string) (net.Conn, error), error) {
	choose, err := chooseProxy(c)
	if err != nil {
		return nil, err
	}
	var lock sync.Mutex
	var until time.Time // guarded by lock
	var refusal error   // guarded by lock
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		lock.Lock()
		early, before := time.Now().Before(until), refusal
		lock.Unlock()
		if early {
			return nil, before
		}
		conn, err := dialTCP(ctx, c.network(), choose, address)
		if f, ok := errors.AsType[*uplink.Fault](err); ok && f.Remedy == uplink.Refused {
			lock.Lock()
			until, refusal = time.Now().Add(pause), err
			lock.Unlock()
		}
		return conn, err
	}, nil
}

func newProxy(u *url.URL) *proxy {
	p := &proxy{address: u.Host, prove: func() string { return "" }}
	if u.Port() == "" {
		p.address = net.JoinHostPort(u.Hostname(), "80")
	}
	if u.User != nil {
		password, _ := u.User.Password()
		proof := "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
		p.prove = func() string { return proof }
	}
	return p
}

// maxProxyAnswer is how many bytes a proxy's answer to CONNECT may have.
const maxProxyAnswer = 64 << 10

// connect returns a tunnel to the address.
func (p *proxy) connect(ctx context.Context, network *net.Dialer, address string) (net.Conn, error) {
	c, err := network.DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, &uplink.Unreachable{Err: fmt.Errorf("proxy: %w", err)}
	}
	// The deadline ends the wait when ctx is cancelled, too.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := p.ask(c, address)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			err = &uplink.Unreachable{Err: fmt.Errorf("proxy %s: %w", p.address, overdue(ctx, ctx.Err()))}
		}
		return nil, err
	}
	return tunnel, nil
}

func (p *proxy) ask(c net.Conn, address string) (net.Conn, error) {
	request := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if proof := p.prove(); proof != "" {
		request += "Proxy-Authorization: " + proof + "\r\n"
	}
	if _, err := io.WriteString(c, request+"\r\n"); err != nil {
		return nil, &uplink.Unreachable{Err: fmt.Errorf("proxy %s: %w", p.address, err)}
	}
	limit := &io.LimitedReader{R: c, N: maxProxyAnswer}
	in := bufio.NewReader(limit)
	answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, &uplink.Unreachable{Err: fmt.Errorf("proxy %s: no answer of a proxy: %w", p.address, err)}
	}
	if answer.StatusCode != http.StatusOK {
		return nil, p.refusal(address, answer)
	}
	// What the far side has said by now stands in the reader.
	early, _ := in.Peek(in.Buffered())
	return &tunnel{c, io.MultiReader(strings.NewReader(string(early)), c)}, nil
}

// refusal puts the proxy's no into words. Its own words behind the number are
// shown: they say what the site's network has to say.
func (p *proxy) refusal(address string, answer *http.Response) error {
	status := fmt.Sprintf("%.100q", answer.Status)
	switch answer.StatusCode {
	case http.StatusProxyAuthRequired, http.StatusUnauthorized: // there are proxies that say 401 to a wrong password
		what := "wants a user and password: write them into proxy and proxy_password_file"
		if p.prove() != "" {
			what = "does not take the user or password"
		}
		// Asking again and again locks accounts: the long schedule is right.
		return &uplink.Fault{Remedy: uplink.Refused, Err: fmt.Errorf("proxy %s %s (%s)", p.address, what, status)}
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		return &uplink.Unreachable{Err: fmt.Errorf("proxy %s does not allow connections to %s (%s)", p.address, address, status)}
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &uplink.Unreachable{Err: fmt.Errorf("proxy %s cannot reach %s (%s)", p.address, address, status)}
	}
	return &uplink.Unreachable{Err: fmt.Errorf("proxy %s makes no connection to %s (%s)", p.address, address, status)}
}

// tunnel is a connection through a proxy.
type tunnel struct {
	net.Conn
	in io.Reader
}

// Read reads what the far side says.
func (t *tunnel) Read(b []byte) (int, error) { return t.in.Read(b) }
