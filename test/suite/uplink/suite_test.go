package suite

import (
	"testing"

	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
)

func TestAMQP(t *testing.T)          { Run(t, dial.AMQP, nil) }
func TestAMQPWebSocket(t *testing.T) { Run(t, dial.AMQPWebSocket, nil) }
func TestMQTT(t *testing.T)          { Run(t, dial.MQTT, nil) }
func TestMQTTWebSocket(t *testing.T) { Run(t, dial.MQTTWebSocket, nil) }
