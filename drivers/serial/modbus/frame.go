// Package modbus is Modbus RTU as a master speaks it: frames with their checksum
// (MODBUS over Serial Line V1.02), the functions that read and write (MODBUS
// Application Protocol V1.1b3), and how numbers lie in registers. It does no I/O.
package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Function is a function code.
type Function byte

// The functions of a master.
const (
	ReadCoils      Function = 0x01
	ReadInputs     Function = 0x02 // discrete inputs
	ReadHolding    Function = 0x03 // holding registers
	ReadRegisters  Function = 0x04 // input registers
	WriteCoil      Function = 0x05
	WriteRegister  Function = 0x06
	WriteCoils     Function = 0x0F
	WriteRegisters Function = 0x10

	exceptionBit Function = 0x80
)

// Limits of one request (V1.1b3, sections 6.1 to 6.12).
const (
	MaxReadBits       = 2000
	MaxReadRegisters  = 125
	MaxWriteBits      = 1968
	MaxWriteRegisters = 123
	MaxUnit           = 247 // of a slave; 0 is everybody, for writes, without an answer
	MaxFrame          = 256 // bytes
)

// Exception is a slave's word against a request.
type Exception byte

// The exceptions (V1.1b3, section 7).
const (
	IllegalFunction Exception = 0x01
	IllegalAddress  Exception = 0x02
	IllegalValue    Exception = 0x03
	DeviceFailure   Exception = 0x04
	Acknowledged    Exception = 0x05
	Busy            Exception = 0x06
	MemoryParity    Exception = 0x08
	NoPath          Exception = 0x0A
	NoTarget        Exception = 0x0B
)

var exceptionTexts = map[Exception]string{
	IllegalFunction: "illegal function", IllegalAddress: "illegal data address", IllegalValue: "illegal data value",
	DeviceFailure: "server device failure", Acknowledged: "acknowledge", Busy: "server device busy",
	MemoryParity: "memory parity error", NoPath: "gateway path unavailable", NoTarget: "gateway target device failed to respond",
}

func (e Exception) Error() string {
	if text, known := exceptionTexts[e]; known {
		return "modbus exception " + fmt.Sprintf("%d: %s", byte(e), text)
	}
	return fmt.Sprintf("modbus exception %d", byte(e))
}

// Why an answer is none.
var (
	ErrShort    = errors.New("the answer is not complete")
	ErrChecksum = errors.New("the answer has a wrong checksum")
	ErrOther    = errors.New("the answer is to another request")
	ErrRange    = errors.New("out of the protocol's range")
)

// Checksum is CRC-16/MODBUS.
func Checksum(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, x := range b {
		crc ^= uint16(x)
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low != 0 {
				crc ^= 0xA001
			}
		}
	}
	return crc
}

// seal appends the checksum, low byte first.
func seal(b []byte) []byte { return binary.LittleEndian.AppendUint16(b, Checksum(b)) }

// Request is one request to a slave.
type Request struct {
	Unit     byte
	Function Function
	Address  uint16
	Count    uint16   // of bits or registers
	Bits     []bool   // to write: one for WriteCoil
	Values   []uint16 // to write: one for WriteRegister
}

// Read returns the request that reads count bits or registers.
func Read(unit byte, f Function, address, count uint16) *Request {
	return &Request{Unit: unit, Function: f, Address: address, Count: count}
}

// Validate says whether the request can be made.
func (r *Request) Validate() error {
	limit := 1
	switch r.Function {
	case ReadCoils, ReadInputs:
		limit = MaxReadBits
	case ReadHolding, ReadRegisters:
		limit = MaxReadRegisters
	case WriteCoil, WriteCoils:
		if r.Function == WriteCoils {
			limit = MaxWriteBits
		}
		if len(r.Bits) != int(r.Count) {
			return fmt.Errorf("%w: %d bits for %d coils", ErrRange, len(r.Bits), r.Count)
		}
	case WriteRegister, WriteRegisters:
		if r.Function == WriteRegisters {
			limit = MaxWriteRegisters
		}
		if len(r.Values) != int(r.Count) {
			return fmt.Errorf("%w: %d values for %d registers", ErrRange, len(r.Values), r.Count)
		}
	default:
		return fmt.Errorf("%w: function %d", ErrRange, r.Function)
	}
	switch {
	case r.Unit > MaxUnit || r.Unit == 0 && !r.writes():
		return fmt.Errorf("%w: unit %d", ErrRange, r.Unit)
	case r.Count < 1 || int(r.Count) > limit:
		return fmt.Errorf("%w: %d at once, at most %d", ErrRange, r.Count, limit)
	case int(r.Address)+int(r.Count) > 1<<16:
		return fmt.Errorf("%w: %d from address %d", ErrRange, r.Count, r.Address)
	}
	return nil
}

func (r *Request) writes() bool {
	switch r.Function {
	case WriteCoil, WriteRegister, WriteCoils, WriteRegisters:
		return true
	}
	return false
}

// Answered says whether a slave answers: nobody answers what is for everybody.
func (r *Request) Answered() bool { return r.Unit != 0 }

// Frame returns the bytes for the wire; the request must be valid.
func (r *Request) Frame() []byte {
	b := append(make([]byte, 0, MaxFrame), r.Unit, byte(r.Function))
	b = binary.BigEndian.AppendUint16(b, r.Address)
	switch r.Function {
	case WriteCoil:
		value := uint16(0)
		if r.Bits[0] {
			value = 0xFF00
		}
		return seal(binary.BigEndian.AppendUint16(b, value))
	case WriteRegister:
		return seal(binary.BigEndian.AppendUint16(b, r.Values[0]))
	}
	b = binary.BigEndian.AppendUint16(b, r.Count)
	switch r.Function {
	case WriteCoils:
		bits := packBits(r.Bits)
		b = append(append(b, byte(len(bits))), bits...)
	case WriteRegisters:
		b = append(b, byte(2*len(r.Values)))
		for _, v := range r.Values {
			b = binary.BigEndian.AppendUint16(b, v)
		}
	}
	return seal(b)
}

func packBits(bits []bool) []byte {
	b := make([]byte, (len(bits)+7)/8)
	for i, on := range bits {
		if on {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// Want returns how many bytes the answer has that begins like this, as far as that
// can be told: an answer ends by its length, as a program cannot measure the
// silence behind it. enough is false while more must come to tell.
func (r *Request) Want(begun []byte) (n int, enough bool) {
	switch {
	case len(begun) < 2:
		return 2, false
	case Function(begun[1])&exceptionBit != 0:
		return 5, true
	case r.writes():
		return 8, true
	case len(begun) < 3:
		return 3, false
	}
	return 5 + int(begun[2]), true
}

// AnswerSize is how many bytes the answer has, if it is no exception.
func (r *Request) AnswerSize() int {
	switch r.Function {
	case ReadCoils, ReadInputs:
		return 5 + (int(r.Count)+7)/8
	case ReadHolding, ReadRegisters:
		return 5 + 2*int(r.Count)
	}
	return 8
}

// Answer is what a slave says to a read.
type Answer struct {
	Bits      []bool   // of ReadCoils and ReadInputs
	Registers []uint16 // of ReadHolding and ReadRegisters
}

// Parse reads the answer to the request. The error is an Exception, ErrShort,
// ErrChecksum or ErrOther.
func (r *Request) Parse(frame []byte) (*Answer, error) {
	if len(frame) < 5 {
		return nil, ErrShort
	}
	n, enough := r.Want(frame)
	if !enough || len(frame) < n {
		return nil, ErrShort
	}
	frame = frame[:n]
	if binary.LittleEndian.Uint16(frame[n-2:]) != Checksum(frame[:n-2]) {
		return nil, ErrChecksum
	}
	if frame[0] != r.Unit || Function(frame[1])&^exceptionBit != r.Function {
		return nil, ErrOther
	}
	if Function(frame[1])&exceptionBit != 0 {
		return nil, Exception(frame[2])
	}
	return r.content(frame[2 : n-2])
}

func (r *Request) content(body []byte) (*Answer, error) {
	a := new(Answer)
	switch r.Function {
	case ReadCoils, ReadInputs:
		if int(body[0]) != (int(r.Count)+7)/8 {
			return nil, ErrOther
		}
		for i := range int(r.Count) {
			a.Bits = append(a.Bits, body[1+i/8]>>(i%8)&1 != 0)
		}
	case ReadHolding, ReadRegisters:
		if int(body[0]) != 2*int(r.Count) {
			return nil, ErrOther
		}
		for i := range int(r.Count) {
			a.Registers = append(a.Registers, binary.BigEndian.Uint16(body[1+2*i:]))
		}
	default: // an echo: address, then count or value
		if sent := r.Frame(); string(body) != string(sent[2:6]) {
			return nil, ErrOther
		}
	}
	return a, nil
}
