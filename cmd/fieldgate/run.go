package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/store"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// memoryLimit is what the Go runtime tries to stay below; measured use with 100
// leaves is two thirds of it, on boards that have 512 MiB. GOMEMLIMIT overrides.
const memoryLimit = 96 << 20

func runCommand(std streams) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "run",
		Short: "Be the gateway, until SIGTERM",
		Long: `Runs the gateway in the foreground. It ends with 0 after SIGTERM or SIGINT, when
everything it answers for is settled or on flash; with 78 if the configuration
has mistakes; with 1 if it cannot go on.`,
		Example: "  fieldgate run --config /etc/fieldgate/fieldgate.toml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return configFailure(file, err, exitExConfig, "mend it, then check it: fieldgate config validate "+file)
			}
			return runGateway(cmd.Context(), cfg, newLog(cfg.Log, std))
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "/etc/fieldgate/fieldgate.toml", "configuration `FILE`")
	return c
}

func newLog(cfg logConfig, std streams) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(std.err, options))
	}
	return slog.New(slog.NewTextHandler(std.err, options))
}

// runGateway makes the parts, joins them and runs them until ctx ends. When it
// returns, everything that a leaf was told is safe is settled or on flash.
func runGateway(ctx context.Context, cfg *config, log *slog.Logger) error {
	for _, w := range cfg.warnings {
		log.Warn("configuration", "at", w.Place(), "warning", w.Message)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	dir := cfg.Gateway.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &failure{exitFailed, "cannot make the data folder", err, "create it, or name another in [gateway] data_dir"}
	}
	goodTime := filepath.Join(dir, "clock")
	clock, err := startClock(goodTime)
	if err != nil {
		return &failure{exitFailed, "cannot read the clock", err, "look at /proc and at " + goodTime}
	}
	queue, err := store.Open(filepath.Join(dir, "store"), cfg.Store, log.With("part", "store"))
	if err != nil {
		return &failure{exitFailed, "cannot open the store; nothing in it was changed", err, storeAdvice(err)}
	}
	g, err := assemble(cfg, queue, clock, log)
	if err == nil {
		err = runStages(ctx, g.stages(goodTime)...)
	}
	if closing := queue.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return &failure{exitFailed, "the gateway cannot go on", err, "start it again; what was acknowledged is on flash"}
	}
	log.Info("stopped")
	return nil
}

// storeAdvice says what to do about a store that cannot be opened.
func storeAdvice(err error) string {
	switch {
	case errors.Is(err, store.ErrLocked):
		return "stop the other fieldgate first, or name another folder in [gateway] data_dir"
	case errors.Is(err, store.ErrFileSystem):
		return "put [gateway] data_dir on ext4 or f2fs, or write allow_any_filesystem = true under [store]"
	case errors.Is(err, store.ErrNewer):
		return "run the newer fieldgate that wrote it, or name another folder in [gateway] data_dir"
	case errors.Is(err, gateway.ErrStoreFull):
		return "free some space, or write a smaller min_free under [store]"
	default:
		return "name a folder that is empty, or that a fieldgate made, and that this user may write to, in [gateway] data_dir"
	}
}

func startClock(goodTime string) (gateway.Clock, error) {
	lastGood, err := board.LastGood(goodTime)
	if err != nil {
		return nil, err
	}
	c, err := board.NewClock(lastGood)
	if err != nil {
		return nil, err
	}
	return gatewayClock(c), nil
}

// assembly is the gateway's parts, joined and not yet running.
type assembly struct {
	cfg     *config
	log     *slog.Logger
	clock   gateway.Clock
	path    *gateway.Path
	uplink  *uplink.Uplink
	broker  *broker.Broker
	drivers []driver
	metrics http.Handler
}

// assemble makes the parts from the store outwards, in the order of design
// section 5 backwards: whoever hands over is made after whoever takes.
func assemble(cfg *config, queue gateway.Store, clock gateway.Clock, log *slog.Logger) (*assembly, error) {
	g := &assembly{cfg: cfg, log: log, clock: clock}
	keys := identity.NewKeyring(cfg.Hub.Host)
	table := pairing.NewTable(cfg.Hub.Host, []string{cfg.Gateway.Name}, keys)
	for _, l := range cfg.leaves {
		keys.Put(l.ID, l.key)
		table.Put(l.Leaf)
	}
	g.path = gateway.NewPath(cfg.Path, queue, table, cfg.modules, clock, log.With("part", "path"))
	transport, err := newTransport(cfg, keys, clock, log.With("part", "uplink"))
	if err != nil {
		return nil, err
	}
	ackTimes := newAckTimes()
	g.uplink = uplink.New(cfg.Uplink, uplink.Parts{
		Transport: transport,
		Clock:     clock,
		Log:       log.With("part", "uplink"),
		Acked:     func(d time.Duration) { ackTimes.Observe(d.Seconds()) },
	})
	if g.broker, err = broker.New(cfg.Broker, table, clock, g.path, log.With("part", "broker")); err != nil {
		return nil, err
	}
	if g.drivers, err = newDrivers(cfg, clock, log); err != nil {
		return nil, err
	}
	g.metrics = metricsHandler(g.collector(), ackTimes)
	return g, nil
}

func (g *assembly) collector() *collector {
	c := &collector{build: thisBuild(), started: time.Now(), clock: g.clock, path: g.path.State, uplink: g.uplink.State, broker: g.broker.State}
	for _, d := range g.drivers {
		c.serial = append(c.serial, d.State)
	}
	return c
}

// stages are the parts in the order of starting. They stop in reverse: first
// nothing more is taken from leaves, then the hub settles what it has, then the
// path brings to flash what is left.
func (g *assembly) stages(goodTime string) [][]part {
	doors := []part{
		{"broker", g.broker.Run},
		{"ready", g.sayReady},
		{"clock", func(ctx context.Context) error { return noteGoodTime(ctx, g.clock, goodTime, g.log) }},
	}
	for _, d := range g.drivers {
		doors = append(doors, driverPart(d, g.path))
	}
	if g.cfg.Metrics.Address != "" {
		doors = append(doors, part{"metrics", func(ctx context.Context) error {
			return serveMetrics(ctx, g.cfg.Metrics.Address, g.metrics, g.log)
		}})
	}
	return [][]part{
		{{"path", g.path.Run}},
		{{"uplink", func(ctx context.Context) error { return g.uplink.Run(ctx, g.path) }}},
		doors,
	}
}

// sayReady says when leaves can connect, and where.
func (g *assembly) sayReady(ctx context.Context) error {
	select {
	case <-g.broker.Ready():
		addresses := make([]string, 0, 2)
		for _, a := range g.broker.Addrs() {
			addresses = append(addresses, a.String())
		}
		g.log.Info("ready", "addresses", addresses, "leaves", len(g.cfg.leaves), "hub", g.cfg.Hub.Host)
		<-ctx.Done()
	case <-ctx.Done():
	}
	return nil
}
