package hub

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fieldgate/fieldgate/gateway"
)

// Constructors and descriptors of AMQP 1.0 that messages need (part 1, section 1.6
// and part 3, section 3.2).
const (
	amqpNull   = 0x40
	amqpVbin8  = 0xA0
	amqpStr8   = 0xA1
	amqpSym8   = 0xA3
	amqpVbin32 = 0xB0
	amqpStr32  = 0xB1
	amqpSym32  = 0xB3
	amqpList32 = 0xD0
	amqpMap32  = 0xD1
	amqpTime   = 0x83

	sectionAnnotations = 0x72
	sectionProperties  = 0x73
	sectionApplication = 0x74
	sectionData        = 0x75
)

// maxWired is how many application properties AppendAMQP looks through for equal
// names; with more the index of ToAMQP is cheaper.
const maxWired = 24

// AppendAMQP appends to b what ToAMQP says of m, encoded as an AMQP message. leaf
// is m.Leaf where the message goes under another identity, and "" elsewhere. ok is
// false, and b as it was, when m has so many properties that the caller should
// take the other way.
func AppendAMQP(b []byte, m *gateway.Message, now gateway.Instant, leaf string) (encoded []byte, ok bool) {
	if len(m.Properties) > maxWired {
		return b, false
	}
	w := wire{b}
	s := &m.System
	if s.InterfaceID != "" || s.Component != "" {
		size := w.section(sectionAnnotations, amqpMap32)
		n := w.pair(amqpSym8, annotationInterface, s.InterfaceID) + w.pair(amqpSym8, annotationComponent, s.Component)
		w.close(size, 2*n)
	}
	w.properties(s)
	w.application(m, now, leaf)
	w.b = append(w.b, 0, 0x53, sectionData)
	w.variable(amqpVbin8, amqpVbin32, len(m.Body))
	return append(w.b, m.Body...), true
}

// wire is an AMQP message being written.
type wire struct{ b []byte }

// section begins a section that is a list or map of unknown size; close ends it.
func (w *wire) section(descriptor, constructor byte) (size int) {
	w.b = append(w.b, 0, 0x53, descriptor, constructor)
	size = len(w.b)
	w.b = append(w.b, 0, 0, 0, 0, 0, 0, 0, 0)
	return size
}

func (w *wire) close(size, count int) {
	binary.BigEndian.PutUint32(w.b[size:], uint32(len(w.b)-size-4))
	binary.BigEndian.PutUint32(w.b[size+4:], uint32(count))
}

// variable begins a value of n bytes.
func (w *wire) variable(short, long byte, n int) {
	if n <= 0xFF {
		w.b = append(w.b, short, byte(n))
		return
	}
	w.b = binary.BigEndian.AppendUint32(append(w.b, long), uint32(n))
}

func (w *wire) string(s string) {
	if !utf8.ValidString(s) {
		s = text(s)
	}
	w.variable(amqpStr8, amqpStr32, len(s))
	w.b = append(w.b, s...)
}

// optional writes a string, or null for none.
func (w *wire) optional(s string) {
	if s == "" {
		w.b = append(w.b, amqpNull)
		return
	}
	w.string(s)
}

// optionalSymbol writes a symbol, or null for none and for what cannot be one.
func (w *wire) optionalSymbol(s string) {
	if s = symbol(s); s == "" {
		w.b = append(w.b, amqpNull)
		return
	}
	w.variable(amqpSym8, amqpSym32, len(s))
	w.b = append(w.b, s...)
}

// pair writes a name, as a string or a symbol, and a value that is not empty. It
// returns how many there are now.
func (w *wire) pair(kind byte, name, value string) int {
	if value == "" {
		return 0
	}
	w.b = append(append(w.b, kind, byte(len(name))), name...)
	w.string(value)
	return 1
}

// properties writes the message's own section. Fields that are not set at its end
// are left out.
func (w *wire) properties(s *gateway.System) {
	const messageID, userID, correlationID, contentType, contentEncoding, expiry = 1, 2, 6, 7, 8, 9
	fields := 0
	for _, f := range []struct {
		set   bool
		field int
	}{
		{s.MessageID != "", messageID},
		{s.UserID != "", userID},
		{s.CorrelationID != "", correlationID},
		{symbol(s.ContentType) != "", contentType},
		{symbol(s.ContentEncoding) != "", contentEncoding},
		{!s.Expiry.IsZero(), expiry},
	} {
		if f.set {
			fields = f.field
		}
	}
	size := w.section(sectionProperties, amqpList32)
	for field := 1; field <= fields; field++ {
		switch field {
		case messageID:
			w.optional(s.MessageID)
		case userID:
			if s.UserID == "" {
				w.b = append(w.b, amqpNull)
				break
			}
			w.variable(amqpVbin8, amqpVbin32, len(s.UserID))
			w.b = append(w.b, s.UserID...)
		case correlationID:
			w.optional(s.CorrelationID)
		case contentType:
			w.optionalSymbol(s.ContentType)
		case contentEncoding:
			w.optionalSymbol(s.ContentEncoding)
		case expiry:
			w.b = binary.BigEndian.AppendUint64(append(w.b, amqpTime), uint64(s.Expiry.UnixMilli()))
		default: // to, subject, reply-to
			w.b = append(w.b, amqpNull)
		}
	}
	w.close(size, fields)
}

// application writes the application properties: those of the leaf that nobody
// else sets, then what the hub knows by a name, then the proof.
func (w *wire) application(m *gateway.Message, now gateway.Instant, leaf string) {
	size := w.section(sectionApplication, amqpMap32)
	s, n := &m.System, 0
	for i, p := range m.Properties {
		if !reserved(m, p) && !repeated(m.Properties[i+1:], p.Name) {
			w.string(p.Name)
			w.string(p.Value)
			n++
		}
	}
	n += w.pair(amqpStr8, propertyCreationTime, s.CreationTime)
	n += w.pair(amqpStr8, propertyOutputName, s.OutputName)
	n += w.pair(amqpStr8, propertySchema, s.Schema)
	if m.Kind == gateway.Will {
		n += w.pair(amqpStr8, propertyMessageType, messageTypeWill)
	}
	n += w.proof(m, now, leaf)
	w.close(size, 2*n)
}

// reserved says that a property of the leaf does not get past us: what the hub
// knows by that name is set, or it is one of the proof.
func reserved(m *gateway.Message, p gateway.Property) bool {
	switch p.Name {
	case propertyCreationTime:
		return m.System.CreationTime != ""
	case propertyOutputName:
		return m.System.OutputName != ""
	case propertySchema:
		return m.System.Schema != ""
	case propertyMessageType:
		return m.Kind == gateway.Will
	}
	return isProof(text(p.Name)) && !gateway.LowersTrust(p)
}

// repeated says that a name stands among the properties behind it: the last counts.
func repeated(rest []gateway.Property, name string) bool {
	for i := range rest {
		if rest[i].Name == name || text(rest[i].Name) == text(name) {
			return true
		}
	}
	return false
}

// proof writes what the gateway knows of the message.
func (w *wire) proof(m *gateway.Message, now gateway.Instant, leaf string) (n int) {
	captured := m.Captured.Repair(now)
	n = w.pair(amqpStr8, PropertyLane, m.Lane.String())
	n += w.numeral(PropertySeq, m.Seq)
	n += w.numeral(PropertyStart, uint64(m.Start))
	n += w.short(PropertyCaptured, func(b []byte) []byte { return captured.Wall.UTC().AppendFormat(b, time.RFC3339Nano) })
	n += w.pair(amqpStr8, PropertyClock, captured.Quality.String())
	if m.Dropped > 0 {
		n += w.numeral(PropertyDropped, m.Dropped)
	}
	n += w.pair(amqpStr8, PropertyChannel, m.Channel)
	return n + w.pair(amqpStr8, PropertyLeaf, leaf)
}

func (w *wire) numeral(name string, v uint64) int {
	return w.short(name, func(b []byte) []byte { return strconv.AppendUint(b, v, 10) })
}

// short writes a pair whose value is text of at most 255 bytes.
func (w *wire) short(name string, value func([]byte) []byte) int {
	w.b = append(append(append(w.b, amqpStr8, byte(len(name))), name...), amqpStr8, 0)
	start := len(w.b)
	w.b = value(w.b)
	w.b[start-1] = byte(len(w.b) - start)
	return 1
}

// isProof says that a name is one of those with which the gateway proves what it
// did, whatever the case: routing queries of the hub compare names without case.
func isProof(name string) bool {
	return len(name) >= len(proofPrefix) && strings.EqualFold(name[:len(proofPrefix)], proofPrefix)
}

const proofPrefix = "fieldgate-"
