package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/rights"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// The checks of what is on this machine.

func (x *examiner) checkConfig(context.Context) []finding {
	cfg, err := x.read()
	if mistakes, ok := errors.AsType[invalid](err); ok {
		what := fmt.Sprintf("%s has %s", x.file, count(len(mistakes), "mistake", "mistakes"))
		return wrong(exitConfig, what, err, "mend the places, they are in: fieldgate config validate "+x.file)
	}
	switch {
	case errors.Is(err, fs.ErrPermission) && x.who != (rights.User{}):
		return wrong(exitConfig, "the daemon cannot read the configuration", err, "have user "+x.who.String()+" read it, as whom the daemon runs")
	case errors.Is(err, fs.ErrPermission):
		return wrong(exitConfig, "the configuration cannot be read", err, "run it as root: sudo fieldgate check")
	case errors.Is(err, errWhose):
		return wrong(exitForbidden, "the configuration is not read", err, "run it as the user of the daemon, with sudo -u")
	}
	if err != nil {
		return wrong(exitConfig, "the configuration cannot be read", err, "name the file: fieldgate check --config FILE")
	}
	cfg.Hub.Timeout = gateway.Duration(min(cfg.Hub.Timeout.D(), x.timeout))
	x.cfg = cfg
	if x.clock, err = startClock(filepath.Join(cfg.Gateway.DataDir, "clock")); err != nil {
		return wrong(exitFailed, "the clock cannot be read", err, "look at /proc, which must be mounted: mount -t proc proc /proc")
	}
	if len(cfg.warnings) > 0 {
		w := cfg.warnings[0]
		return []finding{{Result: resultWarning, What: x.file + " is valid, with warnings", Why: w.Error(), Next: "fieldgate config validate " + x.file}}
	}
	return fine("%s is valid: %s, %s", x.file, count(len(cfg.leaves), "leaf", "leaves"), count(len(cfg.ports), "serial port", "serial ports"))
}

// errWhose says that it is not known with whose rights the files are to be read.
var errWhose = errors.New("it cannot be told whose it is")

// read loads the configuration and all that it names with the rights of the daemon, also
// where root asks: what is read may be sent to a proxy that it names, or written to, as a
// TPM is. Nobody but root may have root do that with what is root's.
func (x *examiner) read() (cfg *config, err error) {
	// What is wrong with the file is said better below.
	if x.who, err = rights.Lend(x.file, dataDirOf(x.file)); err != nil {
		return nil, fmt.Errorf("%w: %w", errWhose, err)
	}
	err = x.who.With(func() (err error) {
		cfg, err = loadConfig(x.file)
		return err
	})
	return cfg, err
}

// stateTimeout bounds how long the daemon may take to say how it is.
const stateTimeout = 5 * time.Second

func (x *examiner) checkDaemon(ctx context.Context) []finding {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	var s state
	err := x.client().State(ctx, &s)
	switch {
	case errors.Is(err, control.ErrNotRunning):
		return wrong(exitNotRunning, "the daemon does not run", err, "start it: systemctl start fieldgate; why it ended: journalctl -u fieldgate -n 50")
	case errors.Is(err, control.ErrForbidden):
		return wrong(exitForbidden, "the daemon does not answer this user", err, "run it as root: sudo fieldgate check")
	case err != nil:
		return wrong(exitNotRunning, "the daemon gives no answer", err, "start it anew: systemctl restart fieldgate")
	}
	x.state = &s
	return fine("it runs, version %s, for %s", s.Build.Version, short(s.Now.Sub(s.Started)))
}

// existing returns the folder, or the lowest above it that is there.
func existing(dir string) string {
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// mountPoint returns the top folder of the file system that a folder is on.
func mountPoint(dir string) string {
	device := func(name string) (uint64, bool) {
		var s unix.Stat_t
		err := unix.Stat(name, &s)
		return uint64(s.Dev), err == nil
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	own, ok := device(dir)
	for ok && dir != filepath.Dir(dir) {
		above, found := device(filepath.Dir(dir))
		if !found || above != own {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

func (x *examiner) checkDisk(context.Context) []finding {
	dir := existing(x.cfg.Gateway.DataDir)
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return wrong(exitStore, "the data folder cannot be looked at", err, "name one that can: fieldgate config set gateway.data_dir DIR")
	}
	at := mountPoint(dir)
	if s.Flags&unix.ST_RDONLY != 0 {
		return wrong(exitStore, fmt.Sprintf("the data folder %s is read-only: nothing can be kept", x.cfg.Gateway.DataDir),
			errors.New("the file system at "+at+" is mounted read-only; the kernel does that to a card that fails, see: dmesg"),
			"make it writable: mount -o remount,rw "+at+"; if that fails, replace the card")
	}
	free, least := int64(s.Bavail)*s.Bsize, int64(x.cfg.Store.MinFree)
	fills := "see what fills it: du -xhd2 " + at + " | sort -h | tail; free some, or: fieldgate config set store.min_free 4MiB"
	if free < least {
		return wrong(exitStore, fmt.Sprintf("the disk is full: %s free at %s", mebibytes(free), at),
			fmt.Errorf("the store leaves %s free, and takes nothing below that", mebibytes(least)), fills)
	}
	if err := unix.Access(dir, unix.W_OK); err != nil && (os.Geteuid() == 0 || x.state == nil) {
		return wrong(exitStore, fmt.Sprintf("the data folder %s cannot be written by this user", x.cfg.Gateway.DataDir), err,
			"run it as root: sudo fieldgate check; or give the folder to the daemon: chown -R fieldgate "+dir)
	}
	if segment := int64(x.cfg.Store.SegmentSize); free < least+4*segment {
		return []finding{{Result: resultWarning, What: fmt.Sprintf("the disk is almost full: %s free at %s", mebibytes(free), at), Next: fills}}
	}
	return fine("%s free at %s", mebibytes(free), at)
}

func (x *examiner) checkStore(context.Context) (all []finding) {
	if x.state == nil {
		return passOver("the daemon knows, and does not run")
	}
	if why := x.state.Store.Failing; why != "" {
		all = append(all, wrong(exitStore, "the store cannot write", errors.New(why), "see what fills the disk: df -h "+x.cfg.Gateway.DataDir+"; and whether it fails: dmesg")...)
	}
	for _, name := range gateway.LaneNames {
		if l := x.state.Store.Lanes[name]; l.LimitBytes > 0 && l.Bytes >= l.LimitBytes*9/10 {
			all = append(all, finding{
				Result: resultWarning, What: fmt.Sprintf("lane %s is almost full: %s of %s", name, mebibytes(l.Bytes), mebibytes(l.LimitBytes)),
				Next: "give it more room: fieldgate config set lane." + name + ".max_bytes " + fmt.Sprint(l.LimitBytes>>19) + "MiB",
			})
		}
	}
	if n := x.state.Store.DeadLetters; n > 0 {
		all = append(all, finding{
			Result: resultWarning, What: "the hub has refused " + count(n, "message", "messages") + " for good",
			Next: "see why: fieldgate store dead-letters list",
		})
	}
	if len(all) == 0 {
		return fine("%s wait on flash", count(x.state.Store.messages(), "message", "messages"))
	}
	return all
}

// messages counts what waits on flash.
func (s *storeState) messages() (n int) {
	for _, l := range s.Lanes {
		n += l.Messages
	}
	return n
}

func (x *examiner) checkSerial(context.Context) (all []finding) {
	for i, p := range x.cfg.ports {
		name := p.Line().Port
		device, err := port.Find(name)
		if err != nil {
			all = append(all, wrong(exitFailed, fmt.Sprintf("the serial port %s is missing", name), err,
				fmt.Sprintf("plug it in; or see what is there: ls -l /dev/serial/by-id; and name that: fieldgate config set serial[%d].port PATH", i))...)
			continue
		}
		if why := x.driverError(name); why != "" {
			all = append(all, wrong(exitFailed, fmt.Sprintf("the serial port %s does not work", name), errors.New(why),
				"see who else has it: fuser -v "+device)...)
		}
	}
	switch {
	case len(x.cfg.ports) == 0:
		return fine("none is configured")
	case len(all) == 0:
		return fine("%s there", count(len(x.cfg.ports), "port is", "ports are"))
	}
	return all
}

// driverError is what the daemon says of a port.
func (x *examiner) driverError(name string) string {
	if x.state == nil {
		return ""
	}
	i := slices.IndexFunc(x.state.Drivers, func(d driverState) bool { return !d.Up && strings.HasSuffix(d.Name, ":"+name) })
	if i < 0 {
		return ""
	}
	return x.state.Drivers[i].Error
}

func (x *examiner) checkCertificates(context.Context) (all []finding) {
	if err := x.who.With(func() error { all = x.lookAtCertificates(); return nil }); err != nil {
		return wrong(exitFailed, "the certificates cannot be looked at", err, "run it as the user of the daemon, with sudo -u")
	}
	return all
}

func (x *examiner) lookAtCertificates() (all []finding) {
	now := x.clock().Wall
	soonest := time.Time{}
	d := desk{dir: x.cfg.Gateway.DataDir, name: x.cfg.Gateway.Name, place: x.cfg.place()}
	for i, l := range x.cfg.Broker.Listeners {
		if l.Plain {
			continue
		}
		pair, err := seal.KeyPair(l.CertFile, l.KeyFile)
		if err != nil {
			all = append(all, wrong(exitFailed, "the certificate of the listener at "+l.Address+" cannot be read", err, "look at it: openssl x509 -noout -text -in "+l.CertFile)...)
			continue
		}
		c := pair.Leaf
		switch {
		case now.After(c.NotAfter):
			all = append(all, wrong(exitFailed, fmt.Sprintf("the certificate of the listener at %s has expired", l.Address),
				fmt.Errorf("it was good until %s, leaves refuse it", stamp(c.NotAfter)), d.nextRenewal(c))...)
		case now.Before(c.NotBefore):
			all = append(all, wrong(exitFailed, fmt.Sprintf("the certificate of the listener at %s is not good yet", l.Address),
				fmt.Errorf("it is from %s on: is the clock right?", stamp(c.NotBefore)), "look at the clock: fieldgate check --id clock")...)
		case isDue(c, now):
			all = append(all, finding{
				Result: resultWarning, What: fmt.Sprintf("the certificate of the listener at %s expires in %s", l.Address, short(c.NotAfter.Sub(now))), Next: d.nextRenewal(c),
			})
		}
		if shown, known := x.shown(i); known && !shown.Equal(c.NotAfter) {
			all = append(all, finding{
				Result: resultWarning, What: fmt.Sprintf("the listener at %s shows another certificate than the one in its file", l.Address),
				Why: fmt.Sprintf("that one is good until %s, the one in %s until %s", stamp(shown), l.CertFile, stamp(c.NotAfter)), Next: "systemctl reload fieldgate",
			})
		}
		if soonest.IsZero() || c.NotAfter.Before(soonest) {
			soonest = c.NotAfter
		}
	}
	switch {
	case len(all) > 0:
		return all
	case soonest.IsZero():
		return fine("there is none")
	}
	return fine("good for %s", short(soonest.Sub(now)))
}

// shown is when the certificate expires that the daemon's listener shows, if it runs.
func (x *examiner) shown(listener int) (time.Time, bool) {
	if x.state == nil {
		return time.Time{}, false
	}
	at, known := x.state.Certificates[listenerName(listener)]
	return at, known
}
