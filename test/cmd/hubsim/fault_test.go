package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/control"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

const (
	// patience bounds what must happen.
	patience = 30 * time.Second
	// glance is for what must not happen: a hub that is too slow for it passes.
	glance = 300 * time.Millisecond
)

// device is pump-1 at the hub that a bench has started.
type device struct {
	conn   *goamqp.Conn
	sender *goamqp.Sender
}

// dial connects within a time.
func (b *bench) dial(limit time.Duration) (*goamqp.Conn, hubsim.Info, error) {
	b.t.Helper()
	info, err := hubsim.ReadInfo(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	pem, err := os.ReadFile(info.CAFile)
	if err != nil {
		b.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	ctx, cancel := context.WithTimeout(b.t.Context(), limit)
	defer cancel()
	conn, err := goamqp.Dial(ctx, "amqps://"+net.JoinHostPort(info.Bind, strconv.Itoa(info.AMQPPort)), &goamqp.ConnOptions{
		TLSConfig: &tls.Config{RootCAs: roots, ServerName: info.Host},
	})
	if err == nil {
		b.t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, info, err
}

// connect brings pump-1 as far as a telemetry link. The error says how far it
// came.
func (b *bench) connect() (device, error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	conn, info, err := b.dial(patience)
	if err != nil {
		return device{}, err
	}
	session, err := conn.NewSession(ctx, nil)
	if err != nil {
		return device{}, err
	}
	if err := putToken(ctx, session, info); err != nil {
		return device{}, err
	}
	sender, err := session.NewSender(ctx, "/devices/pump-1/messages/events", nil)
	return device{conn, sender}, err
}

func putToken(ctx context.Context, session *goamqp.Session, info hubsim.Info) error {
	_, key, _ := strings.Cut(info.Devices["pump-1"].ConnectionString, "SharedAccessKey=")
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return err
	}
	requests, err := session.NewSender(ctx, "$cbs", nil)
	if err != nil {
		return err
	}
	answers, err := session.NewReceiver(ctx, "$cbs", nil)
	if err != nil {
		return err
	}
	m := &goamqp.Message{
		Properties: &goamqp.MessageProperties{MessageID: "1"},
		ApplicationProperties: map[string]any{
			"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": info.Host + "/devices/pump-1",
		},
		Value: sas.New(info.Host+"/devices/pump-1", "", raw, time.Now().Add(time.Hour)),
	}
	if err := requests.Send(ctx, m, nil); err != nil {
		return err
	}
	answer, err := answers.Receive(ctx, nil)
	if err != nil {
		return err
	}
	if status := answer.ApplicationProperties["status-code"]; status != int32(200) {
		return fmt.Errorf("token %v", status)
	}
	return nil
}

// send sends one message within a time, and says in words what came of it.
func (d device) send(t *testing.T, limit time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return inWords(d.sender.Send(ctx, goamqp.NewMessage([]byte("x")), nil))
}

func inWords(err error) string {
	if e, ok := errors.AsType[*goamqp.LinkError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*goamqp.SessionError](err); ok && e.RemoteErr != nil {
		return string(e.RemoteErr.Condition)
	}
	if e, ok := errors.AsType[*goamqp.Error](err); ok {
		return string(e.Condition)
	}
	if _, ok := errors.AsType[*goamqp.ConnError](err); ok {
		return "connection lost"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "certificate expired"
	}
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, context.DeadlineExceeded):
		return "nothing"
	}
	return err.Error()
}

// Each switch does to a device what it says, and undoes it: it is not enough
// that the terminal shows a name.
func TestSwitchesWork(t *testing.T) {
	// What a device that is there, and one that comes, see.
	present := func(limit time.Duration) func(*bench, device) string {
		return func(b *bench, d device) string { return d.send(b.t, limit) }
	}
	lost := func(b *bench, d device) string {
		select {
		case <-d.conn.Done():
			return "connection lost"
		case <-time.After(patience):
			return "nothing"
		}
	}
	comes := func(b *bench, _ device) string {
		d, err := b.connect()
		if err != nil {
			return inWords(err)
		}
		return d.send(b.t, patience)
	}
	dials := func(b *bench, _ device) string {
		_, _, err := b.dial(glance)
		return inWords(err)
	}
	// A burst is more than a tier takes in a second.
	burst := func(b *bench, d device) string {
		ctx, cancel := context.WithTimeout(b.t.Context(), patience)
		defer cancel()
		var receipts []goamqp.SendReceipt
		for range 5000 {
			r, err := d.sender.SendWithReceipt(ctx, goamqp.NewMessage(nil), nil)
			if err != nil {
				return inWords(err)
			}
			receipts = append(receipts, r)
		}
		for _, r := range receipts {
			state, err := r.Wait(ctx)
			if rejected, ok := state.(*goamqp.StateRejected); ok {
				return string(rejected.Error.Condition)
			}
			if err != nil {
				return inWords(err)
			}
		}
		return "accepted"
	}
	cases := []struct {
		on   string
		see  func(*bench, device) string
		want string
		off  string
	}{
		{"cut", dials, "nothing", "restore"},
		{"cut", present(glance), "nothing", "restore"},
		{"half-open", present(glance), "nothing", "restore"},
		{"reset", lost, "connection lost", ""},
		{"detach pump-1 amqp:link:detach-forced", present(patience), "amqp:link:detach-forced", ""},
		{"end-session pump-1", present(patience), "amqp:internal-error", ""},
		{"malform pump-1", lost, "connection lost", ""},
		{"slow-settle 1h", present(glance), "nothing", "slow-settle 0s"},
		{"settle-never on", present(glance), "nothing", "settle-never off"},
		{"settle-twice on", present(patience), "accepted", "settle-twice off"}, // bytes are counted in amqp/routes
		{"reject pump-1 amqp:precondition-failed 1", present(patience), "amqp:precondition-failed", ""},
		{"throttle on", comes, "token 429", "throttle off"},
		{"throttle on", present(patience), "amqp:resource-limit-exceeded", "throttle off"},
		{"quota on", present(patience), "amqp:resource-limit-exceeded", "quota off"},
		{"tier S1 1", burst, "com.microsoft:device-container-throttled", "tier off 1"},
		{"refuse-token pump-1 on", comes, "token 401", "refuse-token pump-1 off"},
		{"expire-certificate on", comes, "certificate expired", "expire-certificate off"},
		{"clock-skew 2h", comes, "token 401", "clock-skew 0s"},
		{"disable pump-1", comes, "token 401", "enable pump-1"},
		{"disable pump-1", present(patience), "amqp:unauthorized-access", "enable pump-1"},
	}
	b, _ := startHub(t)
	turn := func(what string) {
		t.Helper()
		if _, err := b.run(append([]string{"fault"}, strings.Fields(what)...)...); err != nil {
			t.Fatal(err)
		}
	}
	worked := make(map[string]bool)
	note := func(what string) {
		name, _, _ := strings.Cut(what, " ")
		worked[name] = true
	}
	for _, c := range cases {
		t.Run(c.on, func(t *testing.T) {
			d, err := b.connect()
			if err != nil {
				t.Fatal(err)
			}
			turn(c.on)
			if got := c.see(b, d); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if c.off != "" {
				turn(c.off)
			}
			if got := comes(b, d); got != "accepted" {
				t.Errorf("afterwards: got %q, want accepted", got)
			}
		})
		note(c.on)
		note(c.off)
	}
	for _, f := range control.Faults {
		if !worked[f.Name] {
			t.Errorf("nothing shows what %s does", f.Name)
		}
	}
}
