package server

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// errProtocol says that the peer does not speak AMQP 1.0.
var errProtocol = errors.New("not an AMQP 1.0 client")

// greet exchanges protocol headers, with the SASL layer when the client starts
// with it and without when not (trap 9.5), and returns the client's OPEN. An
// *amqp.Error is for the client to hear.
func (c *Conn) greet() (*amqp.Open, error) {
	if err := c.nc.SetDeadline(time.Now().Add(openTimeout)); err != nil {
		return nil, err
	}
	header, err := c.header()
	if err != nil {
		return nil, err
	}
	if header == amqp.HeaderSASL {
		if err := c.sasl(); err != nil {
			return nil, err
		}
		if header, err = c.header(); err != nil {
			return nil, err
		}
	}
	if header != amqp.HeaderAMQP {
		_, _ = c.nc.Write(amqp.HeaderAMQP[:]) // what we would speak (part 2, section 2.2)
		return nil, fmt.Errorf("%w: header %x", errProtocol, header[:])
	}
	if _, err := c.nc.Write(header[:]); err != nil {
		return nil, err
	}
	open, err := c.firstFrame()
	if errors.Is(err, amqp.ErrDecode) {
		return nil, &amqp.Error{Condition: amqp.CondDecodeError, Description: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	return open, c.nc.SetDeadline(time.Time{})
}

func (c *Conn) header() (h amqp.ProtocolHeader, err error) {
	b, err := c.in.bytes(len(h))
	copy(h[:], b)
	return h, err
}

func (c *Conn) firstFrame() (*amqp.Open, error) {
	f, err := c.nextFrame()
	if errors.Is(err, amqp.ErrDecode) { // no frame at all (part 2, section 2.8.17)
		return nil, &amqp.Error{Condition: amqp.CondFraming, Description: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	p, _, err := amqp.ParsePerformative(f.Body)
	if err != nil {
		return nil, err
	}
	open, ok := p.(*amqp.Open)
	if !ok {
		return nil, &amqp.Error{Condition: amqp.CondNotAllowed, Description: "the first frame is not OPEN"}
	}
	return open, nil
}

// sasl runs the SASL layer. ANONYMOUS says nothing about who the client is: it
// proves that later, per identity. EXTERNAL points at the client's certificate,
// which is judged later too, but must be there.
func (c *Conn) sasl() error {
	offer := amqp.AppendMechanisms(amqp.HeaderSASL[:], "ANONYMOUS", "PLAIN", "EXTERNAL", "MSSBCBS")
	if _, err := c.nc.Write(offer); err != nil {
		return err
	}
	raw, err := c.in.frame(c.cfg.MaxFrame)
	if err != nil {
		return err
	}
	f, err := amqp.ParseFrame(raw)
	if err != nil {
		return err
	}
	init, err := amqp.ParseSASLInit(f.Body)
	if err != nil {
		return err
	}
	verdict := c.judge(init)
	code := uint8(amqp.SASLOK)
	if verdict != nil {
		code = amqp.SASLAuth
	}
	if _, err := c.nc.Write(amqp.AppendOutcome(nil, code)); err != nil {
		return err
	}
	return verdict
}

func (c *Conn) judge(init *amqp.SASLInit) error {
	switch init.Mechanism {
	case "ANONYMOUS", "MSSBCBS":
		return nil
	case "EXTERNAL":
		if len(c.cfg.Certificates) == 0 {
			return fmt.Errorf("%w: EXTERNAL without a certificate", errProtocol)
		}
		return nil
	case "PLAIN":
		// authorization id, user and password, with zero bytes between (RFC 4616)
		parts := bytes.Split(init.Response, []byte{0})
		if len(parts) != 3 {
			return fmt.Errorf("%w: PLAIN response of %d parts", errProtocol, len(parts))
		}
		return c.routes.Plain(string(parts[1]), string(parts[2]))
	}
	return fmt.Errorf("%w: SASL mechanism %q", errProtocol, init.Mechanism)
}
