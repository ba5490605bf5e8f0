package provisioning

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp/routes"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
)

// address of the device's own registration.
const address = scope + "/registrations/" + device

// within bounds every wait. It is not a claim about speed.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// open connects a stock AMQP client to the service beside its hub.
func open(t *testing.T, s *Service, h *hub.Hub, auth goamqp.SASLType, chain ...*x509.Certificate) (*goamqp.Session, error) {
	t.Helper()
	near, far := net.Pipe()
	var served sync.WaitGroup
	hubs := routes.New(h)
	served.Go(func() { _ = server.Serve(far, server.Config{Certificates: chain}, s.Beside(hubs.Connect)) })
	conn, err := goamqp.NewConn(within(t), near, &goamqp.ConnOptions{SASLType: auth})
	t.Cleanup(func() {
		_ = near.Close()
		served.Wait()
	})
	if err != nil {
		return nil, err
	}
	return conn.NewSession(within(t), nil)
}

// links are both directions of a registrant's talk.
type links struct {
	t        *testing.T
	requests *goamqp.Sender
	answers  *goamqp.Receiver
}

func attach(t *testing.T, session *goamqp.Session, address string) (*links, error) {
	t.Helper()
	answers, err := session.NewReceiver(within(t), address, nil)
	if err != nil {
		return nil, err
	}
	requests, err := session.NewSender(within(t), address, nil)
	return &links{t, requests, answers}, err
}

// ask sends a request and returns the answer.
func (l *links) ask(properties map[string]any) (*goamqp.Message, error) {
	l.t.Helper()
	request := goamqp.NewMessage([]byte(" "))
	request.Properties = &goamqp.MessageProperties{CorrelationID: "c-1"}
	request.ApplicationProperties = properties
	if err := l.requests.Send(within(l.t), request, nil); err != nil {
		return nil, err
	}
	answer, err := l.answers.Receive(within(l.t), nil)
	if err != nil {
		return nil, err
	}
	return answer, l.answers.AcceptMessage(within(l.t), answer)
}

// asked is ask that must succeed.
func (l *links) asked(properties map[string]any) (r reading, retryAfter any) {
	l.t.Helper()
	m, err := l.ask(properties)
	if err != nil {
		l.t.Fatal(err)
	}
	if m.Properties.CorrelationID != "c-1" {
		l.t.Errorf("correlation id %v", m.Properties.CorrelationID)
	}
	return read(l.t, Answer{Body: m.GetData()}, 0), m.ApplicationProperties["retry-after"]
}

func TestAMQP(t *testing.T) {
	s, h := bench(t, Config{})
	session, err := open(t, s, h, goamqp.SASLTypePlain(address, derived(t, s, device)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := attach(t, session, address)
	if err != nil {
		t.Fatal(err)
	}
	begun, after := l.asked(map[string]any{"iotdps-operation-type": "iotdps-register", "iotdps-forceRegistration": true})
	if begun.Status != assigning || after != int32(1) {
		t.Errorf("got %+v, again after %v s", begun, after)
	}
	done, after := l.asked(map[string]any{"iotdps-operation-type": "iotdps-get-operationstatus", "iotdps-operation-id": begun.OperationID})
	if done.State.AssignedHub != h.Name || after != nil {
		t.Errorf("got %+v, again after %v s", done, after)
	}
	if got, _ := l.asked(map[string]any{"iotdps-operation-type": "iotdps-get-registration"}); got.Status != assigned {
		t.Errorf("got %+v", got)
	}
}

// A refusal is the rejection of the request, and says when to come back if that
// helps.
func TestAMQPRefusals(t *testing.T) {
	s, h := bench(t, Config{})
	session, err := open(t, s, h, goamqp.SASLTypePlain(address, derived(t, s, device)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := attach(t, session, address)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		throttled int
		request   map[string]any
		want      goamqp.ErrCond
		after     any
	}{
		{1, map[string]any{"iotdps-operation-type": "iotdps-register"}, "com.microsoft:device-container-throttled", int32(1)},
		{0, map[string]any{"iotdps-operation-type": "iotdps-get-operationstatus", "iotdps-operation-id": "x"}, "amqp:not-found", nil},
		{0, map[string]any{"iotdps-operation-type": "dance"}, "com.microsoft:argument-error", nil},
		{0, nil, "com.microsoft:argument-error", nil},
	} {
		s.ThrottleNext(c.throttled)
		_, err := l.ask(c.request)
		if e, ok := errors.AsType[*goamqp.Error](err); !ok || e.Condition != c.want || e.Info["retry-after"] != c.after {
			t.Errorf("%v: got %v, want %s and %v s", c.request, err, c.want, c.after)
		}
	}
}

func TestAMQPStrangers(t *testing.T) {
	s, h := bench(t, Config{})
	if _, err := open(t, s, h, goamqp.SASLTypePlain(address, derived(t, s, "pump-2"))); err == nil {
		t.Error("another device's token was taken")
	}
	for what, c := range map[string]struct {
		auth    goamqp.SASLType
		address string
		want    goamqp.ErrCond
	}{
		"another registration":           {goamqp.SASLTypePlain(address, derived(t, s, device)), scope + "/registrations/pump-2", "amqp:unauthorized-access"},
		"an address of the hub":          {goamqp.SASLTypePlain(address, derived(t, s, device)), "devices/pump-1/messages/events", "amqp:not-found"},
		"without proof":                  {goamqp.SASLTypeAnonymous(), address, "amqp:unauthorized-access"},
		"another scope":                  {goamqp.SASLTypeAnonymous(), "0ne0/registrations/pump-1", "amqp:not-found"},
		"the hub's client, at the hub's": {goamqp.SASLTypeAnonymous(), "nowhere", "amqp:not-found"},
	} {
		session, err := open(t, s, h, c.auth)
		if err != nil {
			t.Fatal(err)
		}
		_, err = attach(t, session, c.address)
		if e, ok := errors.AsType[*goamqp.Error](err); !ok || e.Condition != c.want {
			t.Errorf("%s: got %v, want %s", what, err, c.want)
		}
	}
}

// With a certificate there is no user name: the address says who it is.
func TestAMQPWithCertificate(t *testing.T) {
	s, h := bench(t, Config{})
	own := newCertificate(t)
	sum := sha256.Sum256(own.Raw)
	if _, err := s.Enrol(Enrolment{RegistrationID: device, Thumbprint: hex.EncodeToString(sum[:])}); err != nil {
		t.Fatal(err)
	}
	session, err := open(t, s, h, goamqp.SASLTypeAnonymous(), own)
	if err != nil {
		t.Fatal(err)
	}
	l, err := attach(t, session, "/"+address)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := l.asked(map[string]any{"iotdps-operation-type": "iotdps-register"}); got.Status != assigning {
		t.Errorf("got %+v", got)
	}
}
