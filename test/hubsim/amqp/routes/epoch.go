package routes

import (
	"sync"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
)

// readers settles who may read. A reader with an epoch wants a partition for
// itself: it pushes out everyone of its group with a lower epoch or none, and
// keeps those out. The zero value has no readers. It is safe for concurrent
// use.
type readers struct {
	mu    sync.Mutex // guards seats
	seats map[seat]*occupants
}

// seat is what exclusive readers fight over.
type seat struct {
	group     string // in lower case
	partition int
}

// occupants are the links that read one partition for one group.
type occupants struct {
	epoch     int64 // of the exclusive reader
	exclusive bool
	links     map[*server.Link]struct{}
}

// enter lets a link read, after it has pushed out who must go.
func (r *readers) enter(place seat, l *server.Link) *amqp.Error {
	losers, e := r.take(place, l)
	for _, loser := range losers {
		loser.Detach(&amqp.Error{Condition: amqp.CondStolen, Description: "a reader with a higher epoch has come"})
	}
	return e
}

func (r *readers) take(place seat, l *server.Link) (losers []*server.Link, e *amqp.Error) {
	epoch, exclusive := l.Properties.Get("com.microsoft:epoch").(int64)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seats == nil {
		r.seats = make(map[seat]*occupants)
	}
	all := r.seats[place]
	if all == nil {
		all = &occupants{links: make(map[*server.Link]struct{})}
		r.seats[place] = all
	}
	if all.exclusive && (!exclusive || epoch < all.epoch) {
		return nil, &amqp.Error{Condition: amqp.CondStolen, Description: "a reader with a higher epoch is there"}
	}
	if exclusive {
		for loser := range all.links {
			losers = append(losers, loser)
		}
		clear(all.links)
		all.epoch, all.exclusive = epoch, true
	}
	all.links[l] = struct{}{}
	return losers, nil
}

// leave frees the link's place.
func (r *readers) leave(place seat, l *server.Link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.seats[place]
	if all == nil {
		return
	}
	delete(all.links, l)
	if len(all.links) == 0 {
		delete(r.seats, place)
	}
}
