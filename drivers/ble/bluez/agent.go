package bluez

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

const (
	agentManagerIface = "org.bluez.AgentManager1"
	agentIface        = "org.bluez.Agent1"
	agentPath         = dbus.ObjectPath("/fieldgate/agent")
)

// Agent answers the daemon's questions while a device is paired. Its methods may
// wait for a person; ctx ends when the daemon has cancelled the question. An error
// refuses. Safe for concurrent use.
type Agent interface {
	// Passkey returns the number that the device shows, 0 to 999999.
	Passkey(ctx context.Context, device dbus.ObjectPath) (uint32, error)
	// Display shows a number that is to be typed at the device. It does not wait.
	Display(device dbus.ObjectPath, passkey uint32)
	// Confirm says whether the device shows this number, too.
	Confirm(ctx context.Context, device dbus.ObjectPath, passkey uint32) error
	// Authorize says whether a device may pair that proves nothing.
	Authorize(ctx context.Context, device dbus.ObjectPath) error
}

// ServeAgent registers an agent with a keyboard and a display for the pairings that
// this client begins. It does not become the one that answers for others.
func (c *Client) ServeAgent(ctx context.Context, a Agent) error {
	s := &agentServer{Agent: a, questions: make(chan context.CancelFunc, 1)}
	refused := dbus.NewError("org.bluez.Error.Rejected", nil)
	err := c.conn.ExportMethodTable(map[string]any{
		"Release": func() *dbus.Error { return nil },
		"RequestPasskey": func(device dbus.ObjectPath) (key uint32, bad *dbus.Error) {
			bad = s.ask(ctx, func(ctx context.Context) (err error) { key, err = a.Passkey(ctx, device); return err })
			return key, bad
		},
		"DisplayPasskey": func(device dbus.ObjectPath, key uint32, entered uint16) *dbus.Error {
			if entered == 0 { // it is told again with each digit
				a.Display(device, key)
			}
			return nil
		},
		"RequestConfirmation": func(device dbus.ObjectPath, key uint32) *dbus.Error {
			return s.ask(ctx, func(ctx context.Context) error { return a.Confirm(ctx, device, key) })
		},
		"RequestAuthorization": func(device dbus.ObjectPath) *dbus.Error {
			return s.ask(ctx, func(ctx context.Context) error { return a.Authorize(ctx, device) })
		},
		"AuthorizeService": func(dbus.ObjectPath, string) *dbus.Error { return refused }, // nobody has services of ours
		"RequestPinCode":   func(dbus.ObjectPath) (string, *dbus.Error) { return "", refused },
		"DisplayPinCode":   func(dbus.ObjectPath, string) *dbus.Error { return refused },
		"Cancel":           s.cancel,
	}, agentPath, agentIface)
	if err != nil {
		return err
	}
	err = c.call(ctx, callTimeout, "/org/bluez", agentManagerIface+".RegisterAgent", agentPath, "KeyboardDisplay").Err
	if err != nil && !IsError(err, "AlreadyExists") {
		return fmt.Errorf("cannot register the pairing agent: %w", err)
	}
	return nil
}

// agentServer lets the daemon cancel a question. It asks one at a time.
type agentServer struct {
	Agent
	questions chan context.CancelFunc // capacity 1: holds the one that is open
}

func (s *agentServer) ask(ctx context.Context, question func(context.Context) error) *dbus.Error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case s.questions <- cancel:
	default:
		return dbus.NewError("org.bluez.Error.Rejected", []any{"another pairing is under way"})
	}
	err := question(ctx)
	select {
	case <-s.questions:
	default: // cancelled
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return dbus.NewError("org.bluez.Error.Canceled", nil)
	}
	return dbus.NewError("org.bluez.Error.Rejected", []any{err.Error()})
}

func (s *agentServer) cancel() *dbus.Error {
	select {
	case cancel := <-s.questions:
		cancel()
	default:
	}
	return nil
}
