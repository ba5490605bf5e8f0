package leafsim

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/hdlc"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
)

// SN is a line on which the leaf speaks MQTT-SN, one message at a time: a serial one, or
// another. Its session is kept by the gateway (no clean flag).
type SN struct {
	Link string // where to put the symbolic link to the port
	// Open makes the leaf's end of a line that is no serial one; nil for one that is. It is
	// closed in the end.
	Open func() (io.ReadWriteCloser, error)
	// Filters is what the leaf subscribes to with QoS 1, behind leaf/{id}/.
	Filters []string
	// Heard is called with each publication of the gateway, with the topic behind
	// leaf/{id}/, before it is acknowledged; nil for nobody. It must not call the line.
	Heard func(topic string, payload []byte)

	mu      sync.Mutex
	leaf    io.ReadWriteCloser // the leaf's end, guarded by mu like what follows; nil until dialled
	current *snConn
	reader  sync.WaitGroup
}

// Repetitions: shorter than in the field, as on the bench nobody waits.
const (
	snRetry = time.Second
	snTries = 4
)

var (
	errSilent  = errors.New("gateway does not answer")
	errRefused = errors.New("gateway refuses")
)

func (*SN) window(int) int { return 1 }

func (s *SN) dial(ctx context.Context, leaf string, _ int) (conn, error) {
	s.mu.Lock()
	if s.leaf == nil {
		open := s.Open
		if open == nil {
			open = s.openPort
		}
		end, err := open()
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		s.leaf = end
		s.reader.Go(func() { s.read(end) })
	}
	c := &snConn{line: s, prefix: "leaf/" + leaf + "/", out: make(chan *Message), lost: make(chan struct{}), ids: make(map[string]uint16), names: make(map[uint16]string)}
	s.current = c
	s.mu.Unlock()
	err := c.begin(ctx, leaf)
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// Publish publishes with QoS 1 on a topic behind leaf/{id}/, and waits until it is
// acknowledged. The leaf must be connected.
func (s *SN) Publish(ctx context.Context, topic string, payload []byte) error {
	s.mu.Lock()
	c := s.current
	s.mu.Unlock()
	if c == nil {
		return errLost
	}
	return c.publish(ctx, topic, payload)
}

// serialEnd is the leaf's end of a serial line.
type serialEnd struct {
	*os.File
	port *os.File // keeps the gateway's end open, as with Serial
	link string
}

func (s *SN) openPort() (io.ReadWriteCloser, error) {
	leaf, port, err := openTerminal(s.Link)
	if err != nil {
		return nil, err
	}
	return &serialEnd{leaf, port, s.Link}, nil
}

func (e *serialEnd) Write(b []byte) (int, error) {
	if err := errors.Join(control(e.port, endExclusive), e.SetWriteDeadline(time.Now().Add(answerTime))); err != nil {
		return 0, err
	}
	return e.File.Write(b)
}

// Close takes the line away. Its errors do not matter: it is gone either way.
func (e *serialEnd) Close() error {
	return errors.Join(os.Remove(e.link), e.port.Close(), e.File.Close())
}

// read passes on what comes until the line is closed.
func (s *SN) read(end io.Reader) {
	var frames hdlc.Reader
	buf := make([]byte, 1024)
	for {
		n, err := end.Read(buf)
		frames.Feed(buf[:n], func(content []byte) {
			m, err := mqttsn.Parse(slices.Clone(content))
			s.mu.Lock()
			c := s.current
			s.mu.Unlock()
			if err == nil && c != nil {
				c.take(m)
			}
		})
		if err != nil {
			return
		}
	}
}

func (s *SN) write(m *mqttsn.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaf == nil {
		return os.ErrClosed
	}
	_, err := s.leaf.Write(hdlc.Append(nil, m.Append(nil), false))
	return err
}

func (s *SN) close() {
	s.mu.Lock()
	if s.leaf != nil {
		_ = s.leaf.Close() // it is gone either way
		s.leaf, s.current = nil, nil
	}
	s.mu.Unlock()
	s.reader.Wait()
}

// snConn is one MQTT-SN connection.
type snConn struct {
	line    *SN
	prefix  string
	out     chan *Message // closed when a message is not acknowledged
	lost    chan struct{} // closed by end
	once    sync.Once
	waiters sync.WaitGroup

	asking sync.Mutex // one question at a time
	lastID uint16     // guarded by asking, like ids
	ids    map[string]uint16

	mu    sync.Mutex
	await func(*mqttsn.Message) bool // says that a message is the answer, guarded by mu
	reply chan *mqttsn.Message
	names map[uint16]string // of topics by which the gateway publishes, guarded by mu
}

// begin connects and subscribes.
func (c *snConn) begin(ctx context.Context, leaf string) error {
	ofType := func(t mqttsn.Type) func(*mqttsn.Message) bool {
		return func(m *mqttsn.Message) bool { return m.Type == t }
	}
	connect := mqttsn.Message{Type: mqttsn.Connect, Protocol: mqttsn.Protocol, Duration: 60, Text: []byte(leaf)}
	if err := c.ask(ctx, &connect, ofType(mqttsn.ConnAck)); err != nil {
		return err
	}
	for _, f := range c.line.Filters {
		subscribe := mqttsn.Message{Type: mqttsn.Subscribe, Flags: mqttsn.Flags{QoS: 1}, MessageID: c.nextID(), Named: true, Text: []byte(c.prefix + f)}
		err := c.ask(ctx, &subscribe, func(m *mqttsn.Message) bool {
			if m.Type == mqttsn.SubAck && m.TopicID != 0 {
				c.names[m.TopicID] = f
			}
			return m.Type == mqttsn.SubAck && m.MessageID == subscribe.MessageID
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *snConn) nextID() uint16 {
	c.asking.Lock()
	defer c.asking.Unlock()
	c.lastID++
	return c.lastID
}

// ask sends a message until it is answered.
func (c *snConn) ask(ctx context.Context, m *mqttsn.Message, answers func(*mqttsn.Message) bool) error {
	c.asking.Lock()
	defer c.asking.Unlock()
	reply := make(chan *mqttsn.Message, 1)
	c.mu.Lock()
	c.await, c.reply = answers, reply
	c.mu.Unlock()
	for range snTries {
		if err := c.line.write(m); err != nil {
			return err
		}
		m.Flags.DUP = m.Type == mqttsn.Publish
		timer := time.NewTimer(snRetry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-c.lost:
			timer.Stop()
			return errLost
		case r := <-reply:
			timer.Stop()
			if r.Code != mqttsn.Accepted {
				return errRefused
			}
			return nil
		case <-timer.C:
		}
	}
	return errSilent
}

// publish registers the topic where that is new, and publishes.
func (c *snConn) publish(ctx context.Context, topic string, payload []byte) error {
	c.mu.Lock()
	id := c.ids[topic]
	c.mu.Unlock()
	if id == 0 {
		register := mqttsn.Message{Type: mqttsn.Register, MessageID: c.nextID(), Text: []byte(c.prefix + topic)}
		err := c.ask(ctx, &register, func(m *mqttsn.Message) bool {
			if m.Type != mqttsn.RegAck || m.MessageID != register.MessageID {
				return false
			}
			id = m.TopicID
			return true
		})
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.ids[topic] = id
		c.mu.Unlock()
	}
	m := mqttsn.Message{Type: mqttsn.Publish, Flags: mqttsn.Flags{QoS: 1}, TopicID: id, MessageID: c.nextID(), Data: payload}
	return c.ask(ctx, &m, func(r *mqttsn.Message) bool { return r.Type == mqttsn.PubAck && r.MessageID == m.MessageID })
}

// take takes a message of the gateway: an answer, or something to be answered.
func (c *snConn) take(m *mqttsn.Message) {
	c.mu.Lock()
	if c.await != nil && c.await(m) {
		c.await = nil
		c.reply <- m
		c.mu.Unlock()
		return
	}
	name := ""
	switch m.Type {
	case mqttsn.Register:
		c.names[m.TopicID] = strings.TrimPrefix(string(m.Text), c.prefix)
	case mqttsn.Publish:
		name = c.names[m.TopicID]
	}
	c.mu.Unlock()
	switch m.Type {
	case mqttsn.Disconnect:
		c.end()
	case mqttsn.Register:
		_ = c.line.write(&mqttsn.Message{Type: mqttsn.RegAck, TopicID: m.TopicID, MessageID: m.MessageID})
	case mqttsn.Publish:
		if name != "" && c.line.Heard != nil {
			c.line.Heard(name, m.Data)
		}
		if m.Flags.QoS == 1 { // what is lost is asked for again
			_ = c.line.write(&mqttsn.Message{Type: mqttsn.PubAck, TopicID: m.TopicID, MessageID: m.MessageID})
		}
	}
}

func (c *snConn) end() { c.once.Do(func() { close(c.lost) }) }

func (c *snConn) send(ctx context.Context, m *Message) error {
	c.waiters.Go(func() {
		if err := c.publish(ctx, m.Lane, m.Body); err != nil {
			close(c.out)
			return
		}
		select {
		case c.out <- m:
		case <-c.lost:
		}
	})
	return nil
}

func (c *snConn) acks() <-chan *Message { return c.out }

func (c *snConn) close() {
	c.line.mu.Lock()
	if c.line.current == c {
		c.line.current = nil
	}
	c.line.mu.Unlock()
	c.end()
	c.waiters.Wait()
}
