package ble

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
	"github.com/fieldgate/fieldgate/gateway"
)

// maxDown is how many commands and desired changes of a leaf may be under way: more than
// the gateway hands over at once.
const maxDown = 64

// commandProperty is the application property of a cloud-to-device message that names
// the command. A device that has only one needs none.
const commandProperty = "command"

// delivery is a command, or a desired change, on its way to a device.
type delivery struct {
	c      *gateway.Command
	answer func(gateway.Verdict)

	patch   []byte // where c is nil
	version int64
	heard   func()
}

// Command is described at gateway.DownHandler.
func (d *Driver) Command(c *gateway.Command, answer func(gateway.Verdict)) {
	p := d.device(c.Leaf)
	if p == nil {
		answer(gateway.Undelivered)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != nil {
		select {
		case p.link.down <- delivery{c: c, answer: answer}:
			return
		default:
		}
	}
	answer(gateway.Undelivered)
}

// deliver writes commands and desired changes until ctx ends, one after the other.
func (p *peripheral) deliver(ctx context.Context, l *link) {
	for {
		select {
		case x := <-l.down:
			if x.c == nil {
				p.desire(ctx, l, x)
				continue
			}
			v := p.obey(ctx, l, x.c)
			p.driver.tally.add(func(s *gateway.DriverState) { s.Commands[v.String()]++ })
			x.answer(v)
		case <-ctx.Done():
			return
		}
	}
}

// giveBack has no word on what nobody will write any more: it comes again. Nobody may
// hand anything to the link any more.
func (l *link) giveBack() {
	for {
		select {
		case x := <-l.down:
			if x.c != nil {
				x.answer(gateway.Undelivered)
			}
		default:
			return
		}
	}
}

// obey writes one command and returns the device's word.
func (p *peripheral) obey(ctx context.Context, l *link, c *gateway.Command) gateway.Verdict {
	v := p.commanded(c)
	if v == nil {
		return gateway.Rejected
	}
	b, err := v.encode(c.Body)
	if err != nil {
		p.driver.log.Warn("command cannot be written", "leaf", p.Leaf, "command", v.Command, "err", err)
		return gateway.Rejected
	}
	return verdict(l.write(ctx, v, b))
}

// commanded finds the value that a command is for.
func (p *peripheral) commanded(c *gateway.Command) *value {
	name := ""
	for _, x := range c.Properties {
		if x.Name == commandProperty {
			name = x.Value
		}
	}
	var found []*value
	for _, v := range p.values {
		if v.Command != "" && (name == "" || v.Command == name) {
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// verdict is the device's word on a write.
func verdict(err error) gateway.Verdict {
	switch {
	case err == nil:
		return gateway.Completed
	case bluez.IsError(err, "NotPermitted"), bluez.IsError(err, "NotAuthorized"), bluez.IsError(err, "NotSupported"),
		bluez.IsError(err, "InvalidValueLength"), bluez.IsError(err, "InvalidOffset"), bluez.IsError(err, "InvalidArguments"):
		return gateway.Rejected
	case bluez.IsError(err, "Failed"):
		return gateway.Abandoned // an error of the device's own: perhaps not the next time
	}
	return gateway.Undelivered // not connected, or nobody knows
}

// encode makes octets of a JSON value; text and bytes may stand without quotes.
func (v *value) encode(body []byte) ([]byte, error) {
	how := v.value()
	var x any
	if err := json.Unmarshal(body, &x); err != nil {
		x = string(body)
	}
	if how.Format == "utf8" {
		if _, isText := x.(string); !isText {
			x = string(body)
		}
	}
	if how.Format == "bytes" || how.Format == "" {
		if _, isText := x.(string); !isText {
			x = string(body) // digits only
		}
	}
	b, err := how.Encode(x)
	if err == nil && len(b) > maxOctets {
		return nil, fmt.Errorf("%d octets are more than a value can have", len(b))
	}
	return b, err
}

// Call is described at gateway.DownHandler. A method with a payload writes its value, and
// one without reads it.
func (d *Driver) Call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	reply, err := d.call(ctx, c)
	end := "answered"
	if err != nil {
		end = "absent"
	}
	d.tally.add(func(s *gateway.DriverState) { s.Calls[end]++ })
	return reply, err
}

func (d *Driver) call(ctx context.Context, c *gateway.Call) (*gateway.Reply, error) {
	p := d.device(c.Leaf)
	if p == nil {
		return nil, gateway.ErrAbsent
	}
	p.mu.Lock()
	l := p.link
	p.mu.Unlock()
	if l == nil {
		return nil, gateway.ErrAbsent
	}
	for _, v := range p.values {
		if v.Method != c.Name || v.Method == "" {
			continue
		}
		if len(c.Body) == 0 || string(c.Body) == "null" {
			return v.readFor(ctx, l)
		}
		return v.writeFor(ctx, l, c.Body)
	}
	return answerWith(http.StatusNotFound, map[string]any{"error": fmt.Sprintf("there is no method %q", c.Name)}), nil
}

func (v *value) readFor(ctx context.Context, l *link) (*gateway.Reply, error) {
	b, err := l.session.client.Read(ctx, l.paths[v].Path)
	if err != nil {
		return answerFailure(ctx, err)
	}
	x, err := v.value().Decode(b)
	if err != nil {
		return answerWith(http.StatusBadGateway, map[string]any{"error": "the value " + err.Error()}), nil
	}
	return answerWith(http.StatusOK, map[string]any{"value": x}), nil
}

func (v *value) writeFor(ctx context.Context, l *link, body []byte) (*gateway.Reply, error) {
	b, err := v.encode(body)
	if err != nil {
		return answerWith(http.StatusBadRequest, map[string]any{"error": "the value " + err.Error()}), nil
	}
	if err := l.write(ctx, v, b); err != nil {
		return answerFailure(ctx, err)
	}
	return answerWith(http.StatusOK, map[string]any{}), nil
}

// answerFailure says why the device did not do it.
func answerFailure(ctx context.Context, err error) (*gateway.Reply, error) {
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case verdict(err) == gateway.Undelivered && !bluez.Hung(err):
		return nil, gateway.ErrAbsent
	case bluez.Hung(err):
		return answerWith(http.StatusGatewayTimeout, map[string]any{"error": "the device does not answer"}), nil
	}
	return answerWith(http.StatusBadGateway, map[string]any{"error": err.Error()}), nil
}

func answerWith(status int, body any) *gateway.Reply {
	b, _ := json.Marshal(body) // it cannot fail: text and numbers
	return &gateway.Reply{Status: status, Body: b}
}

// Desired is described at gateway.DownHandler. What does not fit is told again when the
// device is connected the next time.
func (d *Driver) Desired(leaf string, patch []byte, version int64, heard func()) {
	p := d.device(leaf)
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == nil {
		return
	}
	select {
	case p.link.down <- delivery{patch: patch, version: version, heard: heard}:
	default:
	}
}

// outcome is what is reported of a desired property, as the back ends of IoT Plug and
// Play read it: value, status like HTTP's, version and words.
type outcome struct {
	Value   json.RawMessage `json:"value"`
	Status  int             `json:"ac"`
	Version int64           `json:"av"`
	Words   string          `json:"ad,omitempty"`
}

// desire writes a change of desired properties, and reports what became of it. A change is
// heard when each of its values has a final word: what the device could not do at the
// moment is told again at the next connection.
func (p *peripheral) desire(ctx context.Context, l *link, x delivery) {
	var patch map[string]json.RawMessage
	if err := json.Unmarshal(x.patch, &patch); err != nil {
		p.driver.log.Warn("desired change cannot be read", "leaf", p.Leaf, "err", err)
		return
	}
	final := true
	report := make(map[string]outcome)
	for _, v := range p.values {
		wish, named := patch[v.Desired]
		if v.Desired == "" || !named || string(wish) == "null" { // removed: there is no wish any more
			continue
		}
		o := outcome{Value: wish, Status: http.StatusOK, Version: x.version}
		b, err := v.encode(wish)
		word := gateway.Rejected
		if err != nil {
			o.Status = http.StatusBadRequest
		} else if err = l.write(ctx, v, b); err != nil {
			o.Status, word = http.StatusBadGateway, verdict(err)
		}
		if err != nil {
			o.Words = "the value: " + err.Error()
			final = final && word == gateway.Rejected
			if word == gateway.Undelivered {
				continue // nobody knows
			}
		}
		report[v.Desired] = o
	}
	if len(report) > 0 {
		text, _ := json.Marshal(report) // what came as JSON is JSON
		p.twins.Report(p.Leaf, text, func(_ int64, err error) {
			if err != nil {
				p.driver.log.Warn("the hub takes no report of a desired change", "leaf", p.Leaf, "err", err)
			}
		})
	}
	if final {
		p.driver.tally.add(func(s *gateway.DriverState) { s.Desired++ })
		x.heard()
	}
}
