// Package clock runs the real gateway with a clock that goes wrong: unset at
// power-on, stepped by hours and years, steered by a source that lies, across
// restarts and reboots, with a backlog or without.
//
// The machine's own clock is not touched, and Linux has no way to give one
// process a wall clock of its own. So the program is built with the tag
// benchclock: it reads its clocks through a file (board/machine_bench.go), and is
// otherwise the one that is shipped.
package clock
