package image

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// lan is a cable to the machine's second network card, with somebody at its other end: a
// datagram is a frame of Ethernet. The emulator's own network takes no questions to
// everybody from outside.
type lan struct {
	w       *twin
	conn    net.PacketConn
	machine *net.UDPAddr
}

// everybody is where names of the local network are asked for: RFC 6762, section 3.
var everybody = netip.MustParseAddr("ff02::fb")

// somebody is who asks.
var somebody = netip.MustParseAddr("fe80::1")

const mdnsPort = 5353

// newLAN lays a cable. It must be there before the machine is on.
func newLAN(ctx context.Context, w *twin) *lan {
	w.t.Helper()
	conn, err := new(net.ListenConfig).ListenPacket(ctx, "udp", w.host+":19998")
	must(w.t, err)
	w.t.Cleanup(func() { conn.Close() })
	l := &lan{w: w, conn: conn, machine: &net.UDPAddr{IP: net.ParseIP(w.host), Port: 19999}}
	w.cable = []string{
		"-netdev", fmt.Sprintf("socket,id=lan,udp=%s,localaddr=%s", conn.LocalAddr(), l.machine), // to whom, from where
		"-device", "virtio-net-pci,netdev=lan",
	}
	return l
}

// ask asks everybody for records of that name, every second, until there is one.
func (l *lan) ask(ctx context.Context, name string, kind dnsmessage.Type) dnsmessage.ResourceBody {
	l.w.t.Helper()
	question := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}
	text, err := (&dnsmessage.Message{Questions: []dnsmessage.Question{question}}).Pack()
	must(l.w.t, err)
	var answer dnsmessage.ResourceBody
	l.w.await(ctx, name+" to be answered to somebody outside", func() bool {
		_, err := l.conn.WriteTo(frame(text), l.machine)
		must(l.w.t, err)
		l.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		buffer := make([]byte, 64<<10)
		for answer == nil {
			n, _, err := l.conn.ReadFrom(buffer)
			if err != nil {
				return false
			}
			for _, r := range answers(buffer[:n]) {
				if strings.EqualFold(r.Header.Name.String(), name) && r.Header.Type == kind {
					answer = r.Body
				}
			}
		}
		return true
	})
	return answer
}

// frame is a question in UDP in IPv6 in Ethernet: RFC 768, RFC 8200, RFC 2464.
func frame(text []byte) []byte {
	to, from := everybody.As16(), somebody.As16()
	b := append([]byte{0x33, 0x33}, to[12:]...)
	b = append(b, 2, 0, 0, 0, 0, 1, 0x86, 0xdd)
	length := uint16(8 + len(text))
	udp := binary.BigEndian.AppendUint16(nil, mdnsPort)
	udp = binary.BigEndian.AppendUint16(udp, mdnsPort)
	udp = binary.BigEndian.AppendUint16(udp, length)
	udp = append(append(udp, 0, 0), text...)
	binary.BigEndian.PutUint16(udp[6:], checksum(slices.Concat(from[:], to[:], []byte{0, 0, byte(length >> 8), byte(length), 0, 0, 0, 17}, udp)))
	b = append(b, 0x60, 0, 0, 0, byte(length>>8), byte(length), 17, 255)
	return slices.Concat(b, from[:], to[:], udp)
}

// checksum is that of RFC 1071, for UDP.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := range b {
		sum += uint32(b[i]) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return 0xffff
	}
	return ^uint16(sum)
}

// answers are those in a frame, none if it is something else.
func answers(b []byte) []dnsmessage.Resource {
	const ethernet, ip, udp = 14, 40, 8
	if len(b) < ethernet+ip+udp || binary.BigEndian.Uint16(b[12:]) != 0x86dd || b[ethernet+6] != 17 ||
		binary.BigEndian.Uint16(b[ethernet+ip:]) != mdnsPort {
		return nil
	}
	var m dnsmessage.Message
	if m.Unpack(b[ethernet+ip+udp:]) != nil || !m.Response {
		return nil
	}
	return m.Answers
}

// find looks for the machine as somebody does who knows neither its name nor its address.
func (l *lan) find(ctx context.Context, name string) {
	l.w.t.Helper()
	for service, port := range map[string]uint16{"_fieldgate._tcp": 8883, "_secure-mqtt._tcp": 8883, "_ssh._tcp": 22} {
		instance := name + "." + service + ".local."
		offer := l.ask(ctx, service+".local.", dnsmessage.TypePTR).(*dnsmessage.PTRResource)
		if got := offer.PTR.String(); got != instance {
			l.w.t.Errorf("somebody outside asks for %s and is told of %s, want %s", service, got, instance)
		}
		place := l.ask(ctx, instance, dnsmessage.TypeSRV).(*dnsmessage.SRVResource)
		if got, want := place.Target.String()+":"+strconv.Itoa(int(place.Port)), fmt.Sprintf("%s.local.:%d", name, port); got != want {
			l.w.t.Errorf("somebody outside is told that %s is at %s, want %s", instance, got, want)
		}
	}
	address := netip.AddrFrom16(l.ask(ctx, name+".local.", dnsmessage.TypeAAAA).(*dnsmessage.AAAAResource).AAAA)
	if !address.IsLinkLocalUnicast() {
		l.w.t.Errorf("somebody outside is told that %s is at %s, want an address of the link", name, address)
	}
	l.w.t.Logf("somebody outside finds %s at %s", name, address)
}

// What is asked is understood by whoever reads it back.
func TestFrame(t *testing.T) {
	text, err := (&dnsmessage.Message{Header: dnsmessage.Header{Response: true}, Answers: []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("a.local."), Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.AAAAResource{AAAA: somebody.As16()},
	}}}).Pack()
	must(t, err)
	b := frame(text)
	if got := answers(b); len(got) != 1 || got[0].Header.Name.String() != "a.local." {
		t.Errorf("read back: %v", got)
	}
	// The sum over what is summed up, the sum included, is all ones.
	pseudo := slices.Concat(b[22:54], []byte{0, 0}, b[18:20], []byte{0, 0, 0, 17}, b[54:])
	if got := checksum(pseudo); got != 0 && got != 0xffff {
		t.Errorf("the checksum is wrong by %#x", got)
	}
}
