package amqp

import (
	"context"
	"errors"
	"fmt"
	"sync"

	goamqp "github.com/Azure/go-amqp"

	"github.com/fieldgate/fieldgate/gateway/hub"
)

// door is the links through which the hub reaches one leaf for one purpose: a
// receiver, and where the hub wants answers a sender beside it. They are in one
// session, and what fails of a door fails as a whole.
type door struct {
	conn     *conn
	leaf     string
	session  *session
	receiver *goamqp.Receiver
	sender   *goamqp.Sender // nil where there are no answers

	life context.Context // of what is done for the door
	end  context.CancelFunc
	work sync.WaitGroup
	lost chan struct{} // closed when the receiver has failed
	err  error         // why; read it after lost is closed
}

// doorKind says how the links of a door are opened.
type doorKind struct {
	address func(leaf string) string
	pairing string // prefix of the value that joins the pair; "" for a receiver alone
	credit  int32
}

// Credits are small: each is a message, of 256 KiB at most, that may wait in
// memory, for each leaf.
var (
	commandDoor = doorKind{hub.CommandAddress, "", 8}
	methodDoor  = doorKind{hub.MethodAddress, hub.MethodsPairing, 8}
	twinDoor    = doorKind{hub.TwinAddress, hub.TwinPairing, 16}
)

// openDoor opens the links of a door. handle is called for what comes, one after
// the other, after the door has been returned; it must not wait for the door.
func (c *conn) openDoor(ctx context.Context, leaf string, kind doorKind, handle func(*door, *goamqp.Message)) (*door, error) {
	d := &door{conn: c, leaf: leaf, lost: make(chan struct{})}
	var err error
	d.session, err = c.sessions.open(ctx, func(s *goamqp.Session) error { return d.attach(ctx, s, kind) })
	if err != nil {
		return nil, err
	}
	d.life, d.end = context.WithCancel(c.live)
	d.work.Go(func() { d.read(handle) })
	return d, nil
}

// attach opens the receiver last: from then on the hub takes the leaf for
// listening.
func (d *door) attach(ctx context.Context, s *goamqp.Session, kind doorKind) (err error) {
	address := kind.address(d.leaf)
	properties := map[string]any{hub.LinkClientVersion: d.conn.about, hub.LinkAPIVersion: hub.APIVersion}
	if kind.pairing != "" {
		properties[hub.LinkPairing] = kind.pairing + newUUID().String()
		if d.sender, err = s.NewSender(ctx, address, &goamqp.SenderOptions{Properties: properties}); err != nil {
			return err
		}
	}
	d.receiver, err = s.NewReceiver(ctx, address, &goamqp.ReceiverOptions{
		Properties:     properties,
		Credit:         kind.credit,
		MaxMessageSize: maxIncoming,
	})
	if err != nil && d.sender != nil {
		_ = d.sender.Close(ctx) // the error to report is the other one
	}
	return err
}

// maxIncoming is the largest message that the hub may send: a twin, whose two
// sections have 32 KiB each by the hub's own way of counting, or a command of 64
// KiB (wire contract, section 6.2), with room for how they are written.
const maxIncoming = 512 << 10

// read hands over what comes, until the link ends.
func (d *door) read(handle func(*door, *goamqp.Message)) {
	defer close(d.lost)
	for {
		m, err := d.receiver.Receive(d.life, nil)
		if err != nil {
			d.err = err
			return
		}
		handle(d, m)
	}
}

// close gives the links up. Everything that was done for the door has ended when
// it returns; what the hub waits for an answer to, it has again.
func (d *door) close(ctx context.Context) {
	d.end()
	d.work.Wait()
	_, dead := errors.AsType[*goamqp.SessionError](d.err)
	ctx, cancel := context.WithTimeout(ctx, d.conn.cfg.Timeout.D())
	defer cancel()
	// It may have ended by itself long before. Where it is closed within
	// microseconds of the settlement that makes credit due, go-amqp (v1.7.0) may
	// give that credit after its DETACH; a hub that is strict then ends the
	// session, and the others in it attach again.
	_ = d.receiver.Close(ctx)
	if d.sender != nil {
		_ = d.sender.Close(ctx)
	}
	d.conn.sessions.release(d.session, dead)
}

// fault says why the door is lost, after it is.
func (d *door) fault() error { return faultOf(fmt.Errorf("hub closed the way down: %w", d.err)) }

// isLost says that the door is good for close only.
func (d *door) isLost() bool {
	select {
	case <-d.lost:
		return true
	default:
		return false
	}
}
