package rest

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/faults"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
)

// takeOrders splits a request into telemetry and orders to misbehave (section
// 10.3), which are nobody's telemetry.
func takeOrders(list []*message.Message) (telemetry []*message.Message, orders []faults.Order) {
	telemetry = slices.DeleteFunc(list, func(m *message.Message) bool {
		order, ok := faults.ParseOrder(func(name string) (string, bool) { return findProperty(m, name) })
		if ok {
			orders = append(orders, order)
		}
		return ok
	})
	return telemetry, orders
}

// findProperty looks for a property whatever the case of its name, which headers
// do not keep.
func findProperty(m *message.Message, name string) (string, bool) {
	for _, p := range m.Properties {
		if strings.EqualFold(p.Name, name) {
			return p.Value, true
		}
	}
	return "", false
}

// obey does what the orders say. Of the operations only KillTcp is about a
// connection that HTTPS has; the others are left to the protocols with sessions.
func obey(ctx context.Context, orders []faults.Order) error {
	for _, order := range orders {
		if order.Operation != "KillTcp" {
			continue
		}
		if err := hold(ctx, faults.Settling{Delay: order.Delay}); err != nil {
			return err
		}
		abort(ctx)
		panic(http.ErrAbortHandler) // net/http's way to close without an answer
	}
	return nil
}

// abort closes what lies under TLS of the connection that a request came on, with
// RST where the socket can: the server itself would say goodbye first.
func abort(ctx context.Context) {
	nc, ok := ctx.Value(socketKey{}).(net.Conn)
	if !ok {
		return
	}
	if outer, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = outer.NetConn()
	}
	if socket, ok := nc.(interface{ SetLinger(seconds int) error }); ok {
		_ = socket.SetLinger(0)
	}
	_ = nc.Close()
}
