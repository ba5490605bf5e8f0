package mqttsn

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/hello"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
)

// Format is what the key format of a [[serial]] table says for this driver.
const Format = "mqtt-sn"

// PortConfig is one port: a [[serial]] table with format = "mqtt-sn". Exactly one
// of Leaf and Nodes is set: MQTT-SN has no passwords, so who may connect must be
// said.
type PortConfig struct {
	port.Config `toml:",inline"` // which port, and how it is set up
	Hello       hello.Config     `toml:",inline"` // how the leaf proves that it is there

	Format string   `toml:"format"` // Format
	Leaf   string   `toml:"leaf"`   // id of the one leaf that may connect on this port
	Nodes  []string `toml:"leaves"` // ids of several, behind a concentrator
	Link   Config   `toml:",inline"`
}

// DefaultPortConfig returns the shipped defaults. Port and Leaf have none.
func DefaultPortConfig() PortConfig {
	return PortConfig{Config: port.Default(), Format: Format, Link: DefaultConfig()}
}

// Line is the port.
func (c *PortConfig) Line() *port.Config { return &c.Config }

// Secret is what the leaf proves itself with.
func (c *PortConfig) Secret() *hello.Config { return &c.Hello }

// Leaves are the leaf ids that the configuration names, by their keys.
func (c *PortConfig) Leaves() map[string]string {
	named := map[string]string{"leaf": c.Leaf}
	for i, id := range c.Nodes {
		named[fmt.Sprintf("leaves[%d]", i)] = id
	}
	return named
}

// Validate checks values and ranges. Errors are of type *gateway.KeyError.
func (c *PortConfig) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	if err := c.Hello.Validate(c.Leaf); err != nil {
		return err
	}
	switch {
	case c.Leaf == "" && len(c.Nodes) == 0:
		return gateway.BadKey("leaf", "is missing: write the id of the leaf that may connect on this port, or several in leaves")
	case c.Leaf != "" && len(c.Nodes) > 0:
		return gateway.BadKey("leaves", "does not go together with leaf: write only one of them")
	case c.Leaf != "":
		if err := CheckLeaf("leaf", c.Leaf); err != nil {
			return err
		}
	}
	for i, id := range c.Nodes {
		key := fmt.Sprintf("leaves[%d]", i)
		if err := CheckLeaf(key, id); err != nil {
			return err
		}
		if slices.Contains(c.Nodes[:i], id) {
			return gateway.BadKey(key, "%q stands there twice", id)
		}
	}
	return c.Link.Validate()
}

// CheckLeaf checks whether a leaf's id, which stands at a key, can be a client id. The
// error is of type *gateway.KeyError.
func CheckLeaf(key, id string) error {
	switch {
	case !port.ValidLeaf(id):
		return gateway.BadKey(key, "%q is not a leaf id: 1 to %d letters, digits and - : . + %% _ # * ? ! ( ) , = @ $ ' ;", id, port.MaxLeafID)
	case len(id) > MaxClientID:
		return gateway.BadKey(key, "%q is too long: in MQTT-SN the id is the client id, of at most %d characters", id, MaxClientID)
	}
	return nil
}

// leaves are the leaves that may connect.
func (c *PortConfig) leaves() []string {
	if c.Leaf != "" {
		return []string{c.Leaf}
	}
	return c.Nodes
}

// Driver serves one port. It implements gateway.Driver.
type Driver struct {
	cfg    PortConfig
	link   *Link
	keeper *port.Keeper
	guard  *hello.Guard // nil: whoever is at the port may connect
}

// NewDriver makes a driver for one port. It does not touch the port. The error is
// that of Validate.
func NewDriver(cfg PortConfig, clock gateway.Clock, log *slog.Logger) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log = log.With("driver", Format, "port", cfg.Port)
	return &Driver{cfg: cfg, link: New(cfg.Link, cfg.leaves(), clock, log), keeper: port.NewKeeper(cfg.Config, log), guard: hello.NewGuard(cfg.Leaf, &cfg.Hello, log)}, nil
}

// Name identifies the driver by its port, "mqtt-sn:/dev/serial/by-id/usb-FTDI_…".
func (d *Driver) Name() string { return Format + ":" + d.cfg.Port }

// State is described at gateway.Driver.
func (d *Driver) State() gateway.DriverState {
	s := d.keeper.Driver(d.Name(), Format)
	d.link.Fill(&s)
	d.guard.Fill(&s)
	return s
}

// Run serves the port until ctx ends, and then returns nil. A port that is
// missing, busy or lost is tried again until it is there. Run may be called once.
func (d *Driver) Run(ctx context.Context, ways gateway.Ways) error {
	d.link.Run(ctx, ways, func(ctx context.Context) {
		d.keeper.Run(ctx, func(ctx context.Context, p *port.Port) error {
			if err := d.guard.Wait(ctx, p); err != nil {
				return err
			}
			return d.link.Serve(stream{p, &d.cfg.Config})
		})
	})
	return nil
}

// stream is a port as a stream of bytes, on which writes have a time limit.
type stream struct {
	*port.Port
	cfg *port.Config
}

// writeLimit is how long a frame may take beside the time on the line: what was
// written before it may be on its way still.
const writeLimit = 5 * time.Second

func (s stream) Write(b []byte) (int, error) {
	return s.Port.Write(b, writeLimit+s.cfg.Time(float64(len(b))))
}

func (s stream) Close() error {
	s.Port.Close()
	return nil
}
