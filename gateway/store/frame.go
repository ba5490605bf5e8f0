package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"

	"github.com/fieldgate/fieldgate/gateway"
)

// A block as it lies on flash:
//
//	"FGB1"  lane 1 byte  index in commit 1 byte  messages u16  segment u64  block u32  payload u32
//	per message: length u32, CRC-32C u32
//	CRC-32C of all of the above u32
//	payload: the messages, one behind the other
//
// Numbers are little-endian. The checksum of a message covers its lane, segment,
// block, index and length too: bytes that were intact but in the wrong place
// would otherwise pass for another message. A damaged header costs only the
// messages that cannot be found without it. A length of zero marks a message
// that was thinned out; its index stays taken, so that positions stay valid. The
// index in the commit says which blocks were written together; from 255 on it
// stays 255.
const (
	frameMagic  = "FGB1"
	frameHeader = 24
	frameSlot   = 8
	frameSum    = 4

	// Bounds of one block. A message above maxBlockBytes gets a block of its own.
	maxBlockMessages = 1024
	maxBlockBytes    = 256 << 10

	// maxMessage is the largest message that is stored, in Message.Size: the
	// hub's limit (256 KiB) and room for what a module may add.
	maxMessage = gateway.MaxStored
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// address names a block: what its frame must say about itself.
type address struct {
	lane    gateway.Lane
	segment uint64
	block   uint32
}

// appendFrame appends the frame of a block at a, the index-th of its commit, with
// the encoded messages in payload; ends are the offsets in payload behind each
// message.
func appendFrame(buf []byte, a address, index int, payload []byte, ends []int) []byte {
	start := len(buf)
	buf = append(buf, frameMagic...)
	buf = append(buf, byte(a.lane), byte(min(index, math.MaxUint8)))
	buf = binary.LittleEndian.AppendUint16(buf, uint16(len(ends)))
	buf = binary.LittleEndian.AppendUint64(buf, a.segment)
	buf = binary.LittleEndian.AppendUint32(buf, a.block)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	from := 0
	for i, end := range ends {
		data := payload[from:end]
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(data)))
		buf = binary.LittleEndian.AppendUint32(buf, messageSum(a, i, data))
		from = end
	}
	buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(buf[start:], castagnoli))
	return append(buf, payload...)
}

// spoil makes messages of an encoded frame damaged ones, and returns it.
func spoil(data []byte, messages []int) []byte {
	count := int(binary.LittleEndian.Uint16(data[6:]))
	for _, i := range messages {
		sum := data[frameHeader+i*frameSlot+4:]
		binary.LittleEndian.PutUint32(sum, ^binary.LittleEndian.Uint32(sum))
	}
	top := frameHeader + count*frameSlot
	binary.LittleEndian.PutUint32(data[top:], crc32.Checksum(data[:top], castagnoli))
	return data
}

// frameSize is the size of a frame in bytes.
func frameSize(messages, payload int) int {
	return frameHeader + messages*frameSlot + frameSum + payload
}

func messageSum(a address, index int, data []byte) uint32 {
	var place [19]byte
	place[0] = byte(a.lane)
	binary.LittleEndian.PutUint64(place[1:], a.segment)
	binary.LittleEndian.PutUint32(place[9:], a.block)
	binary.LittleEndian.PutUint16(place[13:], uint16(index))
	binary.LittleEndian.PutUint32(place[15:], uint32(len(data)))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, data)
}

// frame is a parsed block. Its parts alias the bytes it was parsed from.
type frame struct {
	address
	index int // of the block in its commit
	count int
	slots []byte // count pairs of length and checksum
	body  []byte // from the first message on, as much as there is
	size  int    // bytes of the whole frame
}

var errFrame = errors.New("damaged block header")

// parseFrame reads the frame at the start of data, whose header must be intact.
func parseFrame(data []byte) (frame, error) {
	if len(data) < frameHeader || !bytes.HasPrefix(data, []byte(frameMagic)) {
		return frame{}, errFrame
	}
	f := frame{
		address: address{
			lane:    gateway.Lane(data[4]),
			segment: binary.LittleEndian.Uint64(data[8:]),
			block:   binary.LittleEndian.Uint32(data[16:]),
		},
		index: int(data[5]),
		count: int(binary.LittleEndian.Uint16(data[6:])),
	}
	payload := int64(binary.LittleEndian.Uint32(data[20:]))
	top := frameHeader + f.count*frameSlot
	if len(data) < top+frameSum ||
		crc32.Checksum(data[:top], castagnoli) != binary.LittleEndian.Uint32(data[top:]) {
		return frame{}, errFrame
	}
	f.slots = data[frameHeader:top]
	f.body = data[top+frameSum:]
	if int64(len(f.body)) > payload {
		f.body = f.body[:payload]
	}
	f.size = top + frameSum + int(payload)
	return f, nil
}

// parseFrameAt reads the frame that should stand at a and hold count messages.
// data is all of it. Where its header is damaged, the result says what it should
// have said: what can still be found by it is checked message by message.
func parseFrameAt(data []byte, a address, count int) (frame, error) {
	f, err := parseFrame(data)
	if err == nil && f.address == a && f.count == count {
		return f, nil
	}
	top := frameHeader + count*frameSlot
	if len(data) < top+frameSum {
		return frame{}, errFrame
	}
	f = frame{
		address: a, count: count,
		slots: data[frameHeader:top], body: data[top+frameSum:], size: len(data),
	}
	f.mendLengths()
	return f, nil
}

// findFrameAt is parseFrameAt for a block of which nobody knows how many messages
// it holds. It is an error when none of them is intact.
func findFrameAt(data []byte, a address) (frame, error) {
	if f, err := parseFrame(data); err == nil && f.address == a && f.size == len(data) {
		return f, nil
	}
	if len(data) < frameHeader {
		return frame{}, errFrame
	}
	said := int(binary.LittleEndian.Uint16(data[6:]))
	for _, count := range append([]int{said}, countsThatFit(data)...) {
		if count < 1 || count > maxBlockMessages {
			continue
		}
		f, err := parseFrameAt(data, a, count)
		if err == nil && f.intact() > 0 {
			return f, nil
		}
	}
	return frame{}, errFrame
}

// countsThatFit lists with how many messages the lengths add up to the whole.
func countsThatFit(data []byte) (counts []int) {
	sum := 0
	for n := 1; n <= maxBlockMessages && frameHeader+n*frameSlot+frameSum <= len(data); n++ {
		sum += int(binary.LittleEndian.Uint32(data[frameHeader+(n-1)*frameSlot:]))
		if frameSize(n, sum) == len(data) {
			counts = append(counts, n)
		}
	}
	return counts
}

// intact counts the messages whose checksum is right.
func (f frame) intact() (n int) {
	all := func(int) bool { return true }
	f.each(all, func(_ int, _ []byte, err error) bool {
		if err == nil {
			n++
		}
		return true
	})
	return n
}

// mendLengths corrects the length of one message when the lengths do not add up:
// all messages behind it would be looked for in the wrong place.
func (f *frame) mendLengths() {
	length := func(i int) int { return int(binary.LittleEndian.Uint32(f.slots[i*frameSlot:])) }
	excess := -len(f.body)
	for i := range f.count {
		excess += length(i)
	}
	if excess == 0 {
		return
	}
	from := 0
	for i := range f.count {
		n := length(i) - excess
		if end := from + n; n > 0 && end <= len(f.body) &&
			messageSum(f.address, i, f.body[from:end]) == binary.LittleEndian.Uint32(f.slots[i*frameSlot+4:]) {
			f.slots = bytes.Clone(f.slots)
			binary.LittleEndian.PutUint32(f.slots[i*frameSlot:], uint32(n))
			return
		}
		if from += length(i); from > len(f.body) {
			return
		}
	}
}

var (
	errThinned = errors.New("thinned out")
	errDamaged = errors.New("damaged message")
)

// each calls use for the messages of the frame that are wanted, in order, with
// the encoded form, which aliases the frame, or errThinned or errDamaged. It ends
// when use returns false.
func (f frame) each(wanted func(index int) bool, use func(index int, data []byte, err error) bool) {
	from := uint64(0)
	for i := range f.count {
		n := uint64(binary.LittleEndian.Uint32(f.slots[i*frameSlot:]))
		end := from + n
		if wanted(i) {
			data, err := f.message(i, from, end)
			if !use(i, data, err) {
				return
			}
		}
		from = end
	}
}

func (f frame) message(index int, from, end uint64) ([]byte, error) {
	if end > uint64(len(f.body)) {
		return nil, errDamaged
	}
	data := f.body[from:end]
	if messageSum(f.address, index, data) != binary.LittleEndian.Uint32(f.slots[index*frameSlot+4:]) {
		return nil, errDamaged
	}
	if len(data) == 0 {
		return nil, errThinned
	}
	return data, nil
}
