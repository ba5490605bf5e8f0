// Package drivers is what every driver must do, whatever its leaves speak: custody,
// order, backpressure, restart, removal in the middle of a frame, and noise at full
// rate. A driver runs through it with a Kind that says how its leaf is played; the
// tests of this package do so for those that there are.
package drivers
