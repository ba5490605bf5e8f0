// Package advert reads what Bluetooth LE sensors advertise: BTHome v2, RuuviTag
// RAWv2, MiBeacon, thermometers with the firmware of atc1441 or pvvx, iBeacon and
// Eddystone. It is pure decoding: keys are given to
// it, and what was seen before is for the caller to remember.
//
// Everything here comes from strangers. A decoder never trusts a length, and tells
// "not mine" (ErrNotMine) from "mine, but broken" (any other error).
package advert

import (
	"errors"
	"strconv"
)

// ErrNotMine says that the data is of another format.
var ErrNotMine = errors.New("not of this format")

// Why data of a known format is not read.
var (
	ErrBroken = errors.New("broken")
	ErrKey    = errors.New("encrypted, and there is no key")
	ErrTag    = errors.New("encrypted with another key, or forged")
	ErrPlain  = errors.New("not encrypted, although there is a key") // a downgrade
)

// Address is a Bluetooth device address in the order in which it is written,
// AA:BB:CC:DD:EE:FF.
type Address [6]byte

func (a Address) String() string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, 17)
	for i, x := range a {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[x>>4], digits[x&15])
	}
	return string(b)
}

// reversed reads an address that is written backwards, as on air.
func reversed(b []byte) (a Address) {
	for i := range a {
		a[i] = b[5-i]
	}
	return a
}

// Reading is one value. What a sensor marks as not available is no reading.
type Reading struct {
	// Name is the quantity, with _2, _3 … behind it when there are several: in the
	// order of the advertisement.
	Name string
	Unit string // as it is written: "°C", "%", ""; "" also for events
	// Value is a float64, an int64, a bool, or a string.
	Value any
}

// Advert is what one advertisement says.
type Advert struct {
	Readings  []Reading
	Sequence  *uint32 // of the measurement or packet: equal means the same; nil: the format has none
	Counter   *uint32 // of the encryption: it must grow; nil: not encrypted
	Address   *Address
	Triggered bool // the sensor speaks only when something happens
}

// add appends a reading and numbers those of one name.
func (a *Advert) add(name, unit string, value any, counts map[string]int) {
	counts[name]++
	if n := counts[name]; n > 1 {
		name += "_" + strconv.Itoa(n)
	}
	a.Readings = append(a.Readings, Reading{name, unit, value})
}
