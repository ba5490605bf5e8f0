// Package methods carries direct methods from services to devices that listen,
// and the answers back (wire contract, sections 2.5, 3.8 and 5.7).
//
// Nothing is queued. A call that finds no listener waits for one as long as its
// connect timeout says, then the request is handed over and its response timeout
// begins to run. The answer may come on another connection than the request went
// out on; one that comes too late is dropped.
package methods

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Limits of a call (section 5.7).
const (
	MaxPayload  = 128 << 10 // bytes, each way
	MaxInFlight = 10        // calls of one identity, waiting ones included; the contract's guess

	minResponse     = 5 * time.Second
	defaultResponse = 30 * time.Second
	maxTimeout      = 300 * time.Second
)

// Call is what a service asks for.
type Call struct {
	Name            string
	Payload         json.RawMessage // nil when there was none
	ConnectTimeout  time.Duration   // 0 to 300 s; 0: an absent device fails at once
	ResponseTimeout time.Duration   // 5 to 300 s; 0 means 30 s
}

// Request is a call on its way to a device. It does not change.
type Request struct {
	ID      string // GUID text, unique in the hub
	Name    string
	Payload []byte // JSON; empty when there was none
}

// Answer is what the device said.
type Answer struct {
	Status  int32
	Payload json.RawMessage // nil when there was none
}

// Exchange is safe for concurrent use.
type Exchange struct {
	exists func(registry.ID) error

	mu        sync.Mutex // guards everything below
	listeners map[registry.ID]*listener
	arrival   chan struct{} // closed when the next one listens
	inFlight  map[registry.ID]int
	calls     map[string]*call // by request id: those that a device has
}

// call is one request that waits for its answer.
type call struct {
	id     registry.ID
	answer chan reply // holds one
}

// reply is an answer, or why it is none.
type reply struct {
	Answer
	err error
}

// New returns an exchange. exists says whether an identity is in the registry
// and enabled, or the refusal that calls get.
func New(exists func(registry.ID) error) *Exchange {
	return &Exchange{
		exists:    exists,
		listeners: make(map[registry.ID]*listener),
		arrival:   make(chan struct{}),
		inFlight:  make(map[registry.ID]int),
		calls:     make(map[string]*call),
	}
}

// Answer gives a request its answer, and says whether anyone still waited for
// it. payload must be JSON or empty, and at most 128 KiB: otherwise the caller
// gets 502000. The exchange keeps it.
func (e *Exchange) Answer(id registry.ID, request string, status int32, payload []byte) bool {
	e.mu.Lock()
	c := e.calls[request]
	if c == nil || c.id != id {
		e.mu.Unlock()
		return false
	}
	delete(e.calls, request)
	e.mu.Unlock()
	r := reply{Answer: Answer{Status: status}}
	switch {
	case len(payload) > MaxPayload:
		r.err = refusal.New(502000, "the device answered with more than 128 KiB")
	case len(payload) > 0 && !json.Valid(payload):
		r.err = refusal.New(502000, "the device did not answer with JSON")
	case len(payload) > 0:
		r.Payload = payload
	}
	c.answer <- r // the only one: whoever deletes the call answers it
	return true
}

// Invoke calls a method and waits for the answer. It fails with 404103 when
// the device does not listen in time, 504101 when it does not answer in time,
// 502000 when its answer is not JSON, 403800 when too many calls to it are in
// progress, 400004 for a bad call, 413001 for a payload above 128 KiB, with the
// refusal of an identity that cannot be called, and with the error of ctx.
func (e *Exchange) Invoke(ctx context.Context, id registry.ID, c Call) (Answer, error) {
	if c.ResponseTimeout == 0 {
		c.ResponseTimeout = defaultResponse
	}
	if err := c.check(); err != nil {
		return Answer{}, err
	}
	if err := e.exists(id); err != nil {
		return Answer{}, err
	}
	if err := e.enter(id); err != nil {
		return Answer{}, err
	}
	defer e.leave(id)
	r := Request{ID: message.NewGUID(), Name: c.Name, Payload: c.Payload}
	waiting := &call{id: id, answer: make(chan reply, 1)}
	e.mu.Lock()
	e.calls[r.ID] = waiting // before the device can answer
	e.mu.Unlock()
	defer e.forget(r.ID)
	if err := e.handOver(ctx, id, r, c.ConnectTimeout); err != nil {
		return Answer{}, err
	}
	timer := time.NewTimer(c.ResponseTimeout)
	defer timer.Stop()
	select {
	case got := <-waiting.answer:
		return got.Answer, got.err
	case <-timer.C:
		return Answer{}, refusal.New(504101, "the device did not answer in time")
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
}

// forget has answers that are too late dropped.
func (e *Exchange) forget(request string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.calls, request)
}

// enter counts a call in.
func (e *Exchange) enter(id registry.ID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inFlight[id] >= MaxInFlight {
		return refusal.New(403800, "too many calls to "+id.String()+" are in progress")
	}
	e.inFlight[id]++
	return nil
}

// leave counts it out.
func (e *Exchange) leave(id registry.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inFlight[id]--; e.inFlight[id] == 0 {
		delete(e.inFlight, id)
	}
}

// notInNames are the printable characters that a method name must not hold.
const notInNames = `$()<>@,;:\"/[]?={}`

// check refuses a call that no device should see.
func (c *Call) check() error {
	if c.Name == "" {
		return refusal.New(400004, "methodName is missing")
	}
	for _, b := range []byte(c.Name) {
		if b <= ' ' || b > '~' || strings.IndexByte(notInNames, b) >= 0 {
			return refusal.New(400004, "methodName holds a character that it must not hold")
		}
	}
	if c.ConnectTimeout < 0 || c.ConnectTimeout > maxTimeout {
		return refusal.New(400004, "connectTimeoutInSeconds must be 0 to 300")
	}
	if c.ResponseTimeout < minResponse || c.ResponseTimeout > maxTimeout {
		return refusal.New(400004, "responseTimeoutInSeconds must be 5 to 300")
	}
	if len(c.Payload) > MaxPayload {
		return refusal.New(413001, "the payload may have 128 KiB")
	}
	if len(c.Payload) > 0 && !json.Valid(c.Payload) {
		return refusal.New(400004, "the payload is not JSON")
	}
	return nil
}
