package ble

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble/advert"
	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/gateway"
)

// counterNote is the kind of note that keeps the last encryption counter of an
// advertiser, by its address: 4 octets, big endian.
const counterNote = "ble counter"

// saveEvery is how often counters go to flash. After a crash what was recorded since
// then could be played back once.
const saveEvery = 10 * time.Minute

// adverts makes messages of what advertisers say. One that is no leaf is only counted.
type adverts struct {
	clock gateway.Clock
	offer func(*gateway.Message)
	tally *tally

	wake chan struct{} // to run: something waits, or is due earlier

	mu sync.Mutex
	// guarded by mu, by address in upper case:
	by      map[string]*advertiser
	devices map[string]bool // that are leaves without advertising anything
	seen    time.Time       // when anything was heard last
}

// advertiser is what is known of one that is a leaf.
type advertiser struct {
	AdvertConfig
	address advert.Address

	streams map[string]*stream // by format
	counter *uint32            // of the encryption, the last one that was believed
	dirty   bool               // counter is not on flash yet

	sent   map[string]any // the last value of each reading that was sent
	sentAt time.Time      // zero: never
	// waiting are the newest readings that are not due yet, each name once.
	waiting []advert.Reading
	signal  bluez.Device    // who has sent them
	heard   gateway.Instant // and when
	due     time.Time
}

// stream is what is known of the packets of one format.
type stream struct {
	sequence uint32
	at       time.Time
}

func newAdverts(list []AdvertConfig, clock gateway.Clock, offer func(*gateway.Message), t *tally) *adverts {
	a := &adverts{clock: clock, offer: offer, tally: t, wake: make(chan struct{}, 1), by: make(map[string]*advertiser), devices: make(map[string]bool)}
	for _, c := range list {
		_ = a.add(c, nil) // there are no notes to fail
	}
	return a
}

// add makes an advertiser a leaf; notes of nil are recalled later.
func (a *adverts) add(c AdvertConfig, notes gateway.Notes) error {
	address := strings.ToUpper(c.Address)
	x := &advertiser{AdvertConfig: c, address: parseAddress(c.Address), streams: make(map[string]*stream)}
	if notes != nil {
		value, err := notes.Note(counterNote, address)
		if err != nil {
			return fmt.Errorf("cannot read the counter of an encrypting advertiser: %w", err)
		}
		x.recall(value)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.by[address] = x
	return nil
}

// remove forgets an advertiser, and says whose it was. What is kept of it goes to notes.
func (a *adverts) remove(address string, notes gateway.Notes) (leaf string, known bool) {
	address = strings.ToUpper(address)
	if notes != nil {
		a.keep(notes)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	x, known := a.by[address]
	if !known {
		return "", false
	}
	delete(a.by, address)
	return x.Leaf, true
}

// expect says that a device is a leaf, or none any more, whatever it advertises.
func (a *adverts) expect(address string, leaf bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if address = strings.ToUpper(address); leaf {
		a.devices[address] = true
	} else {
		delete(a.devices, address)
	}
}

// count is how many advertisers are leaves.
func (a *adverts) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.by)
}

// recall takes over what was noted, nothing for nil.
func (x *advertiser) recall(note []byte) {
	if len(note) == 4 {
		x.counter = new(binary.BigEndian.Uint32(note))
	}
}

// recall reads the counters of the last run.
func (a *adverts) recall(notes gateway.Notes) error {
	return notes.EachNote(counterNote, func(address string, value []byte) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if x := a.by[address]; x != nil {
			x.recall(value)
		}
		return nil
	})
}

// save notes counters that have grown.
func (a *adverts) save(notes gateway.Notes) error {
	grown := make(map[string][]byte)
	a.mu.Lock()
	for address, x := range a.by {
		if x.dirty {
			grown[address] = binary.BigEndian.AppendUint32(nil, *x.counter)
			x.dirty = false
		}
	}
	a.mu.Unlock()
	if len(grown) == 0 {
		return nil
	}
	return notes.SetNotes(counterNote, grown)
}

// lastHeard is when anything was heard, zero for never.
func (a *adverts) lastHeard() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

// hear takes one advertisement. It does not block.
func (a *adverts) hear(s bluez.Sighting) {
	a.tally.count(countAdverts)
	a.mu.Lock()
	a.seen = time.Now()
	x := a.by[s.Device.Address]
	if x == nil {
		device := a.devices[s.Device.Address]
		a.mu.Unlock()
		if device {
			return
		}
		a.tally.stranger(&s.Device, guess(&s))
		return
	}
	counts, messages := x.read(&s, a.clock)
	a.mu.Unlock()
	for _, why := range counts {
		a.tally.discard(why)
	}
	a.tally.peer(x.Leaf, "")
	for _, m := range messages {
		a.offer(m)
	}
	signal(a.wake)
}

// guess names the formats of an advertisement.
func guess(s *bluez.Sighting) string {
	var all []string
	for _, f := range elementsOf(s) {
		if f.format != "" {
			all = append(all, f.format)
		}
	}
	return strings.Join(all, " ")
}

// element is a piece of an advertisement that a decoder may read.
type element struct {
	format string // "" for none that is known
	name   string // of its kind, for raw messages
	data   []byte
	decode func(address advert.Address, data, key []byte) (*advert.Advert, error)
}

// services and companies are the decoders, by 16-bit UUID and by company.
var (
	services = map[string]element{
		bluez.UUID16(advert.BTHomeUUID):        {format: formatBTHome, decode: advert.BTHome},
		bluez.UUID16(advert.MiBeaconUUID):      {format: formatMiBeacon, decode: advert.MiBeacon},
		bluez.UUID16(advert.EnvironmentalUUID): {format: formatATC, decode: advert.ATC},
		bluez.UUID16(advert.EddystoneUUID): {format: formatEddystone, decode: func(_ advert.Address, data, _ []byte) (*advert.Advert, error) {
			return advert.Eddystone(data)
		}},
	}
	companies = map[uint16]element{
		advert.RuuviCompany: {format: formatRuuvi, decode: func(_ advert.Address, data, _ []byte) (*advert.Advert, error) {
			return advert.Ruuvi(data)
		}},
		advert.AppleCompany: {format: formatIBeacon, decode: func(_ advert.Address, data, _ []byte) (*advert.Advert, error) {
			return advert.IBeacon(data)
		}},
	}
)

// elementsOf lists what is in an advertisement, in an order that does not change.
func elementsOf(s *bluez.Sighting) (all []element) {
	for _, uuid := range slices.Sorted(maps.Keys(s.Service)) {
		e := services[uuid]
		e.name, e.data = "service_"+uuid, s.Service[uuid]
		all = append(all, e)
	}
	for _, company := range slices.Sorted(maps.Keys(s.Manufacturer)) {
		e := companies[company]
		e.name, e.data = fmt.Sprintf("manufacturer_%04x", company), s.Manufacturer[company]
		all = append(all, e)
	}
	return all
}

// read makes messages of one advertisement; those that are not due yet stay pending.
// counts are the reasons why others are none.
func (x *advertiser) read(s *bluez.Sighting, clock gateway.Clock) (counts []string, now []*gateway.Message) {
	for _, e := range elementsOf(s) {
		if x.Format != formatAuto && x.Format != e.format {
			continue
		}
		ad, why := x.decode(e)
		if why == discardUnread && x.Raw {
			ad, why = &advert.Advert{Readings: []advert.Reading{{Name: e.name, Value: hex.EncodeToString(e.data)}}}, ""
		}
		if why != "" {
			counts = append(counts, why)
			continue
		}
		if len(ad.Readings) == 0 {
			continue // only a packet number
		}
		m, why := x.report(ad, s, clock)
		if why != "" {
			counts = append(counts, why)
		}
		if m != nil {
			now = append(now, m)
		}
	}
	return counts, now
}

// decode reads an element, unless it was read before.
func (x *advertiser) decode(e element) (ad *advert.Advert, why string) {
	if e.decode == nil {
		return nil, discardUnread
	}
	ad, err := e.decode(x.address, e.data, x.Key)
	switch {
	case errors.Is(err, advert.ErrNotMine):
		return nil, discardUnread
	case errors.Is(err, advert.ErrKey):
		return nil, discardNoKey
	case errors.Is(err, advert.ErrTag):
		return nil, discardForged
	case errors.Is(err, advert.ErrPlain):
		return nil, discardPlain
	case err != nil:
		return nil, discardBroken
	}
	if ad.Counter != nil {
		if why := x.count(*ad.Counter); why != "" {
			return nil, why
		}
	}
	if ad.Sequence != nil && ad.Counter == nil && x.again(e.format, *ad.Sequence) {
		return nil, discardDuplicate
	}
	return ad, ""
}

// count believes an encryption counter that has grown. One that begins anew below
// 100 is believed only where the operator says so (bthome-ble, parser).
func (x *advertiser) count(n uint32) (why string) {
	if last := x.counter; last != nil {
		switch {
		case n == *last:
			return discardDuplicate
		case n < *last && !(x.CounterReset && n < 100):
			return discardReplayed
		}
	}
	x.counter, x.dirty = &n, true
	return ""
}

// again says that a packet was had before. BTHome's numbers are short, so an equal or
// slightly older one is the same only within some seconds (bthome-ble, parser); a
// RuuviTag's is of the measurement, for as long as it is repeated.
func (x *advertiser) again(format string, n uint32) bool {
	const short, long = 4 * time.Second, 10 * time.Minute
	now := time.Now()
	last := x.streams[format]
	x.streams[format] = &stream{n, now}
	if last == nil {
		return false
	}
	age := now.Sub(last.at)
	old := n == last.sequence && age < long
	if format == formatBTHome {
		ahead := uint8(n) - uint8(last.sequence)
		old = (ahead == 0 || ahead > 63) && age < short
	}
	if old {
		// What was last is the newest still; a repetition keeps it from getting old,
		// except where age makes the difference.
		x.streams[format] = last
		if format != formatBTHome {
			last.at = now
		}
	}
	return old
}

// report says what becomes of new readings: a message now, or later, or none. Readings
// that wait are joined by those of other names: many sensors spread what they measure
// over several packets.
func (x *advertiser) report(ad *advert.Advert, s *bluez.Sighting, clock gateway.Clock) (now *gateway.Message, why string) {
	at := time.Now()
	if x.Report == ReportChange && !x.changed(ad.Readings) && (x.Period == 0 || at.Sub(x.sentAt) < x.Period.D()) {
		return nil, discardUnchanged
	}
	interval := x.MinInterval.D()
	if x.Report == ReportPeriod {
		interval = x.Period.D()
	}
	x.due, x.signal, x.heard = x.sentAt.Add(interval), s.Device, clock()
	if event := ad.Triggered && ad.Sequence != nil; event {
		x.sentAt = at
		return x.message(ad.Readings), ""
	}
	if x.join(ad.Readings) {
		why = discardRate
	}
	if !x.sentAt.IsZero() && at.Before(x.due) {
		return nil, why
	}
	return x.take(at), why
}

// join puts readings with those that wait, and says whether it replaced any.
func (x *advertiser) join(readings []advert.Reading) (replaced bool) {
	for _, r := range readings {
		if i := slices.IndexFunc(x.waiting, func(w advert.Reading) bool { return w.Name == r.Name }); i >= 0 {
			x.waiting[i], replaced = r, true
			continue
		}
		x.waiting = append(x.waiting, r)
	}
	return replaced
}

// take makes a message of what waits.
func (x *advertiser) take(at time.Time) *gateway.Message {
	m := x.message(x.waiting)
	if x.sent == nil {
		x.sent = make(map[string]any)
	}
	for _, r := range x.waiting {
		x.sent[r.Name] = r.Value
	}
	x.sentAt, x.waiting = at, nil
	return m
}

// changed says that a reading is new, or beyond its deadband.
func (x *advertiser) changed(readings []advert.Reading) bool {
	for _, r := range readings {
		last, known := x.sent[r.Name]
		if w := slices.IndexFunc(x.waiting, func(w advert.Reading) bool { return w.Name == r.Name }); !known || w >= 0 {
			return true // what waits is replaced, also by what was sent before
		}
		a, isA := number(r.Value)
		b, isB := number(last)
		if isA && isB {
			if math.Abs(a-b) > x.Deadband[r.Name] {
				return true
			}
		} else if r.Value != last {
			return true
		}
	}
	return false
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int64:
		return float64(n), true
	}
	return 0, false
}

// message makes a message of readings. It is stamped here and not on entry to the
// gateway, since it may have to wait before.
func (x *advertiser) message(readings []advert.Reading) *gateway.Message {
	// A bond proves a connection; what is advertised anybody can say in its name.
	return &gateway.Message{
		Leaf: x.Leaf, Kind: gateway.Telemetry, Lane: laneOf(x.Lane), Channel: x.Channel,
		System: jsonBody(), Properties: trusted(gateway.TrustAdvertised), Body: body(readings, x.signal.RSSI, x.Units), Captured: x.heard,
	}
}

func laneOf(name string) gateway.Lane { return gateway.Lane(slices.Index(gateway.LaneNames[:], name)) }

// run offers what has become due, and saves counters, until ctx ends.
func (a *adverts) run(ctx context.Context, notes gateway.Notes) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	for {
		timer.Reset(a.release())
		select {
		case <-timer.C:
		case <-a.wake:
		case <-save.C:
			a.keep(notes)
		case <-ctx.Done():
			a.keep(notes)
			return
		}
	}
}

func (a *adverts) keep(notes gateway.Notes) {
	if err := a.save(notes); err != nil {
		a.tally.log.Warn("cannot note the counters of encrypting advertisers: what was recorded could be played back", "err", err)
	}
}

// release offers what is due and returns how long nothing more will be.
func (a *adverts) release() time.Duration {
	wait := time.Hour
	var due []*gateway.Message
	a.mu.Lock()
	for _, x := range a.by {
		if len(x.waiting) == 0 {
			continue
		}
		if left := time.Until(x.due); left > 0 {
			wait = min(wait, left)
			continue
		}
		due = append(due, x.take(time.Now()))
	}
	a.mu.Unlock()
	for _, m := range due {
		a.offer(m)
	}
	return wait
}

// patterns are what a passive scan asks for: the flags of what can be connected or
// paired, and the formats that are read.
func patterns() []bluez.Pattern {
	const flags, serviceData, manufacturer = 0x01, 0x16, 0xFF // AD types (assigned numbers, section 2.3)
	var all []bluez.Pattern
	for _, f := range []byte{0x02, 0x04, 0x05, 0x06, 0x1A} {
		all = append(all, bluez.Pattern{Type: flags, Content: []byte{f}})
	}
	for _, uuid := range []uint16{advert.BTHomeUUID, advert.MiBeaconUUID, advert.EnvironmentalUUID, advert.EddystoneUUID} {
		all = append(all, bluez.Pattern{Type: serviceData, Content: binary.LittleEndian.AppendUint16(nil, uuid)})
	}
	for _, company := range []uint16{advert.RuuviCompany, advert.AppleCompany} {
		all = append(all, bluez.Pattern{Type: manufacturer, Content: binary.LittleEndian.AppendUint16(nil, company)})
	}
	return all
}

// signal leaves a note in a channel of capacity one. One is enough: whoever reads it
// looks at everything.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
