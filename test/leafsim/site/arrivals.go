package site

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/leafsim/check"
)

// arrivals follows what arrives at the hub, by hubsim's own account: the link
// that a back end reads on is cut together with the gateway's. What is judged in
// the end is what a back end reads, see readEvents.
type arrivals struct {
	cancel context.CancelFunc
	reader sync.WaitGroup

	mu          sync.Mutex
	list        []check.Arrival // guarded by mu, like what follows
	connections []uint64        // of the hub, that brought them, each change noted
	full        []hubsim.Arrival
	err         error // that ended the reading too early
}

// start begins to read in the background.
func (a *arrivals) start(follow func(ctx context.Context, use func(hubsim.Arrival) error) error) {
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.reader.Go(func() {
		err := follow(ctx, func(event hubsim.Arrival) error {
			a.add(event)
			return nil
		})
		a.mu.Lock()
		defer a.mu.Unlock()
		a.err = err
	})
}

// stop ends the reading and returns what went wrong with it.
func (a *arrivals) stop() error {
	if a.cancel == nil {
		return nil
	}
	a.cancel()
	a.reader.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// save writes what has arrived to a file, for whoever looks for a fault.
func (a *arrivals) save(file string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.full == nil {
		return nil
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	lines := json.NewEncoder(out)
	for _, event := range a.full {
		if err := lines.Encode(event); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(out.Flush(), f.Close())
}

func (a *arrivals) add(event hubsim.Arrival) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.full = append(a.full, event)
	a.list = append(a.list, judged(event.Device, event.MessageID, event.Body, event.Properties))
	if n := len(a.connections); n == 0 || a.connections[n-1] != event.Connection {
		a.connections = append(a.connections, event.Connection)
	}
}

// Arrivals returns what has arrived at the hub so far, as the checker sees it.
func (s *Site) Arrivals() []check.Arrival {
	s.arrivals.mu.Lock()
	defer s.arrivals.mu.Unlock()
	return s.arrivals.list[:len(s.arrivals.list):len(s.arrivals.list)]
}

// Events returns the same events with everything that they carry.
func (s *Site) Events() []hubsim.Arrival {
	s.arrivals.mu.Lock()
	defer s.arrivals.mu.Unlock()
	return s.arrivals.full[:len(s.arrivals.full):len(s.arrivals.full)]
}

// OneConnectionAtATime says whether each connection brought its messages after
// the one before had brought its last.
func (s *Site) OneConnectionAtATime() bool {
	s.arrivals.mu.Lock()
	defer s.arrivals.mu.Unlock()
	for i, n := range s.arrivals.connections {
		if i > 0 && n < s.arrivals.connections[i-1] {
			return false
		}
	}
	return true
}
