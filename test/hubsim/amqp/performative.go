package amqp

// Settle modes (part 2, sections 2.8.2 and 2.8.3).
const (
	SenderUnsettled = 0
	SenderSettled   = 1
	SenderMixed     = 2
	ReceiverFirst   = 0
	ReceiverSecond  = 1
)

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

// Performative is anything that can be put into a frame of a connection.
type Performative interface{ append(b []byte) []byte }
