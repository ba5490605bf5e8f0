package mqtt

import (
	"bufio"
	"errors"
	"fmt"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// maxPacket is the largest packet that the hub may send: a command of 64 KiB, a
// method of 128 KiB or a twin (wire contract, section 6.2), each behind the longest
// topic.
const maxPacket = 256 << 10

// errNoLength says that a packet has no length.
var errNoLength = errors.New("the length of a packet has more than four bytes")

// readPacket reads one packet. The codec takes the length of a packet for granted,
// so it is looked at first.
func readPacket(in *bufio.Reader) (packets.ControlPacket, error) {
	length, err := peekLength(in)
	if err != nil {
		return nil, err
	}
	if length > maxPacket {
		return nil, fmt.Errorf("a packet of %d bytes, %d are allowed", length, maxPacket)
	}
	return packets.ReadPacket(in)
}

// peekLength returns the length behind the fixed header (MQTT 3.1.1, section
// 2.2.3).
func peekLength(in *bufio.Reader) (length int, err error) {
	for i := range 4 {
		head, err := in.Peek(i + 2)
		if err != nil {
			return 0, err
		}
		length |= int(head[i+1]&0x7f) << (7 * i)
		if head[i+1] < 0x80 {
			return length, nil
		}
	}
	return 0, errNoLength
}
