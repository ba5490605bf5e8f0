package mqttsn

import "errors"

// forwarded is the type of the forwarder encapsulation (section 5.5).
const forwarded = 0xFE

// errNested says that a forwarder has forwarded what a forwarder has forwarded.
var errNested = errors.New("encapsulated twice")

// direct is the address of whoever speaks on the line without a forwarder.
const direct = ""

// unwrap takes the encapsulation off a frame and returns the address behind the
// forwarder, which is not empty then. What is returned aliases the frame.
func unwrap(frame []byte) (address string, message []byte, err error) {
	if len(frame) < 3 || frame[0] == 0x01 || frame[1] != forwarded {
		return direct, frame, nil
	}
	// The length counts up to the end of the node id.
	n := int(frame[0])
	if n < 4 || n > len(frame) {
		return direct, nil, ErrMalformed
	}
	address, message = string(frame[3:n]), frame[n:]
	if len(message) > 1 && message[0] != 0x01 && message[1] == forwarded {
		return direct, nil, errNested
	}
	return address, message, nil
}

// overhead is how much longer a message gets for an address, in octets.
func overhead(address string) int {
	if address == direct {
		return 0
	}
	return 3 + len(address)
}

// wrap appends a message for an address. The control octet is zero: to one node.
func wrap(b []byte, address string, m *Message) []byte {
	if address != direct {
		b = append(b, byte(overhead(address)), forwarded, 0)
		b = append(b, address...)
	}
	return m.Append(b)
}
