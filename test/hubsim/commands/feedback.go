package commands

import (
	"encoding/json"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/message"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// outcome is how a message left its queue, in the words of feedback records.
type outcome string

const (
	success   outcome = "Success"
	expired   outcome = "Expired"
	exceeded  outcome = "DeliveryCountExceeded"
	rejected  outcome = "Rejected"
	purged    outcome = "Purged"
	forgotten outcome = "" // nobody hears of it
)

// reporter returns what adds the feedback record about a command to the
// notices; nil when its sender did not ask for any.
func (q *Queues) reporter(id registry.ID, m *message.Message) func(outcome) {
	positive := m.Ack == "positive" || m.Ack == "full"
	negative := m.Ack == "negative" || m.Ack == "full"
	if !positive && !negative {
		return nil
	}
	generation := q.generation(id) // now, because it is called without locks
	return func(why outcome) {
		if why == forgotten || (why == success && !positive) || (why != success && !negative) {
			return
		}
		q.feedback.Add(id, feedbackRecord(id, generation, m.ID, why))
	}
}

// feedbackRecord writes one record (section 5.8). Its time is that of the
// outcome.
func feedbackRecord(id registry.ID, generation, messageID string, why outcome) []byte {
	b, _ := json.Marshal(struct { // strings only: cannot fail
		MessageID   string  `json:"originalMessageId"`
		Time        string  `json:"enqueuedTimeUtc"`
		Status      outcome `json:"statusCode"`
		Description outcome `json:"description"`
		Device      string  `json:"deviceId"`
		Generation  string  `json:"deviceGenerationId"`
	}{
		messageID, time.Now().UTC().Format("2006-01-02T15:04:05.9999999Z"),
		why, why, id.Device, generation,
	})
	return b
}
