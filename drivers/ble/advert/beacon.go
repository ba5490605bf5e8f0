package advert

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// AppleCompany is the company of iBeacons in manufacturer data, and EddystoneUUID
// the 16-bit service of Eddystone (Bluetooth SIG, assigned numbers).
const (
	AppleCompany  = 0x004C
	EddystoneUUID = 0xFEAA
)

// IBeacon reads the manufacturer data of an iBeacon, without the company (Apple,
// Proximity Beacon Specification: 02 15, UUID, major, minor, power at 1 m).
func IBeacon(data []byte) (*Advert, error) {
	if len(data) < 2 || data[0] != 0x02 || data[1] != 0x15 {
		return nil, ErrNotMine
	}
	if len(data) < 23 {
		return nil, ErrBroken
	}
	a, counts := new(Advert), make(map[string]int)
	u := data[2:18]
	a.add("uuid", "", fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), counts)
	a.add("major", "", int64(binary.BigEndian.Uint16(data[18:])), counts)
	a.add("minor", "", int64(binary.BigEndian.Uint16(data[20:])), counts)
	a.add("power_at_1m", "dBm", int64(int8(data[22])), counts)
	return a, nil
}

// Frame types of Eddystone (google/eddystone, protocol specification).
const (
	eddystoneUID = 0x00
	eddystoneURL = 0x10
	eddystoneTLM = 0x20
	eddystoneEID = 0x30
)

// Eddystone reads the service data of an Eddystone beacon.
func Eddystone(data []byte) (*Advert, error) {
	if len(data) < 2 {
		return nil, ErrNotMine
	}
	a, counts := new(Advert), make(map[string]int)
	switch data[0] {
	case eddystoneUID:
		if len(data) < 18 {
			return nil, ErrBroken
		}
		a.add("namespace", "", hex.EncodeToString(data[2:12]), counts)
		a.add("instance", "", hex.EncodeToString(data[12:18]), counts)
	case eddystoneURL:
		url, ok := eddystoneAddress(data[2:])
		if !ok {
			return nil, ErrBroken
		}
		a.add("url", "", url, counts)
	case eddystoneEID:
		if len(data) < 10 {
			return nil, ErrBroken
		}
		a.add("ephemeral_id", "", hex.EncodeToString(data[2:10]), counts)
		return a, nil // the octet before it is power at 0 m, as below
	case eddystoneTLM:
		return eddystoneTelemetry(data)
	default:
		return nil, ErrNotMine
	}
	a.add("power_at_0m", "dBm", int64(int8(data[1])), counts)
	return a, nil
}

// eddystoneTelemetry reads a TLM frame that is not encrypted.
func eddystoneTelemetry(data []byte) (*Advert, error) {
	if data[1] != 0 {
		return nil, ErrKey
	}
	if len(data) < 14 {
		return nil, ErrBroken
	}
	a, counts := new(Advert), make(map[string]int)
	if mv := binary.BigEndian.Uint16(data[2:]); mv != 0 {
		a.add("battery_voltage", "V", rounded(float64(mv)/1000), counts)
	}
	if t := binary.BigEndian.Uint16(data[4:]); t != 0x8000 {
		a.add("temperature", "°C", rounded(float64(int16(t))/256), counts)
	}
	a.Sequence = new(binary.BigEndian.Uint32(data[6:]))
	a.add("uptime", "s", rounded(float64(binary.BigEndian.Uint32(data[10:]))/10), counts)
	return a, nil
}

// Words of compressed addresses.
var (
	urlSchemes = []string{"http://www.", "https://www.", "http://", "https://"}
	urlEndings = []string{
		".com/", ".org/", ".edu/", ".net/", ".info/", ".biz/", ".gov/",
		".com", ".org", ".edu", ".net", ".info", ".biz", ".gov",
	}
)

func eddystoneAddress(b []byte) (string, bool) {
	if len(b) == 0 || int(b[0]) >= len(urlSchemes) {
		return "", false
	}
	var url strings.Builder
	url.WriteString(urlSchemes[b[0]])
	for _, x := range b[1:] {
		switch {
		case int(x) < len(urlEndings):
			url.WriteString(urlEndings[x])
		case x > 0x20 && x < 0x7F:
			url.WriteString(string(rune(x)))
		default:
			return "", false
		}
	}
	return url.String(), true
}
