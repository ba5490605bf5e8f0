//go:build !race

package drivers

// slowed says that the race detector is at work: time of the processor is not the
// program's then.
const slowed = false
