package routes_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

// FuzzDevice lets a device that has proved itself say anything. The hub must
// neither panic nor wait for it.
func FuzzDevice(f *testing.F) {
	encode := func(list ...packets.ControlPacket) []byte {
		var b bytes.Buffer
		for _, p := range list {
			if err := p.Write(&b); err != nil {
				f.Fatal(err)
			}
		}
		return b.Bytes()
	}
	subscribe := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	subscribe.MessageID, subscribe.Topics, subscribe.Qoss = 1, []string{commandFilter, answerFilter, methodFilter, desiredFilter}, []byte{1, 0, 0, 0}
	f.Add(encode(subscribe, publish("$iothub/twin/GET/?$rid=1", " ", 0)))
	f.Add(encode(subscribe, publish("$iothub/twin/PATCH/properties/reported/?$rid=1&$version=1", `{"a":{"b":null}}`, 1)))
	f.Add(encode(publish(eventTopic+"%24.mid=m&a=b", "x", 1), publish("$iothub/methods/res/200/?$rid=1", "{}", 0)))
	f.Add(encode(order("KillTcp", ""), order("ShutDownMqtt", "&AzIoTHub_FaultOperationDelayInSecs=1")))
	b := newBench(f)
	hello := encode(b.hello(pump))
	f.Fuzz(func(_ *testing.T, said []byte) {
		near, far := net.Pipe()
		var parts sync.WaitGroup
		parts.Go(func() { _ = mqtt.Serve(far, mqtt.Config{}, b.server.Connect) })
		parts.Go(func() { _, _ = io.Copy(io.Discard, near) })
		_, _ = near.Write(hello)
		_, _ = near.Write(said)
		_ = near.Close()
		parts.Wait()
	})
}
