// Package leafsim plays leaf devices on the bench: over MQTT 3.1.1, MQTT 5 and
// a serial line on a pseudo-terminal. A leaf numbers its messages per lane,
// keeps a window of them in flight, and after a broken connection sends again,
// in order, whatever was not acknowledged, as careful firmware does. What was
// acknowledged is written down at once, so that package check can later compare
// it with what arrived at the hub.
//
// The package knows the gateway only from outside, through its ports. It shares
// no code with it: what both sides spell wrong in the same way, no test sees.
package leafsim
