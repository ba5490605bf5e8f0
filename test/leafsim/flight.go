package leafsim

// flights turns the separate answers to messages in flight into one stream of
// acknowledgements, in the order of sending.
type flights struct {
	queue chan flight   // written by add
	out   chan *Message // closed by watch
	lost  <-chan struct{}
}

// flight is one message under way. answered waits for the answer and says
// whether it was an acknowledgement; no answer before lost is closed is no
// acknowledgement.
type flight struct {
	m        *Message
	answered func(lost <-chan struct{}) bool
}

func newFlights(window int, lost <-chan struct{}) *flights {
	return &flights{
		queue: make(chan flight, window+1),
		out:   make(chan *Message, window+1),
		lost:  lost,
	}
}

// add follows a message. There is always room: the leaf keeps to its window.
func (f *flights) add(m *Message, answered func(lost <-chan struct{}) bool) {
	f.queue <- flight{m, answered}
}

// watch passes acknowledgements on until the connection is lost or a message
// is refused. What was answered before the loss is passed on first.
func (f *flights) watch() {
	defer close(f.out)
	for {
		select {
		case next := <-f.queue:
			if !next.answered(f.lost) {
				return
			}
			f.out <- next.m
		case <-f.lost:
			if len(f.queue) == 0 {
				return
			}
		}
	}
}
