package uplink

// Traffic is what a transport has moved, in bytes, both directions together.
type Traffic struct {
	Wire      int64 // over TCP
	Plain     int64 // of it, what TLS carried
	KeepAlive int64 // of that, frames that only say that somebody is there
}

func (t Traffic) plus(o Traffic) Traffic {
	return Traffic{t.Wire + o.Wire, t.Plain + o.Plain, t.KeepAlive + o.KeepAlive}
}

// Metered is a Transport that counts. Safe for concurrent use.
type Metered interface {
	Traffic() Traffic
}

// Bytes is the traffic by what caused it. Together they are all that went over
// TCP since the start, except the payload that is on its way.
type Bytes struct {
	Payload   int64 // bodies of messages that the hub has settled: accepted or refused for good
	Retry     int64 // bodies of messages that were given up unsettled, and so are sent again
	KeepAlive int64 // empty frames
	TLS       int64 // records, handshakes
	Protocol  int64 // all else: frames, properties, tokens, flow control, commands
}

// split says what the traffic was caused by. last is what was said before: a
// counter never goes back, though a body is counted a moment before or after the
// frame that carries it.
func (t Traffic) split(settled, retried, sent int64, last Bytes) Bytes {
	return Bytes{
		Payload: settled, Retry: retried, KeepAlive: t.KeepAlive,
		TLS:      max(last.TLS, t.Wire-t.Plain),
		Protocol: max(last.Protocol, t.Plain-t.KeepAlive-sent),
	}
}
