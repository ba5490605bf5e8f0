package hubsim

import (
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
)

// Cut stops the network: nothing more is read from or written to any socket,
// and no socket is closed. New connections are accepted by the kernel and then
// hang in the TLS handshake. Restore ends it.
func (h *Hub) Cut() { h.gate.close() }

// Restore ends Cut. Sockets that were open during the cut are closed.
func (h *Hub) Restore() { h.gate.open() }

// Reset closes all sockets with RST and returns how many.
func (h *Hub) Reset() int { return h.gate.reset() }

// DetachLink ends the device's links with condition, for example
// "amqp:link:detach-forced", and returns how many.
func (h *Hub) DetachLink(device, condition string) int {
	return h.routes.DetachLinks(device, fault(condition))
}

// EndSession ends every session that has a link of the device, with
// amqp:internal-error, and returns how many of its links that cost.
func (h *Hub) EndSession(device string) int {
	return h.routes.EndSessions(device, fault(string(amqp.CondInternalError)))
}

// SlowSettle delays every settlement of telemetry by d; 0 ends it.
func (h *Hub) SlowSettle(d time.Duration) { h.routes.Faults.SlowSettle(d) }

// SettleNever stores telemetry but leaves it unsettled while on.
func (h *Hub) SettleNever(on bool) { h.routes.Faults.SettleNever(on) }

// RefuseToken answers the device's put-token with 401 while on. Tokens that are
// there already stay good.
func (h *Hub) RefuseToken(device string, on bool) { h.routes.Faults.RefuseToken(device, on) }

// Reject refuses the device's next n telemetry transfers with condition; 0 ends
// it.
func (h *Hub) Reject(device, condition string, n int) {
	h.routes.Faults.Reject(device, amqp.Symbol(condition), n)
}

// Throttle answers put-token with 429 and refuses telemetry with
// amqp:resource-limit-exceeded while on.
func (h *Hub) Throttle(on bool) { h.routes.Faults.Throttle(on) }

// SetEnabled enables or disables a device, at once on live connections too. It
// returns false when there is no such device.
func (h *Hub) SetEnabled(device string, enabled bool) bool {
	found := h.routes.Registry.SetEnabled(device, enabled)
	if found && !enabled {
		h.routes.Revoke(device, "the device is disabled")
	}
	return found
}

func fault(condition string) *amqp.Error {
	return &amqp.Error{Condition: amqp.Symbol(condition), Description: "caused by a fault of hubsim"}
}
