package mqtt_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/fieldgate/fieldgate/test/hubsim/mqtt"
)

// FuzzServe lets clients say anything. The server must neither panic nor stay.
func FuzzServe(f *testing.F) {
	for _, list := range [][]packets.ControlPacket{
		{hello(60), publish("t", 1, 1), publish("later", 1, 2), publish("t", 0, 0), publish("t", 1, 3)},
		{hello(0), subscribe(1, "a", "no"), publish("send", 1, 7), puback(1), puback(9), packets.NewControlPacket(packets.Pingreq)},
		{hello(1), publish("refuse", 1, 1), packets.NewControlPacket(packets.Disconnect)},
	} {
		var b bytes.Buffer
		for _, p := range list {
			if err := p.Write(&b); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		near, far := net.Pipe()
		var parts sync.WaitGroup
		parts.Go(func() { _ = mqtt.Serve(far, mqtt.Config{Log: slog.New(slog.DiscardHandler)}, letIn) })
		parts.Go(func() { _, _ = io.Copy(io.Discard, near) })
		_, _ = near.Write(said)
		_ = near.Close()
		parts.Wait()
	})
}

// letIn lets everyone in, with routes that use all there is.
func letIn(conn *mqtt.Conn, l mqtt.Login) (mqtt.Routes, bool, byte) {
	r := &routes{closed: make(chan bool, 1)}
	var later []func(error)
	r.publish = func(p mqtt.Publish, done func(error)) {
		switch p.Topic {
		case "later":
			later = append(later, done)
		case "refuse":
			done(errors.New("refused"))
		case "send":
			conn.Send(p.Topic, p.Body, 1, func() { conn.Send("acked", nil, 0, nil) })
			conn.SendAs(9, p.Duplicate, p.Topic, p.Body, nil)
			done(mqtt.ErrUnanswered)
		default:
			for _, f := range later {
				f(nil)
			}
			done(nil)
			done(nil)
		}
	}
	if l.ClientID == "" {
		return nil, false, mqtt.BadIdentifier
	}
	return r, false, mqtt.Accepted
}
