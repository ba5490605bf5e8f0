package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

// attempt is what became of reaching the hub on one way. Nothing is said on the
// connection that names a leaf or the gateway.
type attempt struct {
	Transport  string    `json:"transport"`
	Address    string    `json:"address"`
	Configured bool      `json:"configured"`          // the gateway goes this way
	Step       string    `json:"step,omitempty"`      // at which it failed: connect, secure or open
	Error      string    `json:"error,omitempty"`     // why
	Connect    float64   `json:"connect_seconds"`     // until the far side answered, the name looked up and all
	Secure     float64   `json:"secure_seconds"`      // from there until it had shown a good certificate
	Expires    time.Time `json:"expires_at,omitzero"` // that certificate
	Hint       string    `json:"hint,omitempty"`      // what the failure looks like

	err error
	way dial.Config
}

// Steps of an attempt.
const (
	stepConnect = "connect"
	stepSecure  = "secure"
	stepOpen    = "open"
)

// reached says that the hub itself, or somebody in its place, has answered with a
// certificate, good or not.
func (a *attempt) reached() bool { return a.err == nil || a.badCertificate() }

// badCertificate says that whoever answered could not prove to be the hub.
func (a *attempt) badCertificate() bool {
	_, dated := errors.AsType[x509.CertificateInvalidError](a.err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](a.err)
	_, named := errors.AsType[x509.HostnameError](a.err)
	return dated || unknown || named
}

// subprotocols are what is asked for in a WebSocket (wire contract, sections 2.8
// and 3.1).
var subprotocols = map[string]string{dial.AMQPWebSocket: "AMQPWSB10", dial.MQTTWebSocket: "mqtt"}

// try goes one way, within the time of its configuration.
func try(ctx context.Context, way dial.Config, clock gateway.Clock) attempt {
	a := attempt{Transport: way.Transport, Address: way.Target(), Step: stepConnect, way: way}
	d, err := dial.New(way, clock)
	if err != nil {
		a.fail(err)
		return a
	}
	ctx, cancel := context.WithTimeout(ctx, way.Timeout.D())
	defer cancel()
	begin := time.Now()
	d.Watch(func(c net.Conn) net.Conn {
		a.Connect, a.Step = time.Since(begin).Seconds(), stepSecure
		return c
	}, func(c *x509.Certificate) {
		a.Secure, a.Step, a.Expires = time.Since(begin).Seconds()-a.Connect, stepOpen, c.NotAfter.UTC()
	})
	stream, err := d.Dial(ctx, subprotocols[way.Transport])
	if err != nil {
		a.fail(err)
		return a
	}
	stream.Abort()
	a.Step = ""
	return a
}

func (a *attempt) fail(err error) {
	a.err, a.Error = err, err.Error()
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, named := errors.AsType[x509.HostnameError](err)
	switch {
	case unknown || named:
		a.Hint = "somebody between here and the hub answers in its place: a captive portal or a proxy that looks inside"
	case a.Step == stepConnect && isTimeout(err):
		a.Hint = "a firewall on the way drops it"
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// allWays are the ways that the gateway may go, and then, for comparison, those
// that it could, where nobody has said where to dial.
func allWays(hub *hubConfig) (ways []dial.Config, configured int) {
	ways = hub.Ways()
	configured = len(ways)
	if hub.Address != "" {
		return ways, configured
	}
	for _, transport := range []string{dial.AMQP, dial.AMQPWebSocket, dial.MQTT, dial.MQTTWebSocket} {
		known := false
		for _, w := range ways[:configured] {
			known = known || w.Transport == transport
		}
		if !known {
			other := hub.Config.Config
			other.Transport, other.Address, other.WebSocketAddress = transport, "", ""
			ways = append(ways, other)
		}
	}
	return ways, configured
}

// nameToResolve is the host that this machine itself has to look up to get to the
// hub: that of a proxy where there is one.
func nameToResolve(way *dial.Config) string {
	target := way.Target()
	switch way.Proxy {
	case "":
	case dial.FromEnvironment:
		if u, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: target}}); err == nil && u != nil {
			return u.Hostname()
		}
	default:
		if u, err := url.Parse(way.Proxy); err == nil {
			return u.Hostname()
		}
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return target
	}
	return host
}

// hubTime asks the hub what time it is, over HTTPS, to the second. The answer counts
// when the certificate is good at some time: a gateway with a wrong clock wants to
// know as well.
func hubTime(ctx context.Context, cfg *config, clock gateway.Clock) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Hub.Timeout.D())
	defer cancel()
	at, err := askTime(ctx, cfg, clock)
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); ok && bad.Reason == x509.Expired {
		middle := bad.Cert.NotBefore.Add(bad.Cert.NotAfter.Sub(bad.Cert.NotBefore) / 2)
		at, err = askTime(ctx, cfg, func() gateway.Instant { return gateway.Instant{Wall: middle} })
	}
	return at, err
}

func askTime(ctx context.Context, cfg *config, clock gateway.Clock) (time.Time, error) {
	host := net.JoinHostPort(cfg.Hub.Host, "443")
	elsewhere := make(map[string]string)
	if cfg.Hub.HTTPSAddress != "" {
		elsewhere[host] = cfg.Hub.HTTPSAddress
	}
	client, err := httpClient(&cfg.tables, clock, elsewhere)
	if err != nil {
		return time.Time{}, err
	}
	defer client.CloseIdleConnections()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+host+"/", nil)
	if err != nil {
		return time.Time{}, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return time.Time{}, err
	}
	defer answer.Body.Close()
	at, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("the hub does not say what time it is: %w", err)
	}
	return at, nil
}
