package broker

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// pairingBench is a bench with a pairing window, which is open.
func pairingBench(t *testing.T, auto bool) (*bench, *pairing.Window, string) {
	t.Helper()
	b := newBench(t, nil)
	w := &pairing.Window{
		Known: b.table.Known, Usable: func(string) error { return nil },
		Admit: func(r pairing.Request, _ string) (pairing.Answer, error) {
			return pairing.Answer{ID: r.ID, Password: "the password of " + r.ID}, nil
		},
		Log: slog.New(slog.DiscardHandler),
	}
	b.end()
	b.window = w
	b.start()
	code, _, err := w.Open(pairing.Options{Auto: auto})
	if err != nil {
		t.Fatal(err)
	}
	return b, w, code.Text()
}

const wantPassword = `{"id":"new","password":true}`

// A guest gets its answer, on its own connection and after it listens, and nothing
// that it sends goes any further.
func TestGuest(t *testing.T) {
	for _, version := range []byte{version311, version5} {
		b, w, code := pairingBench(t, false)
		g := b.dial()
		if got, _ := g.connect(hello{version: version, clientID: "any", user: pairing.User, password: code}); got != 0 {
			t.Fatalf("with the code: %d", got)
		}
		other := b.dial()
		if got, _ := other.connect(hello{version: version, clientID: "any", user: pairing.User, password: code}); got != 0 {
			t.Fatalf("a second connection: %d", got)
		}
		other.subscribe(1, pairResponse)
		other.packet() // SUBACK
		g.publish(7, pairRequest, wantPassword)
		g.puback(7)
		if err := w.Approve("new"); err != nil {
			t.Fatal(err)
		}
		g.subscribe(1, pairResponse)
		g.packet()
		first, body := g.packet()
		if first>>4 != typePublish || !strings.Contains(string(body), "the password of new") {
			t.Errorf("the answer is %x %q", first, body)
		}
		other.alive() // and has heard nothing
		if n := b.path.count(); n != 0 {
			t.Errorf("%d messages were handed over", n)
		}
	}
}

// A guest may do nothing else, and a stranger is told nothing.
func TestGuestMayNothing(t *testing.T) {
	for what, c := range map[string]struct{ topic, body string }{
		"a leaf's topic": {"leaf/pump-1/telemetry", "x"},
		"the response":   {pairResponse, "x"},
	} {
		b, _, code := pairingBench(t, true)
		g := b.dial()
		if got, _ := g.connect(hello{version: version311, clientID: "any", user: pairing.User, password: code}); got != 0 {
			t.Fatalf("with the code: %d", got)
		}
		g.publish(1, c.topic, c.body)
		g.expectClosed()
		if n := b.path.count(); n != 0 {
			t.Errorf("%s: %d messages were handed over", what, n)
		}
	}
	b, w, code := pairingBench(t, true)
	must := func(h hello, want byte) {
		t.Helper()
		h.version, h.clientID, h.user = version311, "any", pairing.User
		if got, _ := b.dial().connect(h); got != want {
			t.Errorf("%q: CONNACK %d, want %d", h.password, got, want)
		}
	}
	must(hello{password: "0000-0000-0"}, 5)
	must(hello{password: ""}, 5)
	for range maxGuests {
		must(hello{password: code}, 0)
	}
	must(hello{password: code}, 3)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	must(hello{password: code}, 5)
}
