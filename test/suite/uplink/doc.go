// Package suite is what every transport of the uplink must do, whatever its
// protocol: Run plays it against the hub on the bench, through a gateway that is
// real from custody to the wire.
package suite
