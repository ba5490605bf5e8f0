package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// suspects finds the message on which the hub hangs up, over any number of
// connections. Such a message would otherwise end every connection for ever; yet
// hubs also hang up because they are throttling, out of quota or going down, and a
// message must not be shelved for that. So it is condemned only by this proof:
//
//  1. The hub hung up twice in a row with messages unanswered: from now on they
//     are sent one at a time.
//  2. It hung up several times on the same message, which was alone with it.
//  3. It took a probe then: an empty message of the gateway itself.
//  4. It hung up on the same message once more.
//
// A hub that does not take the probe either takes nothing: that is a pause for
// everybody, and the message is innocent.
type suspects struct {
	mu      sync.Mutex // guards everything below
	hangups int        // in a row, with messages unanswered and none accepted since
	careful int        // messages that are still to be sent one at a time
	name    string     // the suspect, "" for none
	deaths  int        // of connections on which it was alone
	proven  bool       // the hub took a probe after it had hung up on the suspect
	closed  bool       // the hub did not take the last probe
	guilty  string     // condemned, until it is sent again
}

// enough is how often the hub must hang up on a message before a probe is sent.
const enough = 3

// admit is asked before a message is sent. The error is its verdict.
func (s *suspects) admit(name string) (alone bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == s.guilty {
		s.guilty = ""
		return false, &uplink.Fault{
			Remedy: uplink.Poison,
			Err:    errors.New("the hub closes the connection on this message, and on no other"),
		}
	}
	return s.careful > 0, nil
}

// accepted notes that the hub took a message.
func (s *suspects) accepted(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangups = 0
	if name == probeName {
		return
	}
	s.careful = max(s.careful-1, 0)
	if name == s.name {
		s.name, s.deaths, s.proven = "", 0, false
	}
}

// lost notes the end of a connection, and which messages were with the hub.
func (s *suspects) lost(unanswered []string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(unanswered) == 0 || !errors.Is(why, errHungUp) {
		return // we closed it, or the line broke
	}
	s.hangups++
	if s.hangups >= 2 {
		s.careful = max(s.careful, len(unanswered))
	}
	if len(unanswered) > 1 || s.careful == 0 || unanswered[0] == probeName {
		return
	}
	if unanswered[0] != s.name {
		s.name, s.deaths, s.proven = unanswered[0], 0, false
	}
	if s.deaths++; s.proven {
		s.guilty, s.name, s.deaths, s.proven = s.name, "", 0, false
	}
}

// probeName is the name of the probe among messages.
const probeName = "probe"

// examine sends a probe on a fresh connection if one is due. The error asks
// everybody to wait.
func (s *suspects) examine(ctx context.Context, c *conn) error {
	if !s.probeDue() {
		return nil
	}
	r := &receipt{conn: c, name: probeName, settled: make(chan struct{})}
	err := c.publish(ctx, r, c.dialect.probe(), nil)
	if err == nil {
		err = r.Wait(ctx)
	}
	s.probed(err == nil)
	if err != nil {
		return &uplink.Fault{Remedy: uplink.Throttled, Err: fmt.Errorf("the hub takes no message at all: %w", err)}
	}
	return nil
}

func (s *suspects) probeDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || s.deaths >= enough && !s.proven
}

// probed notes whether the hub took the probe.
func (s *suspects) probed(taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !taken {
		s.closed, s.deaths = true, 0
		return
	}
	s.closed, s.proven = false, s.deaths >= enough
}
