package ble

import (
	"fmt"
	"sync"
	"time"
)

// Steps to recover an adapter, from the one that costs least.
const (
	stageScan   = "scan"   // begin the scan anew
	stagePower  = "power"  // switch the adapter off and on
	stageDaemon = "daemon" // restart bluetoothd
	stageUSB    = "usb"    // take its USB device away and bring it back
)

var stages = []string{stageScan, stagePower, stageDaemon, stageUSB}

// doctor knows which step comes next. It outlives adapters and daemons: a step may end
// both. Safe for concurrent use.
type doctor struct {
	sysfs string // where /sys is

	mu sync.Mutex
	// guarded by mu:
	step   int    // steps taken in vain so far
	rounds int    // all steps taken in vain so far
	note   string // what was done last, and is not known to have helped
}

// maxRounds bounds how much longer silence is borne after each round in vain, by a
// factor of two each: where nothing is in the air there is nothing to recover.
const maxRounds = 4

// next returns the next step.
func (d *doctor) next(why error) (stage string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	stage = stages[d.step]
	if d.step++; d.step == len(stages) {
		d.step = 0
		d.rounds = min(d.rounds+1, maxRounds)
	}
	d.note = fmt.Sprintf("recovered by step %q: %v", stage, why)
	return stage
}

func (d *doctor) failed(stage string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note = fmt.Sprintf("step %q of the recovery is not possible: %v", stage, err)
}

// well says that something was heard.
func (d *doctor) well() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.step, d.rounds, d.note = 0, 0, ""
}

// last says what was done last and is not known to have helped, "" for nothing.
func (d *doctor) last() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.note
}

// patience is how long silence is borne.
func (d *doctor) patience(heartbeat time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return heartbeat << d.rounds
}

// pulse is how often to look.
func (d *doctor) pulse(heartbeat time.Duration) time.Duration {
	const most = 5 * time.Second
	if heartbeat == 0 {
		return most
	}
	return min(heartbeat/4, most)
}
