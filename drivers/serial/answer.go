package serial

import (
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway/failpoint"
)

// answerLimit is how long an answer waits for a leaf to read it. It is longer
// than 64 answers take at 4800 baud.
const answerLimit = 5 * time.Second

// answers writes answer lines to the port in one opening of it. Answers never
// go to a later opening: the leaf may have restarted meanwhile and have given
// the same numbers to other lines.
type answers struct {
	port  *port.Port
	limit time.Duration // answerLimit
	queue chan string
	over  chan struct{} // closed when the opening ends
	ready func()        // called when there is room for an answer that was not queued
	tally *tally
}

func newAnswers(p *port.Port, room int, ready func(), t *tally) *answers {
	return &answers{port: p, limit: answerLimit, queue: make(chan string, room), over: make(chan struct{}), ready: ready, tally: t}
}

// offer queues an answer. false means that there is no room at the moment. In an
// opening that has ended answers are counted as lost.
func (a *answers) offer(text string) bool {
	select {
	case <-a.over:
		a.tally.answered(false)
		return true
	default:
	}
	select {
	case a.queue <- text:
		return true
	default:
		return false
	}
}

// run writes until end is called and the port is closed. A leaf that does not
// read its answers is waited for once; after that, answers that it has no room
// for are dropped until it reads again.
func (a *answers) run() {
	limit, begin := a.limit, ""
	for {
		select {
		case <-a.over:
			for range len(a.queue) {
				a.tally.answered(false)
			}
			return
		case text := <-a.queue:
			failpoint.Hit(failpoint.SerialAnswer)
			n, err := a.port.Write([]byte(begin+text), limit)
			failpoint.Hit(failpoint.SerialAnswered)
			limit, begin = a.limit, ""
			if err != nil {
				limit = time.Millisecond
			}
			if err != nil && n > 0 {
				begin = "\n" // ends the torn answer
			}
			a.tally.answered(err == nil)
			a.ready()
		}
	}
}

// end says that the opening is over.
func (a *answers) end() {
	close(a.over)
	a.ready()
}

// answerText is the answer to the nth understood line of an opening: with the
// leaf's own number if it sent one, otherwise with n.
func answerText(taken bool, seq string, n uint64) string {
	switch {
	case taken && seq != "":
		return `{"ack":` + seq + "}\n"
	case seq != "":
		return `{"nak":` + seq + "}\n"
	case taken:
		return "ACK " + strconv.FormatUint(n, 10) + "\n"
	}
	return "NAK " + strconv.FormatUint(n, 10) + "\n"
}
