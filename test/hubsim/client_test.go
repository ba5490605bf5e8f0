package hubsim_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// patience bounds every wait of the tests. It is not a claim about speed.
const patience = 30 * time.Second

func start(t testing.TB, cfg hubsim.Config) *hubsim.Hub {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	hub, err := hubsim.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hub.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return hub
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// client is a stock go-amqp client with one session.
type client struct {
	t       testing.TB
	hub     *hubsim.Hub
	conn    *goamqp.Conn
	session *goamqp.Session
	cbs     *goamqp.Sender
	answers *goamqp.Receiver
}

func clientTLS(t testing.TB, info hubsim.Info) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("ca.pem holds no certificate")
	}
	return &tls.Config{RootCAs: roots, ServerName: info.Host}
}

func address(hub *hubsim.Hub) string {
	info := hub.Info()
	return "amqps://" + net.JoinHostPort(info.Bind, strconv.Itoa(info.AMQPPort))
}

func dial(t testing.TB, hub *hubsim.Hub, opts *goamqp.ConnOptions) *client {
	t.Helper()
	if opts == nil {
		opts = &goamqp.ConnOptions{}
	}
	info := hub.Info()
	opts.TLSConfig, opts.HostName = clientTLS(t, info), info.Host
	ctx := within(t)
	conn, err := goamqp.Dial(ctx, address(hub), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &client{t: t, hub: hub, conn: conn}
	c.session = c.begin()
	return c
}

func (c *client) begin() *goamqp.Session {
	c.t.Helper()
	s, err := c.conn.NewSession(within(c.t), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// put puts a token and returns the status of the answer.
func (c *client) put(token string) int {
	c.t.Helper()
	ctx := within(c.t)
	var err error
	if c.cbs == nil {
		s := c.begin()
		if c.cbs, err = s.NewSender(ctx, "$cbs", nil); err != nil {
			c.t.Fatal(err)
		}
		if c.answers, err = s.NewReceiver(ctx, "$cbs", nil); err != nil {
			c.t.Fatal(err)
		}
	}
	replyTo := "cbs"
	err = c.cbs.Send(ctx, &goamqp.Message{
		Properties: &goamqp.MessageProperties{MessageID: "1", ReplyTo: &replyTo},
		ApplicationProperties: map[string]any{
			"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": "whoever",
		},
		Value: token,
	}, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.answers.Receive(ctx, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.answers.AcceptMessage(ctx, answer); err != nil {
		c.t.Fatal(err)
	}
	if answer.Properties.CorrelationID != "1" {
		c.t.Errorf("correlation id of the answer: got %v, want 1", answer.Properties.CorrelationID)
	}
	return int(answer.ApplicationProperties["status-code"].(int32))
}

// login puts a good token for the device.
func (c *client) login(device string) {
	c.t.Helper()
	if status := c.put(token(c.t, c.hub, device, time.Now().Add(time.Hour))); status != 200 {
		c.t.Fatalf("put-token for %s: got %d, want 200", device, status)
	}
}

// service puts a token with which events may be read, and returns the address of
// the first partition.
func (c *client) service(info hubsim.Info) string {
	c.t.Helper()
	key := []byte(part(info.EventHubConnectionString, "SharedAccessKey")) // its text, as event readers sign
	audience := "sb://" + info.Host + "/messages/events"
	if status := c.put(sas.New(audience, "service", key, time.Now().Add(time.Hour))); status != 200 {
		c.t.Fatalf("put-token of the service: got %d, want 200", status)
	}
	return "messages/events/ConsumerGroups/$Default/Partitions/0"
}

func (c *client) sender(device string) *goamqp.Sender {
	c.t.Helper()
	s, err := c.session.NewSender(within(c.t), "/devices/"+device+"/messages/events", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// send sends a text and waits until the hub has accepted it.
func (c *client) send(s *goamqp.Sender, text string) {
	c.t.Helper()
	if err := s.Send(within(c.t), goamqp.NewMessage([]byte(text)), nil); err != nil {
		c.t.Fatal(err)
	}
}

// token makes a token with the device's own key.
func token(t testing.TB, hub *hubsim.Hub, device string, expiry time.Time) string {
	t.Helper()
	i, err := hub.Domain().Registry.Find(registry.ID{Device: device})
	if err != nil {
		t.Fatal(err)
	}
	return sas.New(hub.Domain().Name+"/devices/"+device, "", decode(t, i.Auth.PrimaryKey), expiry)
}

// part returns a part of a connection string.
func part(connection, name string) string {
	for field := range strings.SplitSeq(connection, ";") {
		if k, v, _ := strings.Cut(field, "="); k == name {
			return v
		}
	}
	return ""
}
