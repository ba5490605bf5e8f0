package amqp

// Descriptors (part 2, section 2.7; part 3, section 3; part 5, section 5.3).
const (
	codeOpen          = 0x10
	codeBegin         = 0x11
	codeAttach        = 0x12
	codeFlow          = 0x13
	codeTransfer      = 0x14
	codeDisposition   = 0x15
	codeDetach        = 0x16
	codeEnd           = 0x17
	codeClose         = 0x18
	codeError         = 0x1d
	codeReceived      = 0x23
	codeAccepted      = 0x24
	codeRejected      = 0x25
	codeReleased      = 0x26
	codeModified      = 0x27
	codeSource        = 0x28
	codeTarget        = 0x29
	codeSASLMechanism = 0x40
	codeSASLInit      = 0x41
	codeSASLOutcome   = 0x44
	codeHeader        = 0x70
	codeDeliveryNotes = 0x71
	codeMessageNotes  = 0x72
	codeProperties    = 0x73
	codeApplication   = 0x74
	codeData          = 0x75
	codeSequence      = 0x76
	codeAMQPValue     = 0x77
	codeFooter        = 0x78
)

// symbolic holds the symbolic forms of the descriptors; clients may use either.
var symbolic = map[Symbol]uint64{
	"amqp:open:list":                  codeOpen,
	"amqp:begin:list":                 codeBegin,
	"amqp:attach:list":                codeAttach,
	"amqp:flow:list":                  codeFlow,
	"amqp:transfer:list":              codeTransfer,
	"amqp:disposition:list":           codeDisposition,
	"amqp:detach:list":                codeDetach,
	"amqp:end:list":                   codeEnd,
	"amqp:close:list":                 codeClose,
	"amqp:error:list":                 codeError,
	"amqp:received:list":              codeReceived,
	"amqp:accepted:list":              codeAccepted,
	"amqp:rejected:list":              codeRejected,
	"amqp:released:list":              codeReleased,
	"amqp:modified:list":              codeModified,
	"amqp:source:list":                codeSource,
	"amqp:target:list":                codeTarget,
	"amqp:sasl-mechanisms:list":       codeSASLMechanism,
	"amqp:sasl-init:list":             codeSASLInit,
	"amqp:sasl-outcome:list":          codeSASLOutcome,
	"amqp:header:list":                codeHeader,
	"amqp:delivery-annotations:map":   codeDeliveryNotes,
	"amqp:message-annotations:map":    codeMessageNotes,
	"amqp:properties:list":            codeProperties,
	"amqp:application-properties:map": codeApplication,
	"amqp:data:binary":                codeData,
	"amqp:amqp-sequence:list":         codeSequence,
	"amqp:amqp-value:*":               codeAMQPValue,
	"amqp:footer:map":                 codeFooter,
}
