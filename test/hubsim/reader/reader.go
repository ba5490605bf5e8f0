// Package reader reads the events of an IoT hub as a back end does: on the
// Event-Hubs-compatible endpoint, over AMQP 1.0, from the beginning. It knows
// nothing of hubsim but a connection string, so it would read a real hub too.
package reader

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/go-amqp"
)

// Event is one event as the hub gives it to a back end.
type Event struct {
	Device        string // iothub-connection-device-id
	Partition     string
	Sequence      int64     // x-opt-sequence-number, of the partition
	Offset        string    // x-opt-offset, of the partition; only the hub knows what it counts
	Enqueued      time.Time // x-opt-enqueued-time
	MessageID     string
	CorrelationID string
	ContentType   string
	Properties    map[string]string // application properties
	Body          []byte
}

// credit is how many events of a partition may be on their way.
const credit = 1000

// tokenTTL is longer than any use of a Reader: it does not renew its token.
const tokenTTL = 24 * time.Hour

// Reader reads all partitions. Next is for one goroutine.
type Reader struct {
	conn   *amqp.Conn
	events chan Event
	stop   context.CancelFunc
	parts  sync.WaitGroup

	failing sync.Once
	failed  chan struct{} // closed when a partition gives no more events
	err     error         // why; written before failed is closed
}

// endpoint is an event-reading connection string, taken apart.
type endpoint struct{ address, keyName, key, path string }

func parse(connectionString string) (e endpoint, err error) {
	for field := range strings.SplitSeq(connectionString, ";") {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "Endpoint":
			u, err := url.Parse(value)
			if err != nil {
				return e, err
			}
			e.address = u.Host
		case "SharedAccessKeyName":
			e.keyName = value
		case "SharedAccessKey":
			e.key = value
		case "EntityPath":
			e.path = value
		}
	}
	if e.address == "" || e.path == "" || e.key == "" {
		return e, errors.New("connection string lacks Endpoint, SharedAccessKey or EntityPath")
	}
	return e, nil
}

// token signs as event readers do: with the text of the key, for an address
// that begins with sb:// (wire contract, section 5.9).
func (e *endpoint) token(audience string) string {
	sr := url.QueryEscape(audience)
	se := strconv.FormatInt(time.Now().Add(tokenTTL).Unix(), 10)
	mac := hmac.New(sha256.New, []byte(e.key))
	mac.Write([]byte(sr + "\n" + se))
	sig := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return "SharedAccessSignature sr=" + sr + "&sig=" + sig + "&se=" + se + "&skn=" + e.keyName
}

// Open connects with an event-reading connection string, trusting the CA in
// caFile, and begins to read every partition from its first event.
func Open(ctx context.Context, connectionString, caFile string) (*Reader, error) {
	e, err := parse(connectionString)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", caFile)
	}
	conn, err := amqp.Dial(ctx, "amqps://"+e.address, &amqp.ConnOptions{
		SASLType:  amqp.SASLTypeAnonymous(),
		TLSConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		return nil, err
	}
	r := &Reader{conn: conn, events: make(chan Event, credit), failed: make(chan struct{})}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	if err := r.start(ctx, running, &e); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// start opens the links; running ends with the reader, ctx only the wait.
func (r *Reader) start(ctx, running context.Context, e *endpoint) error {
	session, err := r.conn.NewSession(ctx, nil)
	if err != nil {
		return err
	}
	audience := "sb://" + e.address + "/" + e.path
	_, err = call(ctx, session, "$cbs", &amqp.Message{
		Value: e.token(audience),
		ApplicationProperties: map[string]any{
			"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": audience,
		},
	})
	if err != nil {
		return fmt.Errorf("put-token: %w", err)
	}
	answer, err := call(ctx, session, "$management", &amqp.Message{ApplicationProperties: map[string]any{
		"operation": "READ", "type": "com.microsoft:eventhub", "name": e.path,
	}})
	if err != nil {
		return fmt.Errorf("read partitions: %w", err)
	}
	info, _ := answer.Value.(map[string]any)
	partitions, ok := info["partition_ids"].([]string)
	if !ok {
		return fmt.Errorf("no partition ids in %v", answer.Value)
	}
	for _, id := range partitions {
		link, err := session.NewReceiver(ctx, e.path+"/ConsumerGroups/$Default/Partitions/"+id, &amqp.ReceiverOptions{
			Credit:  credit,
			Filters: []amqp.LinkFilter{amqp.NewSelectorFilter("amqp.annotation.x-opt-offset > '-1'")},
		})
		if err != nil {
			return fmt.Errorf("partition %s: %w", id, err)
		}
		r.parts.Go(func() { r.read(running, link, id) })
	}
	return nil
}

// call makes one request to a node that answers, and checks the status.
func call(ctx context.Context, session *amqp.Session, node string, request *amqp.Message) (*amqp.Message, error) {
	reply := "reply-" + rand.Text()
	// The one credit is given by hand: a receiver of go-amqp (v1.7.0) that gives
	// credit by itself may still do so after its DETACH, when it is closed right
	// after it has settled a message, and who names a handle that is no more ends
	// the session (part 2, section 2.8.17).
	in, err := session.NewReceiver(ctx, node, &amqp.ReceiverOptions{Name: reply, TargetAddress: reply, Credit: -1})
	if err != nil {
		return nil, err
	}
	defer in.Close(ctx)
	if err := in.IssueCredit(1); err != nil {
		return nil, err
	}
	out, err := session.NewSender(ctx, node, nil)
	if err != nil {
		return nil, err
	}
	defer out.Close(ctx)
	request.Properties = &amqp.MessageProperties{MessageID: rand.Text(), ReplyTo: &reply, To: &node}
	if err := out.Send(ctx, request, nil); err != nil {
		return nil, err
	}
	answer, err := in.Receive(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := in.AcceptMessage(ctx, answer); err != nil {
		return nil, err
	}
	for _, name := range []string{"status-code", "statusCode"} { // CBS and management spell it differently
		if code, ok := answer.ApplicationProperties[name].(int32); ok && (code < 200 || code > 299) {
			return nil, fmt.Errorf("%s answers %d %v", node, code, answer.ApplicationProperties["status-description"])
		}
	}
	return answer, nil
}

// read hands on the events of one partition.
func (r *Reader) read(ctx context.Context, link *amqp.Receiver, partition string) {
	for {
		m, err := link.Receive(ctx, nil)
		if err == nil {
			err = link.AcceptMessage(ctx, m)
		}
		if err != nil {
			r.fail(fmt.Errorf("partition %s: %w", partition, err))
			return
		}
		select {
		case r.events <- event(m, partition):
		case <-ctx.Done():
			return
		}
	}
}

// fail notes why no more events come; the first reason counts.
func (r *Reader) fail(err error) {
	r.failing.Do(func() {
		r.err = err
		close(r.failed)
	})
}

func event(m *amqp.Message, partition string) Event {
	e := Event{Partition: partition, Properties: make(map[string]string), Body: m.GetData()}
	e.Device, _ = m.Annotations["iothub-connection-device-id"].(string)
	e.Sequence, _ = m.Annotations["x-opt-sequence-number"].(int64)
	e.Offset, _ = m.Annotations["x-opt-offset"].(string)
	e.Enqueued, _ = m.Annotations["x-opt-enqueued-time"].(time.Time)
	if p := m.Properties; p != nil {
		e.MessageID, e.CorrelationID = text(p.MessageID), text(p.CorrelationID)
		if p.ContentType != nil {
			e.ContentType = *p.ContentType
		}
	}
	for name, value := range m.ApplicationProperties {
		e.Properties[name] = text(value)
	}
	return e
}

func text(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// Next returns the next event of any partition; those of one partition come in
// order. Once the connection, or the reading of one partition, has failed, it
// hands out what was read before and then always returns that error.
func (r *Reader) Next(ctx context.Context) (Event, error) {
	select {
	case e := <-r.events:
		return e, nil
	default:
	}
	select {
	case e := <-r.events:
		return e, nil
	case <-r.failed:
		return Event{}, r.err
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
}

// Close ends the connection; everything has ended when it returns.
func (r *Reader) Close() error {
	r.stop()
	err := r.conn.Close()
	r.parts.Wait()
	return err
}
