package advert

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func address(t testing.TB, text string) (a Address) {
	t.Helper()
	copy(a[:], unhex(t, strings.ReplaceAll(text, ":", "")))
	return a
}

// text writes readings as "name value unit; …".
func text(a *Advert) string {
	var all []string
	for _, r := range a.Readings {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s %v %s", r.Name, r.Value, r.Unit)))
	}
	return strings.Join(all, "; ")
}

// Vectors published with the format and its parsers.
var bthomeVectors = []struct{ data, want string }{
	{"4002CA0903BF13", "temperature 25.06 °C; humidity 50.55 %"},
	{"400009015D025D0903B718", "battery 93 %; temperature 23.97 °C; humidity 63.27 %"},
	{"4004138A01", "pressure 1008.83 hPa"},
	{"4005138A14", "illuminance 13460.67 lx"},
	{"40065E1F", "mass 80.3 kg"},
	{"40073E1D", "mass 74.86 lb"},
	{"4008CA06", "dew_point 17.38 °C"},
	{"400960", "count 96"},
	{"400A138A14", "energy 1346.067 kWh"},
	{"400B021B00", "power 69.14 W"},
	{"400C020C", "voltage 3.074 V"},
	{"404A020C", "voltage 307.4 V"},
	{"400D120C0E021C", "pm2_5 3090 µg/m³; pm10 7170 µg/m³"},
	{"400F01", "generic true"},
	{"401001", "power true"},
	{"401100", "opening false"},
	{"402D01", "window true"},
	{"4012E204", "co2 1250 ppm"},
	{"40133301", "tvoc 307 µg/m³"},
	{"4014020C", "moisture 30.74 %"},
	{"403A04", "button long_press"},
	{"403A80", "button hold_press"},
	{"403AFE", ""},
	{"403A003A013A03", "button_2 press; button_3 triple_press"},
	{"403C0103", "dimmer left; dimmer_steps 3"},
	{"403F020C", "rotation 307.4 °"},
	{"40400C00", "distance 12 mm"},
	{"40414E00", "distance 7.8 m"},
	{"40424E3400", "duration 13.39 s"},
	{"40434E34", "current 13.39 A"},
	{"40444E34", "speed 133.9 m/s"},
	{"40451101", "temperature 27.3 °C"},
	{"404632", "uv_index 5"},
	{"40478756", "volume 2215.1 L"},
	{"4048DC87", "volume 34780 mL"},
	{"4049DC87", "volume_flow 34.78 m³/h"},
	{"404B138A14", "gas 1346.067 m³"},
	{"404C41018A01", "gas 25821.505 m³"},
	{"404D12138A14", "energy 344593.17 kWh"},
	{"404E87562A01", "volume 19551.879 L"},
	{"44505D396164", "timestamp 2023-05-14T19:41:17Z"},
	{"44518756", "acceleration 22.151 m/s²"},
	{"44528756", "gyroscope 22.151 °/s"},
	{"44530C48656C6C6F20576F726C6421", "text Hello World!"},
	{"44540C48656C6C6F20576F726C6421", "raw 48656c6c6f20576f726c6421"},
	{"44530187", ""},
	{"4056E803", "conductivity 1000 µS/cm"},
	{"4057EA", "temperature -22 °C"},
	{"4058EA", "temperature -7.7 °C"},
	{"4059EA", "count -22"},
	{"405AEAEA", "count -5398"},
	{"405BEA0234EA", "count -365690134"},
	{"405C02FBFFFF", "power -12.78 W"},
	{"405D02EA", "current -5.63 A"},
	{"405E3F755F11D5", "direction 300.15 °; precipitation 5454.5 mm"},
	{"40624099DFFF", "speed -2.123456 m/s"},
	{"40630057D0FF", "acceleration -3.123456 m/s²"},
	{"406001", "channel 1"},
	{"4061AC0D", "rotational_speed 3500 rpm"},
	{"406402", "light_level 2"},
	{
		"4002CA0902CF0902CF0803B71803B717015D",
		"temperature 25.06 °C; temperature_2 25.11 °C; temperature_3 22.55 °C; humidity 63.27 %; humidity_2 60.71 %; battery 93 %",
	},
	{"4000010B0000004A0D0901330CE90C", "power 0 W; voltage 231.7 V; battery 51 %; voltage_2 3.305 V"},
	{"40002E01641E012E34451601", "battery 100 %; light true; humidity 52 %; temperature 27.8 °C"},
	{"42B2188D38C1A404138A01", "pressure 1008.83 hPa"},
	{"40FECA09", ""},
	{"40015DFE5D0903B718", "battery 93 %"},
	{"4002CA0903BF", "temperature 25.06 °C"},
}

func TestBTHome(t *testing.T) {
	for _, v := range bthomeVectors {
		a, err := BTHome(Address{}, unhex(t, v.data), nil)
		if err != nil {
			t.Errorf("%s: %v", v.data, err)
			continue
		}
		if got := text(a); got != v.want {
			t.Errorf("%s:\n got %s\nwant %s", v.data, got, v.want)
		}
		if a.Triggered != strings.HasPrefix(v.data, "44") {
			t.Errorf("%s: triggered %v", v.data, a.Triggered)
		}
	}
	a, err := BTHome(Address{}, unhex(t, "400009015D"), nil)
	if err != nil || a.Sequence == nil || *a.Sequence != 9 {
		t.Errorf("packet id: %+v, %v", a, err)
	}
	a, err = BTHome(Address{}, unhex(t, "42B2188D38C1A404138A01"), nil)
	if err != nil || a.Address == nil || a.Address.String() != "A4:C1:38:8D:18:B2" {
		t.Errorf("address inside: %+v, %v", a, err)
	}
	for _, data := range []string{"E102000C0404138A01", "00", ""} {
		if _, err := BTHome(Address{}, unhex(t, data), nil); !errors.Is(err, ErrNotMine) {
			t.Errorf("%q: got %v", data, err)
		}
	}
}

func TestBTHomeEncrypted(t *testing.T) {
	const key, from = "231d39c1d7cc1ab1aee224cd096db932", "54:48:E6:8F:80:A5"
	for _, v := range []struct {
		key, from, data, want string
		counter               uint32
		err                   error
	}{
		{key, from, "41A47266C95F730011223378237214", "temperature 25.06 °C; humidity 50.55 %", 0x33221100, nil},
		{key, from, "4187B90011223372B0231F", "motion true", 0x33221100, nil},
		{key, from, "41BA0DB07AEEF6FFFFFFFF21FD4600", "temperature 25.07 °C; humidity 50.55 %", 0xFFFFFFFF, nil},
		{key, from, "41DE40B50E676600000000D7CB95DE", "temperature 25.07 °C; humidity 50.55 %", 0, nil},
		{"90bffd73cb6b26ef58a7a8eba9232036", "B4:35:22:F5:3D:A4", "450AEB84467F85BA0100003188788C", "battery 100 %; button press", 0, nil},
		{"814aac74c4f17b6c1581e1ab87816b99", "A4:C1:38:8D:18:B2", "41D2FCEFE52EB212D600112233BC38C966", "", 0, ErrTag},
		{key, from, "41BA0DB07AEEF600", "", 0, ErrBroken},
		{"", from, "41A47266C95F730011223378237214", "", 0, ErrKey},
		{key, from, "4002CA0903BF13", "", 0, ErrPlain},
		{key, "54:48:E6:8F:80:A6", "41A47266C95F730011223378237214", "", 0, ErrTag},
	} {
		a, err := BTHome(address(t, v.from), unhex(t, v.data), unhex(t, v.key))
		if !errors.Is(err, v.err) {
			t.Errorf("%s: got %v, want %v", v.data, err, v.err)
			continue
		}
		if err != nil {
			continue
		}
		if got := text(a); got != v.want {
			t.Errorf("%s: got %s, want %s", v.data, got, v.want)
		}
		if v.key == key && *a.Counter != v.counter {
			t.Errorf("%s: counter %x, want %x", v.data, *a.Counter, v.counter)
		}
	}
}

func TestRuuvi(t *testing.T) {
	for data, want := range map[string]string{
		"0512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F": "temperature 24.3 °C; humidity 53.49 %; pressure 100044 Pa; acceleration_x 4 mG; acceleration_y -4 mG; " +
			"acceleration_z 1036 mG; battery_voltage 2.977 V; tx_power 4 dBm; movement_counter 66",
		"057FFFFFFEFFFE7FFF7FFF7FFFFFDEFEFFFECBB8334C884F": "temperature 163.835 °C; humidity 163.835 %; pressure 115534 Pa; acceleration_x 32767 mG; acceleration_y 32767 mG; " +
			"acceleration_z 32767 mG; battery_voltage 3.646 V; tx_power 20 dBm; movement_counter 254",
		"058001000000008001800180010000000000CBB8334C884F": "temperature -163.835 °C; humidity 0 %; pressure 50000 Pa; acceleration_x -32767 mG; acceleration_y -32767 mG; " +
			"acceleration_z -32767 mG; battery_voltage 1.6 V; tx_power -40 dBm; movement_counter 0",
		"058000FFFFFFFF800080008000FFFFFFFFFFFFFFFFFFFFFF": "",
	} {
		a, err := Ruuvi(unhex(t, data))
		if err != nil {
			t.Fatal(err)
		}
		if got := text(a); got != want {
			t.Errorf("%s:\n got %s\nwant %s", data, got, want)
		}
	}
	a, err := Ruuvi(unhex(t, "0512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F"))
	if err != nil || *a.Sequence != 205 || a.Address.String() != "CB:B8:33:4C:88:4F" {
		t.Errorf("got %+v, %v", a, err)
	}
	a, err = Ruuvi(unhex(t, "058000FFFFFFFF800080008000FFFFFFFFFFFFFFFFFFFFFF"))
	if err != nil || a.Sequence != nil || a.Address != nil {
		t.Errorf("got %+v, %v", a, err)
	}
	if _, err := Ruuvi([]byte{3, 1}); !errors.Is(err, ErrNotMine) {
		t.Errorf("format 3: got %v", err)
	}
}

func TestMiBeacon(t *testing.T) {
	for _, v := range []struct{ data, key, want string }{
		{"5020AA01A3BF2E3B342D580D1004B40095020A10013B", "", "temperature 18 °C; humidity 66.1 %; battery 59 %"},
		{"50305B05034C94B438C1A40D10041001EA01", "", "temperature 27.2 °C; humidity 49 %"},
		{"58585B0550F4830238C1A495EF58763C26000097E2ABB5", "e9ea895fac7cca6d30532432a516f3a8", "humidity 46.7 %"},
	} {
		a, err := MiBeacon(Address{}, unhex(t, v.data), unhex(t, v.key))
		if err != nil {
			t.Errorf("%s: %v", v.data, err)
			continue
		}
		if got := text(a); got != v.want {
			t.Errorf("%s: got %s, want %s", v.data, got, v.want)
		}
	}
	if _, err := MiBeacon(Address{}, unhex(t, "58585B0550F4830238C1A495EF58763C26000097E2ABB5"), make([]byte, 16)); !errors.Is(err, ErrTag) {
		t.Errorf("wrong key: got %v", err)
	}
}

// Vectors of the tests of custom-components/ble_monitor, Bluetooth-Devices/atc-ble and
// theengs/decoder.
func TestATC(t *testing.T) {
	const key, sealer = "b9ea895fac7eea6d30532432a516f3a3", "A4:C1:38:8D:18:B2"
	for _, v := range []struct {
		from, data, key, want string
		sequence              uint32
	}{
		{"A4:C1:38:02:83:F4", "A4C1380283F400A22F5F0BF819", "", "temperature 16.2 °C; humidity 47 %; battery 95 %; battery_voltage 3.064 V", 25},
		{"A4:C1:38:BC:7C:4E", "A4C138BC7C4E0102284F0B6720", "", "temperature 25.8 °C; humidity 40 %; battery 79 %; battery_voltage 2.919 V", 32},
		{sealer, "A4C1388D18B201122F640CA025", "", "temperature 27.4 °C; humidity 47 %; battery 100 %; battery_voltage 3.232 V", 37},
		{"A4:C1:38:D5:D4:98", "A4C138D5D498FFD33E510B7B62", "", "temperature -4.5 °C; humidity 62 %; battery 81 %; battery_voltage 2.939 V", 98},
		{"A4:C1:38:02:83:F4", "F4830238C1A4A9066911B60B58F70D", "", "temperature 17.05 °C; humidity 44.57 %; battery 88 %; battery_voltage 2.998 V", 247},
		{sealer, "B2188D38C1A42B089011F70A43200F", "", "temperature 20.91 °C; humidity 44.96 %; battery 67 %; battery_voltage 2.807 V", 32},
		{"A4:C1:38:63:37:8B", "8B376338C1A4CE0913107F0B521204", "", "temperature 25.1 °C; humidity 41.15 %; battery 82 %; battery_voltage 2.943 V", 18},
		{sealer, "B2188D38C1A4590AAD13B6091F1E05", "", "temperature 26.49 °C; humidity 50.37 %; battery 31 %; battery_voltage 2.486 V", 30},
		{"A4:C1:38:CF:01:56", "5601CF38C1A462FDBD13470C64CC0F", "", "temperature -6.7 °C; humidity 50.53 %; battery 100 %; battery_voltage 3.143 V", 204},
		{sealer, "11D603FBFA7B6DFB1E26FD", key, "temperature 23.45 °C; humidity 41.73 %; battery 61 %", 17},
		{sealer, "58E9E6556581B3F9", key, "temperature 26.5 °C; humidity 47 %; battery 100 %", 88},
	} {
		a, err := ATC(address(t, v.from), unhex(t, v.data), unhex(t, v.key))
		if err != nil {
			t.Errorf("%s: %v", v.data, err)
			continue
		}
		if got := text(a); got != v.want || a.Sequence == nil || *a.Sequence != v.sequence || a.Counter != nil {
			t.Errorf("%s: %s, %v, want %s, %d", v.data, got, a.Sequence, v.want, v.sequence)
		}
	}
	for _, v := range []struct {
		from, data, key string
		want            error
	}{
		{sealer, "A4C1380283F400A22F5F0BF819", "", ErrNotMine}, // of another one
		{sealer, "F4830238C1A4A9066911B60B58F70D", "", ErrNotMine},
		{sealer, "A4C1388D18B201122F640CA025", key, ErrPlain},
		{sealer, "11D603FBFA7B6DFB1E26FD", "", ErrKey},
		{sealer, "11D603FBFA7B6DFB1E26FC", key, ErrTag},
		{"A4:C1:38:8D:18:B3", "11D603FBFA7B6DFB1E26FD", key, ErrTag},
		{sealer, "12D603FBFA7B6DFB1E26FD", key, ErrTag},
		{sealer, "C409", "", ErrNotMine}, // Environmental Sensing of somebody else's
		{sealer, "", key, ErrNotMine},
	} {
		if _, err := ATC(address(t, v.from), unhex(t, v.data), unhex(t, v.key)); !errors.Is(err, v.want) {
			t.Errorf("%s from %s: got %v, want %v", v.data, v.from, err, v.want)
		}
	}
}

func TestBeacons(t *testing.T) {
	a, err := IBeacon(unhex(t, "0215E2C56DB5DFFB48D2B060D0F5A71096E000010002C5"))
	if want := "uuid e2c56db5-dffb-48d2-b060-d0f5a71096e0; major 1; minor 2; power_at_1m -59 dBm"; err != nil || text(a) != want {
		t.Errorf("iBeacon: %v, %v", a, err)
	}
	for data, want := range map[string]string{
		"00EE0102030405060708090A0B0C0D0E0F10": "namespace 0102030405060708090a; instance 0b0c0d0e0f10; power_at_0m -18 dBm",
		"10EE03676F6F2E676C2F53":               "url https://goo.gl/S; power_at_0m -18 dBm",
		"10EE00676F6F676C6507":                 "url http://www.google.com; power_at_0m -18 dBm",
		"20000BB81A8000000064000003E8":         "battery_voltage 3 V; temperature 26.5 °C; uptime 100 s",
		"2000000080000000000100000000":         "uptime 0 s",
		"30EE0102030405060708":                 "ephemeral_id 0102030405060708",
	} {
		a, err := Eddystone(unhex(t, data))
		if err != nil || text(a) != want {
			t.Errorf("Eddystone %s: %v, %v, want %s", data, a, err, want)
		}
	}
	for data, want := range map[string]error{
		"10EE04": ErrBroken, "10EE0300": nil, "10EE031F": ErrBroken, "2001": ErrKey, "2000": ErrBroken, "40EE": ErrNotMine, "00": ErrNotMine, "00EE": ErrBroken,
	} {
		if _, err := Eddystone(unhex(t, data)); !errors.Is(err, want) {
			t.Errorf("Eddystone %s: got %v, want %v", data, err, want)
		}
	}
}

// The counter with CBC-MAC of RFC 3610 with a tag of 4 octets, as NIST publishes it
// (SP 800-38C, example 1).
func TestCCM(t *testing.T) {
	plain, ok := openCCM(unhex(t, "404142434445464748494a4b4c4d4e4f"), unhex(t, "10111213141516"), unhex(t, "7162015b"), unhex(t, "4dac255d"), unhex(t, "0001020304050607"))
	if !ok || hex.EncodeToString(plain) != "20212223" {
		t.Errorf("got %x, %v", plain, ok)
	}
}

// atcSender has sent the seeds of its format.
var atcSender = Address{0xA4, 0xC1, 0x38, 0x8D, 0x18, 0xB2}

// decoders are all of them, for what must hold of each.
var decoders = map[string]func([]byte) (*Advert, error){
	"bthome":    func(b []byte) (*Advert, error) { return BTHome(Address{1}, b, nil) },
	"encrypted": func(b []byte) (*Advert, error) { return BTHome(Address{1}, b, make([]byte, 16)) },
	"ruuvi":     Ruuvi,
	"mibeacon":  func(b []byte) (*Advert, error) { return MiBeacon(Address{1}, b, nil) },
	"sealed":    func(b []byte) (*Advert, error) { return MiBeacon(Address{1}, b, make([]byte, 16)) },
	"atc":       func(b []byte) (*Advert, error) { return ATC(atcSender, b, nil) },
	"unsealed":  func(b []byte) (*Advert, error) { return ATC(atcSender, b, make([]byte, 16)) },
	"ibeacon":   IBeacon,
	"eddystone": Eddystone,
}

func seeds(t testing.TB) [][]byte {
	list := [][]byte{
		unhex(t, "0512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F"), unhex(t, "5020AA01A3BF2E3B342D580D1004B40095020A10013B"),
		unhex(t, "58585B0550F4830238C1A495EF58763C26000097E2ABB5"), unhex(t, "41A47266C95F730011223378237214"),
		unhex(t, "0215E2C56DB5DFFB48D2B060D0F5A71096E000010002C5"), unhex(t, "10EE03676F6F2E676C2F53"), unhex(t, "20000BB81A8000000064000003E8"),
		unhex(t, "A4C1388D18B201122F640CA025"), unhex(t, "B2188D38C1A4590AAD13B6091F1E05"), unhex(t, "11D603FBFA7B6DFB1E26FD"), unhex(t, "58E9E6556581B3F9"),
	}
	for _, v := range bthomeVectors {
		list = append(list, unhex(t, v.data))
	}
	return list
}

// Cut off anywhere, nothing panics and nothing is read that was not there.
func TestCutOff(t *testing.T) {
	for _, data := range seeds(t) {
		for n := range data {
			for name, decode := range decoders {
				a, err := decode(data[:n])
				if err == nil && a == nil {
					t.Errorf("%s %x: neither readings nor an error", name, data[:n])
				}
			}
		}
	}
}

func FuzzDecoders(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, decode := range decoders {
			a, err := decode(data)
			if (a == nil) != (err != nil) && !errors.Is(err, ErrBroken) {
				t.Errorf("%s %x: %v, %v", name, data, a, err)
			}
		}
	})
}
