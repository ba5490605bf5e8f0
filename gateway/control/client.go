package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/gateway/trace"
)

// Errors of a Client, by what the operator is to do.
var (
	ErrNotRunning = errors.New("no daemon answers")
	ErrForbidden  = errors.New("not allowed")
	ErrNotFound   = errors.New("not found")
	ErrTimedOut   = errors.New("timed out")
	ErrUnproven   = errors.New("not proven") // who it claims to be
	ErrPolicy     = errors.New("not done unless that is allowed")
	ErrTaken      = errors.New("busy")
	ErrTooEarly   = errors.New("too early")
	ErrRefused    = errors.New("refused")
	ErrStore      = errors.New("the store cannot do it") // it is full, damaged, or fails

	// Of the hub: it could not be asked, or did not take the identity.
	ErrUnreachable = errors.New("the hub cannot be reached")
	ErrRejected    = errors.New("the hub refuses")
)

// Client asks a running daemon. Safe for concurrent use.
type Client struct{ http http.Client }

// NewClient makes a client of the daemon behind the socket. Nothing happens
// before its first call.
func NewClient(socket string) *Client {
	return newClient(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
}

// newClient makes a client of whoever dial reaches. Each request has a connection of
// its own, so that what was sent over it was sent for the request.
func newClient(dial func(context.Context) (net.Conn, error)) *Client {
	line := func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
		}
		return &line{Conn: c}, nil
	}
	return &Client{http.Client{Transport: &http.Transport{DialContext: line, DisableKeepAlives: true}}}
}

// line is a connection of which is known whether anything was sent over it.
type line struct {
	net.Conn
	sent atomic.Bool
}

func (l *line) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if n > 0 {
		l.sent.Store(true)
	}
	return n, err
}

// end says that nothing more comes from here, and leaves the answer to be read.
func (l *line) end() {
	if half, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// attempts are how often a request is begun. A machine that stalls may keep a caller
// from speaking for so long that the daemon, or who is at the door, has closed the
// connection; nothing was sent then, and nothing was done.
const attempts = 5

// State reads the state into v.
func (c *Client) State(ctx context.Context, v any) error { return c.get(ctx, "/v1/state", v) }

// Events returns the last warnings, the oldest first.
func (c *Client) Events(ctx context.Context) (events []Event, err error) {
	err = c.get(ctx, "/v1/events", &events)
	return events, err
}

// RoundTrip has the daemon read a twin from the hub over its connection. The error is
// ErrNotFound if there is nobody with a twin.
func (c *Client) RoundTrip(ctx context.Context) (t Trip, err error) {
	err = c.ask(ctx, "/v1/round-trip", nil, &t)
	return t, err
}

// ProbeStore has the daemon write something to flash and read it back.
func (c *Client) ProbeStore(ctx context.Context) error {
	return c.ask(ctx, "/v1/store/probe", nil, new(struct{}))
}

// Records returns the remembered lines of the log with numbers above after, the
// oldest first: of one leaf, or of all where leaf is "".
func (c *Client) Records(ctx context.Context, after uint64, leaf string) (all []Record, err error) {
	err = c.get(ctx, fmt.Sprintf("/v1/logs?after=%d&leaf=%s", after, url.QueryEscape(leaf)), &all)
	return all, err
}

// Message returns what is known of a message, by its id.
func (c *Client) Message(ctx context.Context, id string) (m trace.Message, err error) {
	err = c.get(ctx, "/v1/messages/"+url.PathEscape(id), &m)
	return m, err
}

// DeadLetters lists the shelf, the oldest first.
func (c *Client) DeadLetters(ctx context.Context) (letters []Letter, err error) {
	err = c.get(ctx, "/v1/dead-letters", &letters)
	return letters, err
}

// ExportDeadLetters writes each FullLetter as a line of JSON.
func (c *Client) ExportDeadLetters(ctx context.Context, w io.Writer) error {
	body, err := c.do(ctx, http.MethodGet, "/v1/dead-letters/export", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(w, body)
	return err
}

// ReplayDeadLetters puts letters back into their lanes and returns how many.
func (c *Client) ReplayDeadLetters(ctx context.Context, s Selection) (int, error) {
	return c.post(ctx, "/v1/dead-letters/replay", s)
}

// PurgeDeadLetters removes letters for good and returns how many.
func (c *Client) PurgeDeadLetters(ctx context.Context, s Selection) (int, error) {
	return c.post(ctx, "/v1/dead-letters/purge", s)
}

// Devices lists the leaves, in the order of their ids.
func (c *Client) Devices(ctx context.Context) (all []Device, err error) {
	err = c.get(ctx, "/v1/devices", &all)
	return all, err
}

// Device returns what is known of a leaf.
func (c *Client) Device(ctx context.Context, id string) (d Device, err error) {
	err = c.get(ctx, devicePath(id), &d)
	return d, err
}

// AddDevice admits a leaf and returns what it is to be given.
func (c *Client) AddDevice(ctx context.Context, a Admission) (out Admitted, err error) {
	err = c.change(ctx, http.MethodPost, "/v1/devices", a, &out)
	return out, err
}

// AlterDevice changes a leaf.
func (c *Client) AlterDevice(ctx context.Context, id string, a Alteration) error {
	return c.change(ctx, http.MethodPatch, devicePath(id), a, new(Result))
}

// RemoveDevice forgets a leaf.
func (c *Client) RemoveDevice(ctx context.Context, id string) error {
	return c.change(ctx, http.MethodDelete, devicePath(id), nil, new(Result))
}

// change sends v in JSON and reads the answer into out.
func (c *Client) change(ctx context.Context, method, path string, v, out any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	body, err := c.do(ctx, method, path, text)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(body).Decode(out)
}

// Messages returns the last messages of a leaf, the oldest first.
func (c *Client) Messages(ctx context.Context, id string) (list []Passage, err error) {
	err = c.get(ctx, devicePath(id)+"/messages", &list)
	return list, err
}

// Twin returns the twin of a leaf.
func (c *Client) Twin(ctx context.Context, id string) (t Twin, err error) {
	err = c.get(ctx, devicePath(id)+"/twin", &t)
	return t, err
}

// Call calls a method of a leaf with a JSON payload, nil for none, and waits for
// its answer, at most MaxTimeout.
func (c *Client) Call(ctx context.Context, id, method string, payload []byte, limit time.Duration) (r Reply, err error) {
	err = c.ask(ctx, devicePath(id)+"/methods/"+url.PathEscape(method)+"?timeout="+limit.String(), payload, &r)
	return r, err
}

// Send sends a command to a leaf and waits for its word, at most MaxTimeout.
func (c *Client) Send(ctx context.Context, id string, command Command, limit time.Duration) (verdict string, err error) {
	text, err := json.Marshal(command)
	if err != nil {
		return "", err
	}
	var w Word
	err = c.ask(ctx, devicePath(id)+"/commands?timeout="+limit.String(), text, &w)
	return w.Verdict, err
}

// HeardDevices lists the Bluetooth devices that are heard within a time, at most
// MaxScan, the strongest first.
func (c *Client) HeardDevices(ctx context.Context, length time.Duration) (found []Heard, err error) {
	err = c.get(ctx, "/v1/ble/devices?for="+length.String(), &found)
	return found, err
}

// PairDevice pairs a Bluetooth device. What is asked meanwhile, or shown, goes to reply,
// whose answer to ShowNumber does not count; an error of it ends the pairing.
func (c *Client) PairDevice(ctx context.Context, p Pairing, reply func(Step) (Answer, error)) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	body, err := c.do(ctx, http.MethodPost, "/v1/ble/pair", text)
	if err != nil {
		return err
	}
	defer body.Close()
	for in := json.NewDecoder(body); ; {
		var step Step
		if err := in.Decode(&step); err != nil {
			return fmt.Errorf("the daemon has broken off: %w", err)
		}
		switch {
		case step.Over && step.Error == "":
			return nil
		case step.Over:
			return failed(step.Status, step.Error)
		}
		a, err := reply(step)
		if err != nil {
			return err
		}
		if step.Ask == ShowNumber {
			continue
		}
		a.ID = step.ID
		if text, err = json.Marshal(a); err != nil {
			return err
		}
		// One that comes too late is refused; the stream says what became of it all.
		_ = c.ask(ctx, "/v1/ble/answer", text, new(Result))
	}
}

// ForgetDevice makes the gateway forget a paired Bluetooth device.
func (c *Client) ForgetDevice(ctx context.Context, address string) error {
	text, err := json.Marshal(Pairing{Address: address})
	if err != nil {
		return err
	}
	return c.ask(ctx, "/v1/ble/forget", text, new(Result))
}

func devicePath(id string) string { return "/v1/devices/" + url.PathEscape(id) }

func (c *Client) get(ctx context.Context, path string, v any) error {
	body, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	return decode(body, v)
}

// maxAnswer bounds an answer, in bytes: root asks a daemon that may have been taken over.
// The state of 1,000 leaves is one or two million.
const maxAnswer = 64 << 20

func decode(body io.Reader, v any) error {
	bounded := &io.LimitedReader{R: body, N: maxAnswer}
	err := json.NewDecoder(bounded).Decode(v)
	if err != nil && bounded.N <= 0 {
		return fmt.Errorf("the daemon's answer is larger than %d bytes", maxAnswer)
	}
	return err
}

func (c *Client) post(ctx context.Context, path string, v any) (int, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	var r Result
	err = c.ask(ctx, path, text, &r)
	return r.Count, err
}

// ask posts a text and reads the answer into v.
func (c *Client) ask(ctx context.Context, path string, text []byte, v any) error {
	body, err := c.do(ctx, http.MethodPost, path, text)
	if err != nil {
		return err
	}
	defer body.Close()
	return decode(body, v)
}

// do returns the body of an answer that is a success.
func (c *Client) do(ctx context.Context, method, path string, text []byte) (io.ReadCloser, error) {
	body, _, err := c.call(ctx, method, path, text)
	return body, err
}

// call is do, and says over which connection the answer comes.
func (c *Client) call(ctx context.Context, method, path string, text []byte) (io.ReadCloser, *line, error) {
	var resp *http.Response
	var used *line // nil: there was no connection
	for left, again := attempts, true; again; left-- {
		used = nil
		said := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { used, _ = i.Conn.(*line) }})
		r, err := http.NewRequestWithContext(said, method, "http://fieldgate"+path, bytes.NewReader(text))
		if err != nil {
			return nil, nil, err
		}
		resp, err = c.http.Do(r)
		if again = err != nil && used != nil && !used.sent.Load() && left > 1 && ctx.Err() == nil; again || err == nil {
			continue
		}
		// Without the address around it, which no operator has ever typed.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, used, nil
	}
	defer resp.Body.Close()
	var p Problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxRequest)).Decode(&p); err != nil {
		p.Error = resp.Status
	}
	return nil, nil, failed(resp.StatusCode, p.Error)
}

// failed is the error of a status that is no success.
func failed(status int, text string) error {
	switch status {
	case http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrForbidden, text)
	case http.StatusConflict:
		return fmt.Errorf("%w: %s", ErrConflict, strings.TrimPrefix(text, ErrConflict.Error()+": "))
	case http.StatusUnprocessableEntity:
		e := new(Invalid)
		if json.Unmarshal([]byte(text), &e.Mistakes) == nil {
			return e
		}
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s", ErrNotFound, text)
	case http.StatusGatewayTimeout:
		return fmt.Errorf("%w: %s", ErrTimedOut, text)
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: %s", ErrUnproven, text)
	case http.StatusPreconditionFailed:
		return fmt.Errorf("%w: %s", ErrPolicy, text)
	case http.StatusLocked:
		return fmt.Errorf("%w: %s", ErrTaken, text)
	case http.StatusTooEarly:
		return fmt.Errorf("%w: %s", ErrTooEarly, text)
	case http.StatusNotAcceptable:
		return fmt.Errorf("%w: %s", ErrRefused, text)
	case http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %s", ErrStore, text)
	case http.StatusBadGateway:
		return fmt.Errorf("%w: %s", ErrUnreachable, text)
	case http.StatusFailedDependency:
		return fmt.Errorf("%w: %s", ErrRejected, text)
	}
	return errors.New(text)
}
