package ble

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fieldgate/fieldgate/drivers/ble/bluez"
)

// rescan is how long to wait after a scan could not be begun, and failures how often
// that may happen before the adapter is recovered.
const (
	rescan   = time.Second
	failures = 3
)

// errSilent says that nothing was heard for too long.
var errSilent = errors.New("nothing was heard for too long")

// scan keeps a scan going until ctx ends, and recovers the adapter when that fails or
// nothing is heard.
func (s *session) scan(ctx context.Context) {
	var passive error // why there is no passive scan
	if s.cfg.Scan == ScanActive {
		passive = errors.New("active by configuration")
	}
	failed := 0
	for ctx.Err() == nil {
		err := s.scanOnce(ctx, &passive)
		if err == nil || ctx.Err() != nil {
			failed = 0
			continue
		}
		if failed++; failed >= failures || errors.Is(err, errSilent) {
			s.recover(ctx, err)
			failed = 0
		}
		sleep(ctx, s.rescan)
	}
}

// scanOnce begins a scan and watches it until it ends; nil says that it ended without
// a fault.
func (s *session) scanOnce(ctx context.Context, passive *error) error {
	if a, ok := s.client.AdapterAt(s.adapter.Path); ok && !a.Powered {
		if err := s.client.Power(ctx, a.Path, true); err != nil {
			s.tally.down(err)
			return err
		}
	}
	ended, err := s.begin(ctx, passive)
	if err != nil {
		if ctx.Err() == nil {
			s.tally.down(err)
		}
		return err
	}
	return s.watch(ctx, ended, *passive)
}

// show says how the scan is; passive is why there is no passive one.
func (s *session) show(passive error) {
	note := s.doctor.last()
	if s.cfg.Scan == ScanPassive && passive != nil {
		note = join(fmt.Sprintf("scanning actively, which costs the batteries of sensors: %v", passive), note)
	}
	s.tally.up(s.adapter.Name()+" "+s.adapter.Address, note)
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + "; " + b
}

// begin begins a scan, passively if that can be had. ended is closed when the daemon
// ends it.
func (s *session) begin(ctx context.Context, passive *error) (ended <-chan struct{}, err error) {
	s.setActive(false)
	if *passive == nil {
		if ended, err = s.client.Monitor(ctx, s.adapter.Path, patterns()); err == nil {
			s.tally.count(countPassive)
			return ended, nil
		}
		if ctx.Err() != nil || bluez.Hung(err) {
			return nil, err
		}
		*passive = err
		s.tally.count(countFallbacks)
	}
	// Said before: whoever ends a scan of their own at this moment must not end this one.
	s.setActive(true)
	if err := s.client.StartDiscovery(ctx, s.adapter.Path); err != nil {
		return nil, err
	}
	s.tally.count(countActive)
	return nil, nil
}

func (d *Driver) setActive(active bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = active
}

func (d *Driver) scansActively() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.active
}

// stop ends the scan. That it cannot is for whoever begins the next one.
func (s *session) stop(ctx context.Context) {
	_ = s.client.StopDiscovery(ctx, s.adapter.Path)
	s.client.EndMonitor(ctx, s.adapter.Path)
}

// watch waits until the scan ends, the adapter is switched off, or nothing is heard for
// too long while something should be.
func (s *session) watch(ctx context.Context, ended <-chan struct{}, passive error) error {
	s.show(passive)
	began := time.Now()
	tick := time.NewTicker(s.doctor.pulse(s.cfg.Heartbeat.D()))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.client.Lost():
			return nil
		case <-ended:
			return errors.New("bluetoothd has ended the scan")
		case <-tick.C:
		}
		if a, ok := s.client.AdapterAt(s.adapter.Path); ok && !a.Powered {
			return errors.New("the adapter was switched off")
		}
		heard := s.adverts.lastHeard()
		if heard.After(began) {
			s.doctor.well()
		}
		s.show(passive)
		// A connection is alive as long as the controller does not say otherwise.
		if s.cfg.Heartbeat == 0 || !s.hearsLeaves() || s.slots.taken() > 0 {
			began = time.Now()
			continue
		}
		if heard.Before(began) {
			heard = began
		}
		if time.Since(heard) > s.doctor.patience(s.cfg.Heartbeat.D()) {
			return errSilent
		}
	}
}

// recover takes the next step of the doctor's.
func (s *session) recover(ctx context.Context, why error) {
	stage := s.doctor.next(why)
	s.tally.count(countStage + stage)
	s.log.Warn("recovering the Bluetooth adapter", "step", stage, "why", why)
	var err error
	switch stage {
	case stageScan:
		s.stop(ctx)
	case stagePower:
		s.stop(ctx)
		if err = s.client.Power(ctx, s.adapter.Path, false); err == nil {
			err = s.client.Power(ctx, s.adapter.Path, true)
		}
	case stageDaemon:
		err = s.client.RestartDaemon(ctx)
	case stageUSB:
		err = s.doctor.resetUSB(ctx, s.adapter.Name(), s.rescan)
	}
	if err != nil && ctx.Err() == nil {
		s.doctor.failed(stage, err)
		s.log.Warn("the step was not possible", "step", stage, "err", err)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// resetUSB takes the adapter's USB device away and brings it back, as unplugging does
// (kernel, Documentation/usb/authorization.rst).
func (d *doctor) resetUSB(ctx context.Context, adapter string, pause time.Duration) error {
	device, err := filepath.EvalSymlinks(filepath.Join(d.sysfs, "class/bluetooth", adapter, "device"))
	if err != nil {
		return fmt.Errorf("cannot find its device: %w", err)
	}
	// The device of an adapter is an interface; what is authorized is the device that
	// has it.
	switchFile := filepath.Join(filepath.Dir(device), "authorized")
	if _, err := os.Stat(switchFile); err != nil {
		return errors.New("it is not on USB")
	}
	if err := os.WriteFile(switchFile, []byte("0"), 0); err != nil {
		return err
	}
	sleep(ctx, pause)
	return os.WriteFile(switchFile, []byte("1"), 0) // also when ctx has ended
}
