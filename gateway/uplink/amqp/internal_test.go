package amqp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/hub"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

func TestConfig(t *testing.T) {
	valid := func() Config {
		c := DefaultConfig()
		c.Host = "myhub.azure-devices.net"
		return c
	}
	good := valid()
	if err := good.Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for key, spoils := range map[string][]func(*Config){
		"host":               {func(c *Config) { c.Host = "" }}, // the rest is package dial's
		"leaves_per_session": {func(c *Config) { c.LeavesPerSession = 0 }},
	} {
		for i, spoil := range spoils {
			c := valid()
			spoil(&c)
			if e, ok := errors.AsType[*gateway.KeyError](c.Validate()); !ok || e.Key != key {
				t.Errorf("%s, %d: got %v", key, i, e)
			}
		}
	}
}

func TestBadCAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	c := DefaultConfig()
	c.CAFile = file
	for _, prepare := range []func() error{
		func() error { return nil }, // there is none
		func() error { return os.WriteFile(file, []byte("no certificate"), 0o600) },
	} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		_, err := New(c, nil, nil, nil)
		if e, ok := errors.AsType[*gateway.KeyError](err); !ok || e.Key != "ca_file" {
			t.Errorf("got %v", err)
		}
	}
}

func TestConnectionCarriesNoMoreIdentitiesThanTheHubAllows(t *testing.T) {
	c := &conn{Transport: &Transport{cfg: DefaultConfig()}, identities: make(map[string]time.Time)}
	now := time.Unix(1767225600, 0)
	for i := range hub.MaxIdentities {
		if fresh, err := c.admit(fmt.Sprint("leaf", i), now); err != nil || !fresh {
			t.Fatalf("leaf %d: %v, %v", i, fresh, err)
		}
	}
	_, err := c.admit("one too many", now)
	if f, ok := errors.AsType[*uplink.Fault](err); !ok || f.Remedy != uplink.Refused || !errors.Is(err, errFull) {
		t.Errorf("one too many: %v", err)
	}
	if fresh, err := c.admit("leaf0", now); err != nil || fresh {
		t.Errorf("renewal: %v, %v", fresh, err)
	}
	c.admitted("leaf0", now.Add(24*time.Hour)) // renewed
	later := now.Add(c.cfg.TokenTTL.D() + time.Second)
	if _, err := c.admit("one too many", later); err != nil {
		t.Errorf("after the tokens of silent leaves have expired: %v", err)
	}
	if n := len(c.identities); n != 2 {
		t.Errorf("%d identities are left, want the renewed and the new one", n)
	}
	c.admitted("one too many", time.Time{})
	if _, known := c.identities["one too many"]; known {
		t.Error("a leaf whose token was not accepted keeps its place")
	}
}

// limited is a hub's link that takes messages up to a size, whatever it has said.
type limited struct {
	most int
	sent []int // sizes
}

func (l *limited) MaxMessageSize() uint64      { return 0 }
func (l *limited) Close(context.Context) error { return nil }
func (l *limited) SendWithReceipt(_ context.Context, m *goamqp.Message, _ *goamqp.SendWithReceiptOptions) (goamqp.SendReceipt, error) {
	b, err := m.MarshalBinary()
	if err == nil && len(b) > l.most {
		err = &goamqp.Error{Condition: goamqp.ErrCondMessageSizeExceeded}
	}
	l.sent = append(l.sent, len(b))
	return goamqp.SendReceipt{}, err
}

// A batch that is too large says nothing about its messages: the first goes alone,
// and only one that is too large alone can never be sent.
func TestBatchThatIsTooLargeIsNoPoison(t *testing.T) {
	at := gateway.Instant{Wall: time.Unix(1767225600, 0), Quality: gateway.Synced}
	message := func(size int) *gateway.Message {
		return &gateway.Message{Leaf: "a", Captured: at, Body: make([]byte, size)}
	}
	s := &limited{most: 10_000}
	l := &link{conn: &conn{Transport: &Transport{clock: func() gateway.Instant { return at }}}, sender: s}
	r, n, err := l.Send(t.Context(), []*gateway.Message{message(6000), message(6000)})
	if r == nil || n != 1 || err != nil || len(s.sent) != 2 {
		t.Errorf("two together: %d sent, %v, in %d tries", n, err, len(s.sent))
	}
	_, _, err = l.Send(t.Context(), []*gateway.Message{message(11_000), message(10)})
	if f, ok := errors.AsType[*uplink.Fault](err); !ok || f.Remedy != uplink.Poison {
		t.Errorf("one too large alone: %v", err)
	}
}

// Who holds a closed connection and comes late starts nothing that nobody waits for.
func TestClosedConnectionStartsNothing(t *testing.T) {
	c := &conn{closed: true}
	c.start(func() { t.Error("it was started") })
	c.background.Wait()
}

func TestRenewalsAreSpread(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 100 {
		after := renewAfter(time.Hour)
		if after < 48*time.Minute || after > 51*time.Minute {
			t.Fatalf("a token of an hour is renewed after %v", after)
		}
		seen[after] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %d different times", len(seen))
	}
	if renewAfter(-time.Second) != 0 {
		t.Error("an expired token is to be renewed at once")
	}
}

func TestOutcomes(t *testing.T) {
	rejected := func(condition goamqp.ErrCond) goamqp.DeliveryState {
		return &goamqp.StateRejected{Error: &goamqp.Error{Condition: condition, Description: "because"}}
	}
	for _, c := range []struct {
		state goamqp.DeliveryState
		want  uplink.Remedy
		text  string
	}{
		{rejected("com.microsoft:argument-error"), uplink.Poison, "rejected: com.microsoft:argument-error: because"},
		{rejected("amqp:resource-limit-exceeded"), uplink.Throttled, "rejected: amqp:resource-limit-exceeded: because"},
		{rejected("amqp:internal-error"), uplink.BackOff, "rejected: amqp:internal-error: because"},
		{&goamqp.StateRejected{}, uplink.Poison, "rejected without a reason"},
		{&goamqp.StateReleased{}, uplink.Again, "released"},
		{&goamqp.StateModified{}, uplink.Again, "given back as modified"},
		{nil, uplink.BackOff, "settled as <nil>"},
	} {
		f, ok := errors.AsType[*uplink.Fault](outcome(c.state, time.Now()))
		if !ok || f.Remedy != c.want || f.Error() != c.text {
			t.Errorf("%v: got %v, %v", c.state, f, ok)
		}
	}
	if err := outcome(&goamqp.StateAccepted{}, time.Now()); err != nil {
		t.Error(err)
	}
}

func TestFaults(t *testing.T) {
	remote := &goamqp.Error{Condition: "amqp:link:message-size-exceeded"}
	for _, c := range []struct {
		err  error
		want uplink.Remedy
	}{
		{&goamqp.LinkError{RemoteErr: remote}, uplink.Suspect},
		{&goamqp.LinkError{}, uplink.Again},
		{&goamqp.SessionError{}, uplink.Again},
		{&goamqp.SessionError{RemoteErr: &goamqp.Error{Condition: "amqp:internal-error"}}, uplink.BackOff},
		{fmt.Errorf("while opening: %w", &goamqp.ConnError{}), uplink.Again},
		{&goamqp.ConnError{RemoteErr: &goamqp.Error{Condition: "amqp:unauthorized-access"}}, uplink.Refused},
		{&uplink.Fault{Remedy: uplink.Throttled, Err: errors.New("x")}, uplink.Throttled},
	} {
		f, ok := errors.AsType[*uplink.Fault](faultOf(c.err))
		if !ok || f.Remedy != c.want {
			t.Errorf("%v: got %v, want %v", c.err, f, c.want)
		}
	}
	for _, err := range []error{context.Canceled, errors.New("no route to host")} {
		if got := faultOf(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// FuzzReadAnswer checks that no answer of a hub panics, and that only a status
// in the 200s is a success.
func FuzzReadAnswer(f *testing.F) {
	good, err := (&goamqp.Message{
		Properties:            &goamqp.MessageProperties{CorrelationID: "1"},
		ApplicationProperties: map[string]any{"status-code": int32(200), "status-description": "OK"},
	}).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x00, 0x53, 0x74, 0x45})
	f.Fuzz(func(t *testing.T, wire []byte) {
		var m goamqp.Message
		if m.UnmarshalBinary(wire) != nil {
			return
		}
		_, a := readAnswer(&m)
		if ok := a.fault(time.Now()) == nil; ok != (a.status >= 200 && a.status < 300) {
			t.Errorf("status %d: success is %v", a.status, ok)
		}
	})
}

// On a link that several leaves share, a message that ends it is found only when
// it is alone on it.
func TestWhoseMessageEndsASharedLink(t *testing.T) {
	suspect := &uplink.Fault{Remedy: uplink.Suspect, Err: errors.New("too large")}
	all := &shared{alone: make(chan struct{}, 1)}
	fly := func(crowd *trunk) *shareReceipt {
		crowd.flying++
		return &shareReceipt{share: &share{all: all, trunk: crowd}}
	}
	remedyOf := func(err error) uplink.Remedy {
		f, _ := errors.AsType[*uplink.Fault](err)
		return f.Remedy
	}
	many := new(trunk)
	for i, r := range []*shareReceipt{fly(many), fly(many), fly(many)} {
		if got := remedyOf(r.landed(suspect)); got != uplink.Again {
			t.Errorf("number %d of three: %v", i, got)
		}
	}
	if all.careful.Load() != carefulFor {
		t.Error("the next go together again")
	}
	one := new(trunk)
	if got := remedyOf(fly(one).landed(suspect)); got != uplink.Suspect {
		t.Errorf("alone: %v", got)
	}
	if got := remedyOf(fly(one).landed(suspect)); got != uplink.Again {
		t.Errorf("one that came too late, when the link had ended: %v", got)
	}
	if r := fly(new(trunk)); r.landed(nil) != nil || r.trunk.flying != 0 {
		t.Error("an accepted one is still on its way")
	}
}
