package mqtt

import (
	"context"
	"strconv"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/gateway/hub"
)

// twinAnswer is what the hub says to a request.
type twinAnswer struct {
	status, version int64
	body            []byte
}

// GetTwin is described at gateway.HubTwins. There is the gateway's own only.
func (c *conn) GetTwin(ctx context.Context, leaf string) ([]byte, error) {
	a, err := c.askTwin(ctx, leaf, hub.TwinGetTopic, nil)
	return a.body, err
}

// PatchReported is described at gateway.HubTwins. There is the gateway's own only.
func (c *conn) PatchReported(ctx context.Context, leaf string, patch []byte) (int64, error) {
	a, err := c.askTwin(ctx, leaf, hub.TwinPatchTopic, patch)
	return a.version, err
}

func (c *conn) askTwin(ctx context.Context, leaf string, topic func(rid string) string, body []byte) (twinAnswer, error) {
	if leaf != c.device || !c.dialect.listens() {
		return twinAnswer{}, hub.ErrNoTwin
	}
	if err := c.openFilter(ctx, hub.TwinAnswersFilter, 0); err != nil {
		return twinAnswer{}, err
	}
	answer := make(chan twinAnswer, 1)
	c.mu.Lock()
	c.lastRID++
	rid := strconv.FormatUint(c.lastRID, 10)
	c.twins[rid] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.twins, rid)
	}()
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload = topic(rid), body
	if err := c.send(p); err != nil {
		return twinAnswer{}, err
	}
	select {
	case a := <-answer:
		return a, hub.JudgeTwin(a.status, a.body)
	case <-c.done:
		return twinAnswer{}, c.err
	case <-ctx.Done():
		return twinAnswer{}, ctx.Err()
	}
}

// answerTwin hands an answer to whoever waits for it.
func (c *conn) answerTwin(rid string, a twinAnswer) {
	c.mu.Lock()
	waiting := c.twins[rid]
	delete(c.twins, rid)
	c.mu.Unlock()
	if waiting != nil {
		waiting <- a // it has room for one
	}
}
