package bench

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fieldgate/fieldgate/test/leafsim/site"
)

// A bomb is what one leaf throws at the gateway to spoil it for others. It comes from a
// process of its own, this program with the argument "bomb", and the kernel gives that
// only the processors that nobody else wants (SCHED_IDLE): an attacker in the field does
// not use the gateway's processor either. What others lose then, they lose by what the
// gateway does.

// bomb is one kind. It is thrown over some connections at once, for each of which throw
// is called again and again with a connection that has not logged in; it returns when
// that is used up.
type bomb struct {
	name  string
	lanes int
	throw func(t *thrower, conn net.Conn) error
}

var bombs = []bomb{
	{"nothing", 1, func(t *thrower, _ net.Conn) error {
		t.begin()
		<-t.over
		return nil
	}},
	{"pings", 1, flood(4, func(*thrower, uint16) []byte { return []byte{0xc0, 0} })},
	{"subscriptions, 120 in a packet", 1, flood(4, func(t *thrower, id uint16) []byte {
		body := binary.BigEndian.AppendUint16(nil, id)
		for i := range 120 {
			body = append(appendText(body, fmt.Sprintf("leaf/%s/command/%d/%d", t.Leaf, id%64, i)), 1)
		}
		return appendPacket(nil, 0x82, body)
	})},
	{"a kept subscription, made and ended", 1, keptSubscription},
	{"one packet id", 1, flood(4, func(t *thrower, _ uint16) []byte { return t.publication(4, 1, 7, nil, 10) })},
	{"40,000 user properties", 1, flood(5, func(t *thrower, id uint16) []byte {
		return t.publication(5, 0, id, slices.Repeat(slices.Concat([]byte{38}, appendText(nil, "a"), appendText(nil, "b")), 40_000), 10)
	})},
	{"bodies of 250 KiB", 1, flood(4, func(t *thrower, id uint16) []byte { return t.publication(4, 0, id, nil, 250<<10) })},
	{"QoS 2 without PUBREL, ten connections", 10, flood(4, func(t *thrower, id uint16) []byte { return t.publication(4, 2, id, nil, 10) })},
	{"wills, ten connections", 10, func(t *thrower, conn net.Conn) error {
		will := appendText(appendText(nil, t.topic()), "gone")
		_, err := t.logIn(conn, hello{version: 4, flags: cleanSession | withWill, will: will})
		t.threw()
		return errors.Join(err, conn.(*tls.Conn).NetConn().Close()) // without a goodbye
	}},
	{"handshakes, twenty at once", 20, func(t *thrower, conn net.Conn) error {
		t.threw()
		return nil
	}},
}

// target is what a thrower is told.
type target struct {
	Bomb                         string
	Address, CAFile              string
	Leaf, User, Password, Client string
}

type thrower struct {
	target
	tls    *tls.Config
	thrown atomic.Int64 // packets, or connections of those that are about these
	over   chan struct{}
	said   sync.Once // that it has begun
}

// begun is what the process says when it has begun.
const begun = "begun"

func (t *thrower) begin() { t.said.Do(func() { fmt.Println(begun) }) }

func (t *thrower) threw() {
	t.thrown.Add(1)
	t.begin()
}

func (t *thrower) topic() string { return "devices/" + t.Leaf + "/messages/events/" }

// publication is a PUBLISH, with encoded properties if it is one of MQTT 5.
func (t *thrower) publication(version, qos byte, id uint16, properties []byte, size int) []byte {
	body := appendText(nil, t.topic())
	if qos > 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	if version == 5 {
		body = append(binary.AppendUvarint(body, uint64(len(properties))), properties...)
	}
	return appendPacket(nil, 0x30|qos<<1, append(body, make([]byte, size)...))
}

func (t *thrower) logIn(conn net.Conn, h hello) (*bufio.Reader, error) {
	in := bufio.NewReader(conn)
	h.id, h.user, h.password = t.Leaf, t.User, t.Password
	return in, h.say(conn, in)
}

// flood logs in and sends packets without a pause, and reads what is answered.
func flood(version byte, packet func(t *thrower, id uint16) []byte) func(*thrower, net.Conn) error {
	return func(t *thrower, conn net.Conn) error {
		in, err := t.logIn(conn, hello{version: version, flags: cleanSession})
		if err != nil {
			return err
		}
		go io.Copy(io.Discard, in) // it ends with the connection
		for id := uint16(1); ; id = max(id+1, 1) {
			if _, err := conn.Write(packet(t, id)); err != nil {
				return err
			}
			t.threw()
		}
	}
}

// keptSubscription changes what the gateway has to keep on flash, and waits each time
// until it is there.
func keptSubscription(t *thrower, conn net.Conn) error {
	in, err := t.logIn(conn, hello{version: 4})
	if err != nil {
		return err
	}
	filter := appendText(nil, "leaf/"+t.Leaf+"/command/x")
	for {
		for _, packet := range [][]byte{
			appendPacket(nil, 0x82, slices.Concat([]byte{0, 1}, filter, []byte{1})),
			appendPacket(nil, 0xa2, slices.Concat([]byte{0, 1}, filter)),
		} {
			if _, err := conn.Write(packet); err != nil {
				return err
			}
			var answer [2]byte
			if _, err := io.ReadFull(in, answer[:]); err != nil {
				return err
			}
			if _, err := in.Discard(int(answer[1])); err != nil {
				return err
			}
			t.threw()
		}
	}
}

// Throw is the process of a bomb: it reads its target from standard input, throws until
// that ends, and writes that it has begun, and at the end how much it has thrown.
func Throw() error {
	in := json.NewDecoder(os.Stdin)
	t := &thrower{over: make(chan struct{})}
	if err := in.Decode(&t.target); err != nil {
		return err
	}
	var err error
	if t.tls, err = site.Trust(t.CAFile); err != nil {
		return err
	}
	i := slices.IndexFunc(bombs, func(b bomb) bool { return b.name == t.Bomb })
	if i < 0 {
		return fmt.Errorf("there is no bomb %q", t.Bomb)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(t.over)
	}()
	var lanes sync.WaitGroup
	for range bombs[i].lanes {
		lanes.Go(func() { t.lane(bombs[i].throw) })
	}
	lanes.Wait()
	fmt.Println(t.thrown.Load())
	return nil
}

// lane throws over one connection after the other. They end because the gateway ends
// them, which is what it is for.
func (t *thrower) lane(throw func(*thrower, net.Conn) error) {
	for {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", t.Address, t.tls)
		if err == nil {
			done := make(chan struct{})
			go func() {
				select {
				case <-t.over:
					conn.NetConn().Close()
				case <-done:
				}
			}()
			throw(t, conn)
			close(done)
			conn.NetConn().Close()
		}
		select {
		case <-t.over:
			return
		case <-time.After(time.Millisecond): // where the gateway is gone
		}
	}
}

// idleClass makes a process take only what of the processors nobody else wants.
var idleClass = []string{"chrt", "--idle", "0"}

// bombProcess is a bomb as the measuring process sees it.
type bombProcess struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	began time.Time
}

// startBomb starts one and waits until it has begun.
func startBomb(self string, t target) (*bombProcess, error) {
	args := append(slices.Clone(idleClass), self, "bomb")
	b := &bombProcess{cmd: exec.Command(args[0], args[1:]...)}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	b.cmd.Stderr = os.Stderr
	in, err := b.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	b.in, b.out = in, bufio.NewReader(out)
	err = json.NewEncoder(b.in).Encode(t)
	if err == nil {
		_, err = b.out.ReadString('\n')
	}
	b.began = time.Now()
	if err != nil {
		b.in.Close()
		return nil, errors.Join(err, b.cmd.Wait())
	}
	return b, nil
}

// end ends it and returns how much it has thrown, and in what time.
func (b *bombProcess) end() (thrown int, took time.Duration, err error) {
	took = time.Since(b.began)
	b.in.Close()
	_, err = fmt.Fscan(b.out, &thrown)
	return thrown, took, errors.Join(err, b.cmd.Wait())
}
