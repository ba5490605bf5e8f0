package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/seal"
	"github.com/fieldgate/fieldgate/gateway/store"
	"github.com/fieldgate/fieldgate/gateway/trace"
	"github.com/fieldgate/fieldgate/gateway/twin"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/upload"
)

// memoryLimit is what the Go runtime tries to stay below. Measured use with 100
// leaves is two thirds of the base, on boards that have 512 MiB; each further leaf
// needs about 100 KiB, most of it for its link to the hub, and a limit below what
// is needed makes the collector run without end. GOMEMLIMIT overrides.
func memoryLimit(leaves int) int64 {
	const base, included, perLeaf = 96 << 20, 100, 160 << 10
	return base + int64(max(0, leaves-included))*perLeaf
}

func runCommand(std streams) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "run",
		Short: "Be the gateway, until SIGTERM",
		Long: `Runs the gateway in the foreground. It ends with 0 after SIGTERM or SIGINT, when
everything it answers for is settled or on flash; with 78 if the configuration
has mistakes; with 79 if the button has asked for a factory reset; with 1 if it
cannot go on. SIGHUP makes it take over a configuration
that has changed, if that needs no restart: see "fieldgate config list".`,
		Example: "  fieldgate run --config /etc/fieldgate/fieldgate.toml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// A core dump would hold every secret that is sealed on flash.
			_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP) // from the first moment: one that comes early must not be the end
			defer signal.Stop(hup)
			return keepRunning(cmd.Context(), file, std, hup)
		},
	}
	c.Flags().StringVarP(&file, "config", "c", defaultConfig(), "configuration `FILE`")
	return c
}

// keepRunning runs the gateway, again with another configuration when that asks for it.
func keepRunning(ctx context.Context, file string, std streams, hup <-chan os.Signal) error {
	changes, texts, said, closing := openApplier(file)
	defer closing()
	for {
		cfg, err := loadRunning(file, texts)
		texts = nil
		if err != nil {
			err = configFailure(file, err, exitExConfig, "mend it, then check it: fieldgate config validate "+file)
		} else {
			level := new(slog.LevelVar)
			log := newLog(cfg.Log, level, std)
			for _, what := range said {
				what.log(log)
			}
			said = nil
			if err := changes.keepProofs(cfg); err != nil {
				log.Error("what leaves have left here cannot be sent", "error", err)
			}
			err = runGateway(ctx, cfg, log, level, changes, hup)
		}
		switch {
		case errors.Is(err, errAgain):
		case err == nil, errors.Is(err, errReset), !changes.startFailed(err):
			return err
		default:
			said = []remark{{"rolled back, for the gateway could not go on with it: " + err.Error(), true}}
		}
	}
}

func newLog(cfg logConfig, level *slog.LevelVar, std streams) *slog.Logger {
	level.Set(cfg.Level)
	options := &slog.HandlerOptions{Level: level}
	handler := func(w io.Writer) slog.Handler {
		if cfg.Format == "json" {
			return slog.NewJSONHandler(w, options)
		}
		return slog.NewTextHandler(w, options)
	}
	switch {
	case !toJournald(std.err):
		return slog.New(handler(std.err))
	case cfg.Format == "json": // its lines are read by somebody
		return slog.New(newWithPriority(std.err, handler))
	}
	return slog.New(newJournalFields(level, newWithPriority(std.err, handler)))
}

// runGateway makes the parts, joins them and runs them until ctx ends. When it
// returns, everything that a leaf was told is safe is settled or on flash.
func runGateway(ctx context.Context, cfg *config, log *slog.Logger, level *slog.LevelVar, changes *applier, hup <-chan os.Signal) error {
	events := new(journal)
	log = events.lines.watch(events.watch(log), level)
	for _, w := range cfg.warnings {
		log.Warn("configuration", "at", w.Place(), "warning", w.Message)
	}
	hardware := openBoard(&cfg.Board, log.With("part", "board")) // before any other file
	dir := cfg.Gateway.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &failure{exitFailed, "cannot make the data folder", err, "create it, or name another in [gateway] data_dir"}
	}
	if cfg.machine == nil {
		if cfg.machine, cfg.noMachine = seal.Make(cfg.place()); cfg.noMachine != nil {
			log.Warn("new secrets are not sealed", "error", cfg.noMachine)
		}
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
	g, err := assemble(cfg, queue, clock, hardware, log, level, changes, events)
	if err == nil {
		err = runStages(ctx, g.stages(goodTime, changes, hup)...)
	}
	if closing := queue.Close(); err == nil {
		err = closing
	}
	if errors.Is(err, errAgain) {
		log.Info("starting again with another configuration")
		return err
	}
	if errors.Is(err, errReset) {
		return &failure{exitReset, "stopped for a factory reset", err, "it comes with the next start of the machine"}
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
	live
	cfg     *config // as it was at the start: what cannot change
	log     *slog.Logger
	clock   gateway.Clock
	path    *gateway.Path
	trace   *trace.Tracer
	down    *gateway.Down
	twins   *twin.Twins
	uplink  *uplink.Uplink
	files   *upload.Spool
	fileHub upload.Hub
	roster  *roster
	broker  *broker.Broker
	fleet   *fleet
	memory  *memory
	board   *board.Board
	window  *pairing.Window
	collect func() state
	updates *fetcher // nil: the hub may not ask for any
	metrics http.Handler
	control *control.Server
	reload  *reloader

	ownRefused ownRefused
}

// assemble makes the parts from the store outwards, in the order of design
// section 5 backwards: whoever hands over is made after whoever takes.
func assemble(cfg *config, queue *store.Store, clock gateway.Clock, hardware *board.Board, log *slog.Logger, level *slog.LevelVar, changes *applier, events *journal) (*assembly, error) {
	g := &assembly{cfg: cfg, log: log, clock: clock, memory: new(memory), board: hardware}
	g.level = level
	keys := identity.NewKeyring(cfg.Hub.Host)
	table := pairing.NewTable(cfg.Hub.Host, []string{cfg.Gateway.Name}, keys)
	proofs, err := newProofs(cfg, keys, queue, clock)
	if err != nil {
		return nil, err
	}
	g.roster = &roster{cfg: cfg, table: table, keys: keys, proofs: proofs, notes: queue, leaves: make(map[string]leaf)}
	removed := leafFiles{cfg.file, cfg.sealed}
	gone, unread := removed.removed(&cfg.tables) // what they have left in custody still goes to the hub
	if unread != nil {
		log.Warn("what removed leaves have left here may not be sent", "error", unread)
	}
	for _, l := range gone {
		if _, err := cfg.leaf(l.ID); err == nil {
			continue // there is another one of the name
		}
		if err := g.roster.prove(l.leaf); err != nil {
			log.Warn("what a removed leaf has left here may not be sent", "leaf", l.ID, "error", err)
		}
	}
	g.roster.limitMemory()
	for _, l := range cfg.leaves {
		if err := g.roster.admit(l); err != nil {
			return nil, err
		}
	}
	g.trace = trace.New(clock, func() string { return g.uplink.State().Transport })
	g.path = gateway.NewPath(cfg.Path, g.trace.Store(queue), table, cfg.modules, clock, log.With("part", "path"))
	transport, err := newTransport(cfg, proofs, keys, clock, log.With("part", "uplink"))
	if err != nil {
		return nil, err
	}
	ackTimes, syncTimes := newAckTimes(), newSyncTimes()
	queue.OnSync(func(d time.Duration) { syncTimes.Observe(d.Seconds()) })
	g.uplink = uplink.New(cfg.Uplink, uplink.Parts{
		Transport: transport,
		Clock:     clock,
		Log:       log.With("part", "uplink"),
		Acked:     func(d time.Duration) { ackTimes.Observe(d.Seconds()) },
	})
	if err := g.assembleDown(queue, proofs); err != nil {
		return nil, err
	}
	if err := g.assembleFiles(proofs); err != nil {
		return nil, err
	}
	recent := newRecent(table)
	up := recent.watch(g.trace.Door(g.path))
	attendance := recent.attendance(g.twins)
	parts := broker.Parts{Up: up, Attendance: attendance, Twins: g.twins, Notes: queue, Files: g.files}
	if parts.Relay, err = pairing.NewRelay(table, proofs, queue, g.uplink.Prove); err != nil {
		return nil, err
	}
	parts.Door = func(prove func(*http.Request, string) error) http.Handler { return g.files.Door(prove, clock) }
	if cfg.Hub.isBroker() {
		parts.Files, parts.Door = nil, nil // there is nobody to send files to
	}
	parts.Rules, parts.MayListen = rulesOf(cfg), listeningOf(cfg)
	authority := openAuthority(cfg, log)
	local := &devices{roster: g.roster, files: leafFiles{cfg.file, cfg.sealed}, changes: changes, recent: recent}
	g.window = &pairing.Window{
		Known: local.knows, At: local.at, Usable: local.files.usable, Log: log.With("part", "pairing"),
		Admit: func(r pairing.Request, auth string) (pairing.Answer, error) { return local.pair(authority, r, auth) },
	}
	parts.Window = g.window
	if g.broker, err = broker.New(cfg.Broker, table, clock, parts, log.With("part", "broker")); err != nil {
		return nil, err
	}
	g.roster.broker, g.roster.forget = g.broker, func(leaf string) {
		g.uplink.Forget(leaf)
		recent.forget(leaf)
	}
	seen := new(sightings)
	if g.fleet, err = newFleet(cfg, clock, log); err != nil {
		return nil, err
	}
	g.fleet.ways = seen.watch(gateway.Ways{Up: g.broker.Heard(up), Attendance: attendance, Twins: g.twins, Notes: queue, Leaves: table})
	local.fleet, local.down, local.twins, local.proofs, local.seen, local.clock = g.fleet, g.down, g.twins, proofs, seen, clock
	local.broker, local.uplink, local.path, local.peers = g.broker.State, g.uplink.State, g.path.State, g.fleet.answering
	if g.updates, err = newFetcher(cfg, clock, log.With("part", "update")); err != nil {
		return nil, err
	}
	c := g.collector(local)
	c.certs = g.certificates(transport)
	g.collect = c.state
	g.metrics = metricsHandler(c, ackTimes, syncTimes)
	g.control = control.New(cfg.Control, control.Parts{
		Configuration: changes,
		State:         func() any { return c.state() }, Shelf: queue, Backlog: queue, Clock: clock, Replay: g.path.Replay, EndPause: g.path.EndPause, Events: events.Events, Log: log.With("part", "control"),
		Radio:     g.fleet.radio,
		Topics:    &topics{broker: g.broker, roster: g.roster},
		RoundTrip: g.roundTrip, ProbeStore: func() error { return probeStore(queue) }, Records: events.lines.Records, Message: g.trace.Find,
		Devices: local, Window: g.window, Invite: g.invite, Authority: authority, ReloadCertificates: g.broker.ReloadCertificates,
	})
	g.reload = newReloader(g, queue, keys, proofs)
	if g.nothingLeft(queue) {
		if err := removed.forgetRemoved(cfg); err != nil {
			log.Warn("removed leaves are not forgotten", "error", err)
		}
	}
	return g, nil
}

// probeStore writes something to flash and reads it back.
func probeStore(q *store.Store) error {
	if s := q.State(); s.Failing != nil {
		return s.Failing
	}
	const kind = "probe"
	want := []byte(time.Now().String())
	if err := q.SetNotes(kind, map[string][]byte{"": want}); err != nil {
		return err
	}
	got, err := q.Note(kind, "")
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("what was written is not what is read")
	}
	return err
}

// nothingLeft says that nothing of anybody is in custody that needs a proof: messages,
// dead letters, which may be replayed, reported properties and files.
func (g *assembly) nothingLeft(queue *store.Store) bool {
	s := queue.State()
	left := s.DeadLetters + g.twins.State().Waiting + g.files.State().Waiting
	for _, lane := range s.Lanes {
		left += lane.Messages
	}
	return left == 0
}

// certificates says of each certificate when it expires: of listeners by their
// place in the configuration, and of the hub.
func (g *assembly) certificates(hub uplink.Transport) map[string]func() time.Time {
	all := make(map[string]func() time.Time)
	if h, ok := hub.(interface{ HubCertificateExpiry() time.Time }); ok {
		all["hub"] = h.HubCertificateExpiry
	}
	for i, l := range g.cfg.Broker.Listeners {
		if !l.Plain {
			all[listenerName(i)] = func() (expiry time.Time) {
				if c := g.broker.Certificate(i); c != nil {
					expiry = c.NotAfter
				}
				return expiry
			}
		}
	}
	return all
}

// listenerName is how the certificate of a listener is called in the state.
func listenerName(i int) string { return fmt.Sprintf("listener%d", i) }

// assembleDown joins the way down: the uplink hands what the hub sends to the
// twins, which stand in front of it, and these ask the hub through the uplink.
func (g *assembly) assembleDown(notes gateway.Notes, proofs *identity.Proofs) (err error) {
	if g.down, err = gateway.NewDown(g.cfg.modules, notes, g.clock, g.log.With("part", "down")); err != nil {
		return err
	}
	parts := twin.Parts{Hub: g.uplink, Down: g.down, Notes: notes, Clock: g.clock, Log: g.log.With("part", "twin")}
	if own := g.cfg.Hub.Own.DeviceID; g.cfg.Hub.overMQTT() {
		parts.Has = func(leaf string) bool { return leaf == own && !g.cfg.Hub.isBroker() }
	} else {
		parts.Has = func(leaf string) bool { return proofs.Identity(leaf) == leaf }
	}
	if g.twins, err = twin.New(g.cfg.Twin, parts); err != nil {
		return err
	}
	g.uplink.Down = g.twins
	return nil
}

// assembleFiles joins the way of files: they go to the hub over HTTPS, beside the
// uplink.
func (g *assembly) assembleFiles(proofs *identity.Proofs) error {
	log := g.log.With("part", "upload")
	client, err := fileClient(g.cfg, g.clock)
	if err != nil {
		return err
	}
	g.fileClient.Store(client)
	g.fileHub = upload.Hub{Host: g.cfg.Hub.Host, Address: fileAddress(g.cfg), Proofs: proofs, Client: &g.live, Clock: g.clock}
	g.files, err = upload.Open(filepath.Join(g.cfg.Gateway.DataDir, "upload"), g.cfg.Upload, log)
	return err
}

// fileAddress is where files go, host and port.
func fileAddress(cfg *config) string { return net.JoinHostPort(cfg.Hub.Host, "443") }

// fileClient goes there, or where [hub] https_address says.
func fileClient(cfg *config, clock gateway.Clock) (*http.Client, error) {
	elsewhere := make(map[string]string)
	if at := cfg.Hub.HTTPSAddress; at != "" {
		elsewhere[fileAddress(cfg)] = at
	}
	return httpClient(&cfg.tables, clock, elsewhere)
}

func (g *assembly) collector(local *devices) *collector {
	c := &collector{
		name: g.cfg.Gateway.Name, hub: g.cfg.Hub.Host, dataDir: g.cfg.Gateway.DataDir,
		build: thisBuild(), started: time.Now(), clock: g.clock,
		memory: g.memory, path: g.path.State, uplink: g.uplink.State, broker: g.broker.State, twins: g.twins.State, files: g.files.State,
		board: g.board.State, census: g.roster.census, admitted: func(id string) bool { return local.knows(id) || id == g.cfg.Hub.Own.DeviceID }, devices: local.Devices, drivers: g.fleet.states, updates: g.updates.state,
		ownRefused: g.ownRefused.text,
	}
	return c
}

// stages are the parts in the order of starting. They stop in reverse: first
// nothing more is taken from leaves, then the hub settles what it has, then twins
// and path bring to flash what is left. The board is last: the watchdog guards
// stopping as well.
func (g *assembly) stages(goodTime string, changes *applier, hup <-chan os.Signal) [][]part {
	doors := []part{
		{"broker", g.broker.Run},
		{"drivers", g.fleet.Run},
		{"ready", g.sayReady},
		{"configuration", func(ctx context.Context) error { return changes.watch(ctx, g.reload, hup) }},
		{"announce", g.announce},
		{"clock", func(ctx context.Context) error { return noteGoodTime(ctx, g.clock, goodTime, g.log) }},
	}
	if g.cfg.Metrics.Address != "" {
		doors = append(doors, part{"metrics", func(ctx context.Context) error {
			return serveMetrics(ctx, g.cfg.Metrics.Address, g.metrics, g.log)
		}})
	}
	if g.updates != nil {
		g.twins.Attend(g.cfg.Hub.Own.DeviceID, &ownDevice{g.updates}, gateway.WantsCalls)
		doors = append(doors, part{"update", g.updates.Run})
	}
	if g.cfg.Control.Socket != "" {
		doors = append(doors, part{"control", g.control.Run})
	}
	return [][]part{
		g.boardParts(),
		{{"path", g.path.Run}, {"down", g.down.Run}},
		{{"twins", g.twins.Run}},
		{
			{"uplink", func(ctx context.Context) error { return g.uplink.Run(ctx, g.trace.Outbox(g.path)) }},
			{"upload", g.runFiles},
		},
		doors,
	}
}

// runFiles sends files, where there is somebody to send them to.
func (g *assembly) runFiles(ctx context.Context) error {
	if g.cfg.Hub.isBroker() {
		<-ctx.Done()
		return nil
	}
	return g.files.Run(ctx, g.fileHub)
}

// sayReady says when leaves can connect, and where.
func (g *assembly) sayReady(ctx context.Context) error {
	select {
	case <-g.broker.Ready():
		addresses := make([]string, 0, 2)
		for _, a := range g.broker.Addrs() {
			addresses = append(addresses, a.String())
		}
		g.memory.begin()
		m := g.memory.state(0)
		g.log.Info("ready", "addresses", addresses, "leaves", len(g.cfg.leaves), "hub", g.cfg.Hub.Host,
			"memory_bytes", m.AtStart, "memory_limit_bytes", m.Limit)
		<-ctx.Done()
	case <-ctx.Done():
	}
	return nil
}
