package main

import (
	"cmp"
	"errors"
	"net"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/seal"
	"github.com/fieldgate/fieldgate/gateway/uplink/amqp"
	"github.com/fieldgate/fieldgate/gateway/uplink/dial"
	"github.com/fieldgate/fieldgate/gateway/uplink/mqtt"
)

// hubConfig is the table [hub]: what every transport takes from it, and what each
// of them does.
type hubConfig struct {
	// Profile is what is upstream: "iothub", or "mqtt" for any MQTT broker.
	Profile     string `toml:"profile"`
	amqp.Config `toml:",inline"`
	Own         mqtt.Config       `toml:",inline"` // the gateway's own identity
	Broker      mqtt.BrokerConfig `toml:",inline"` // with the profile "mqtt"
	// HTTPSAddress is where to dial for HTTPS, "host:port"; empty means port 443 of
	// the hub. Files go that way, whatever the transport.
	HTTPSAddress string `toml:"https_address"`
}

func defaultHub() hubConfig {
	return hubConfig{Profile: profileHub, Config: amqp.DefaultConfig(), Broker: mqtt.DefaultBrokerConfig()}
}

// Values of hubConfig.Profile.
const (
	profileHub  = "iothub"
	profileMQTT = "mqtt"
)

// isBroker says that no IoT hub is upstream: there is nobody to enrol leaves with,
// to send files to, or to hear anything from.
func (c *hubConfig) isBroker() bool { return c.Profile == profileMQTT }

// clientID is what a broker knows the gateway by.
func (c *hubConfig) clientID() string { return cmp.Or(c.Own.DeviceID, "fieldgate") }

// overMQTT says that the transport is MQTT: all leaves go under the gateway's own
// identity then.
func (c *hubConfig) overMQTT() bool {
	return c.isBroker() || c.Transport == dial.MQTT || c.Transport == dial.MQTTWebSocket
}

// validateBroker checks what is different with a broker upstream.
func (c *hubConfig) validateBroker() error {
	if c.Transport == dial.Auto {
		c.Transport = dial.MQTT
	}
	err := errors.Join(c.Config.Validate(), c.Broker.Validate())
	if c.Transport != dial.MQTT {
		err = errors.Join(err, gateway.BadKey("transport", "%q leads to no broker: write \"mqtt\", or leave it out", c.Transport))
	}
	if c.Own.KeyFile != "" {
		err = errors.Join(err, gateway.BadKey("key_file", "a broker knows no hub keys: write username and password_file"))
	}
	return err
}

// Validate checks the table. Errors are of type *gateway.KeyError.
func (c *hubConfig) Validate() error {
	switch {
	case c.Profile != profileHub && c.Profile != profileMQTT:
		return gateway.BadKey("profile", "%q is unknown: write \"iothub\" or \"mqtt\"", c.Profile)
	case c.isBroker():
		return c.validateBroker()
	}
	err := c.Config.Validate()
	if host, port, bad := net.SplitHostPort(c.HTTPSAddress); c.HTTPSAddress != "" && (bad != nil || host == "" || port == "") {
		err = errors.Join(err, gateway.BadKey("https_address", "%q is not an address: write a name or number and a port, like \"10.0.0.5:443\"", c.HTTPSAddress))
	}
	switch own := &c.Own; {
	case c.overMQTT(), own.DeviceID != "":
		return errors.Join(err, own.Validate())
	case own.DeviceID == "" && own.KeyFile != "":
		return errors.Join(err, gateway.BadKey("key_file", "whose key is it? Write the gateway's own device id into device_id"))
	}
	return err
}

// checkHub makes the paths of [hub] absolute and reads the gateway's own key.
func (l *loader) checkHub(root strict.Table) {
	hub := &l.tables.Hub
	if hub.CAFile != "" {
		hub.CAFile = root.Resolve(hub.CAFile)
		if err := checkCA(hub.CAFile); err != nil {
			root.Report("hub.ca_file", "%v", err)
		}
	}
	at := root.Sub("hub")
	if hub.ProxyPasswordFile != "" {
		hub.ProxyPasswordFile = root.Resolve(hub.ProxyPasswordFile)
		l.secrets = append(l.secrets, hub.ProxyPasswordFile)
		if text, err := seal.ReadFile(hub.ProxyPasswordFile); err != nil {
			at.Report("proxy_password_file", "%v", err)
		} else if len(text) == 0 {
			at.Report("proxy_password_file", "%s is empty", hub.ProxyPasswordFile)
		}
		l.warnIfOpen(at.Where("proxy_password_file"), hub.ProxyPasswordFile)
	}
	if hub.Broker.PasswordFile != "" {
		l.secret(at, "password_file", hub.Broker.PasswordFile)
		hub.Broker.PasswordFile = root.Resolve(hub.Broker.PasswordFile)
	}
	if text := l.secret(at, "key_file", hub.Own.KeyFile); text != "" {
		var err error
		if l.ownKey, err = identity.ParseKey(text); err != nil {
			at.Report("key_file", "%s: %v", hub.Own.KeyFile, err)
		}
	}
}

// keyMissing is the mistake of a leaf without a key_file, nil where it needs none.
func (l *loader) keyMissing() error {
	if l.Enrol.By != "" || l.Hub.overMQTT() {
		return nil
	}
	return gateway.BadKey("key_file",
		"the leaf's hub key is needed: write the path of a file that holds it, or say under [enrol] how leaves are enrolled")
}
