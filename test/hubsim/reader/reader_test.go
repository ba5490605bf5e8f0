package reader_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/reader"
	"github.com/fieldgate/fieldgate/test/hubsim/sas"
)

// patience bounds every wait of the tests.
const patience = 30 * time.Second

// devices is enough for every partition to have some.
const devices = 20

func start(t *testing.T) (context.Context, *hubsim.Hub) {
	t.Helper()
	list := make(map[string]string)
	for i := range devices {
		list[name(i)] = ""
	}
	hub, err := hubsim.Start(hubsim.Config{Dir: t.TempDir(), Devices: list})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hub.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx, hub
}

func name(i int) string { return fmt.Sprint("pump-", i) }

// senders connects all devices with the one token that speaks for all of them.
func senders(ctx context.Context, t *testing.T, info hubsim.Info) []*amqp.Sender {
	t.Helper()
	pem, err := os.ReadFile(info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	expiry := time.Now().Add(time.Hour)
	conn, err := amqp.Dial(ctx, "amqps://"+net.JoinHostPort(info.Bind, strconv.Itoa(info.AMQPPort)), &amqp.ConnOptions{
		TLSConfig: &tls.Config{RootCAs: roots},
		SASLType:  amqp.SASLTypePlain("iothubowner@sas.root."+info.Host, ownerToken(info, expiry)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	session, err := conn.NewSession(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	var list []*amqp.Sender
	for i := range devices {
		s, err := session.NewSender(ctx, "/devices/"+name(i)+"/messages/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

// ownerToken is a token of the hub's owner, for all devices.
func ownerToken(info hubsim.Info, expiry time.Time) string {
	_, text, _ := strings.Cut(info.OwnerConnectionString, "SharedAccessKey=")
	key, _ := base64.StdEncoding.DecodeString(text) // a bad one is refused
	return sas.New(info.Host, "iothubowner", key, expiry)
}

// sendAll has every device send the numbers from first on, and waits until all
// are accepted.
func sendAll(ctx context.Context, t *testing.T, list []*amqp.Sender, first, count int) {
	t.Helper()
	var receipts []amqp.SendReceipt
	for n := first; n < first+count; n++ {
		for _, s := range list {
			r, err := s.SendWithReceipt(ctx, amqp.NewMessage(fmt.Append(nil, n)), nil)
			if err != nil {
				t.Fatal(err)
			}
			receipts = append(receipts, r)
		}
	}
	for _, r := range receipts {
		if _, err := r.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// A reader gets everything, what came before it and what comes after, once and
// in order; more than its credit holds.
func TestEverythingInOrder(t *testing.T) {
	ctx, hub := start(t)
	info := hub.Info()
	const each = 300
	list := senders(ctx, t, info)
	sendAll(ctx, t, list, 0, each/2)
	r, err := reader.Open(ctx, info.EventHubConnectionString, info.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sendAll(ctx, t, list, each/2, each/2)

	sequences, offsets, numbers := make(map[string]int64), make(map[string]int64), make(map[string]int)
	for range devices * each {
		e, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Sequence != sequences[e.Partition] {
			t.Fatalf("partition %s: sequence number %d, want %d", e.Partition, e.Sequence, sequences[e.Partition])
		}
		sequences[e.Partition]++
		offset, err := strconv.ParseInt(e.Offset, 10, 64)
		if before, ok := offsets[e.Partition]; err != nil || (ok && offset <= before) {
			t.Fatalf("partition %s: offset %q after %d", e.Partition, e.Offset, before)
		}
		offsets[e.Partition] = offset
		if got, want := string(e.Body), fmt.Sprint(numbers[e.Device]); got != want {
			t.Fatalf("%s: got %s, want %s", e.Device, got, want)
		}
		numbers[e.Device]++
	}
	if len(sequences) != 4 || len(numbers) != devices {
		t.Errorf("got %d partitions and %d devices, want 4 and %d", len(sequences), len(numbers), devices)
	}
}

// Who may not read, or cannot, learns so from Open.
func TestOpenRefused(t *testing.T) {
	ctx, hub := start(t)
	info := hub.Info()
	good := info.EventHubConnectionString
	for what, c := range map[string]struct{ connection, ca, want string }{
		"another key":    {strings.Replace(good, "SharedAccessKey=", "SharedAccessKey=x", 1), info.CAFile, "401"},
		"another entity": {good + "-of-nobody", info.CAFile, "404"},
		"no endpoint":    {"SharedAccessKey=x;EntityPath=messages/events", info.CAFile, "Endpoint"},
		"no certificate": {good, info.CAFile + ".missing", "ca.pem.missing"},
	} {
		r, err := reader.Open(ctx, c.connection, c.ca)
		if err == nil {
			_ = r.Close()
			t.Errorf("%s: opened", what)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want something with %q", what, err, c.want)
		}
	}
}

// A reader whose hub goes says so, again and again, after it has handed out
// what it has; so does one that is closed.
func TestEnds(t *testing.T) {
	for what, end := range map[string]func(*hubsim.Hub, *reader.Reader) error{
		"the hub closes":    func(h *hubsim.Hub, _ *reader.Reader) error { return h.Close() },
		"a reset":           func(h *hubsim.Hub, _ *reader.Reader) error { h.Reset(); return nil },
		"the reader closes": func(_ *hubsim.Hub, r *reader.Reader) error { return r.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			ctx, hub := start(t)
			r, err := reader.Open(ctx, hub.Info().EventHubConnectionString, hub.Info().CAFile)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			waiting := make(chan error)
			go func() {
				for range 3 {
					_, err := r.Next(ctx)
					waiting <- err
				}
			}()
			if err := end(hub, r); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := <-waiting; err == nil || ctx.Err() != nil {
					t.Errorf("got %v, want an error of the reader, and at once", err)
				}
			}
		})
	}
}
