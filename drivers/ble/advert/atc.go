package advert

import (
	"encoding/binary"
	"slices"
)

// EnvironmentalUUID is the 16-bit service Environmental Sensing. The Bluetooth SIG has
// no layout of advertisements under it; what is read is what thermometers with the
// firmware of atc1441 or pvvx put there.
const EnvironmentalUUID = 0x181A

// How long the four layouts are (pvvx/ATC_MiThermometer, README, "Advertising formats").
const (
	atcPlain    = 13 // atc1441: address, then values, high octet first
	pvvxPlain   = 15 // pvvx: address backwards, then values, low octet first
	atcSealed   = 8  // counter, 3 octets encrypted, tag
	pvvxSealed  = 11 // counter, 6 octets encrypted, tag
	atcTagged   = 4  // octets of the tag
	atcADHead   = 3  // octets in front of service data that the length of an AD structure counts
	serviceData = 0x16
)

// ATC reads the service data of a thermometer with the address; key has 16 octets, or
// none for one that does not encrypt. Its counter has 8 bits and begins anew all the
// time, so that it tells repetitions, and not recordings.
func ATC(address Address, data, key []byte) (*Advert, error) {
	switch len(data) {
	case atcPlain, pvvxPlain:
		a, err := atcOpen(address, data)
		if err == nil && len(key) > 0 {
			return nil, ErrPlain
		}
		return a, err
	case atcSealed, pvvxSealed:
		if len(key) == 0 {
			return nil, ErrKey
		}
		return atcUnseal(address, data, key)
	}
	return nil, ErrNotMine
}

// atcOpen reads what is not encrypted. The address in it is the sender's: data of
// another one's layout, which may be as long, has none there.
func atcOpen(address Address, data []byte) (*Advert, error) {
	a, counts := new(Advert), make(map[string]int)
	if len(data) == atcPlain {
		if Address(data[:6]) != address {
			return nil, ErrNotMine
		}
		a.Sequence = new(uint32(data[12]))
		a.add("temperature", "°C", scaled(int64(int16(binary.BigEndian.Uint16(data[6:]))), 0.1), counts)
		a.add("humidity", "%", int64(data[8]), counts)
		a.add("battery", "%", int64(data[9]), counts)
		a.add("battery_voltage", "V", scaled(int64(binary.BigEndian.Uint16(data[10:])), 0.001), counts)
		return a, nil
	}
	if reversed(data) != address {
		return nil, ErrNotMine
	}
	a.Sequence = new(uint32(data[13])) // behind it are flags of pins, which mean what was soldered
	a.pvvxClimate(data[6:], counts)
	a.add("battery", "%", int64(data[12]), counts)
	a.add("battery_voltage", "V", scaled(int64(binary.LittleEndian.Uint16(data[10:])), 0.001), counts)
	return a, nil
}

// pvvxClimate reads the first four octets of pvvx's values.
func (a *Advert) pvvxClimate(data []byte, counts map[string]int) {
	a.add("temperature", "°C", scaled(integer(data[:2], true), 0.01), counts)
	a.add("humidity", "%", scaled(integer(data[2:4], false), 0.01), counts)
}

// atcUnseal reads what is encrypted.
func atcUnseal(address Address, data, key []byte) (*Advert, error) {
	nonce := slices.Clone(address[:])
	slices.Reverse(nonce)
	nonce = append(nonce, byte(len(data)+atcADHead), serviceData, EnvironmentalUUID&0xFF, EnvironmentalUUID>>8, data[0])
	tag := len(data) - atcTagged
	plain, ok := openCCM(key, nonce, data[1:tag], data[tag:], []byte{0x11})
	if !ok {
		return nil, ErrTag
	}
	a, counts := &Advert{Sequence: new(uint32(data[0]))}, make(map[string]int)
	if len(data) == atcSealed {
		a.add("temperature", "°C", rounded(float64(plain[0])/2-40), counts)
		a.add("humidity", "%", rounded(float64(plain[1])/2), counts)
		a.add("battery", "%", int64(min(plain[2]&0x7F, 100)), counts) // the bit above is a pin
		return a, nil
	}
	a.pvvxClimate(plain, counts)
	a.add("battery", "%", int64(min(plain[4], 100)), counts)
	return a, nil
}
