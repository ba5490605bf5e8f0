package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// bridge is a mosquitto that bridges to a second one, over TLS on both sides. A
// subscriber at the second one is where messages arrive.
type bridge struct {
	dir, program      string
	address, upstream string
	door              Door
	near, far         *site.Process
	sub               *subscriber
	farBefore         time.Duration // processor time of second mosquittos that have ended
}

// newBridge starts both. The leaves are ids of clients: anybody may come in.
func newBridge(ctx context.Context, env *Env, _ []string) (Rig, error) {
	dir, err := os.MkdirTemp(env.Dir, "bridge-")
	if err != nil {
		return nil, err
	}
	b := &bridge{dir: dir, sub: &subscriber{tallies: make(tallies)}}
	if b.program, err = findMosquitto(); err != nil {
		return nil, err
	}
	if err := errors.Join(b.configure(), b.Restore(ctx), b.Start(ctx)); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func findMosquitto() (string, error) {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("mosquitto: %w", errNoProgram)
}

func (b *bridge) path(name string) string { return filepath.Join(b.dir, name) }

// common is what both are told: bounds that the load does not reach, and
// persistence, whose shortest interval is a second.
const common = `listener %s %s
cafile %s
certfile %s
keyfile %s
allow_anonymous true
persistence true
persistence_location %s/
autosave_interval 1
autosave_on_changes false
max_inflight_messages 1000
max_queued_messages 2000000
log_dest file %s
log_type error
log_type warning
`

func (b *bridge) configure() (err error) {
	ca, cert, key := b.path("ca.pem"), b.path("cert.pem"), b.path("key.pem")
	if err := site.MakeCertificates(ca, cert, key); err != nil {
		return err
	}
	if b.address, err = site.FreeAddress(); err != nil {
		return err
	}
	if b.upstream, err = site.FreeAddress(); err != nil {
		return err
	}
	b.door.Address = b.address
	if b.door.TLS, err = site.Trust(ca); err != nil {
		return err
	}
	write := func(name, address, more string) error {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		// Started as root it becomes somebody else, unless told who to be.
		text := fmt.Sprintf(common, port, host, ca, cert, key, b.path(name), b.path(name+".log")) + "user root\n" + more
		return errors.Join(os.Mkdir(b.path(name), 0o700), os.WriteFile(b.path(name+".conf"), []byte(text), 0o600))
	}
	return errors.Join(write("far", b.upstream, ""), write("near", b.address, fmt.Sprintf(`connection up
address %s
topic devices/# out 1
cleansession false
bridge_protocol_version mqttv311
remote_clientid bridge-up
try_private false
notifications false
restart_timeout 1
bridge_cafile %s
`, b.upstream, ca)))
}

func (b *bridge) Name() string { return "mosquitto bridge" }
func (b *bridge) Door() Door   { return b.door }
func (b *bridge) PID() int     { return b.near.PID() }
func (b *bridge) Kill()        { b.near.Kill() }

func (b *bridge) Start(ctx context.Context) (err error) {
	if b.near, err = site.Spawn(b.path("near.out"), nil, b.program, "-c", b.path("near.conf")); err != nil {
		return err
	}
	return listening(ctx, b.address, b.near)
}

func (b *bridge) Arrived(p Phase) (Arrivals, error) { return b.sub.arrivals(p), nil }
func (b *bridge) Count() (int, error)               { return b.sub.counted(), nil }

func (b *bridge) Cut() error {
	b.farBefore, _ = b.FarCPU()
	b.sub.stop()
	err := b.far.Stop()
	b.far = nil
	return err
}

func (b *bridge) Restore(ctx context.Context) (err error) {
	if b.far, err = site.Spawn(b.path("far.out"), nil, b.program, "-c", b.path("far.conf")); err != nil {
		return err
	}
	if err := listening(ctx, b.upstream, b.far); err != nil {
		return err
	}
	return b.sub.start(ctx, Door{Address: b.upstream, TLS: b.door.TLS})
}

func (b *bridge) FarCPU() (time.Duration, error) {
	if b.far == nil {
		return b.farBefore, nil
	}
	u, err := usageOf(b.far.PID())
	return b.farBefore + u.cpu, err
}

func (b *bridge) Close() error {
	b.sub.stop()
	var errs []error
	for _, p := range []*site.Process{b.near, b.far} {
		if p == nil {
			continue
		}
		select {
		case <-p.Done():
		default:
			errs = append(errs, p.Stop())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(b.dir)
}

// subscriber takes everything at QoS 1 and notes when it came.
type subscriber struct {
	conn    net.Conn
	reading sync.WaitGroup

	mu      sync.Mutex
	tallies tallies // guarded by mu
	count   int     // guarded by mu
}

func (s *subscriber) start(ctx context.Context, door Door) error {
	l, err := dialLeaf(ctx, door, "bench-subscriber", 0)
	if err != nil {
		return err
	}
	// SUBSCRIBE and its answer (MQTT 3.1.1, sections 3.8 and 3.9).
	filter := append(appendText([]byte{0, 1}, "devices/#"), 1)
	if _, err := l.conn.Write(appendPacket(nil, 0x82, filter)); err != nil {
		return err
	}
	if first, _, err := readPacket(l.in, nil); err != nil || first != 0x90 {
		return fmt.Errorf("not subscribed: %#x %w", first, err)
	}
	s.conn = l.conn
	in := bufio.NewReaderSize(l.in, 64<<10)
	s.reading.Go(func() { s.read(in) })
	return nil
}

func (s *subscriber) stop() {
	if s.conn != nil {
		s.conn.Close()
	}
	s.reading.Wait()
	s.conn = nil
}

// read takes messages until the connection ends, and acknowledges those of one
// read together.
func (s *subscriber) read(in *bufio.Reader) {
	var acks, packet []byte
	for {
		first, body, err := readPacket(in, packet)
		if err != nil {
			return
		}
		packet = body
		if first>>4 == 3 && len(body) > 2 {
			acks = append(append(acks, 0x40, 2), s.take(body)...)
		}
		if in.Buffered() == 0 && len(acks) > 0 {
			if _, err := s.conn.Write(acks); err != nil {
				return
			}
			acks = acks[:0]
		}
	}
}

// take notes a PUBLISH of QoS 1 and returns its packet id.
func (s *subscriber) take(body []byte) []byte {
	topic := 2 + int(binary.BigEndian.Uint16(body))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	s.tallies.add(body[topic+2:], time.Now())
	return body[topic : topic+2]
}

// readPacket reads one packet into buf, grown where needed.
func readPacket(in *bufio.Reader, buf []byte) (first byte, body []byte, err error) {
	if first, err = in.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return 0, nil, err
	}
	if uint64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	_, err = io.ReadFull(in, buf[:n])
	return first, buf[:n], err
}

func (s *subscriber) arrivals(p Phase) Arrivals {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tallies.arrivals(p)
}

func (s *subscriber) counted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}
