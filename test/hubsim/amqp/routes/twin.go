package routes

import (
	"sync"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// Where a twin request points at, and a notification comes from (section 3.7).
const (
	reportedResource      = "/properties/reported"
	desiredResource       = "/properties/desired"
	notificationsResource = "/notifications/twin/properties/desired"
)

// twinLink takes the requests of one identity about its twin. The answers, and
// the notifications it asks for, go out on the link's partner.
type twinLink struct {
	*guest

	mu     sync.Mutex // guards cancel
	cancel func()     // ends the notifications; nil while there are none
}

// twin is either half of the pair.
func (g *guest) twin() server.Endpoint {
	if g.link.Receives {
		return server.Endpoint{}
	}
	t := &twinLink{guest: g}
	return server.Endpoint{Take: t.take, Gone: t.unwatch}
}

func (t *twinLink) take(d server.Delivery) {
	request, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		d.Settle(malformed(err))
		return
	}
	to := t.partner()
	if to == nil {
		d.Settle(rejected(refusal.New(400003, "there is no link for the answer")))
		return
	}
	d.Settle(accepted)
	t.visit.session.Touch()
	answer := t.handle(request)
	answer.Properties = &amqp.Properties{}
	if request.Properties != nil {
		answer.Properties.CorrelationID = request.Properties.CorrelationID // the same type (section 3.7)
	}
	post(to, answer)
}

// handle does what a request asks for, and returns the answer.
func (t *twinLink) handle(request *amqp.Message) *amqp.Message {
	operation, resource := request.Annotations.Text("operation"), request.Annotations.Text("resource")
	switch {
	case operation == "GET" && resource == "":
		return t.get()
	case operation == "PATCH" && resource == reportedResource:
		want, _ := integer(request.Annotations.Get("version"))
		return t.patch(request.Body(), want)
	case operation == "PUT" && resource == notificationsResource:
		t.watch()
		return twinAnswer(200, nil)
	case operation == "DELETE" && resource == notificationsResource:
		t.unwatch()
		return twinAnswer(200, nil)
	}
	return twinFailure(refusal.New(400003, "twins do not know "+operation+" "+resource))
}

func (t *twinLink) get() *amqp.Message {
	err := t.c.hub.Limits.Take(limits.TwinRead, 0)
	if err != nil {
		return twinFailure(err)
	}
	body, err := t.c.hub.Twins.ForDevice(t.source.ID)
	if err != nil {
		return twinFailure(err)
	}
	return twinAnswer(200, body)
}

// patch changes reported properties; want is the version that the device
// believes in, 0 for any.
func (t *twinLink) patch(body []byte, want int64) *amqp.Message {
	err := t.c.hub.Limits.Take(limits.TwinUpdate, len(body))
	if err != nil {
		return twinFailure(err)
	}
	version, err := t.c.hub.Twins.PatchReported(t.source.ID, body, want)
	if err != nil {
		return twinFailure(err)
	}
	return twinAnswer(204, nil, amqp.Pair{Key: amqp.Symbol("version"), Value: version})
}

// watch begins the notifications; asked again, nothing changes.
func (t *twinLink) watch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel == nil {
		t.cancel = t.c.hub.Twins.Watch(t.source.ID, t.notify)
	}
}

func (t *twinLink) unwatch() {
	t.mu.Lock()
	cancel := t.cancel
	t.cancel = nil
	t.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// notify tells the device of a change. It has no correlation id (trap 9.9). A
// device that does not take its notifications loses them.
func (t *twinLink) notify(change twins.Change) {
	to := t.partner()
	if to == nil || change.Desired == nil {
		return
	}
	m := &amqp.Message{
		Annotations: amqp.Map{
			{Key: amqp.Symbol("resource"), Value: desiredResource},
			{Key: amqp.Symbol("version"), Value: change.Version},
		},
		Data: [][]byte{change.Desired},
	}
	if !to.Send(m.Append(nil), false) {
		t.c.hub.Log.Debug("a notification was not taken", "identity", t.source.ID.String())
	}
}

// twinAnswer has a status as int32 (trap 9.8), and a body that may be empty but
// must be there.
func twinAnswer(status int, body []byte, more ...amqp.Pair) *amqp.Message {
	notes := amqp.Map{{Key: amqp.Symbol("status"), Value: int32(status)}}
	return &amqp.Message{Annotations: append(notes, more...), Data: [][]byte{body}}
}

func twinFailure(err error) *amqp.Message {
	e := refusal.Of(err)
	body, _ := e.ForDevice()
	return twinAnswer(e.Status(), body)
}

// integer reads a number of any of the integer types that clients use.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int32:
		return int64(v), true
	case uint32:
		return int64(v), true
	case uint64:
		return int64(v), true
	case int16:
		return int64(v), true
	case uint16:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint8:
		return int64(v), true
	}
	return 0, false
}
