package amqp

import "math"

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
