package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/board/slots"
	"github.com/fieldgate/fieldgate/gateway"
)

// The way of an update that the hub asks for, in the order in which it happens:
//
//  1. The direct method "update" of the gateway's own device names an address below
//     one that the operator has allowed, and is answered at once.
//  2. The daemon, which may do nothing to the system, fetches the bundle into its own
//     folder, bounded by what fits, and lays an order beside it.
//  3. systemd sees the order and has root take the bundle out of the daemon's reach
//     and install it, if RAUC takes it and it is not older (updatetake.go).
//  4. The machine starts anew, and what becomes of that start is noted
//     (updategood.go). The daemon reports the note, in its twin as well.

// updateConfig is the table [update].
type updateConfig struct {
	From []string `toml:"from"` // addresses below which the hub may name an update
}

// Validate checks the table. Errors are of type *gateway.KeyError.
func (c *updateConfig) Validate() error {
	for _, from := range c.From {
		u, err := url.Parse(from)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || !strings.HasSuffix(from, "/") || u.RawQuery != "" || u.Fragment != "" {
			return gateway.BadKey("from", "%q is no folder of a server: write an address like \"https://updates.example.com/fieldgate/\"", from)
		}
	}
	return nil
}

// allows says whether the hub may name an update at u.
func (c *updateConfig) allows(u *url.URL) bool {
	if u.Scheme != "https" || u.User != nil || u.Fragment != "" || path.Clean(u.Path) != u.Path {
		return false
	}
	for _, from := range c.From {
		f, err := url.Parse(from)
		if err == nil && strings.EqualFold(f.Host, u.Host) && strings.HasPrefix(u.EscapedPath(), f.EscapedPath()) {
			return true
		}
	}
	return false
}

const (
	// maxBundle bounds an update: a slot has 128 MiB.
	maxBundle = 160 << 20
	// bundleReserve stays free on the data partition, for the store, whatever the size
	// of an update.
	bundleReserve = 64 << 20
	// fetchIdle is how long a server may be silent.
	fetchIdle = 2 * time.Minute
	// maxRedirects is how often a server may name another address.
	maxRedirects = 10
	// maxOrder bounds what a method's caller, or the daemon's file, may say.
	maxOrder = 16 << 10
)

// order is what the hub asks for.
type order struct {
	URL     string `json:"url"`
	Restart *bool  `json:"restart,omitempty"` // nil: start the machine anew when it is installed
}

// The two files of an order in the folder update of the daemon's data. The bundle is
// whole when there is an order.
const (
	orderFolder = "update"
	orderBundle = "bundle.raucb"
	orderFile   = "order.json"
)

// keptFolder is where an image keeps what is known of its slots.
func keptFolder() string {
	if dir := os.Getenv("FIELDGATE_SLOTS"); dir != "" {
		return dir
	}
	return slots.Kept
}

// ownDevice answers the direct methods of the gateway's own device.
type ownDevice struct{ updates *fetcher }

// Command has nobody to give it to.
func (*ownDevice) Command(_ *gateway.Command, answer func(gateway.Verdict)) {
	answer(gateway.Undelivered)
}

// Desired has nobody to tell.
func (*ownDevice) Desired(string, []byte, int64, func()) {}

// Call is a direct method.
func (o *ownDevice) Call(_ context.Context, c *gateway.Call) (*gateway.Reply, error) {
	if c.Name != "update" {
		return replied(http.StatusNotFound, fmt.Sprintf("there is no method %q", c.Name)), nil
	}
	status, said := o.updates.ask(c.Body)
	return replied(status, said), nil
}

// replied is an answer: what was accepted, or why it was not.
func replied(status int, said string) *gateway.Reply {
	name := "error"
	if status < http.StatusBadRequest {
		name = "state"
	}
	body, _ := json.Marshal(map[string]string{name: said}) // strings: it cannot fail
	return &gateway.Reply{Status: status, Body: body}
}

// fetcher fetches updates that the hub asks for. Safe for concurrent use.
type fetcher struct {
	cfg    updateConfig
	dir    string // of the orders
	kept   string // folder of the machine's slots
	client *http.Client
	free   func() int64 // bytes on the file system of dir
	log    *slog.Logger

	orders chan order // capacity 1
	mu     sync.Mutex
	busy   bool
	now    updateState // of the last order that was taken here; guarded by mu
}

// newFetcher returns nil where the hub may not ask for updates.
func newFetcher(cfg *config, clock gateway.Clock, log *slog.Logger) (*fetcher, error) {
	if len(cfg.Update.From) == 0 || cfg.Hub.Own.DeviceID == "" || cfg.Hub.isBroker() {
		return nil, nil
	}
	client, err := httpClient(&cfg.tables, clock, nil)
	if err != nil {
		return nil, err
	}
	f := &fetcher{
		cfg: cfg.Update, dir: filepath.Join(cfg.Gateway.DataDir, orderFolder), kept: keptFolder(), client: client, log: log,
		free: func() int64 { return machineOf(cfg.Gateway.DataDir).Free }, orders: make(chan order, 1),
	}
	client.CheckRedirect = func(r *http.Request, former []*http.Request) error {
		if !f.cfg.allows(r.URL) {
			return errors.New("it leads to an address that [update] from does not allow")
		}
		if len(former) > maxRedirects {
			return fmt.Errorf("it leads on more than %d times", maxRedirects)
		}
		r.Header.Del("Referer") // the former address, with what may be a secret
		return nil
	}
	f.recall()
	return f, nil
}

// ask takes an order, and says so with a status of HTTP.
func (f *fetcher) ask(body []byte) (status int, said string) {
	var o order
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil || d.More() || len(body) > maxOrder {
		return http.StatusBadRequest, `write {"url": "https://…"}, and perhaps "restart": false`
	}
	u, err := url.Parse(o.URL)
	if err != nil || !f.cfg.allows(u) {
		return http.StatusForbidden, "the address is not below one of [update] from"
	}
	if _, err := os.Stat(f.kept); err != nil {
		return http.StatusNotImplemented, slots.ErrAbsent.Error()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy || f.installing() {
		return http.StatusConflict, "an update is under way"
	}
	if err := f.noteLocked(updateState{State: updateFetching, URL: bare(u)}); err != nil {
		return http.StatusInternalServerError, "the order cannot be kept: " + err.Error()
	}
	f.busy = true
	f.orders <- o // there is room: busy
	return http.StatusAccepted, "accepted"
}

// installing says that an order waits for root, or that root installs one.
func (f *fetcher) installing() bool {
	if _, err := os.Stat(filepath.Join(f.dir, orderFile)); err == nil {
		return true
	}
	s := readUpdateState(f.kept)
	return s != nil && s.State == updateInstalling && s.Boot == bootID()
}

// noteLocked notes the state of the order that is taken here, for the next start of the
// daemon too. After an error it is as before.
func (f *fetcher) noteLocked(s updateState) error {
	s.Time = time.Now().UTC()
	text, _ := json.Marshal(s) // plain values: it cannot fail
	if err := os.MkdirAll(filepath.Dir(f.dir), 0o700); err != nil {
		return err
	}
	if err := writeNew(f.dir+".json", string(text), 0o600); err != nil {
		return err
	}
	f.now = s
	return nil
}

// recall brings back what a former start of the daemon has noted. What was fetched then
// was not fetched to its end, and the hub is told.
func (f *fetcher) recall() {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := os.ReadFile(f.dir + ".json")
	if err != nil || json.Unmarshal(text, &f.now) != nil {
		f.now = updateState{}
		return
	}
	noted := notedUpdateState(f.kept)
	told := noted != nil && !noted.Time.Before(f.now.Time)
	if f.now.State == updateFetching || f.now.State == updateFetched && !told && !f.installing() && !updateRuns(f.kept) {
		f.endLocked(errInterrupted)
	}
}

// errInterrupted is told instead of what an end of the daemon looks like from within.
var errInterrupted = errors.New("the daemon was started anew while it was fetched: call the method again")

// endLocked notes how fetching ended.
func (f *fetcher) endLocked(err error) {
	s := f.now
	s.State = updateFetched
	if err != nil {
		s.State, s.Error = updateFailed, err.Error()
	}
	if err := f.noteLocked(s); err != nil {
		f.log.Warn("cannot keep the state of an update", "error", err)
		s.Time, f.now = time.Now().UTC(), s
	}
	f.log.Info("update", "state", f.now.State, "url", f.now.URL, "error", f.now.Error)
}

// tidy removes what a former start of the daemon has left in the folder: what was not
// whole, and a bundle without an order. Root is left alone that takes one.
func (f *fetcher) tidy() error {
	leave := []string{filepath.Join(f.dir, "part")}
	order := filepath.Join(f.dir, orderFile)
	info, err := os.Lstat(order)
	if err == nil && !info.Mode().IsRegular() {
		leave, err = append(leave, order), fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) && !updateRuns(f.kept) {
		leave = append(leave, filepath.Join(f.dir, orderBundle))
	}
	err = nil
	for _, name := range leave {
		err = errors.Join(err, os.RemoveAll(name))
	}
	return err
}

// bare is an address without what may be a secret.
func bare(u *url.URL) string { return "https://" + u.Host + u.EscapedPath() }

// bareText is that of an address that is not read yet.
func bareText(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", errors.New("the address is none")
	}
	return bare(u), nil
}

// state returns what became of the last update, nil for nothing known.
func (f *fetcher) state() *updateState {
	noted := readUpdateState(keptFolder())
	if f == nil {
		return noted
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now.State != "" && (noted == nil || noted.Time.Before(f.now.Time)) {
		now := f.now
		return &now
	}
	return noted
}

// Run fetches what is asked for until ctx ends.
func (f *fetcher) Run(ctx context.Context) error {
	if err := f.tidy(); err != nil {
		f.log.Warn("cannot remove what is left of a former update", "error", err)
	}
	for {
		select {
		case o := <-f.orders:
			err := f.fetch(ctx, o)
			if err != nil && ctx.Err() != nil {
				err = errInterrupted
			}
			f.mu.Lock()
			f.busy = false
			f.endLocked(err)
			if err == nil { // root notes what follows, which is later
				if err = f.lay(o); err != nil {
					f.endLocked(err)
				}
			}
			f.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
}

// lay lays an order beside its bundle.
func (f *fetcher) lay(o order) error {
	text, _ := json.Marshal(o) // plain values: it cannot fail
	return writeNew(filepath.Join(f.dir, orderFile), string(text), 0o600)
}

// fetch brings a bundle into the folder.
func (f *fetcher) fetch(ctx context.Context, o order) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	part, bundle := filepath.Join(f.dir, "part"), filepath.Join(f.dir, orderBundle)
	err := errors.Join(os.RemoveAll(part), os.RemoveAll(bundle)) // whatever lies there
	if err == nil {
		err = f.download(ctx, o.URL, part)
	}
	if err == nil {
		err = os.Rename(part, bundle)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	return nil
}

// download writes what is at an address into a file, synced.
func (f *fetcher) download(ctx context.Context, address, file string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(fetchIdle, func() { cancel(fmt.Errorf("the server was silent for %v", fetchIdle)) })
	defer idle.Stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return errors.New("the address is none")
	}
	answer, err := f.client.Do(r)
	if err != nil {
		return because(ctx, err)
	}
	defer answer.Body.Close()
	size := answer.ContentLength
	switch {
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("the server says %s", answer.Status)
	case size <= 0:
		return errors.New("the server does not say how large it is")
	case size > maxBundle:
		return fmt.Errorf("it has %d bytes, and an update at most %d", size, maxBundle)
	case size > f.free()-bundleReserve:
		return fmt.Errorf("it has %d bytes, and there is no room for that beside the store", size)
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(&lively{answer.Body, idle}, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = fmt.Errorf("broken off after %d of %d bytes: %w", n, size, because(ctx, err))
	}
	return errors.Join(err, out.Sync(), out.Close())
}

// because is why a request failed, without its address, in which there may be a
// secret.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// lively is a body that may not be silent for long.
type lively struct {
	io.Reader
	idle *time.Timer
}

func (w *lively) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.idle.Reset(fetchIdle)
	return n, err
}

// The states of an update, in their order. They are stable.
const (
	updateFetching   = "fetching"    // by the daemon
	updateFetched    = "fetched"     // root is to take it
	updateInstalling = "installing"  // by RAUC
	updateRefused    = "refused"     // by RAUC, or for its version
	updateFailed     = "failed"      // and why
	updateInstalled  = "installed"   // it counts from the next start on
	updateTrial      = "on trial"    // it runs, and has not proven good
	updateGood       = "good"        // it runs, and has proven good
	updateBack       = "rolled back" // what ran before runs again
)

// updateState is what became of the last update. The JSON names are stable.
type updateState struct {
	State   string    `json:"state"`
	Version string    `json:"version,omitempty"`
	URL     string    `json:"url,omitempty"` // without what stands behind "?"; "" for one that an operator has installed
	Error   string    `json:"error,omitempty"`
	Time    time.Time `json:"time"`           // of the last change
	Boot    string    `json:"boot,omitempty"` // the start of the machine in which it was installed
}

// noteUpdate is the name of the note with an updateState.
const noteUpdate = "update"

// readUpdateState returns what is noted, nil for nothing. Of an installation whose
// process is no more, and has not said how it ended, it says so.
func readUpdateState(kept string) *updateState {
	s := notedUpdateState(kept)
	if s == nil || s.State != updateInstalling || s.Boot != bootID() || updateRuns(kept) {
		return s
	}
	// It may have ended well just now.
	if s = notedUpdateState(kept); s != nil && s.State == updateInstalling {
		s.State, s.Error = updateFailed, "what installed it was ended before it could say how that went; look at the log: journalctl -u rauc"
	}
	return s
}

func notedUpdateState(kept string) *updateState {
	text, err := os.ReadFile(filepath.Join(kept, noteUpdate))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s := new(updateState)
	if err != nil || json.Unmarshal(text, s) != nil {
		return nil // as if nothing had been noted: it decides nothing
	}
	return s
}

// bootID names this start of the machine.
func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}
