package advert

import (
	"encoding/binary"
	"slices"
)

// MiBeaconUUID is the 16-bit service of Xiaomi's MiBeacon.
const MiBeaconUUID = 0xFE95

// Bits of the frame control (Bluetooth-Devices/xiaomi-ble, parser).
const (
	miEncrypted  = 1 << 3
	miAddress    = 1 << 4
	miCapability = 1 << 5
	miObject     = 1 << 6
	miMesh       = 1 << 7

	miIOCapability = 1 << 5 // of the capability: one more octet
)

// MiBeacon reads the service data of a sensor with the address; key has 16 octets,
// or none for a sensor that does not encrypt.
func MiBeacon(address Address, data, key []byte) (*Advert, error) {
	if len(data) < 5 {
		return nil, ErrNotMine
	}
	control := binary.LittleEndian.Uint16(data)
	version := control >> 12
	if version < 2 || version > 5 || control&miMesh != 0 {
		return nil, ErrNotMine
	}
	a := &Advert{Sequence: new(uint32(data[4]))}
	rest := data[5:]
	if control&miAddress != 0 {
		if len(rest) < 6 {
			return nil, ErrBroken
		}
		inside := reversed(rest)
		a.Address, address, rest = &inside, inside, rest[6:]
	}
	if control&miCapability != 0 {
		n := 1
		if len(rest) > 0 && rest[0]&miIOCapability != 0 {
			n = 2
		}
		if len(rest) < n {
			return nil, ErrBroken
		}
		rest = rest[n:]
	}
	if control&miObject == 0 {
		return a, nil
	}
	if control&miEncrypted == 0 {
		if len(key) > 0 {
			return nil, ErrPlain
		}
		return a, a.miObjects(rest)
	}
	plain, err := a.miOpen(version, address, data[2:5], rest, key)
	if err != nil {
		return nil, err
	}
	return a, a.miObjects(plain)
}

// miOpen decrypts objects of versions 4 and 5.
func (a *Advert) miOpen(version uint16, address Address, head, rest, key []byte) ([]byte, error) {
	if len(key) == 0 {
		return nil, ErrKey
	}
	n := len(rest) - 7
	if version < 4 || n < 1 {
		return nil, ErrBroken
	}
	sealed, counter, tag := rest[:n], rest[n:n+3], rest[n+3:]
	nonce := slices.Clone(address[:])
	slices.Reverse(nonce)
	nonce = append(append(nonce, head...), counter...)
	plain, ok := openCCM(key, nonce, sealed, tag, []byte{0x11})
	if !ok {
		return nil, ErrTag
	}
	// The extended counter grows above the frame counter.
	a.Counter = new(uint32(counter[0])<<8 | uint32(counter[1])<<16 | uint32(counter[2])<<24 | uint32(head[2]))
	return plain, nil
}

// miObjects reads objects: type, length, value. Unknown ones are passed over.
func (a *Advert) miObjects(data []byte) error {
	counts := make(map[string]int)
	for len(data) > 0 {
		if len(data) < 3 || len(data) < 3+int(data[2]) {
			return ErrBroken
		}
		kind, value := binary.LittleEndian.Uint16(data), data[3:3+int(data[2])]
		data = data[3+len(value):]
		a.miObject(kind, value, counts)
	}
	return nil
}

// miFields are the values of an object, in order.
var miFields = map[uint16][]bthomeObject{
	0x1004: {{"temperature", 2, true, 0.1, "°C"}},
	0x1006: {{"humidity", 2, false, 0.1, "%"}},
	0x1007: {{"illuminance", 3, false, 0, "lx"}},
	0x1008: {{"moisture", 1, false, 0, "%"}},
	0x1009: {{"conductivity", 2, false, 0, "µS/cm"}},
	0x100A: {{"battery", 1, false, 0, "%"}},
	0x100D: {{"temperature", 2, true, 0.1, "°C"}, {"humidity", 2, false, 0.1, "%"}},
	0x1010: {{"formaldehyde", 2, false, 0.01, "mg/m³"}},
}

func (a *Advert) miObject(kind uint16, value []byte, counts map[string]int) {
	fields := miFields[kind]
	n := 0
	for _, f := range fields {
		n += f.octets
	}
	if n != len(value) {
		return
	}
	for _, f := range fields {
		a.add(f.name, f.unit, scaled(integer(value[:f.octets], f.signed), f.factor), counts)
		value = value[f.octets:]
	}
}
