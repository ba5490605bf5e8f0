package routes

import (
	"fmt"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// getTwin answers a twin request (section 2.4). What it carries does not matter:
// some clients send a space (trap 9.14).
func (c *connection) getTwin(r request) {
	err := c.hub.Limits.Take(limits.TwinRead, 0)
	var twin []byte
	if err == nil {
		twin, err = c.hub.Twins.ForDevice(c.source.ID)
	}
	if err != nil {
		c.refuseTwin(r, err)
		return
	}
	c.answerTwin(r, 200, "", twin)
}

// patchTwin merges what the device reports. The answer carries the new version
// (trap 9.27).
func (c *connection) patchTwin(r request, patch []byte) {
	err := c.hub.Limits.Take(limits.TwinUpdate, len(patch))
	var version int64
	if err == nil {
		version, err = c.hub.Twins.PatchReported(c.source.ID, patch, r.version)
	}
	if err != nil {
		c.refuseTwin(r, err)
		return
	}
	c.answerTwin(r, 204, fmt.Sprintf("&$version=%d", version), nil)
}

// refuseTwin answers with an error. Clients look for it in the body rather than
// in the status (trap 9.13).
func (c *connection) refuseTwin(r request, err error) {
	e := refusal.Of(err)
	body, _ := e.ForDevice()
	c.answerTwin(r, e.Status(), "", body)
}

// answerTwin sends an answer to a client that has subscribed to answers; others
// get none.
func (c *connection) answerTwin(r request, status int, more string, body []byte) {
	if c.ends[answersTo] != nil {
		c.conn.Send(fmt.Sprintf("$iothub/twin/res/%d/?$rid=%s%s", status, r.requestID, more), body, 0, nil)
	}
}

// notify tells the device of a change of its desired properties. It is not
// repeated for a device that is away (section 2.4).
func (c *connection) notify(change twins.Change) {
	if change.Desired != nil {
		c.conn.Send(fmt.Sprintf("$iothub/twin/PATCH/properties/desired/?$version=%d", change.Version), change.Desired, 0, nil)
	}
}
