package bluez

import (
	"context"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
)

// How long calls may take that need the radio. BlueZ gives up connecting after about
// 40 s and a transaction of ATT after 30 s (Core Specification, volume 3, part F,
// section 3.3.3).
const (
	connectTimeout = 45 * time.Second
	valueTimeout   = 35 * time.Second
)

// Power switches an adapter on or off.
func (c *Client) Power(ctx context.Context, adapter dbus.ObjectPath, on bool) error {
	return c.set(ctx, adapter, adapterIface, "Powered", on)
}

func (c *Client) set(ctx context.Context, path dbus.ObjectPath, iface, name string, value any) error {
	err := c.call(ctx, 2*callTimeout, path, propertiesIface+".Set", iface, name, dbus.MakeVariant(value)).Err
	if err != nil {
		return fmt.Errorf("cannot set %s: %w", name, err)
	}
	return nil
}

// StartDiscovery begins an active scan that shows every advertisement. It lasts until
// StopDiscovery or the end of the client.
func (c *Client) StartDiscovery(ctx context.Context, adapter dbus.ObjectPath) error {
	filter := map[string]any{"Transport": "le", "DuplicateData": true}
	if err := c.call(ctx, callTimeout, adapter, adapterIface+".SetDiscoveryFilter", filter).Err; err != nil {
		return fmt.Errorf("cannot set the discovery filter: %w", err)
	}
	if err := c.call(ctx, callTimeout, adapter, adapterIface+".StartDiscovery").Err; err != nil && !IsError(err, "InProgress") {
		return fmt.Errorf("cannot start discovery: %w", err)
	}
	return nil
}

// StopDiscovery ends what StartDiscovery began.
func (c *Client) StopDiscovery(ctx context.Context, adapter dbus.ObjectPath) error {
	return c.call(ctx, callTimeout, adapter, adapterIface+".StopDiscovery").Err
}

// Connect connects a device. It must be known: seen a short while ago, or bonded. From
// then on the mirror says that it is connected, until it is not any more.
func (c *Client) Connect(ctx context.Context, device dbus.ObjectPath) error {
	err := c.call(ctx, connectTimeout, device, deviceIface+".Connect").Err
	if err != nil && !IsError(err, "AlreadyConnected") {
		return err
	}
	return c.askConnected(ctx, device)
}

// askConnected has the mirror know whether a device is connected. It is not always told: the
// daemon says nothing when the kernel's word of a connection comes after that of the
// connection's socket, as it does on a busy machine ("already connected" in its log; bluez
// 5.66 to 5.87, src/device.c, att_connect_cb and device_add_connection).
func (c *Client) askConnected(ctx context.Context, device dbus.ObjectPath) error {
	var connected dbus.Variant
	answer := c.call(ctx, callTimeout, device, propertiesIface+".Get", deviceIface, "Connected")
	if err := answer.Store(&connected); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if props := c.objects[device][deviceIface]; props != nil && c.wordLocked(device, answer.ResponseSequence) {
		props["Connected"] = connected
		c.broadcastLocked()
	}
	return nil
}

// wordLocked says whether a word on a device's connection is the newest one. Answers
// overtake signals that wait to be applied.
func (c *Client) wordLocked(device dbus.ObjectPath, at dbus.Sequence) bool {
	if at < c.words[device] {
		return false
	}
	c.words[device] = at
	return true
}

// Disconnect ends a connection, or an attempt at one.
func (c *Client) Disconnect(ctx context.Context, device dbus.ObjectPath) error {
	return c.call(ctx, callTimeout, device, deviceIface+".Disconnect").Err
}

// Pair pairs a device, with our agent, until ctx ends.
func (c *Client) Pair(ctx context.Context, device dbus.ObjectPath) error {
	return c.conn.Object(c.owner, device).CallWithContext(ctx, deviceIface+".Pair", 0).Err
}

// CancelPairing ends a pairing under way.
func (c *Client) CancelPairing(ctx context.Context, device dbus.ObjectPath) error {
	return c.call(ctx, callTimeout, device, deviceIface+".CancelPairing").Err
}

// Remove makes the daemon forget a device and its keys.
func (c *Client) Remove(ctx context.Context, adapter, device dbus.ObjectPath) error {
	return c.call(ctx, callTimeout, adapter, adapterIface+".RemoveDevice", device).Err
}

// Read reads a value. The slice is the caller's.
func (c *Client) Read(ctx context.Context, characteristic dbus.ObjectPath) (value []byte, err error) {
	err = c.call(ctx, valueTimeout, characteristic, charIface+".ReadValue", map[string]any{}).Store(&value)
	return value, err
}

// Write writes a value and waits for the device's response; without response, where
// the characteristic has it no other way.
func (c *Client) Write(ctx context.Context, characteristic dbus.ObjectPath, value []byte, response bool) error {
	options := map[string]any{"type": "request"}
	if !response {
		options["type"] = "command"
	}
	return c.call(ctx, valueTimeout, characteristic, charIface+".WriteValue", value, options).Err
}

// MTU asks how long a packet of the connection can be, in octets, its head of three
// included; 0 if the daemon does not say (before 5.62). What the mirror has of it may be
// that of an earlier connection: nobody is told of a change.
func (c *Client) MTU(ctx context.Context, characteristic dbus.ObjectPath) int {
	var v dbus.Variant
	if c.call(ctx, callTimeout, characteristic, propertiesIface+".Get", charIface, "MTU").Store(&v) != nil {
		return 0
	}
	n, _ := v.Value().(uint16)
	return int(n)
}

// Notify has value called for each notification, until the connection ends. It must
// not block; the slice is its own.
func (c *Client) Notify(ctx context.Context, characteristic dbus.ObjectPath, value func([]byte)) error {
	c.mu.Lock()
	c.values[characteristic] = value
	c.mu.Unlock()
	err := c.call(ctx, valueTimeout, characteristic, charIface+".StartNotify").Err
	if err != nil {
		c.Deaf(characteristic)
	}
	return err
}

// Deaf ends what Notify began, on our side.
func (c *Client) Deaf(characteristic dbus.ObjectPath) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.values, characteristic)
}

// RestartDaemon asks systemd to restart the daemon (org.freedesktop.systemd1).
func (c *Client) RestartDaemon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").
		CallWithContext(ctx, "org.freedesktop.systemd1.Manager.RestartUnit", 0, "bluetooth.service", "replace").Err
}
