package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/twin"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/upload"
)

// The metrics, in the order of the operator's manual. All counters start at zero
// with the program.
var (
	buildInfo  = describe("build_info", "Always 1; the labels say which Fieldgate this is.", "version", "revision", "slot")
	startTime  = describe("start_time_seconds", "When the program was started, Unix time.")
	goroutine  = describe("goroutines", "What the program does at once; it comes back after every storm.")
	memoryUsed = describe("memory_in_use_bytes", "Live heap and stacks.")
	memoryLeaf = describe("memory_per_leaf_bytes", "What of it has come since the start, shared by the leaves that are connected.")

	received = describe("messages_received_total", "Messages that leaves handed over.", "transport", "kind")
	sent     = describe("messages_sent_total", "Messages that the hub has settled.", "kind", "result")
	dropped  = describe("messages_dropped_total", "Messages that were in custody and left it without the hub.", "reason")
	replayed = describe("messages_replayed_total", "Dead letters that an operator put back into their lanes.")
	rejected = describe("store_rejected_total", "Messages not taken, and so not acknowledged to the leaf.", "reason")

	storeMessages = describe("store_messages", "Messages on flash that the hub has not settled.", "lane")
	storeBytes    = describe("store_bytes", "Their size on flash, approximately.", "lane")
	storeOldest   = describe("store_oldest_age_seconds", "Age of the oldest of them, 0 for none.", "lane")
	storeLimit    = describe("store_limit_bytes", "Bound of the lane.", "lane")
	storeWritten  = describe("store_written_bytes_total", "Bytes handed to the flash.")
	storeCommits  = describe("store_commits_total", "Group commits: syncs of the flash.")
	storeFailing  = describe("store_failing", "1 while the store cannot write.")
	storeDamaged  = describe("store_damaged_messages", "Messages lost to damaged flash since the store was made.")
	storeMissing  = describe("store_damaged_commits", "Group commits lost to damaged flash, with it is not known how many messages.")
	storeMetaLost = describe("store_damaged_meta", "How often the meta database, with dead letters and notes, was lost, or its latest part.")
	storeHindered = describe("store_hindered", "1 while the store cannot read, or not remove what is settled; it tries again and may take messages.")
	storeErrors   = describe("store_errors_total", "How often the disk refused something that the store asked for.")
	storeLetters  = describe("store_dead_letters", "Messages on the dead-letter shelf.")
	storeLastDay  = describe("store_written_last_day_bytes", "Bytes handed to the flash in the last 24 hours, or since the start where that is less.")
	bufferLeft    = describe("store_buffer_left_seconds", "How long the store would last if the hub took nothing more, at the rate of the last 5 minutes; absent while that is unknown.")
	drainTime     = describe("store_drain_seconds", "How long the backlog needs to be gone at the rate of the last 5 minutes; absent while that is unknown.")
	staged        = describe("staged_bytes", "Bytes of messages held in memory until the hub settles them.")

	uplinkUp        = describe("uplink_up", "1 while the connection to the hub stands.")
	uplinkTransport = describe("uplink_transport_info", "1 for the way on which the hub is reached, or was last.", "transport")
	uplinkConnects  = describe("uplink_connects_total", "Attempts to connect to the hub.", "result")
	uplinkOffline   = describe("uplink_offline_seconds_total", "Time without a connection.")
	uplinkThrottled = describe("uplink_throttled_total", "How often the hub asked to wait.")
	uplinkInflight  = describe("uplink_inflight", "Messages with the hub that it has not settled.")
	uplinkLinks     = describe("uplink_links", "Leaves that have a link to the hub open.")
	uplinkRung      = describe("uplink_watchdog_rung", "1 for the widest thing given up since the hub last settled a message: link, session, connection or process.", "rung")
	uplinkClimbed   = describe("uplink_watchdog_total", "How often the uplink gave something up because the hub made no progress.", "rung")
	uplinkBytes     = describe("uplink_bytes_total", "Bytes over the connection to the hub, both directions, by cause: payload (bodies of settled messages), retry (bodies given up unsettled and sent again), keepalive (empty frames), tls (what TLS adds), protocol (all else).", "cause")
	certExpiry      = describe("certificate_expiry_timestamp_seconds", "When a certificate expires, Unix time; hub is what the hub showed last.", "name")
	clockOffset     = describe("clock_offset_seconds", "By how much the kernel still has to correct the clock, as its time source said last; absent while nothing disciplines it.")
	uplinkTaken     = describe("uplink_taken_leaves", "Leaves that the hub takes, by its last word.")
	uplinkUnasked   = describe("uplink_unasked_leaves", "Leaves about which the hub was not asked yet.")
	leavesEnrolling = describe("uplink_enrolling_leaves", "Leaves that wait to be enrolled with the hub.")
	uplinkRefused   = describe("uplink_refused_leaves", "Leaves whose identity the hub does not take.")

	downCommands = describe("commands_total", "Cloud-to-device messages handed to leaves, by the leaf's word.", "result")
	downCalls    = describe("method_calls_total", "Direct methods, by their end.", "result")
	twinReads    = describe("twin_reads_total", "Twins that leaves have asked for.")
	twinCopies   = describe("twin_reads_offline_total", "Of those, answered from the copy kept here.")
	twinReports  = describe("twin_reports_total", "Patches of reported properties taken from leaves.")
	twinKept     = describe("twin_reports_kept_total", "Of those, taken into custody on flash.")
	twinLost     = describe("twin_reports_lost_total", "Of those in custody, refused by the hub later.")
	twinDesired  = describe("twin_desired_total", "Changes of desired properties that leaves have had.")
	twinMissed   = describe("twin_desired_missed_total", "Changes of desired properties that a leaf had missed, found later.")
	twinWaiting  = describe("twin_waiting_leaves", "Leaves whose reported properties wait for the hub.")
	fileParts    = describe("file_parts_total", "Parts of files taken from leaves over MQTT, and their ends.")
	filesSent    = describe("files_sent_total", "Files that the hub has.")
	fileBytes    = describe("files_sent_bytes_total", "What was sent of files, whole or not.")
	fileDrops    = describe("files_dropped_total", "Files given up: left unfinished by their leaf, refused by the hub, damaged.")
	filesKept    = describe("files", "Files on flash.", "state")
	fileSpool    = describe("files_bytes", "Their size on flash.")

	leafSessions = describe("leaf_sessions_asleep", "Sessions kept for leaves that are away.")

	leafConnected = describe("leaf_connected", "Leaves that are connected.", "transport")
	leafConnects  = describe("leaf_connects_total", "Logins, and openings of serial ports.", "transport", "result")
	driverUp      = describe("driver_up", "1 while the port is open, the adapter is there.", "driver")
	driverEvents  = describe("driver_events_total", "What else drivers count.", "transport", "event")

	boardInfo     = describe("board_info", "Always 1; the labels say which board this is.", "kind", "model")
	boardTemp     = describe("board_temperature_celsius", "Of the processor; absent while it is unknown.")
	boardThrottle = describe("board_throttled", "1 while the processor is slower than it could be, by reason; absent while that is unknown.", "reason")
	boardSince    = describe("board_throttled_since_power_on", "1 if it was so since the machine was switched on, as its firmware says.", "reason")
	boardHardware = describe("board_hardware_up", "1 while the piece of hardware is in use.", "hardware")
	boardSignal   = describe("board_signal", "1 for what the status LED shows, or would.", "signal")
	boardPresses  = describe("board_button_presses_total", "How often the button was pressed.", "press")
	boardFed      = describe("board_watchdog_fed_total", "How often the hardware watchdog was fed.")
	boardStarving = describe("board_watchdog_starving", "1 while the watchdog is not fed, because a part of the program makes no progress.")
	boardRTC      = describe("board_rtc_set", "1 if the battery-backed clock shows a time that can be.", "rtc")

	leafDiscarded = describe("leaf_discarded_total", "What leaves sent that is no message: lines, connections closed for garbage.", "transport", "reason")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fieldgate_"+name, help, labels, nil)
}

// overMQTT is the broker's transport, as a label value. A driver's is its kind.
const overMQTT = "mqtt"

// collector makes the state of snapshots of the parts.
type collector struct {
	name    string // of the gateway
	hub     string // the hub's host name
	dataDir string
	build   build
	started time.Time
	clock   gateway.Clock
	memory  *memory
	path    func() gateway.State
	uplink  func() uplink.State
	broker  func() broker.State
	twins   func() twin.State
	files   func() upload.State
	drivers func() (now, gone []gateway.DriverState) // of those that are no more what they have counted
	board   func() board.State
	updates func() *updateState
	// ownRefused is why the hub does not take the gateway's own device, else empty.
	ownRefused func() string
	// admitted says whether there is such a leaf, disabled or not, or whether it is the
	// gateway's own device; devices are all leaves.
	admitted func(leaf string) bool
	devices  func() []control.Device
	// census counts the admitted leaves by the hub's last word on them.
	census func(hub *uplink.State, now time.Time) map[string]int
	certs  map[string]func() time.Time // when each certificate expires, zero if unknown
}

// Describe sends nothing: which metrics there are depends on the parts.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.state()
	measured{out}.all(&s)
}

// all measures everything, in the order of the descriptions.
func (m measured) all(s *state) {
	m.gauge(buildInfo, 1, s.Build.Version, s.Build.Revision, "")
	m.gauge(startTime, float64(s.Started.UnixMilli())/1e3)
	m.gauge(goroutine, float64(s.Goroutines))
	m.gauge(memoryUsed, float64(s.Memory.InUse))
	if s.Memory.PerLeaf != nil {
		m.gauge(memoryLeaf, float64(*s.Memory.PerLeaf))
	}
	m.messages(&s.Path)
	m.store(&s.Store)
	m.gauge(staged, float64(s.Path.StagedBytes))
	m.link(s)
	m.leaves(s)
	m.down(&s.Down)
	m.files(&s.Files)
	m.board(&s.Board)
}

// measured sends values on.
type measured struct{ out chan<- prometheus.Metric }

func (m measured) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m measured) counter(d *prometheus.Desc, v float64, labels ...string) {
	m.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

// known measures what is known.
func (m measured) known(d *prometheus.Desc, v *float64) {
	if v != nil {
		m.gauge(d, *v)
	}
}

func (m measured) yes(d *prometheus.Desc, is bool, labels ...string) {
	v := 0.0
	if is {
		v = 1
	}
	m.gauge(d, v, labels...)
}

// counters measures counts by one label.
func (m measured) counters(d *prometheus.Desc, by map[string]int64) {
	for label, n := range by {
		m.counter(d, float64(n), label)
	}
}

func (m measured) messages(p *pathState) {
	for lane, n := range p.Sent {
		m.counter(sent, float64(n), lane, "accepted")
	}
	m.counters(dropped, p.Dropped)
	m.counter(replayed, float64(p.Replayed))
	m.counters(rejected, p.Rejected)
}

func (m measured) store(s *storeState) {
	for name, lane := range s.Lanes {
		m.gauge(storeMessages, float64(lane.Messages), name)
		m.gauge(storeBytes, float64(lane.Bytes), name)
		m.gauge(storeLimit, float64(lane.LimitBytes), name)
		m.gauge(storeOldest, lane.OldestSeconds, name)
	}
	m.counter(storeWritten, float64(s.BytesWritten))
	m.gauge(storeLastDay, float64(s.WrittenToday))
	m.known(bufferLeft, s.BufferLeft)
	m.known(drainTime, s.DrainTime)
	m.counter(storeCommits, float64(s.Commits))
	m.yes(storeFailing, s.Failing != "")
	m.gauge(storeDamaged, float64(s.LostMessages))
	m.gauge(storeMissing, float64(s.LostCommits))
	m.gauge(storeMetaLost, float64(s.LostMeta))
	m.yes(storeHindered, s.Hindered != "")
	m.counter(storeErrors, float64(s.Errors))
	m.gauge(storeLetters, float64(s.DeadLetters))
}

func (m measured) link(s *state) {
	u := &s.Uplink
	m.yes(uplinkUp, u.Connected)
	if u.Transport != "" {
		m.gauge(uplinkTransport, 1, u.Transport)
	}
	m.counters(uplinkConnects, u.Connects)
	m.counter(uplinkOffline, u.Offline)
	m.counter(uplinkThrottled, float64(u.Throttled))
	m.gauge(uplinkInflight, float64(u.Inflight))
	m.gauge(uplinkLinks, float64(u.Links))
	m.gauge(uplinkRefused, float64(s.Leaves.Refused))
	m.gauge(uplinkTaken, float64(s.Leaves.Taken))
	m.gauge(uplinkUnasked, float64(s.Leaves.Unasked))
	m.gauge(leavesEnrolling, float64(s.Leaves.Enrolling))
	m.counters(uplinkBytes, u.Bytes)
	m.counters(uplinkClimbed, u.GaveUp)
	for rung := range u.GaveUp {
		m.yes(uplinkRung, u.Watchdog == rung, rung)
	}
	for name, expiry := range s.Certificates {
		m.gauge(certExpiry, float64(expiry.Unix()), name)
	}
	m.known(clockOffset, s.ClockOffset)
}

// leaves measures the ways on which they are reached.
func (m measured) leaves(s *state) {
	for name, w := range s.Ways {
		m.gauge(leafConnected, float64(w.Connected), name)
		for _, by := range []struct {
			desc *prometheus.Desc
			n    map[string]int64
		}{{received, w.Received}, {leafConnects, w.Logins}, {leafDiscarded, w.Discarded}, {driverEvents, w.Events}} {
			for label, n := range by.n {
				m.counter(by.desc, float64(n), name, label)
			}
		}
	}
	for _, d := range s.Drivers {
		m.yes(driverUp, d.Up, d.Name)
	}
	m.gauge(leafSessions, float64(s.Down.Asleep))
}

// down is what went to leaves, and what they asked for.
func (m measured) down(d *downState) {
	m.counters(downCommands, d.Commands)
	m.counters(downCalls, d.Calls)
	m.counter(twinReads, float64(d.TwinReads))
	m.counter(twinCopies, float64(d.FromCopy))
	m.counter(twinReports, float64(d.Reports))
	m.counter(twinKept, float64(d.Kept))
	m.counter(twinLost, float64(d.Lost))
	m.counter(twinDesired, float64(d.Desired))
	m.counter(twinMissed, float64(d.Missed))
	m.gauge(twinWaiting, float64(d.WaitingLeaves))
}

func (m measured) files(f *filesState) {
	m.counter(fileParts, float64(f.Parts))
	m.counter(filesSent, float64(f.Sent))
	m.counter(fileBytes, float64(f.SentBytes))
	m.counter(fileDrops, float64(f.Dropped))
	m.gauge(filesKept, float64(f.Waiting), "waiting")
	m.gauge(filesKept, float64(f.Unfinished), "unfinished")
	m.gauge(fileSpool, float64(f.Bytes))
}

// board measures the machine.
func (m measured) board(b *boardState) {
	m.gauge(boardInfo, 1, b.Kind, b.Model)
	m.known(boardTemp, b.Temperature)
	if b.Throttled != nil {
		for _, t := range board.ThrottleReasons {
			m.yes(boardThrottle, slices.Contains(b.Throttled, string(t)), string(t))
			m.yes(boardSince, slices.Contains(b.SincePower, string(t)), string(t))
		}
	}
	for _, p := range b.Hardware {
		m.yes(boardHardware, p.Up, p.Name)
	}
	for _, signal := range board.Signals {
		m.yes(boardSignal, signal.String() == b.Signal, signal.String())
	}
	m.counters(boardPresses, b.Presses)
	m.counter(boardFed, float64(b.Fed))
	m.yes(boardStarving, len(b.Starving) > 0)
	for _, c := range b.RTCs {
		m.yes(boardRTC, c.Set, c.Device)
	}
}

// newAckTimes makes the histogram of how long the hub takes to settle.
func newAckTimes() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "fieldgate_uplink_ack_duration_seconds",
		Help:    "Time from sending a message to the hub's word on it.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	})
}

// newSyncTimes makes the histogram of how long the flash takes to sync a commit.
func newSyncTimes() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "fieldgate_store_sync_duration_seconds",
		Help:    "Time that a group commit took until it was synced to flash.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
}

// metricsHandler answers scrapes.
func metricsHandler(parts ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(parts...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	return mux
}

// serveMetrics serves metrics at the address until ctx ends. An address that
// cannot be had is said loudly, but is no reason to stop taking messages.
func serveMetrics(ctx context.Context, address string, handler http.Handler, log *slog.Logger) error {
	var binding net.ListenConfig
	l, err := binding.Listen(ctx, "tcp", address)
	if err != nil {
		log.Error("metrics are not served", "address", address, "error", err)
		<-ctx.Done()
		return nil
	}
	log.Info("listening", "for", "metrics", "address", l.Addr().String())
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
