package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
)

// Who broke off a connection before there was a login. A leaf that does not trust the
// gateway, a scanner and a cable that is loose look alike from a distance; what has to be
// done about them differs, and nobody but the log can tell.
const (
	sideClient  = "client"
	sideGateway = "gateway"
)

// greetingError is the failure of what comes below MQTT: TLS, or the upgrade of a
// WebSocket.
type greetingError struct {
	side  string // who broke off
	words string // why, in plain words
	err   error
}

func (e *greetingError) Error() string { return e.words + " (" + e.err.Error() + ")" }
func (e *greetingError) Unwrap() error { return e.err }

// alertWords says what the alerts mean with which clients break off (RFC 8446, section
// 6.2), by what crypto/tls calls them: it does not export their numbers.
var alertWords = []struct{ sign, words string }{
	{"unknown certificate authority", "it does not trust the authority of the gateway's certificate"},
	{"expired certificate", "the gateway's certificate has expired, or the client's clock is wrong"},
	{"revoked certificate", "the gateway's certificate is revoked there"},
	{"bad certificate", "it does not take the gateway's certificate: not trusted, or for another name"},
	{"unknown certificate", "it does not take the gateway's certificate: not trusted, or for another name"},
	{"unsupported certificate", "it cannot use the gateway's certificate"},
	{"unrecognized name", "it asks for another name than the gateway's"},
	{"protocol version", "it speaks no version of TLS that the gateway speaks (1.2 or 1.3)"},
	{"handshake failure", "it has no cipher in common with the gateway"},
	{"insufficient security", "it has no cipher in common with the gateway"},
	{"bad record MAC", "what came was damaged on the way, or encrypted with another key"},
	{"error decrypting message", "what came was damaged on the way, or encrypted with another key"},
	{"invalid signature by the client certificate", "it does not hold the key of the certificate that it shows"},
	{"user canceled", "it did not want to go on"},
}

// spellAlert is what an alert means, as far as that is known.
func spellAlert(err error, otherwise string) string {
	text := err.Error()
	for _, a := range alertWords {
		if strings.Contains(text, a.sign) {
			return a.words
		}
	}
	return otherwise
}

// spellHandshake says why a handshake ended, and who ended it.
func spellHandshake(err error) *greetingError {
	e := &greetingError{side: sideClient, words: "it is no TLS that the gateway understands", err: err}
	op, isOp := errors.AsType[*net.OpError](err)
	record, isRecord := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case isOp && op.Op == "remote error":
		e.words = spellAlert(op.Err, "it reports an error")
	case isOp && op.Op == "local error":
		e.side, e.words = sideGateway, spellAlert(op.Err, "what came breaks the rules of TLS")
	case isRecord:
		e.side, e.words = sideGateway, spellFirstBytes(record.RecordHeader)
	case errors.Is(err, os.ErrDeadlineExceeded):
		e.side, e.words = sideGateway, "the client was silent for too long"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.words = "it hung up in the middle of the handshake; clients that do not trust the gateway do that"
	case isOp:
		e.words = "the connection was cut in the middle of the handshake"
	case strings.Contains(err.Error(), "unsupported versions"), strings.Contains(err.Error(), "protocol version"):
		e.side, e.words = sideGateway, "the client speaks no version of TLS that the gateway speaks (1.2 or 1.3)"
	case strings.Contains(err.Error(), "no cipher suite"):
		e.side, e.words = sideGateway, "the client has no cipher in common with the gateway"
	default:
		e.side, e.words = sideGateway, spellAlert(err, "what came breaks the rules of TLS")
	}
	return e
}

// spellFirstBytes says what a client speaks in the place of TLS.
func spellFirstBytes(first [5]byte) string {
	switch text := string(first[:]); {
	case first[0] == typeConnect<<4:
		return "the client speaks MQTT without TLS"
	case strings.HasPrefix(text, "GET "), strings.HasPrefix(text, "POST "), strings.HasPrefix(text, "HEAD "), strings.HasPrefix(text, "PUT "):
		return "the client speaks HTTP without TLS"
	}
	return "the client does not speak TLS"
}

// turnstile lets only so many handshakes be worked at once: with one for each processor
// others would have to wait for all of them. Whoever waits for the network is outside.
type turnstile chan struct{}

// newTurnstile leaves half of the processors to others.
func newTurnstile() turnstile { return make(turnstile, max(1, runtime.GOMAXPROCS(0)/2)) }

func (t turnstile) enter() { t <- struct{}{} }
func (t turnstile) leave() { <-t }

// turnstileConn is what is below TLS. Nothing but the handshake reads or writes while there
// is one.
type turnstileConn struct {
	net.Conn
	through turnstile // nil: there is no handshake
}

func (c *turnstileConn) Read(p []byte) (int, error) { return c.outside(c.Conn.Read, p) }

func (c *turnstileConn) Write(p []byte) (int, error) { return c.outside(c.Conn.Write, p) }

// outside waits for the network without a place in the turnstile.
func (c *turnstileConn) outside(do func([]byte) (int, error), p []byte) (int, error) {
	if c.through != nil {
		c.through.leave()
		defer c.through.enter()
	}
	return do(p)
}

// handshake is that of t, which is above c.
func (c *turnstileConn) handshake(t *tls.Conn, through turnstile) error {
	c.through = through
	through.enter()
	defer func() {
		c.through = nil
		through.leave()
	}()
	return t.Handshake()
}

// maxShownCertificate bounds what is shown of a client's certificate, in bytes.
const maxShownCertificate = 200

// certificateFacts are the names in the certificate that a client has shown, none if it
// has not. They prove nothing while the handshake has not ended well.
func certificateFacts(certs []*x509.Certificate) []slog.Attr {
	if len(certs) == 0 {
		return nil
	}
	c := certs[0]
	names := append([]string{c.Subject.String()}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	text := strings.ToValidUTF8(strings.Join(names, " "), "?")
	return []slog.Attr{slog.String("certificate", text[:min(len(text), maxShownCertificate)])}
}

// garbled says that a connection ended before its login, or for what came on it.
func (b *Broker) garbled(s *session, err error) {
	attrs := []slog.Attr{slog.String("source", s.source), slog.String("listener", s.listener)}
	if s.leaf != "" {
		attrs = append(attrs, slog.String("leaf", s.leaf))
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && s.client == nil && op.Op == "remote error" { // with its first words
		err = spellHandshake(err)
	}
	key, message := s.source+" garbage", "connection closed"
	if e, ok := errors.AsType[*greetingError](err); ok {
		key, message = s.source+" "+e.words, "no secure connection"
		attrs = append(attrs, slog.String("broken_off_by", e.side))
	} else if errors.Is(err, io.EOF) && s.client == nil {
		err = errors.New("the client hung up before it said who it is")
	}
	attrs = append(attrs, slog.String("reason", reasonText(err)))
	b.notices.warn(key, message, append(attrs, certificateFacts(s.certs)...)...)
}
