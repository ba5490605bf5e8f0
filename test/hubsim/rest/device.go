package rest

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/commands"
	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// deviceRequests are what a device does over HTTPS with messages: it sends
// telemetry and fetches commands (sections 4.1 and 4.2). Modules only send.
func (a *API) deviceRequests() {
	a.device("POST /devices/{d}/messages/events", a.sendTelemetry)
	a.device("POST /devices/{d}/modules/{m}/messages/events", a.sendTelemetry)

	const queue = "/devices/{d}/messages/devicebound"
	a.device("GET "+queue, a.receiveCommand)
	a.device("DELETE "+queue+"/{lock}", a.completeOrReject)
	a.device("POST "+queue+"/{lock}/abandon", func(w http.ResponseWriter, r *http.Request, from hub.Source) error {
		return done(w, a.hub.Commands.Abandon(from.ID, r.PathValue("lock")))
	})
}

// connectionKey finds the number of a TCP connection in the context of its
// requests.
type connectionKey struct{}

// socketKey is the key of the connection itself.
type socketKey struct{}

// ConnContext belongs into the http.Server of the same name. It lets telemetry
// carry the number of its TCP connection, however many requests that serves. A
// connection gets its number with its first telemetry, so that those of services
// and of WebSockets are not counted here. Without ConnContext the number is 0.
// It also lets a device order the end of its connection.
func (a *API) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	ctx = context.WithValue(ctx, socketKey{}, nc)
	return context.WithValue(ctx, connectionKey{}, sync.OnceValue(a.hub.NextConnection))
}

// connection returns the number of the connection that r came on.
func connection(r *http.Request) uint64 {
	if number, ok := r.Context().Value(connectionKey{}).(func() uint64); ok {
		return number()
	}
	return 0
}

// sendTelemetry stores one message or a batch, and answers when a device over
// AMQP would get its settlement. A second settlement has no counterpart here.
func (a *API) sendTelemetry(w http.ResponseWriter, r *http.Request, from hub.Source) error {
	how := a.hub.Faults.Settling() // before anyone can see the telemetry
	list, err := readTelemetry(r)
	if err != nil {
		return err
	}
	list, orders := takeOrders(list)
	from.Connection = connection(r)
	refused := a.store(from, list)
	if err := obey(r.Context(), orders); err != nil {
		return err
	}
	if err := hold(r.Context(), how); err != nil {
		return err
	}
	return done(w, refused)
}

// store hands all messages of a request to the hub, all or none.
func (a *API) store(from hub.Source, list []*message.Message) error {
	if len(list) == 0 {
		return nil // there were only orders
	}
	encoded := make([][]byte, len(list))
	for n, m := range list {
		encoded[n] = m.AMQP().Append(nil)
	}
	return a.hub.Telemetry(from, encoded...)
}

// hold waits for as long as a fault keeps answers back. It fails when the client
// has gone, or the server closes, before that.
func hold(ctx context.Context, how faults.Settling) error {
	if how.Never {
		<-ctx.Done()
		return ctx.Err()
	}
	if how.Delay <= 0 {
		return nil
	}
	timer := time.NewTimer(how.Delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receiveCommand answers with the next command, locked, or with nothing.
func (a *API) receiveCommand(w http.ResponseWriter, _ *http.Request, from hub.Source) error {
	if err := a.hub.Limits.Take(limits.CommandReceive, 0); err != nil {
		return err
	}
	d, ok := a.hub.Commands.Receive(from.ID)
	if !ok {
		return done(w, nil)
	}
	writeCommand(w, from.ID, d)
	return nil
}

// writeCommand writes a delivery. If the device never reads it, the lock
// expires and the command is delivered again.
func writeCommand(w http.ResponseWriter, id registry.ID, d commands.Delivery) {
	writeCommandHeaders(w.Header(), id, d)
	_, _ = w.Write(d.Message.Body) // see above
}

// completeOrReject settles a command; the key "reject" of the query has no
// value.
func (a *API) completeOrReject(w http.ResponseWriter, r *http.Request, from hub.Source) error {
	settle := a.hub.Commands.Complete
	if r.URL.Query().Has("reject") {
		settle = a.hub.Commands.Reject
	}
	return done(w, settle(from.ID, r.PathValue("lock")))
}

// done answers 204 unless there is an error.
func done(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}
