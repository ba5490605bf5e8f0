package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/fieldgate/fieldgate/test/hubsim"
)

// Client works the switches of the hub that serves in a directory. Safe for
// concurrent use.
type Client struct {
	http http.Client
	dir  string
}

// NewClient makes a client for the hub in dir. It connects when it is used.
func NewClient(dir string) *Client {
	path := filepath.Join(dir, socketName)
	return &Client{dir: dir, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}}
}

// Fault works a switch and returns what it did, in words.
func (c *Client) Fault(ctx context.Context, name string, args ...string) (string, error) {
	body, err := c.do(ctx, http.MethodPost, "/fault/"+url.PathEscape(name)+"?"+url.Values{"arg": args}.Encode())
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	return strings.TrimSpace(string(text)), err
}

// Stats returns the hub's counts.
func (c *Client) Stats(ctx context.Context) (hubsim.Stats, error) {
	var s hubsim.Stats
	body, err := c.do(ctx, http.MethodGet, "/stats")
	if err != nil {
		return s, err
	}
	defer body.Close()
	return s, json.NewDecoder(body).Decode(&s)
}

// Arrivals calls use for everything that has arrived, in order; with follow
// only for what arrives from now on, until ctx ends or use returns an error.
func (c *Client) Arrivals(ctx context.Context, follow bool, use func(hubsim.Arrival) error) error {
	path := "/arrivals"
	if follow {
		path += "?follow"
	}
	body, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer body.Close()
	in := json.NewDecoder(body)
	for {
		var a hubsim.Arrival
		switch err := in.Decode(&a); {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := use(a); err != nil {
			return err
		}
	}
}

func (c *Client) do(ctx context.Context, method, path string) (io.ReadCloser, error) {
	return c.send(ctx, method, path, "")
}

func (c *Client) send(ctx context.Context, method, path, body string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://hubsim"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // the status says enough without it
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return resp.Body, nil
}

// unreachable says in a person's words why no hub was reached.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("no hub serves in %q: start one with \"hubsim serve\", or say with --dir where it is", c.dir)
	}
	return fmt.Errorf("the hub in %q does not answer: %w", c.dir, err)
}

// Devices returns a table of the devices for people, one a line.
func (c *Client) Devices(ctx context.Context) (string, error) {
	return c.text(ctx, http.MethodGet, "/devices", "")
}

// AddDevice adds a device, with a key made up when key is empty, and returns its
// connection string.
func (c *Client) AddDevice(ctx context.Context, id, key string) (string, error) {
	return c.text(ctx, http.MethodPost, "/devices/"+url.PathEscape(id), key)
}

// RemoveDevice deletes a device.
func (c *Client) RemoveDevice(ctx context.Context, id string) error {
	_, err := c.text(ctx, http.MethodDelete, "/devices/"+url.PathEscape(id), "")
	return err
}

// Send queues a command for a device.
func (c *Client) Send(ctx context.Context, device, body string) error {
	_, err := c.text(ctx, http.MethodPost, "/send/"+url.PathEscape(device), body)
	return err
}

// Twin returns a device's twin as JSON, after merging patch when it is not
// empty: an object with tags and properties.desired.
func (c *Client) Twin(ctx context.Context, device, patch string) (string, error) {
	method := http.MethodGet
	if patch != "" {
		method = http.MethodPatch
	}
	return c.text(ctx, method, "/twins/"+url.PathEscape(device), patch)
}

// Call invokes a direct method with a JSON payload, or none, and returns status
// and payload of the answer.
func (c *Client) Call(ctx context.Context, device, method, payload string) (string, error) {
	return c.text(ctx, http.MethodPost, "/call/"+url.PathEscape(device)+"/"+url.PathEscape(method), payload)
}

// text does a request and returns the answer.
func (c *Client) text(ctx context.Context, method, path, body string) (string, error) {
	out, err := c.send(ctx, method, path, body)
	if err != nil {
		return "", err
	}
	defer out.Close()
	answer, err := io.ReadAll(out)
	return strings.TrimSpace(string(answer)), err
}
