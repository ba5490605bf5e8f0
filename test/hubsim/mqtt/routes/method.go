package routes

import (
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
)

// call hands a method request to the device (section 2.5). The usual names stay
// as they are; one with a wildcard of MQTT would be no topic. The answer comes
// as a message, see Publish.
func (c *connection) call(r methods.Request) {
	c.conn.Send(fmt.Sprintf("$iothub/methods/POST/%s/?$rid=%s", escape(r.Name), r.ID), r.Payload, 0, nil)
}
