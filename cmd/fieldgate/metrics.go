package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fieldgate/fieldgate/drivers/serial"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// The metrics, in the order of the operator's manual. All counters start at zero
// with the program.
var (
	buildInfo = describe("build_info", "Always 1; the labels say which Fieldgate this is.", "version", "revision", "slot")
	startTime = describe("start_time_seconds", "When the program was started, Unix time.")

	received = describe("messages_received_total", "Messages that leaves handed over.", "transport", "kind")
	sent     = describe("messages_sent_total", "Messages that the hub has settled.", "kind", "result")
	dropped  = describe("messages_dropped_total", "Messages that were in custody and left it without the hub.", "reason")
	rejected = describe("store_rejected_total", "Messages not taken, and so not acknowledged to the leaf.", "reason")

	storeMessages = describe("store_messages", "Messages on flash that the hub has not settled.", "lane")
	storeBytes    = describe("store_bytes", "Their size on flash, approximately.", "lane")
	storeOldest   = describe("store_oldest_age_seconds", "Age of the oldest of them, 0 for none.", "lane")
	storeLimit    = describe("store_limit_bytes", "Bound of the lane.", "lane")
	storeWritten  = describe("store_written_bytes_total", "Bytes handed to the flash.")
	storeCommits  = describe("store_commits_total", "Group commits: syncs of the flash.")
	storeFailing  = describe("store_failing", "1 while the store cannot write.")
	storeLetters  = describe("store_dead_letters", "Messages on the dead-letter shelf.")
	staged        = describe("staged_bytes", "Bytes of messages held in memory until the hub settles them.")

	uplinkUp        = describe("uplink_up", "1 while the connection to the hub stands.")
	uplinkConnects  = describe("uplink_connects_total", "Attempts to connect to the hub.", "result")
	uplinkOffline   = describe("uplink_offline_seconds_total", "Time without a connection.")
	uplinkThrottled = describe("uplink_throttled_total", "How often the hub asked to wait.")
	uplinkInflight  = describe("uplink_inflight", "Messages with the hub that it has not settled.")
	uplinkLinks     = describe("uplink_links", "Leaves that have a link to the hub open.")
	uplinkRefused   = describe("uplink_refused_leaves", "Leaves whose identity the hub does not take.")

	leafConnected = describe("leaf_connected", "Leaves that are connected.", "transport")
	leafConnects  = describe("leaf_connects_total", "Logins, and openings of serial ports.", "transport", "result")
	leafDiscarded = describe("leaf_discarded_total", "What leaves sent that is no message: lines, connections closed for garbage.", "transport", "reason")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fieldgate_"+name, help, labels, nil)
}

// Transports, as label values.
const (
	overMQTT   = "mqtt"
	overSerial = "serial"
)

// collector turns snapshots of the parts into metrics.
type collector struct {
	build   build
	started time.Time
	clock   gateway.Clock
	path    func() gateway.State
	uplink  func() uplink.State
	broker  func() broker.State
	serial  []func() serial.State
}

// Describe sends nothing: which metrics there are depends on the parts.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	m := measured{out}
	m.gauge(buildInfo, 1, c.build.Version, c.build.Revision, "")
	m.gauge(startTime, float64(c.started.UnixMilli())/1e3)
	path := c.path()
	c.messages(m, path)
	c.store(m, path)
	c.link(m)
	c.leaves(m)
}

// measured sends values on.
type measured struct{ out chan<- prometheus.Metric }

func (m measured) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m measured) counter(d *prometheus.Desc, v float64, labels ...string) {
	m.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (m measured) yes(d *prometheus.Desc, is bool) {
	v := 0.0
	if is {
		v = 1
	}
	m.gauge(d, v)
}

func (c *collector) messages(m measured, path gateway.State) {
	for lane, name := range gateway.LaneNames {
		m.counter(sent, float64(path.Sent[lane]), name, "accepted")
	}
	for _, reason := range gateway.DropReasons {
		m.counter(dropped, float64(path.Dropped[reason]), string(reason))
	}
	for reason, n := range path.Rejected {
		m.counter(rejected, float64(n), reason)
	}
}

func (c *collector) store(m measured, path gateway.State) {
	now := c.clock()
	for i, lane := range path.Store.Lanes {
		name := gateway.LaneNames[i]
		m.gauge(storeMessages, float64(lane.Messages), name)
		m.gauge(storeBytes, float64(lane.Bytes), name)
		m.gauge(storeLimit, float64(lane.Limit), name)
		m.gauge(storeOldest, age(lane.Oldest, now).Seconds(), name)
	}
	m.counter(storeWritten, float64(path.Store.BytesWritten))
	m.counter(storeCommits, float64(path.Store.Commits))
	m.yes(storeFailing, path.Store.Failing != nil)
	m.gauge(storeLetters, float64(path.Store.DeadLetters))
	m.gauge(staged, float64(path.StagedBytes))
}

// age is how long ago an instant was, as far as that can be told: within one
// boot always, across boots only by a wall clock that was set.
func age(then, now gateway.Instant) time.Duration {
	switch {
	case then.Boot == now.Boot && then.Boot != 0:
		return now.Uptime - then.Uptime
	case then.Quality == gateway.Unsynced, now.Quality == gateway.Unsynced:
		return 0
	default:
		return max(0, now.Wall.Sub(then.Wall))
	}
}

func (c *collector) link(m measured) {
	s := c.uplink()
	m.yes(uplinkUp, s.Connected)
	for result, n := range s.Connects {
		m.counter(uplinkConnects, float64(n), result)
	}
	m.counter(uplinkOffline, s.Offline.Seconds())
	m.counter(uplinkThrottled, float64(s.Throttled))
	m.gauge(uplinkInflight, float64(s.Inflight))
	m.gauge(uplinkLinks, float64(s.Links))
	m.gauge(uplinkRefused, float64(len(s.Refused)))
}

func (c *collector) leaves(m measured) {
	b := c.broker()
	for lane, n := range b.Published {
		m.counter(received, float64(n.QoS0+n.QoS1), overMQTT, gateway.LaneNames[lane])
	}
	m.counter(received, float64(b.Wills), overMQTT, "will")
	m.gauge(leafConnected, float64(len(b.Leaves)), overMQTT)
	for result, n := range b.Connects {
		m.counter(leafConnects, float64(n), overMQTT, string(result))
	}
	m.counter(leafDiscarded, float64(b.Garbage), overMQTT, "garbage")
	if len(c.serial) > 0 {
		c.ports(m)
	}
}

// ports adds up what the serial ports say.
func (c *collector) ports(m measured) {
	var open, opened, taken int64
	discarded := make(map[serial.Discard]int64)
	for _, state := range c.serial {
		s := state()
		if s.Open {
			open++
		}
		opened += s.Opened
		taken += s.Taken.Lines
		for why, n := range s.Discarded {
			discarded[why] += n.Lines
		}
	}
	m.gauge(leafConnected, float64(open), overSerial)
	m.counter(leafConnects, float64(opened), overSerial, "accepted")
	m.counter(received, float64(taken), overSerial, "telemetry")
	for why, n := range discarded {
		m.counter(leafDiscarded, float64(n), overSerial, string(why))
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
