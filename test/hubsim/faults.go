package hubsim

import (
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
)

// Cut stops the network: nothing more is read from or written to any socket,
// and no socket is closed. New connections are accepted by the kernel and then
// hang in the TLS handshake. Restore ends it.
func (h *Hub) Cut() { h.gate.close() }

// HalfOpen lets clients send and the hub hear them, while nothing that the hub
// says arrives: messages are stored and their settlements are lost. New
// connections hang in the TLS handshake. Restore ends it.
func (h *Hub) HalfOpen() { h.gate.silence() }

// Restore ends Cut and HalfOpen. Sockets that were open meanwhile are closed.
func (h *Hub) Restore() { h.gate.open() }

// Reset closes all sockets with RST and returns how many.
func (h *Hub) Reset() int { return h.gate.reset() }

// DetachLink ends the device's AMQP links with condition, for example
// "amqp:link:detach-forced", and returns how many.
func (h *Hub) DetachLink(device, condition string) int {
	return h.amqp.DetachLinks(device, fault(condition))
}

// EndSession ends every AMQP session that has a link of the device, with
// amqp:internal-error, and returns how many of its links that cost.
func (h *Hub) EndSession(device string) int {
	return h.amqp.EndSessions(device, fault(string(amqp.CondInternalError)))
}

// Malform sends a broken frame on each AMQP connection of the device and a
// broken packet on each MQTT connection, and returns on how many.
func (h *Hub) Malform(device string) int { return h.amqp.Malform(device) + h.mqtt.Malform(device) }

// SlowSettle delays every settlement of telemetry by d; 0 ends it.
func (h *Hub) SlowSettle(d time.Duration) { h.hub.Faults.SlowSettle(d) }

// SettleNever stores telemetry but leaves it unsettled while on.
func (h *Hub) SettleNever(on bool) { h.hub.Faults.SettleNever(on) }

// SettleTwice sends every settlement of telemetry a second time while on.
func (h *Hub) SettleTwice(on bool) { h.hub.Faults.SettleTwice(on) }

// RefuseToken refuses the device's good tokens with 401 while on. Tokens that
// are there already stay good.
func (h *Hub) RefuseToken(device string, on bool) { h.hub.Faults.RefuseToken(device, on) }

// Reject refuses the device's next n telemetry messages or transfers with
// condition; 0 ends it.
func (h *Hub) Reject(device, condition string, n int) { h.hub.Faults.Reject(device, condition, n) }

// Throttle refuses tokens with 429 and telemetry with
// amqp:resource-limit-exceeded while on.
func (h *Hub) Throttle(on bool) { h.hub.Faults.Throttle(on) }

// Quota refuses telemetry as if the daily quota were used up while on.
func (h *Hub) Quota(on bool) { h.hub.Faults.Quota(on) }

// ClockSkew puts the clock by which the hub judges tokens ahead by d, or back
// when d is negative.
func (h *Hub) ClockSkew(d time.Duration) { h.hub.Faults.ClockSkew(d) }

// SetTier has the limits of a tier with a number of units: "F1", "S1", "S2" or
// "S3"; "" for none.
func (h *Hub) SetTier(tier string, units int) error { return h.hub.Limits.SetTier(tier, units) }

// SpendTelemetry counts n transfers of telemetry by others against the rate of the
// tier: the hub refuses telemetry until the tier allows that many again.
func (h *Hub) SpendTelemetry(n int) { h.hub.Limits.Spend(limits.Telemetry, n) }

// SetEnabled enables or disables a device, at once on live connections too. It
// returns false when there is no such device.
func (h *Hub) SetEnabled(device string, enabled bool) bool {
	return h.hub.Registry.SetEnabled(device, enabled)
}

func fault(condition string) *amqp.Error {
	return &amqp.Error{Condition: amqp.Symbol(condition), Description: "caused by a fault of hubsim"}
}
