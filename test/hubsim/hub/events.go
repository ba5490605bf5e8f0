package hub

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/amqp"
	"github.com/fieldgate/fieldgate/test/hubsim/events"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// The kinds of events that the hub writes itself (section 5.10): what stands in
// iothub-message-source, and the schema that goes with it.
const (
	connectionEvents = "deviceConnectionStateEvents"
	connectionSchema = "deviceConnectionStateNotification"
	lifecycleEvents  = "deviceLifecycleEvents"
	lifecycleSchema  = "deviceLifecycleNotification"
	twinEvents       = "twinChangeEvents"
	twinSchema       = "twinChangeNotification"
)

// ownEvents writes what happens in the hub to its event endpoint.
type ownEvents struct {
	h        *Hub
	sequence atomic.Uint64 // of connection events
}

// watch begins to write.
func (o *ownEvents) watch() {
	o.h.Presence.OnChange(o.connection)
	o.h.Registry.OnChange(o.lifecycle)
	o.h.Twins.OnChange(o.twin)
}

func (o *ownEvents) connection(id registry.ID, connected bool) {
	operation := "deviceDisconnected"
	if connected {
		operation = "deviceConnected"
	}
	body := fmt.Appendf(nil, `{"sequenceNumber":"%064X"}`, o.sequence.Add(1))
	o.write(id, connectionEvents, connectionSchema, operation, body)
}

func (o *ownEvents) lifecycle(c registry.Change, i registry.Identity) {
	switch c {
	case registry.Created:
		twin, err := o.h.Twins.Get(i.ID)
		if err != nil {
			return // deleted again already: that event follows
		}
		o.write(i.ID, lifecycleEvents, lifecycleSchema, "createDeviceIdentity", twin)
	case registry.Deleted:
		o.write(i.ID, lifecycleEvents, lifecycleSchema, "deleteDeviceIdentity", gone(i))
	}
}

// gone is what is left to say of an identity whose twin is deleted with it.
func gone(i registry.Identity) []byte {
	body, err := json.Marshal(struct {
		Device string `json:"deviceId"`
		Module string `json:"moduleId,omitempty"`
		ETag   string `json:"deviceEtag"`
	}{i.ID.Device, i.ID.Module, i.ETag})
	if err != nil {
		panic("hub: texts cannot be encoded: " + err.Error())
	}
	return body
}

func (o *ownEvents) twin(c twins.Change) {
	operation := "updateTwin"
	if c.Replaced {
		operation = "replaceTwin"
	}
	o.write(c.ID, twinEvents, twinSchema, operation, c.Event)
}

// write appends one event about an identity.
func (o *ownEvents) write(id registry.ID, kind, schema, operation string, body []byte) {
	m := &amqp.Message{
		Properties: &amqp.Properties{
			UserID: []byte(o.h.Name), ContentType: "application/json", ContentEncoding: "utf-8",
		},
		Application: amqp.Map{
			{Key: "hubName", Value: o.h.Name},
			{Key: "deviceId", Value: id.Device},
			{Key: "operationTimestamp", Value: Time(time.Now())},
			{Key: "opType", Value: operation},
			{Key: "iothub-message-schema", Value: schema},
		},
		Data: [][]byte{body},
	}
	if id.Module != "" {
		m.Application = append(m.Application, amqp.Pair{Key: "moduleId", Value: id.Module})
	}
	o.h.Events.Append(events.Event{Device: id.Device, Module: id.Module, Kind: kind, Message: m.Append(nil)})
}
