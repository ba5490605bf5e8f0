package routes

import (
	"strconv"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/amqp/server"
)

// eventPath is the entity path of the event endpoint.
const eventPath = "messages/events"

// management answers questions about the event endpoint and its partitions
// (section 5.9).
func (c *connection) management(l *server.Link) server.Endpoint {
	if l.Receives {
		return server.Endpoint{}
	}
	return server.Endpoint{Take: func(d server.Delivery) {
		request, err := amqp.ParseMessage(d.Payload)
		if err != nil {
			d.Settle(malformed(err))
			return
		}
		d.Settle(amqp.State{Outcome: amqp.Accepted})
		c.reply(l, request, c.manage(request.Application))
	}}
}

func (c *connection) manage(ask amqp.Map) *amqp.Message {
	if ask.Text("operation") != "READ" {
		return answer(400, "operation must be READ", nil)
	}
	if !strings.EqualFold(ask.Text("name"), eventPath) {
		return answer(404, "no such entity", nil)
	}
	switch ask.Text("type") {
	case "com.microsoft:eventhub":
		return answer(200, "OK", c.describeHub())
	case "com.microsoft:partition":
		n, err := strconv.Atoi(ask.Text("partition"))
		if err != nil || n < 0 || n >= c.hub.Events.Partitions() {
			return answer(404, "no such partition", nil)
		}
		return answer(200, "OK", c.describePartition(n))
	}
	return answer(400, "type must be com.microsoft:eventhub or com.microsoft:partition", nil)
}

func answer(status int, reason string, body any) *amqp.Message {
	return &amqp.Message{
		Application: amqp.Map{
			{Key: "status-code", Value: int32(status)},
			{Key: "status-description", Value: reason},
		},
		HasValue: true,
		Value:    body,
	}
}

func (c *connection) describeHub() amqp.Map {
	n := c.hub.Events.Partitions()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	return amqp.Map{
		{Key: "name", Value: eventPath},
		{Key: "type", Value: "com.microsoft:eventhub"},
		{Key: "created_at", Value: c.hub.Created},
		{Key: "partition_count", Value: int32(n)},
		{Key: "partition_ids", Value: amqp.StringArray(ids...)},
	}
}

func (c *connection) describePartition(n int) amqp.Map {
	p := c.hub.Events.Partition(n)
	last := p.LastTime
	if last.IsZero() {
		last = c.hub.Created
	}
	return amqp.Map{
		{Key: "name", Value: eventPath},
		{Key: "type", Value: "com.microsoft:partition"},
		{Key: "partition", Value: strconv.Itoa(n)},
		{Key: "begin_sequence_number", Value: p.First},
		{Key: "last_enqueued_sequence_number", Value: p.Last},
		{Key: "last_enqueued_offset", Value: strconv.FormatInt(p.LastOffset, 10)},
		{Key: "last_enqueued_time_utc", Value: last},
		{Key: "is_partition_empty", Value: p.Last < p.First},
	}
}
