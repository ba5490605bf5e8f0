package advert

import (
	"encoding/binary"
	"math"
)

// RuuviCompany is the company of Ruuvi Innovations in manufacturer data (Bluetooth
// SIG, assigned numbers).
const RuuviCompany = 0x0499

// ruuviRAWv2 is the data format that is read, the first octet (Ruuvi documentation,
// data format 5). Others exist, and are not mine.
const ruuviRAWv2 = 5

// Ruuvi reads the manufacturer data of a RuuviTag, without the company.
func Ruuvi(data []byte) (*Advert, error) {
	if len(data) == 0 || data[0] != ruuviRAWv2 {
		return nil, ErrNotMine
	}
	if len(data) < 24 {
		return nil, ErrBroken
	}
	a, counts := new(Advert), make(map[string]int)
	u16 := func(i int) uint16 { return binary.BigEndian.Uint16(data[i:]) }
	signed := func(name, unit string, i int, factor float64) {
		if n := int16(u16(i)); n != math.MinInt16 {
			a.add(name, unit, scaled(int64(n), factor), counts)
		}
	}
	signed("temperature", "°C", 1, 0.005)
	if n := u16(3); n != math.MaxUint16 {
		a.add("humidity", "%", rounded(float64(n)*0.0025), counts)
	}
	if n := u16(5); n != math.MaxUint16 {
		a.add("pressure", "Pa", int64(n)+50000, counts)
	}
	signed("acceleration_x", "mG", 7, 0)
	signed("acceleration_y", "mG", 9, 0)
	signed("acceleration_z", "mG", 11, 0)
	power := u16(13)
	if n := power >> 5; n != 2047 {
		a.add("battery_voltage", "V", rounded(float64(n+1600)/1000), counts)
	}
	if n := power & 31; n != 31 {
		a.add("tx_power", "dBm", int64(n)*2-40, counts)
	}
	if n := data[15]; n != math.MaxUint8 {
		a.add("movement_counter", "", int64(n), counts)
	}
	if n := u16(16); n != math.MaxUint16 {
		a.Sequence = new(uint32(n))
	}
	if address := Address(data[18:24]); address != (Address{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}) {
		a.Address = &address
	}
	return a, nil
}

// rounded takes away what binary fractions add: no sensor here has more than six
// digits behind the point.
func rounded(v float64) float64 { return math.Round(v*1e6) / 1e6 }
