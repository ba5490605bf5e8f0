package ble

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/drivers/handover"
	"github.com/fieldgate/fieldgate/gateway"
)

// Why something in the air did not become a message: label values of metrics.
const (
	discardFull      = "full"      // waited for the gateway, and newer ones needed its room
	discardDuplicate = "duplicate" // the same packet again, by its counter
	discardUnchanged = "unchanged" // within its deadband
	discardRate      = "rate"      // a newer reading came before it was due
	discardBroken    = "broken"    // of a known format, but not readable
	discardNoKey     = "no_key"    // encrypted, and there is no key
	discardForged    = "forged"    // encrypted with another key
	discardPlain     = "plain"     // not encrypted, although there is a key
	discardReplayed  = "replayed"  // its encryption counter has not grown
	discardUnread    = "unread"    // of no format that is read, from an advertiser that is a leaf
	discardBadValue  = "bad_value" // a characteristic whose value does not fit its format
	discardUnheard   = "unheard"   // octets of a stream that came faster than they were read
)

// What is counted beside: event names of gateway.DriverState.Counts.
const (
	countAdverts   = "adverts"          // advertisements heard
	countStrangers = "strangers"        // of them from advertisers that are no leaf
	countResyncs   = "resyncs"          // signals came faster than they were read
	countPassive   = "scans_passive"    // begun
	countActive    = "scans_active"     // begun
	countFallbacks = "scan_fallbacks"   // passive scanning could not be had
	countConnects  = "connects"         // of devices, in all
	countFailures  = "connect_failures" // attempts in vain
	countTurns     = "turns_ended"      // disconnected to let another device in
	countPaired    = "pairings"         // that succeeded
	countUnpaired  = "pairing_failures"
	countStage     = "recover_" // followed by the name of the stage
)

// maxStrangers bounds the list of advertisers that are no leaf.
const maxStrangers = 64

// tally keeps the state. Safe for concurrent use.
type tally struct {
	log *slog.Logger

	mu sync.Mutex
	// guarded by mu:
	s         gateway.DriverState
	peers     map[string]*peer // by leaf
	held      bool
	strangers map[string]*gateway.Stranger
	last      string // text of the last error logged, to log a repeating one once
}

func newTally(name string, leaves []string, log *slog.Logger) *tally {
	t := &tally{log: log, peers: make(map[string]*peer), strangers: make(map[string]*gateway.Stranger)}
	t.s = gateway.DriverState{
		Name: name, Kind: "ble", Logins: make(map[string]int64), Discarded: make(map[string]int64),
		Commands: make(map[string]int64), Calls: make(map[string]int64), Counts: make(map[string]int64),
	}
	for _, leaf := range leaves {
		t.addPeer(leaf)
	}
	return t
}

// addPeer adds a leaf. One may be there twice: it advertises, and is connected.
func (t *tally) addPeer(leaf string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.peers[leaf]
	if x == nil {
		x = new(peer)
		t.peers[leaf] = x
		x.place = len(t.s.Peers)
		t.s.Peers = append(t.s.Peers, gateway.PeerState{Leaf: leaf})
	}
	x.times++
}

// removePeer removes it, if it is not there once more.
func (t *tally) removePeer(leaf string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.peers[leaf]
	if x == nil {
		return
	}
	if x.times--; x.times > 0 {
		return
	}
	delete(t.peers, leaf)
	t.s.Peers = slices.Delete(t.s.Peers, x.place, x.place+1)
	for i := range t.s.Peers[x.place:] {
		t.peers[t.s.Peers[x.place+i].Leaf].place--
	}
}

// peer is a leaf in the state.
type peer struct {
	place int // in Peers
	times int // that it was added
}

func (t *tally) snapshot() gateway.DriverState {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	s.Logins, s.Discarded, s.Commands = maps.Clone(s.Logins), maps.Clone(s.Discarded), maps.Clone(s.Commands)
	s.Calls, s.Counts, s.Peers = maps.Clone(s.Calls), maps.Clone(s.Counts), slices.Clone(s.Peers)
	for _, x := range t.strangers {
		s.Strangers = append(s.Strangers, *x)
	}
	slices.SortFunc(s.Strangers, func(a, b gateway.Stranger) int { return b.Seen.Compare(a.Seen) })
	return s
}

// up notes that the adapter is there; note says what is not as it should be.
func (t *tally) up(device, note string) {
	t.mu.Lock()
	news := !t.s.Up
	if news {
		t.s.Up, t.s.Err, t.s.Since, t.last = true, nil, time.Now(), ""
		t.s.Ups++
	}
	t.s.Device = device
	renoted := t.s.Note != note
	t.s.Note = note
	t.mu.Unlock()
	if news {
		t.log.Info("Bluetooth adapter is there", "device", device)
	}
	if renoted && note != "" {
		t.log.Warn("Bluetooth adapter is not as it should be", "note", note)
	}
}

// down notes why there is no adapter. The same reason again is not logged.
func (t *tally) down(err error) {
	t.mu.Lock()
	if t.s.Up || t.s.Since.IsZero() {
		t.s.Since = time.Now()
	}
	t.s.Up, t.s.Err, t.s.Note = false, err, ""
	for i := range t.s.Peers {
		if p := &t.s.Peers[i]; p.Up {
			p.Up, p.Err, p.Since = false, "no adapter", time.Now()
		}
	}
	news := err != nil && err.Error() != t.last
	if news {
		t.last = err.Error()
	}
	t.mu.Unlock()
	if news {
		t.log.Warn("no Bluetooth adapter", "err", err)
	}
}

// peer notes whether a leaf answers; why is "" when it does.
func (t *tally) peer(leaf, why string) {
	t.mu.Lock()
	x := t.peers[leaf]
	if x == nil { // a word too late: it is removed
		t.mu.Unlock()
		return
	}
	p := &t.s.Peers[x.place]
	news := p.Up != (why == "") || p.Since.IsZero()
	if news {
		p.Up, p.Since = why == "", time.Now()
	}
	renamed := p.Err != why
	p.Err = why
	t.mu.Unlock()
	if news || renamed {
		t.log.Debug("Bluetooth leaf", "leaf", leaf, "up", why == "", "why", why)
	}
}

// Waiting, Taken, Refused and Holding implement handover.Tally.
func (t *tally) Waiting(int) {}

// Taken is described at handover.Tally.
func (t *tally) Taken(i *handover.Item) {
	t.add(func(s *gateway.DriverState) { s.Taken[i.Message.Lane]++ })
}

// Refused is described at handover.Tally.
func (t *tally) Refused(_ *handover.Item, why string) { t.discard(why) }

func (t *tally) discard(why string) { t.add(func(s *gateway.DriverState) { s.Discarded[why]++ }) }
func (t *tally) count(event string) { t.add(func(s *gateway.DriverState) { s.Counts[event]++ }) }

func (t *tally) add(f func(*gateway.DriverState)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.s)
}

// Holding notes why the gateway takes no messages, or that it takes them (nil).
func (t *tally) Holding(why error) {
	t.mu.Lock()
	news := t.held != (why != nil)
	t.held = why != nil
	t.mu.Unlock()
	switch {
	case news && why != nil:
		t.log.Warn("gateway does not take messages, what is in the air will be dropped", "err", why)
	case news:
		t.log.Info("gateway takes messages again")
	}
}

// stranger notes an advertiser that is no leaf. At the bound the one that was silent
// longest is forgotten.
func (t *tally) stranger(d *bluez.Device, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Counts[countStrangers]++
	x := t.strangers[d.Address]
	if x == nil {
		if len(t.strangers) >= maxStrangers {
			oldest := ""
			for address, y := range t.strangers {
				if oldest == "" || y.Seen.Before(t.strangers[oldest].Seen) {
					oldest = address
				}
			}
			delete(t.strangers, oldest)
		}
		x = &gateway.Stranger{Address: d.Address}
		t.strangers[d.Address] = x
	}
	x.Count++
	x.Seen = time.Now()
	x.Signal = d.RSSI
	if d.Name != "" {
		x.Name = printable(d.Name)
	}
	if what != "" {
		x.What = what
	}
}

// printable bounds what a stranger calls itself.
func printable(name string) string {
	const most = 32
	b := []rune(name)
	b = slices.DeleteFunc(b[:min(len(b), most)], func(r rune) bool { return r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 })
	return string(b)
}
