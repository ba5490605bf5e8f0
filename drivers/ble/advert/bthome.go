package advert

import (
	"encoding/binary"
	"encoding/hex"
	"time"
	"unicode/utf8"
)

// BTHomeUUID is the 16-bit service of BTHome (bthome.io, format).
const BTHomeUUID = 0xFCD2

// Bits of the device information (bthome.io, format).
const (
	bthomeEncrypted = 1 << 0
	bthomeAddress   = 1 << 1
	bthomeTriggered = 1 << 2
	bthomeVersion   = 2
)

// BTHome reads the service data of a sensor with the address; key has 16 octets, or
// none for a sensor that does not encrypt. What stands behind an unknown object is
// not read: its length is not known.
func BTHome(address Address, data, key []byte) (*Advert, error) {
	if len(data) == 0 || data[0]>>5 != bthomeVersion {
		return nil, ErrNotMine
	}
	info, objects := data[0], data[1:]
	a := &Advert{Triggered: info&bthomeTriggered != 0}
	if info&bthomeAddress != 0 {
		if len(objects) < 6 {
			return nil, ErrBroken
		}
		inside := reversed(objects)
		a.Address, address, objects = &inside, inside, objects[6:]
	}
	if info&bthomeEncrypted == 0 {
		if len(key) > 0 {
			return nil, ErrPlain
		}
		a.bthome(objects)
		return a, nil
	}
	if len(key) == 0 {
		return nil, ErrKey
	}
	n := len(objects) - 8
	if n < 1 {
		return nil, ErrBroken
	}
	sealed, counter, tag := objects[:n], objects[n:n+4], objects[n+4:]
	nonce := append(append(append(address[:len(address):len(address)], 0xD2, 0xFC), info), counter...)
	plain, ok := openCCM(key, nonce, sealed, tag, nil)
	if !ok {
		return nil, ErrTag
	}
	a.Counter = new(binary.LittleEndian.Uint32(counter))
	a.bthome(plain)
	return a, nil
}

// bthomeObject is one kind of object.
type bthomeObject struct {
	name   string
	octets int // 0: the next octet says how many
	signed bool
	factor float64 // 0: a whole number
	unit   string
}

// bthomeObjects are the measurements, by id. Binary ones are in bthomeStates.
var bthomeObjects = map[byte]bthomeObject{
	0x01: {"battery", 1, false, 0, "%"},
	0x02: {"temperature", 2, true, 0.01, "°C"},
	0x03: {"humidity", 2, false, 0.01, "%"},
	0x04: {"pressure", 3, false, 0.01, "hPa"},
	0x05: {"illuminance", 3, false, 0.01, "lx"},
	0x06: {"mass", 2, false, 0.01, "kg"},
	0x07: {"mass", 2, false, 0.01, "lb"},
	0x08: {"dew_point", 2, true, 0.01, "°C"},
	0x09: {"count", 1, false, 0, ""},
	0x0A: {"energy", 3, false, 0.001, "kWh"},
	0x0B: {"power", 3, false, 0.01, "W"},
	0x0C: {"voltage", 2, false, 0.001, "V"},
	0x0D: {"pm2_5", 2, false, 0, "µg/m³"},
	0x0E: {"pm10", 2, false, 0, "µg/m³"},
	0x12: {"co2", 2, false, 0, "ppm"},
	0x13: {"tvoc", 2, false, 0, "µg/m³"},
	0x14: {"moisture", 2, false, 0.01, "%"},
	0x2E: {"humidity", 1, false, 0, "%"},
	0x2F: {"moisture", 1, false, 0, "%"},
	0x3D: {"count", 2, false, 0, ""},
	0x3E: {"count", 4, false, 0, ""},
	0x3F: {"rotation", 2, true, 0.1, "°"},
	0x40: {"distance", 2, false, 0, "mm"},
	0x41: {"distance", 2, false, 0.1, "m"},
	0x42: {"duration", 3, false, 0.001, "s"},
	0x43: {"current", 2, false, 0.001, "A"},
	0x44: {"speed", 2, false, 0.01, "m/s"},
	0x45: {"temperature", 2, true, 0.1, "°C"},
	0x46: {"uv_index", 1, false, 0.1, ""},
	0x47: {"volume", 2, false, 0.1, "L"},
	0x48: {"volume", 2, false, 0, "mL"},
	0x49: {"volume_flow", 2, false, 0.001, "m³/h"},
	0x4A: {"voltage", 2, false, 0.1, "V"},
	0x4B: {"gas", 3, false, 0.001, "m³"},
	0x4C: {"gas", 4, false, 0.001, "m³"},
	0x4D: {"energy", 4, false, 0.001, "kWh"},
	0x4E: {"volume", 4, false, 0.001, "L"},
	0x4F: {"water", 4, false, 0.001, "L"},
	0x50: {"timestamp", 4, false, 0, ""},
	0x51: {"acceleration", 2, false, 0.001, "m/s²"},
	0x52: {"gyroscope", 2, false, 0.001, "°/s"},
	0x53: {"text", 0, false, 0, ""},
	0x54: {"raw", 0, false, 0, ""},
	0x55: {"volume_storage", 4, false, 0.001, "L"},
	0x56: {"conductivity", 2, false, 0, "µS/cm"},
	0x57: {"temperature", 1, true, 0, "°C"},
	0x58: {"temperature", 1, true, 0.35, "°C"},
	0x59: {"count", 1, true, 0, ""},
	0x5A: {"count", 2, true, 0, ""},
	0x5B: {"count", 4, true, 0, ""},
	0x5C: {"power", 4, true, 0.01, "W"},
	0x5D: {"current", 2, true, 0.001, "A"},
	0x5E: {"direction", 2, false, 0.01, "°"},
	0x5F: {"precipitation", 2, false, 0.1, "mm"},
	0x60: {"channel", 1, false, 0, ""},
	0x61: {"rotational_speed", 2, false, 0, "rpm"},
	0x62: {"speed", 4, true, 1e-6, "m/s"},
	0x63: {"acceleration", 4, true, 1e-6, "m/s²"},
	0x64: {"light_level", 1, false, 0, ""},
}

// bthomeStates are the binary objects, by id.
var bthomeStates = map[byte]string{
	0x0F: "generic", 0x10: "power", 0x11: "opening", 0x15: "battery_low", 0x16: "charging", 0x17: "carbon_monoxide",
	0x18: "cold", 0x19: "connectivity", 0x1A: "door", 0x1B: "garage_door", 0x1C: "gas", 0x1D: "heat", 0x1E: "light",
	0x1F: "lock", 0x20: "moisture", 0x21: "motion", 0x22: "moving", 0x23: "occupancy", 0x24: "plug", 0x25: "presence",
	0x26: "problem", 0x27: "running", 0x28: "safety", 0x29: "smoke", 0x2A: "sound", 0x2B: "tamper", 0x2C: "vibration",
	0x2D: "window",
}

// bthomeButtons and bthomeDimmers are the events; 0 is none.
var (
	bthomeButtons = map[byte]string{
		1: "press", 2: "double_press", 3: "triple_press", 4: "long_press", 5: "long_double_press", 6: "long_triple_press", 0x80: "hold_press",
	}
	bthomeDimmers = map[byte]string{1: "left", 2: "right"}
)

const (
	bthomePacket = 0x00
	bthomeButton = 0x3A
	bthomeDimmer = 0x3C
	bthomeTime   = 0x50
	bthomeText   = 0x53
	bthomeRaw    = 0x54
)

// bthome reads objects until one is unknown or cut off.
func (a *Advert) bthome(data []byte) {
	counts := make(map[string]int)
	for len(data) > 0 {
		id := data[0]
		n, head, known := bthomeLength(data)
		if !known || len(data) < head+n {
			return
		}
		a.bthomeObject(id, data[head:head+n], counts)
		data = data[head+n:]
	}
}

// bthomeLength returns how many octets of value stand behind how many octets of
// head.
func bthomeLength(data []byte) (n, head int, known bool) {
	switch id := data[0]; {
	case id == bthomePacket, id == bthomeButton, bthomeStates[id] != "":
		return 1, 1, true
	case id == bthomeDimmer:
		return 2, 1, true
	default:
		o, known := bthomeObjects[id]
		if known && o.octets == 0 {
			if len(data) < 2 {
				return 0, 0, false
			}
			return int(data[1]), 2, true
		}
		return o.octets, 1, known
	}
}

func (a *Advert) bthomeObject(id byte, value []byte, counts map[string]int) {
	switch {
	case id == bthomePacket:
		a.Sequence = new(uint32(value[0]))
	case id == bthomeButton:
		a.bthomeEvent("button", bthomeButtons[value[0]], counts)
	case id == bthomeDimmer:
		a.bthomeEvent("dimmer", bthomeDimmers[value[0]], counts)
		if bthomeDimmers[value[0]] != "" {
			a.add("dimmer_steps", "", int64(value[1]), counts)
		}
	case id == bthomeText:
		if utf8.Valid(value) {
			a.add("text", "", string(value), counts)
		}
	case id == bthomeRaw:
		a.add("raw", "", hex.EncodeToString(value), counts)
	case id == bthomeTime:
		a.add("timestamp", "", time.Unix(int64(binary.LittleEndian.Uint32(value)), 0).UTC().Format(time.RFC3339), counts)
	case bthomeStates[id] != "":
		a.add(bthomeStates[id], "", value[0] != 0, counts)
	default:
		o := bthomeObjects[id]
		a.add(o.name, o.unit, scaled(integer(value, o.signed), o.factor), counts)
	}
}

// bthomeEvent adds an event. One that is idle or unknown keeps its place among
// several of its kind.
func (a *Advert) bthomeEvent(name, event string, counts map[string]int) {
	if event == "" {
		counts[name]++
		return
	}
	a.add(name, "", event, counts)
}

// integer reads a little-endian integer of 1 to 4 octets.
func integer(b []byte, signed bool) int64 {
	var n int64
	for i, x := range b {
		n |= int64(x) << (8 * i)
	}
	if shift := 64 - 8*len(b); signed {
		n = n << shift >> shift
	}
	return n
}

// scaled returns a whole number as such, and another with no more digits than its
// factor has.
func scaled(n int64, factor float64) any {
	if factor == 0 {
		return n
	}
	return rounded(float64(n) * factor)
}
