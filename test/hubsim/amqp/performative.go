package amqp

import "math"

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

// Settle modes (part 2, sections 2.8.2 and 2.8.3).
const (
	SenderUnsettled = 0
	SenderSettled   = 1
	SenderMixed     = 2
	ReceiverFirst   = 0
	ReceiverSecond  = 1
)

// Error conditions (part 2, sections 2.8.14 to 2.8.18) and the vendor's own
// (wire contract, section 3.11).
const (
	CondInternalError    Symbol = "amqp:internal-error"
	CondNotFound         Symbol = "amqp:not-found"
	CondUnauthorized     Symbol = "amqp:unauthorized-access"
	CondDecodeError      Symbol = "amqp:decode-error"
	CondResourceLimit    Symbol = "amqp:resource-limit-exceeded"
	CondNotAllowed       Symbol = "amqp:not-allowed"
	CondInvalidField     Symbol = "amqp:invalid-field"
	CondNotImplemented   Symbol = "amqp:not-implemented"
	CondConnectionForced Symbol = "amqp:connection:forced"
	CondFraming          Symbol = "amqp:connection:framing-error"
	CondWindowViolation  Symbol = "amqp:session:window-violation"
	CondErrantLink       Symbol = "amqp:session:errant-link"
	CondHandleInUse      Symbol = "amqp:session:handle-in-use"
	CondUnattachedHandle Symbol = "amqp:session:unattached-handle"
	CondDetachForced     Symbol = "amqp:link:detach-forced"
	CondTransferLimit    Symbol = "amqp:link:transfer-limit-exceeded"
	CondMessageSize      Symbol = "amqp:link:message-size-exceeded"
	CondStolen           Symbol = "amqp:link:stolen"
	CondArgument         Symbol = "com.microsoft:argument-error"
	CondThrottled        Symbol = "com.microsoft:device-container-throttled"
	CondTimeout          Symbol = "com.microsoft:timeout"
	CondQuota            Symbol = "com.microsoft:quota-exceeded"
)

// Error is why a link, session or connection ends, or why a message is refused
// (part 2, section 2.8.14).
type Error struct {
	Condition   Symbol
	Description string
	Info        Map // nil when there is none
}

// Error gives condition and description.
func (e *Error) Error() string {
	if e.Description == "" {
		return string(e.Condition)
	}
	return string(e.Condition) + ": " + e.Description
}

// Performatives of a connection, named and ordered as in the specification.
type (
	// Open is part 2, section 2.7.1.
	Open struct {
		ContainerID  string
		Hostname     string
		MaxFrameSize uint32 // bytes, at least 512
		ChannelMax   uint16
		IdleTimeout  uint32 // milliseconds, 0 for none
		Offered      []Symbol
		Desired      []Symbol
		Properties   Map
	}
	// Begin is part 2, section 2.7.2.
	Begin struct {
		Remote         bool // RemoteChannel is set: this answers a Begin
		RemoteChannel  uint16
		NextOutgoingID uint32
		IncomingWindow uint32 // transfer frames
		OutgoingWindow uint32 // transfer frames
		HandleMax      uint32
	}
	// Attach is part 2, section 2.7.3.
	Attach struct {
		Name                 string
		Handle               uint32
		Receiver             bool // the sender of the frame receives messages
		SenderMode           uint8
		ReceiverMode         uint8
		Source, Target       *Terminus
		InitialDeliveryCount uint32
		MaxMessageSize       uint64 // bytes, 0 for no limit
		Offered, Desired     []Symbol
		Properties           Map
	}
	// Flow is part 2, section 2.7.4.
	Flow struct {
		HasNextIncoming  bool
		NextIncomingID   uint32
		IncomingWindow   uint32
		NextOutgoingID   uint32
		OutgoingWindow   uint32
		HasHandle        bool // the fields below are about a link
		Handle           uint32
		HasDeliveryCount bool
		DeliveryCount    uint32
		LinkCredit       uint32
		Available        uint32
		Drain            bool
		Echo             bool
	}
	// Transfer is part 2, section 2.7.5. What follows it in its frame is the
	// message, or a part of it.
	Transfer struct {
		Handle        uint32
		HasDeliveryID bool
		DeliveryID    uint32
		DeliveryTag   []byte // aliases the frame
		Format        uint32
		Settled       bool
		More          bool
		Aborted       bool
	}
	// Disposition is part 2, section 2.7.6.
	Disposition struct {
		Receiver    bool // the sender of the frame receives messages
		First, Last uint32
		Settled     bool
		State       *State // nil when there is none
	}
	// Detach is part 2, section 2.7.7.
	Detach struct {
		Handle uint32
		Closed bool
		Error  *Error
	}
	// End is part 2, section 2.7.8.
	End struct{ Error *Error }
	// Close is part 2, section 2.7.9.
	Close struct{ Error *Error }
)

// Terminus is the source or the target of a link (part 3, sections 3.5.3 and
// 3.5.4). Fields that a hub has no use for are kept as they came, so that the
// answer can echo them.
type Terminus struct {
	Address string
	Dynamic bool
	Filter  Map // of a source
	echo    Described
}

// Target returns a terminus that names address as a target.
func Target(address string) *Terminus {
	return &Terminus{Address: address, echo: Described{uint64(codeTarget), List{address}}}
}

// Source returns a terminus that names address as a source.
func Source(address string) *Terminus {
	return &Terminus{Address: address, echo: Described{uint64(codeSource), List{address}}}
}

// Outcome is how a delivery ended (part 3, section 3.4).
type Outcome byte

// Outcomes. Received is not final.
const (
	Received Outcome = codeReceived
	Accepted Outcome = codeAccepted
	Rejected Outcome = codeRejected
	Released Outcome = codeReleased
	Modified Outcome = codeModified
)

// String names the outcome as in the specification.
func (o Outcome) String() string {
	switch o {
	case Received:
		return "received"
	case Accepted:
		return "accepted"
	case Rejected:
		return "rejected"
	case Released:
		return "released"
	case Modified:
		return "modified"
	}
	return "unknown"
}

// State is a delivery state. Error is set for Rejected only, and may be nil
// there too.
type State struct {
	Outcome Outcome
	Error   *Error
}

// ParsePerformative reads one performative of a connection: a pointer to Open,
// Begin, Attach, Flow, Transfer, Disposition, Detach, End or Close. rest is
// what follows it in the frame.
func ParsePerformative(b []byte) (performative any, rest []byte, err error) {
	d := NewDecoder(b)
	code := d.descriptor()
	f := openFields(d)
	if d.err != nil {
		return nil, nil, d.err
	}
	p := readPerformative(code, &f)
	if p == nil {
		d.fail("performative 0x%02x", code)
	}
	f.close()
	if d.err != nil {
		return nil, nil, d.err
	}
	return p, d.b, nil
}

func readPerformative(code uint64, f *fieldReader) any {
	switch code {
	case codeOpen:
		return readOpen(f)
	case codeBegin:
		return readBegin(f)
	case codeAttach:
		return readAttach(f)
	case codeFlow:
		return readFlow(f)
	case codeTransfer:
		return readTransfer(f)
	case codeDisposition:
		return readDisposition(f)
	case codeDetach:
		return &Detach{Handle: f.uint(0), Closed: f.bool(), Error: f.error()}
	case codeEnd:
		return &End{Error: f.error()}
	case codeClose:
		return &Close{Error: f.error()}
	}
	return nil
}

func readOpen(f *fieldReader) *Open {
	o := &Open{
		ContainerID:  f.string(),
		Hostname:     f.string(),
		MaxFrameSize: f.uint(math.MaxUint32),
		ChannelMax:   f.ushort(math.MaxUint16),
		IdleTimeout:  f.uint(0),
	}
	f.symbols() // outgoing locales
	f.symbols() // incoming locales
	o.Offered = f.symbols()
	o.Desired = f.symbols()
	o.Properties = f.mapped()
	return o
}

func readBegin(f *fieldReader) *Begin {
	b := &Begin{}
	if f.n > 0 && len(f.rest.b) > 0 && f.rest.b[0] != codeNull {
		b.Remote = true
	}
	b.RemoteChannel = f.ushort(0)
	b.NextOutgoingID = f.uint(0)
	b.IncomingWindow = f.uint(0)
	b.OutgoingWindow = f.uint(0)
	b.HandleMax = f.uint(math.MaxUint32)
	return b
}

func readAttach(f *fieldReader) *Attach {
	a := &Attach{
		Name:         f.string(),
		Handle:       f.uint(0),
		Receiver:     f.bool(),
		SenderMode:   f.ubyte(SenderMixed),
		ReceiverMode: f.ubyte(ReceiverFirst),
		Source:       f.terminus(),
		Target:       f.terminus(),
	}
	f.mapped() // unsettled: links are never resumed
	f.bool()   // incomplete-unsettled
	a.InitialDeliveryCount = f.uint(0)
	a.MaxMessageSize = f.ulong()
	a.Offered = f.symbols()
	a.Desired = f.symbols()
	a.Properties = f.mapped()
	return a
}

func readFlow(f *fieldReader) *Flow {
	p := &Flow{}
	p.NextIncomingID, p.HasNextIncoming = f.optionalUint()
	p.IncomingWindow = f.uint(0)
	p.NextOutgoingID = f.uint(0)
	p.OutgoingWindow = f.uint(0)
	p.Handle, p.HasHandle = f.optionalUint()
	p.DeliveryCount, p.HasDeliveryCount = f.optionalUint()
	p.LinkCredit = f.uint(0)
	p.Available = f.uint(0)
	p.Drain = f.bool()
	p.Echo = f.bool()
	return p
}

func readTransfer(f *fieldReader) *Transfer {
	t := &Transfer{Handle: f.uint(0)}
	t.DeliveryID, t.HasDeliveryID = f.optionalUint()
	t.DeliveryTag = f.binary()
	t.Format = f.uint(0)
	t.Settled = f.bool()
	t.More = f.bool()
	f.any()  // rcv-settle-mode: the link's holds
	f.any()  // state: links are never resumed
	f.bool() // resume
	t.Aborted = f.bool()
	return t
}

func readDisposition(f *fieldReader) *Disposition {
	p := &Disposition{Receiver: f.bool(), First: f.uint(0)}
	p.Last = f.uint(p.First)
	p.Settled = f.bool()
	p.State = f.state()
	return p
}

// error reads a field that holds an error.
func (f *fieldReader) error() *Error {
	if !f.present() {
		return nil
	}
	return f.rest.error()
}

func (d *Decoder) error() *Error {
	if d.descriptor() != codeError && d.err == nil {
		d.fail("not an error")
	}
	in := openFields(d)
	e := &Error{Condition: in.symbol(), Description: in.string(), Info: in.mapped()}
	in.close()
	return e
}

// state reads a field that holds a delivery state. States other than outcomes,
// as transactions have, read as nil.
func (f *fieldReader) state() *State {
	if !f.present() {
		return nil
	}
	code := f.rest.descriptor()
	in := openFields(&f.rest)
	s := &State{Outcome: Outcome(code)}
	if code == codeRejected {
		s.Error = in.error()
	}
	in.close()
	if code < codeReceived || code > codeModified {
		return nil
	}
	return s
}

// terminus reads a field that holds a source or a target. A coordinator, which
// opens transactions, reads as one without address.
func (f *fieldReader) terminus() *Terminus {
	described, ok := f.any().(Described)
	if !ok {
		return nil
	}
	t := &Terminus{echo: described}
	fields, _ := described.Value.(List)
	at := func(i int) any {
		if i < len(fields) {
			return fields[i]
		}
		return nil
	}
	t.Address = Text(at(0))
	t.Dynamic, _ = at(4).(bool)
	t.Filter, _ = at(7).(Map)
	return t
}

// Performative is anything that can be put into a frame of a connection.
type Performative interface{ append(b []byte) []byte }

func (o *Open) append(b []byte) []byte {
	w := openComposite(b, codeOpen)
	w.value(o.ContainerID)
	w.text(o.Hostname)
	w.uint(o.MaxFrameSize)
	w.value(o.ChannelMax)
	w.value(unlessEmpty(o.IdleTimeout))
	w.value(nil)
	w.value(nil)
	w.symbols(o.Offered)
	w.symbols(o.Desired)
	w.mapped(o.Properties)
	return w.close()
}

func (p *Begin) append(b []byte) []byte {
	w := openComposite(b, codeBegin)
	if p.Remote {
		w.value(p.RemoteChannel)
	} else {
		w.value(nil)
	}
	w.uint(p.NextOutgoingID)
	w.uint(p.IncomingWindow)
	w.uint(p.OutgoingWindow)
	w.uint(p.HandleMax)
	return w.close()
}

func (a *Attach) append(b []byte) []byte {
	w := openComposite(b, codeAttach)
	w.value(a.Name)
	w.uint(a.Handle)
	w.bool(a.Receiver)
	w.value(a.SenderMode)
	w.value(a.ReceiverMode)
	w.terminus(a.Source)
	w.terminus(a.Target)
	w.value(nil)
	w.value(nil)
	if a.Receiver {
		w.value(nil)
	} else {
		w.uint(a.InitialDeliveryCount)
	}
	w.value(unlessEmpty(a.MaxMessageSize))
	w.symbols(a.Offered)
	w.symbols(a.Desired)
	w.mapped(a.Properties)
	return w.close()
}

func (w *fieldWriter) terminus(t *Terminus) {
	if t == nil {
		w.value(nil)
		return
	}
	w.value(t.echo)
}

func (p *Flow) append(b []byte) []byte {
	w := openComposite(b, codeFlow)
	w.optionalUint(p.NextIncomingID, p.HasNextIncoming)
	w.uint(p.IncomingWindow)
	w.uint(p.NextOutgoingID)
	w.uint(p.OutgoingWindow)
	if !p.HasHandle {
		w.value(nil)
		w.value(nil)
		w.value(nil)
		w.value(nil)
		w.value(nil)
		w.flag(p.Echo)
		return w.close()
	}
	w.uint(p.Handle)
	w.optionalUint(p.DeliveryCount, p.HasDeliveryCount)
	w.uint(p.LinkCredit)
	w.uint(p.Available)
	w.flag(p.Drain)
	w.flag(p.Echo)
	return w.close()
}

func (w *fieldWriter) optionalUint(v uint32, ok bool) {
	if ok {
		w.uint(v)
		return
	}
	w.value(nil)
}

func (t *Transfer) append(b []byte) []byte {
	w := openComposite(b, codeTransfer)
	w.uint(t.Handle)
	w.optionalUint(t.DeliveryID, t.HasDeliveryID)
	w.bytes(t.DeliveryTag)
	w.optionalUint(t.Format, t.HasDeliveryID)
	w.flag(t.Settled)
	w.flag(t.More)
	w.value(nil)
	w.value(nil)
	w.value(nil)
	w.flag(t.Aborted)
	return w.close()
}

func (p *Disposition) append(b []byte) []byte {
	w := openComposite(b, codeDisposition)
	w.bool(p.Receiver)
	w.uint(p.First)
	w.uint(p.Last)
	w.flag(p.Settled)
	if p.State != nil {
		w.raw(p.State.append(nil))
	}
	return w.close()
}

func (s *State) append(b []byte) []byte {
	if s.Outcome != Rejected || s.Error == nil {
		return append(appendDescriptor(b, byte(s.Outcome)), codeList0)
	}
	w := openComposite(b, codeRejected)
	w.error(s.Error)
	return w.close()
}

func (w *fieldWriter) error(e *Error) {
	if e == nil {
		w.value(nil)
		return
	}
	in := openComposite(nil, codeError)
	in.value(e.Condition)
	in.text(e.Description)
	in.mapped(e.Info)
	w.raw(in.close())
}

func (p *Detach) append(b []byte) []byte {
	w := openComposite(b, codeDetach)
	w.uint(p.Handle)
	w.flag(p.Closed)
	w.error(p.Error)
	return w.close()
}

func (p *End) append(b []byte) []byte {
	w := openComposite(b, codeEnd)
	w.error(p.Error)
	return w.close()
}

func (p *Close) append(b []byte) []byte {
	w := openComposite(b, codeClose)
	w.error(p.Error)
	return w.close()
}
