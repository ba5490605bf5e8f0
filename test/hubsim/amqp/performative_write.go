package amqp

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
