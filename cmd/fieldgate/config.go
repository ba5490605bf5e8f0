package main

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/revision"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/seal"
	"github.com/fieldgate/fieldgate/gateway/store"
	"github.com/fieldgate/fieldgate/gateway/twin"
	"github.com/fieldgate/fieldgate/gateway/uplink"
	"github.com/fieldgate/fieldgate/gateway/upload"
)

// tables are the tables of the configuration file. Packages bring their own;
// what is declared here belongs to the program as a whole.
type tables struct {
	Gateway gatewayConfig  `toml:"gateway"` // the gateway itself
	Hub     hubConfig      `toml:"hub"`     // what is upstream, and the way there
	Uplink  uplink.Config  `toml:"uplink"`  // the one connection and what is in flight on it
	Enrol   enrolConfig    `toml:"enrol"`   // how leaves without a key become known to the hub
	Broker  broker.Config  `toml:"broker"`  // MQTT for leaves
	Twin    twin.Config    `toml:"twin"`    // the leaves' twins
	Upload  upload.Config  `toml:"upload"`  // files of leaves
	Path    gateway.Config `toml:"path"`    // the way of messages through the gateway
	Lane    lanesConfig    `toml:"lane"`    // the lanes of messages
	Store   store.Config   `toml:"store"`   // custody on flash
	Metrics metricsConfig  `toml:"metrics"` // metrics for Prometheus
	Control control.Config `toml:"control"` // how the other subcommands reach the daemon
	Board   boardConfig    `toml:"board"`   // the machine: LED, button, watchdog
	Update  updateConfig   `toml:"update"`  // updates that the hub asks for
	Log     logConfig      `toml:"log"`     // the daemon's log
	BLE     bleTables      `toml:"ble"`     // Bluetooth LE
	// The files of leaf.d may hold these as well.
	Leaves []strict.Table `toml:"leaf"`   // the leaves that may speak
	Serial []strict.Table `toml:"serial"` // serial ports and what is spoken there
	Maps   []strict.Table `toml:"map"`    // rules for firmware that cannot change its topics
	// The order of the modules is the order of the file.
	Modules []strict.Table `toml:"module"` // steps between leaves and custody
}

// bleTables is the table [ble] and the lists in it.
type bleTables struct {
	Config ble.Config `toml:",inline"`
	Lists  bleLists   `toml:",inline"`
}

// bleLists are the leaves over BLE.
type bleLists struct {
	Adverts []strict.Table `toml:"advert"` // sensors that only advertise
	Devices []strict.Table `toml:"device"` // devices that are connected
}

// leafTables are the tables of a file in leaf.d.
type leafTables struct {
	Leaves []strict.Table `toml:"leaf"`
	Serial []strict.Table `toml:"serial"`
	Maps   []strict.Table `toml:"map"`
	BLE    bleLists       `toml:"ble"`
}

// gatewayConfig is the table [gateway].
type gatewayConfig struct {
	// Name is a host name of the gateway: leaves may name it in their tokens
	// instead of the hub. The default is that of the machine.
	Name string `toml:"name"`
	// DataDir is the folder for everything that must survive a restart.
	DataDir string `toml:"data_dir"`
	// ReportEvery is how often the gateway's own twin at the hub is told the figures of
	// its state (1s to 7d); 0s tells it nothing. Changes of state are told at once, but in
	// the long run there is never more than one write in that time. Needs hub.device_id.
	ReportEvery gateway.Duration `toml:"report_every"`
	// TPM is the trusted platform module that keeps the key with which secrets are sealed
	// on flash, if there is one; "" for none.
	TPM string `toml:"tpm"`
}

// lanesConfig is the table [lane].
type lanesConfig struct {
	Alarm     laneConfig `toml:"alarm"`     // the lane that overtakes the other
	Telemetry laneConfig `toml:"telemetry"` // the lane of all that is no alarm
}

// laneConfig is one lane: what the path reads of it and what the store reads.
type laneConfig struct {
	Way  gateway.LaneConfig `toml:",inline"`
	Room store.LaneConfig   `toml:",inline"`
}

// metricsConfig is the table [metrics].
type metricsConfig struct {
	// Address is where /metrics is served, "" for nowhere.
	Address string `toml:"address"`
}

// logConfig is the table [log].
type logConfig struct {
	Level  slog.Level `toml:"level"`  // "debug", "info", "warn" or "error"
	Format string     `toml:"format"` // "text" or "json"
}

// config is a configuration that is complete and right, with everything read
// that its files name.
type config struct {
	tables
	file     string
	says     *settings         // see loadRunning
	prints   map[string]string // the same
	files    revision.Files    // the same: as they were read, nil if other texts stood in their place
	leaves   []leaf
	enrolKey identity.Key
	ownKey   identity.Key // of the gateway's own device
	ports    []configuredPort
	rules    []mapping.Rule
	ble      *ble.Config // nil: there is no Bluetooth
	nodes    []bleNode   // devices over it that speak MQTT-SN
	modules  []gateway.Module
	warnings []strict.Problem
	secrets  []string // files that hold one each
	// machine seals secrets; nil where there is no key for that, with the reason.
	machine   *seal.Machine
	noMachine error
}

func defaults() tables {
	host, _ := os.Hostname() // "" is a fine name too
	t := tables{
		Gateway: gatewayConfig{Name: host, DataDir: "/var/lib/fieldgate", ReportEvery: gateway.Duration(10 * time.Minute), TPM: "/dev/tpmrm0"},
		Hub:     defaultHub(),
		Uplink:  uplink.DefaultConfig(),
		Enrol:   defaultEnrol(),
		Broker:  broker.DefaultConfig(),
		Twin:    twin.DefaultConfig(),
		Upload:  upload.DefaultConfig(),
		Path:    gateway.DefaultConfig(),
		Store:   store.DefaultConfig(),
		Metrics: metricsConfig{Address: "127.0.0.1:9600"},
		Control: control.DefaultConfig(),
		Board:   defaultBoard(),
		Log:     logConfig{Level: slog.LevelInfo, Format: "text"},
		BLE:     bleTables{Config: ble.DefaultConfig()},
	}
	t.Lane.each(func(l gateway.Lane, c *laneConfig) {
		*c = laneConfig{t.Path.Lanes[l], t.Store.Lanes[l]}
	})
	return t
}

func (c *lanesConfig) each(f func(gateway.Lane, *laneConfig)) {
	f(gateway.LaneAlarm, &c.Alarm)
	f(gateway.LaneTelemetry, &c.Telemetry)
}

// invalid is the error of a configuration with mistakes in it.
type invalid []strict.Problem

func (ps invalid) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// loadConfig reads the configuration file and the files *.toml of the folder
// leaf.d beside it, and everything that they name. The error is of type invalid
// if there are mistakes in them: then it holds all of them.
func loadConfig(file string) (*config, error) { return loadConfigWith(file, nil) }

// loadConfigWith is loadConfig with texts in the place of those of files; a file of
// leaf.d need not be there for that.
func loadConfigWith(file string, texts map[string][]byte) (*config, error) {
	l := loader{config: config{tables: defaults(), file: file}, texts: texts, leafAt: make(map[string]strict.Table), portAt: make(map[string]strict.Table), reachedAt: make(map[string]string), bleAt: make(map[string]strict.Table), deviceAt: make(map[string]string)}
	root, err := l.open(file)
	if err != nil {
		return nil, err
	}
	root.Decode(&l.tables)
	l.check(root)
	l.beginBLE(root.Sub("ble"))
	lists := []leafTables{{l.Leaves, l.Serial, l.Maps, l.BLE.Lists}}
	dropIns, err := dropInsOf(file, texts)
	if err != nil {
		return nil, err
	}
	for _, name := range dropIns {
		dropIn, err := l.open(name)
		if err != nil {
			return nil, err
		}
		var t leafTables
		dropIn.Decode(&t)
		lists = append(lists, t)
	}
	for _, t := range lists {
		l.addLeaves(t.Leaves)
	}
	l.checkListening()
	for _, t := range lists {
		l.addPorts(t.Serial)
		l.addRules(t.Maps)
		l.addBLE(t.BLE)
	}
	l.addModules(l.Modules)
	return l.done()
}

// loadRunning is loadConfigWith for a configuration that is to run: it also keeps what
// is needed to tell later what has changed.
func loadRunning(file string, texts map[string][]byte) (*config, error) {
	var files revision.Files
	if texts == nil { // somebody may write while this reads: what counts is what is kept as a revision
		var err error
		if files, err = filesOf(file); err == nil {
			texts, err = textsOf(file, files)
		}
		if err != nil {
			files, texts = nil, nil // what is wrong is said better below
		}
	}
	c, err := loadConfigWith(file, texts)
	if err != nil {
		return nil, err
	}
	c.files = files
	if c.says, err = readSettingsWith(file, true, texts); err != nil {
		return nil, err
	}
	c.prints = printsOf(c)
	return c, nil
}

// folder is where the configuration is.
func (c *config) folder() string { return filepath.Dir(c.file) }

// resolve returns the path of a file as seen from there.
func (c *config) resolve(file string) string {
	if filepath.IsAbs(file) || file == "" {
		return file
	}
	return filepath.Join(c.folder(), file)
}

// dropInsOf returns the files of leaf.d, in the order of their names: those that are
// there, and those that are not and have a text.
func dropInsOf(file string, texts map[string][]byte) ([]string, error) {
	dir := filepath.Join(filepath.Dir(file), "leaf.d")
	names, err := filepath.Glob(filepath.Join(dir, "*.toml"))
	for name := range texts {
		if filepath.Dir(name) == dir && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, err
}

// loader is a configuration in the making.
type loader struct {
	config
	texts     map[string][]byte // in the place of those of files
	docs      []*strict.Document
	leafAt    map[string]strict.Table // where each leaf stands
	portAt    map[string]strict.Table // where each port stands
	reachedAt map[string]string       // the port at which a leaf is reached
	bleAt     map[string]strict.Table // where each address of a kind stands
	deviceAt  map[string]string       // the address of a leaf that is connected over BLE
}

// open reads one file. A file that is not TOML is an empty table with a problem.
func (l *loader) open(name string) (strict.Table, error) {
	text, given := l.texts[name]
	if !given {
		var err error
		if text, err = os.ReadFile(name); err != nil {
			return strict.Table{}, err
		}
	}
	doc := strict.Parse(name, text)
	l.docs = append(l.docs, doc)
	return doc.Root(), nil
}

// done returns the configuration if there was nothing to complain about.
func (l *loader) done() (*config, error) {
	var all invalid
	for _, d := range l.docs {
		all = append(all, d.Problems()...)
	}
	if len(all) > 0 {
		return nil, all
	}
	return &l.config, nil
}

// warn notes something that is not right but does no harm by itself.
func (l *loader) warn(p strict.Problem, format string, args ...any) {
	p.Message = fmt.Sprintf(format, args...)
	l.warnings = append(l.warnings, p)
}

// check checks the tables that there are one of.
func (l *loader) check(root strict.Table) {
	if root.IsZero() {
		return
	}
	c := &l.tables
	c.Lane.each(func(n gateway.Lane, lane *laneConfig) {
		at := root.Sub("lane." + n.String())
		at.Check(lane.Way.Validate())
		at.Check(lane.Room.Validate(c.Store.SegmentSize))
		c.Path.Lanes[n], c.Store.Lanes[n] = lane.Way, lane.Room
	})
	for _, t := range []struct {
		name string
		part interface{ Validate() error }
	}{
		{"gateway", &c.Gateway},
		{"hub", &c.Hub},
		{"uplink", &c.Uplink},
		{"enrol", &c.Enrol},
		{"broker", &c.Broker},
		{"twin", &c.Twin},
		{"upload", &c.Upload},
		{"path", &c.Path},
		{"store", &c.Store},
		{"metrics", &c.Metrics},
		{"control", &c.Control},
		{"board", &c.Board},
		{"update", &c.Update},
		{"log", &c.Log},
	} {
		root.Sub(t.name).Check(t.part.Validate())
	}
	c.Gateway.DataDir = root.Resolve(c.Gateway.DataDir)
	c.Board.Root = root.Resolve(c.Board.Root)
	if c.Control.Socket != "" {
		c.Control.Socket = root.Resolve(c.Control.Socket)
	}
	l.machine, l.noMachine = seal.Find(c.place()) // before the first secret
	l.checkFiles(root)
	l.addEnrolment(root)
}

// checkFiles makes the paths of certificates absolute and looks whether the
// files are any good.
func (l *loader) checkFiles(root strict.Table) {
	l.checkHub(root)
	if b := &l.Broker; b.ClientCAFile != "" {
		b.ClientCAFile = root.Resolve(b.ClientCAFile)
		if err := checkCA(b.ClientCAFile); err != nil {
			root.Report("broker.client_ca_file", "%v", err)
		}
	}
	for i := range l.Broker.Listeners {
		listener := &l.Broker.Listeners[i]
		if listener.CertFile == "" || listener.KeyFile == "" {
			continue
		}
		at := root.Sub(fmt.Sprintf("broker.listener[%d]", i))
		listener.CertFile, listener.KeyFile = root.Resolve(listener.CertFile), root.Resolve(listener.KeyFile)
		l.secrets = append(l.secrets, listener.KeyFile)
		if _, err := seal.ReadFile(listener.KeyFile); err != nil {
			at.Report("key_file", "%v", err)
		} else if _, err := seal.KeyPair(listener.CertFile, listener.KeyFile); err != nil {
			at.Report("cert_file", "not a certificate with its key: %v", err)
		}
		l.warnIfOpen(at.Where("key_file"), listener.KeyFile)
	}
}

func checkCA(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return nil
}

// warnIfOpen warns of a secret that others on the machine can read.
func (l *loader) warnIfOpen(at strict.Problem, file string) {
	info, err := os.Stat(file)
	if err == nil && info.Mode().Perm()&0o007 != 0 {
		l.warn(at, "others can read %s (mode %04o): run chmod o= on it", file, info.Mode().Perm())
	}
}

// Validate checks the table. Errors are of type *gateway.KeyError.
func (c *gatewayConfig) Validate() error {
	if c.DataDir == "" {
		return gateway.BadKey("data_dir", "write the folder for everything that must survive a restart")
	}
	return validateReport(c.ReportEvery)
}

// Validate checks the table. Errors are of type *gateway.KeyError.
func (c *metricsConfig) Validate() error {
	if c.Address == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		return gateway.BadKey("address", "%q is not an address: write host and port, like \"127.0.0.1:9600\", or \"\" for no metrics", c.Address)
	}
	return nil
}

// Validate checks the table. Errors are of type *gateway.KeyError.
func (c *logConfig) Validate() error {
	if c.Format != "text" && c.Format != "json" {
		return gateway.BadKey("format", "%q is unknown: write \"text\" or \"json\"", c.Format)
	}
	return nil
}
