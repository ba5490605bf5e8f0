package rest

import (
	"bytes"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/message"
)

// FuzzParseBatch checks that a batch is refused or becomes messages that the
// event endpoint can keep.
func FuzzParseBatch(f *testing.F) {
	f.Add([]byte(`[{"body":"b25l","properties":{"iothub-app-a":"b","iothub-expiry":"2026-01-02T03:04:05Z"}}]`))
	f.Add([]byte(`[{"body":"text","base64Encoded":false,"properties":{"IOTHUB-APP-":"","iothub-ack":"full"}}]`))
	f.Add([]byte(`[{"properties":{"iothub-expiry":"Mon Nov 23 2026 08:34:51 GMT+0000 (UTC)"}},{}]`))
	f.Add([]byte(`[null]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := parseBatch(body)
		if err != nil {
			return
		}
		if len(list) == 0 {
			t.Error("a batch of nothing")
		}
		for _, m := range list {
			back, err := amqp.ParseMessage(m.AMQP().Append(nil))
			if err != nil {
				t.Fatal(err)
			}
			again := message.FromAMQP(back)
			if !bytes.Equal(again.Body, m.Body) || again.ID != m.ID {
				t.Errorf("%+v became %+v", m, again)
			}
		}
	})
}
