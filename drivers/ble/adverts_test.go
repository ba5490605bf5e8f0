package ble

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/gateway"
)

// ear is an advertiser's messages without a bus.
type ear struct {
	*adverts
	got []string
}

func newEar(set func(*AdvertConfig)) *ear {
	cfg := oneAdvert(set)
	e := &ear{}
	t := newTally("ble", []string{"room-1"}, slog.New(slog.DiscardHandler))
	e.adverts = newAdverts(cfg.Adverts, testClock, func(m *gateway.Message) { e.got = append(e.got, string(m.Body)) }, t)
	return e
}

// say hears one BTHome packet.
func (e *ear) say(t *testing.T, data string) {
	t.Helper()
	e.hear(bluez.Sighting{Device: bluez.Device{Address: sensor}, Service: map[string][]byte{bluez.UUID16(0xFCD2): unhex(t, data)}})
}

func (e *ear) expect(t *testing.T, want ...string) {
	t.Helper()
	e.release()
	if !slices.Equal(e.got, want) {
		t.Errorf("got %q, want %q", e.got, want)
	}
	e.got = nil
}

// Between two messages of an advertiser is min_interval; what came meanwhile is joined,
// and nothing of it is lost but what was measured again.
func TestRateOfAnAdvertiser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEar(func(a *AdvertConfig) { a.MinInterval = gateway.Duration(10 * time.Second) })
		e.say(t, "4000010901")
		e.expect(t, `{"count":1}`)
		time.Sleep(time.Second)
		e.say(t, "4000020902")
		e.say(t, "400003015D") // another reading, in a packet of its own
		time.Sleep(time.Second)
		e.say(t, "4000040903")
		e.expect(t)
		time.Sleep(8 * time.Second)
		e.expect(t, `{"count":3,"battery":93}`)
		if n := e.tally.snapshot().Discarded[discardRate]; n != 1 {
			t.Errorf("%d readings were replaced", n)
		}
		time.Sleep(time.Minute)
		e.say(t, "4000050904")
		e.expect(t, `{"count":4}`)
	})
}

// A button is told at once, each press of it.
func TestEventsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEar(func(a *AdvertConfig) { a.MinInterval = gateway.Duration(10 * time.Second) })
		for _, data := range []string{"4400013A01", "4400013A01", "4400023A02", "4400033A01"} {
			e.say(t, data)
		}
		e.expect(t, `{"button":"press"}`, `{"button":"double_press"}`, `{"button":"press"}`)
	})
}

func TestReportOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEar(func(a *AdvertConfig) {
			a.Report, a.Period, a.Deadband = ReportChange, gateway.Duration(10*time.Minute), map[string]float64{"temperature": 0.5}
		})
		temperature := func(hundredths int16) string {
			return hex.EncodeToString(binary.LittleEndian.AppendUint16([]byte{0x40, 0x02}, uint16(hundredths)))
		}
		e.say(t, temperature(2000))
		e.say(t, temperature(2050)) // not beyond the deadband
		e.say(t, temperature(2051))
		e.say(t, temperature(2001)) // as far from the last that was sent
		e.expect(t, `{"temperature":20}`, `{"temperature":20.51}`)
		time.Sleep(10 * time.Minute)
		e.say(t, temperature(2051)) // at least this often
		e.expect(t, `{"temperature":20.51}`)
		e.say(t, "402101") // what has no deadband: any change
		e.say(t, "402101")
		e.say(t, "402100")
		e.expect(t, `{"motion":true}`, `{"motion":false}`)
	})
}

func TestReportOncePerPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEar(func(a *AdvertConfig) { a.Report, a.Period = ReportPeriod, gateway.Duration(time.Minute) })
		for i := range 170 { // nearly three minutes
			e.say(t, hex.EncodeToString([]byte{0x40, 0x09, byte(i)}))
			e.release()
			time.Sleep(time.Second)
		}
		e.expect(t, `{"count":0}`, `{"count":60}`, `{"count":120}`)
	})
}

// Duplicates by number, as the parser of the format has them.
func TestPacketNumbers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ids   []byte
		pause time.Duration
		want  int
	}{
		{"lower", []byte{9, 8}, 0, 1},
		{"63 ahead, rolling over", []byte{0xBD, 0xBE, 0xFD, 0x2F}, 0, 4},
		{"64 ahead", []byte{0, 64}, 0, 1},
		{"equal, 5 s later", []byte{9, 9}, 5 * time.Second, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newEar(func(*AdvertConfig) {})
			for _, id := range tt.ids {
				e.say(t, hex.EncodeToString([]byte{0x40, 0x00, id, 0x09, id}))
				time.Sleep(tt.pause)
			}
			if len(e.got) != tt.want {
				t.Errorf("%s: %d messages, want %d", tt.name, len(e.got), tt.want)
			}
		})
	}
}

func TestCounters(t *testing.T) {
	for _, tt := range []struct {
		last, next uint32
		reset      bool
		want       string
	}{
		{5, 6, false, ""},
		{5, 5, false, discardDuplicate},
		{5, 4, false, discardReplayed},
		{0xFFFFFFFF, 0, false, discardReplayed},
		{0xFFFFFFFF, 0, true, ""},
		{1000, 99, true, ""},
		{1000, 100, true, discardReplayed},
	} {
		x := &advertiser{AdvertConfig: AdvertConfig{CounterReset: tt.reset}, counter: &tt.last}
		if got := x.count(tt.next); got != tt.want {
			t.Errorf("%d after %d, reset %v: %q, want %q", tt.next, tt.last, tt.reset, got, tt.want)
		}
	}
}

func TestRawOnRequest(t *testing.T) {
	for raw, want := range map[bool][]string{false: nil, true: {`{"manufacturer_ffff":"0102"}`}} {
		e := newEar(func(a *AdvertConfig) { a.Raw = raw })
		e.hear(bluez.Sighting{Device: bluez.Device{Address: sensor}, Manufacturer: map[uint16][]byte{0xFFFF: {1, 2}}})
		if !slices.Equal(e.got, want) {
			t.Errorf("raw %v: %q", raw, e.got)
		}
	}
}

// What a bonded device advertises is as unproven as of any other: a bond proves
// connections.
func TestABondProvesNoAdvert(t *testing.T) {
	cfg := oneAdvert()
	var got []*gateway.Message
	a := newAdverts(cfg.Adverts, testClock, func(m *gateway.Message) { got = append(got, m) }, newTally("ble", []string{"room-1"}, slog.New(slog.DiscardHandler)))
	a.hear(bluez.Sighting{
		Device:  bluez.Device{Address: sensor, Paired: true, Bonded: true},
		Service: map[string][]byte{bluez.UUID16(0xFCD2): unhex(t, "4002c409")},
	})
	if len(got) != 1 || trustOf(got[0]) != gateway.TrustAdvertised {
		t.Errorf("got %d messages: %+v", len(got), got)
	}
}

// FuzzAdvert: whatever is in the air, what becomes of it is JSON and bounded.
func FuzzAdvert(f *testing.F) {
	f.Add(uint16(0xFCD2), []byte{0x40, 0x53, 1, '"'}, true)
	f.Add(uint16(0x0499), []byte{5}, false)
	f.Fuzz(func(t *testing.T, kind uint16, data []byte, service bool) {
		e := newEar(func(a *AdvertConfig) { a.Raw, a.Units = true, true })
		s := bluez.Sighting{Device: bluez.Device{Address: sensor, RSSI: -1}}
		if service {
			s.Service = map[string][]byte{bluez.UUID16(kind): data}
		} else {
			s.Manufacturer = map[uint16][]byte{kind: data}
		}
		e.hear(s)
		for _, text := range e.got {
			if !json.Valid([]byte(text)) || len(text) > 64*(len(data)+8) {
				t.Errorf("%04x %x became %s", kind, data, text)
			}
		}
	})
}
