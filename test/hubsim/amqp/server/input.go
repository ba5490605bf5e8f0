package server

import (
	"io"
	"net"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// Sizes of the chunks into which a connection is read, in bytes. A quiet
// connection keeps to small ones.
const (
	firstChunk = 4 << 10
	largeChunk = 128 << 10
)

// input cuts the byte stream of a connection into frames. Frames are slices of
// chunks that are never written again, so whoever gets one may keep it for ever
// without a copy.
type input struct {
	nc     net.Conn
	flush  func() // called before each read
	chunk  []byte // the chunk being filled
	start  int    // first byte not handed out
	end    int    // first byte not read
	resume func() // called after each read
}

func newInput(nc net.Conn, flush, resume func()) *input {
	return &input{nc: nc, flush: flush, resume: resume, chunk: make([]byte, firstChunk)}
}

// bytes returns the next n bytes.
func (in *input) bytes(n int) ([]byte, error) {
	for in.end-in.start < n {
		if err := in.fill(n); err != nil {
			return nil, err
		}
	}
	b := in.chunk[in.start : in.start+n : in.start+n]
	in.start += n
	return b, nil
}

// frame returns the next whole frame, which may have max bytes.
func (in *input) frame(max uint32) ([]byte, error) {
	for {
		n, err := amqp.FrameSize(in.chunk[in.start:in.end], max)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			return in.bytes(n)
		}
		if err := in.fill(amqp.FrameHeader); err != nil {
			return nil, err
		}
	}
}

// fill reads once, after making room for n bytes from start on.
func (in *input) fill(n int) error {
	if in.start+n > len(in.chunk) || in.end == len(in.chunk) {
		next := make([]byte, max(n, min(2*len(in.chunk), largeChunk)))
		in.end = copy(next, in.chunk[in.start:in.end])
		in.start, in.chunk = 0, next
	}
	in.flush()
	got, err := in.nc.Read(in.chunk[in.end:])
	in.end += got
	in.resume()
	if got > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}
