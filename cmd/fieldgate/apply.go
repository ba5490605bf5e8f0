package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/revision"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/uplink"
)

// How a configuration is applied so that nobody is locked out:
//
//  1. It is read and checked beside what runs, and compared with it.
//  2. It is noted on flash as being on trial, beside the last good one.
//  3. Its files take the place of the old ones, and the parts are told; if keys need
//     that, and the operator agrees, the gateway starts again within its process.
//  4. If the connection to the hub stood before, it has to be back in time, and the hub
//     has to take the leaves that it took before. Then the new one is noted as good;
//     else the files of the last good one are put back, and count.
//
// Whenever the process ends with a trial not ended, the next one begins with putting
// back the files of the last good one. So there is no moment at which a kill or a
// power cut leaves behind a configuration that has not proven itself.

// errAgain says that the gateway is to start again with the configuration that its
// files have now.
var errAgain = errors.New("the configuration needs the gateway to start again")

// applier applies configurations. One outlives the gateways that start again within
// the process. Safe for concurrent use.
type applier struct {
	file string
	book *revision.Book // guarded by mu

	mu    sync.Mutex
	gate  *reloader // of the gateway that runs, nil while none does or it is to end; guarded by mu
	trial *trial    // guarded by mu; nil: there is none
	again func()    // has the gateway start again; guarded by mu

	undone revision.Files // ran last and is no more; keepProofs asks; guarded by mu
}

// trial is what a configuration has to prove.
type trial struct {
	number int
	until  time.Time // by the monotonic clock
	limit  time.Duration
	link   bool         // the connection to the hub has to be back; else it is enough that leaves can connect
	before uplink.State // of the uplink that worked; connections are counted anew after a restart
	fresh  bool         // a new connection has to come, the old one proves nothing
	proven bool         // and it could not be noted

	// Leaves that the hub has not accepted yet the way they are proven now, and why not.
	// They are asked about again at ask. Only watch touches these.
	unproven map[string]string
	ask      time.Time
}

// openApplier reads what is kept in the data folder, and puts back what was good if a
// trial was not ended. The texts that it returns are to be used in the place of files,
// which may not have been written. Nothing that fails is a reason not to run; said is
// what is to be told of it. closing lets go of the folder.
func openApplier(file string) (a *applier, texts map[string][]byte, said []remark, closing func()) {
	dir := filepath.Join(dataDirOf(file), "config")
	say := func(what string, err error) { said = append(said, remark{what: fmt.Sprintf("%s: %v", what, err)}) }
	a = &applier{file: file}
	closing, busy := alone(dir)
	var err error
	if a.book, err = revision.Open(dir); err != nil {
		say("revisions of the configuration cannot be read", err)
	}
	unproven, known := a.book.Trial()
	if !known || errors.Is(busy, unix.EWOULDBLOCK) { // of another daemon, which has the store, too
		return a, nil, said, closing
	}
	a.undone = unproven.Files
	if texts, err = a.undo("the gateway ended before it had proven itself"); err != nil {
		say("files of the last good configuration cannot be put back; it counts all the same", err)
	}
	say(fmt.Sprintf("configuration is rolled back to revision %d", a.good()), fmt.Errorf("the gateway ended before revision %d had proven itself", unproven.Number))
	said[len(said)-1].rolledBack = true
	return a, texts, said, closing
}

// remark is what is to be said of the configuration when there is a log.
type remark struct {
	what       string
	rolledBack bool
}

// log says it.
func (r *remark) log(log *slog.Logger) {
	if r.rolledBack {
		log = log.With("event", "configuration-rolled-back")
	}
	log.Error("configuration", "warning", r.what)
}

// good is the number of the last good revision, 0 for none.
func (a *applier) good() int {
	good, _ := a.book.Good()
	return good.Number
}

// alone makes a folder and keeps other processes from working on it, until free. The
// error is unix.EWOULDBLOCK if one does.
func alone(dir string) (free func(), err error) {
	free = func() {}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return free, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return free, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return free, err
	}
	return func() { f.Close() }, nil
}

// dataDirOf returns the data folder of a configuration that may have mistakes.
func dataDirOf(file string) string {
	dir := defaults().Gateway.DataDir
	if s, err := readSettings(file, false); err == nil {
		if one := s.byName()["gateway.data_dir"]; one != nil {
			if text, ok := one.value.(string); ok && text != "" {
				dir = text
			}
		}
	}
	return (&config{file: file}).resolve(dir)
}

// undo puts back the files of the last good revision and ends the trial. Where they
// cannot be written it is over all the same, and the next start tries again. The texts
// are those of that revision in any case.
func (a *applier) undo(why string) (texts map[string][]byte, err error) {
	defer func() {
		if _, still := a.book.Trial(); still && err != nil {
			a.book.Lose(fmt.Sprintf("%s; its files are still in place: %v", why, err))
		}
	}()
	good, known := a.book.Good()
	if !known {
		return nil, a.book.End(revision.Undone, why)
	}
	if texts, err = textsOf(a.file, good.Files); err != nil {
		return nil, err
	}
	if err := putFiles(a.file, texts); err != nil {
		return texts, err
	}
	return texts, a.book.End(revision.Undone, why)
}

// filesOf reads the files that make up a revision. Those that the gateway writes
// itself, one for a leaf, are not among them: they follow what leaves do.
func filesOf(file string) (revision.Files, error) {
	names, err := revisionNames(file)
	if err != nil {
		return nil, err
	}
	files := make(revision.Files)
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(file), name))
		if err != nil {
			return nil, err
		}
		files[name] = string(text)
	}
	return files, nil
}

// revisionNames are the files that are there, as seen from the folder.
func revisionNames(file string) ([]string, error) {
	names := []string{filepath.Base(file)}
	dropIns, err := filepath.Glob(filepath.Join(filepath.Dir(file), "leaf.d", "*.toml"))
	for _, name := range dropIns {
		if !strings.HasSuffix(name, leafSuffix) {
			names = append(names, filepath.Join("leaf.d", filepath.Base(name)))
		}
	}
	return names, err
}

// textsOf returns what a revision makes of the files that are there: nil for one that
// it does not have.
func textsOf(file string, files revision.Files) (map[string][]byte, error) {
	texts := make(map[string][]byte)
	there, err := revisionNames(file)
	if err != nil {
		return nil, err
	}
	for _, name := range there {
		texts[filepath.Join(filepath.Dir(file), name)] = nil
	}
	for name, text := range files {
		texts[filepath.Join(filepath.Dir(file), name)] = []byte(text)
	}
	return texts, nil
}

// putFiles makes files what the texts say; nil removes. Those that are so already are
// left alone. It can be done again after it was broken off.
func putFiles(file string, texts map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		text := texts[name]
		old, err := os.ReadFile(name)
		switch {
		case err == nil && text == nil && name != file:
			err = errors.Join(os.Remove(name), syncFolder(filepath.Dir(name)))
		case err == nil && string(old) == string(text):
		case err == nil:
			err = replaceFile(name, text)
		case errors.Is(err, fs.ErrNotExist) && text == nil:
			err = nil
		case errors.Is(err, fs.ErrNotExist):
			if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
				err = writeNew(name, string(text), 0o640)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keepProofs sees to it that what leaves have left in custody can be sent that have no
// table any more in the configuration that is about to run, and had one in that which ran
// before: a leaf goes without the gateway running at an apply with a restart, and where
// somebody has changed the files and starts the gateway anew.
func (a *applier) keepProofs(next *config) (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	good, _ := a.book.Good()
	before := []revision.Files{good.Files, a.undone}
	a.undone = nil
	now, err := filesOf(a.file)
	if err != nil {
		return err
	}
	for _, files := range before {
		if len(files) == 0 || maps.Equal(files, now) {
			continue
		}
		unlock, busy := lockFolder(filepath.Dir(a.file))
		err = errors.Join(err, (leafFiles{a.file, next.sealed}).keepProofs(files, next))
		if busy == nil { // else somebody keeps it for too long
			unlock()
		}
	}
	return err
}

// begin says that a gateway runs now; again has it end, to start again.
func (a *applier) begin(r *reloader, again func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gate, a.again = r, again
	if a.trial == nil && !a.book.Lost() { // else the files are not what runs
		a.noteLocked(r.g.cfg, "start")
	}
}

// end says that the gateway runs no more.
func (a *applier) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gate = nil
}

// noteLocked keeps what runs as a good revision. That it cannot be kept is no reason
// not to run.
func (a *applier) noteLocked(runs *config, by string) {
	files, err := runs.files, error(nil)
	if files == nil {
		files, err = filesOf(a.file)
	}
	if err == nil {
		_, err = a.book.Add(files, by, revision.Good, time.Now())
	}
	if err != nil {
		a.gate.g.log.Warn("cannot keep this revision of the configuration", "error", err)
	}
}

// Revisions is described at control.Configuration.
func (a *applier) Revisions() []control.ConfigRevision {
	a.mu.Lock()
	defer a.mu.Unlock()
	running, _ := a.book.Trial()
	if running.Number == 0 {
		running, _ = a.book.Good()
	}
	var all []control.ConfigRevision
	for _, r := range a.book.List() {
		all = append(all, control.ConfigRevision{
			Number: r.Number, Time: r.Time, By: r.By, State: string(r.State), Why: r.Why, Running: r.Number == running.Number,
		})
	}
	return all
}

// RevisionFiles is described at control.Configuration.
func (a *applier) RevisionFiles(number int) (map[string]string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, known := a.book.Find(number)
	return r.Files, known
}

// Apply is described at control.Configuration.
func (a *applier) Apply(c control.ConfigChange, who string) (control.ConfigApplied, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gate == nil {
		return control.ConfigApplied{}, fmt.Errorf("%w: the gateway is starting or stopping", control.ErrConflict)
	}
	if err := a.busyLocked(); err != nil {
		return control.ConfigApplied{}, err
	}
	unlock, err := lockFolder(filepath.Dir(a.file))
	if err != nil {
		return control.ConfigApplied{}, err
	}
	defer unlock()
	files, err := a.wantedLocked(&c)
	if err != nil {
		return control.ConfigApplied{}, err
	}
	texts, err := textsOf(a.file, files)
	if err != nil {
		return control.ConfigApplied{}, err
	}
	next, err := loadRunning(a.file, texts)
	if mistakes, ok := errors.AsType[invalid](err); ok {
		e := new(control.Invalid)
		for _, p := range mistakes {
			e.Mistakes = append(e.Mistakes, p.Error())
		}
		return control.ConfigApplied{}, e
	}
	if err != nil {
		return control.ConfigApplied{}, err
	}
	changed, restart := a.gate.compare(next)
	if slices.Contains(restart, "gateway.data_dir") {
		return control.ConfigApplied{}, fmt.Errorf("%w: gateway.data_dir is where this is kept: stop the gateway, move the folder, change the key, start it", control.ErrConflict)
	}
	out := control.ConfigApplied{Changes: []control.ConfigKey{}, Restart: len(restart) > 0}
	for _, d := range changed {
		out.Changes = append(out.Changes, control.ConfigKey(d))
	}
	good, _ := a.book.Good()
	same := len(changed) == 0 && maps.Equal(good.Files, files) && !a.book.Lost()
	if c.Look || same || len(restart) > 0 && !c.Restart {
		return out, nil
	}
	return out, a.applyLocked(&out, next, files, texts, confirmTime(c.ConfirmSeconds), who)
}

// busyLocked is an error while there is a trial.
func (a *applier) busyLocked() error {
	if a.trial == nil {
		return nil
	}
	return fmt.Errorf("%w: revision %d has to prove itself first, in %v at most", control.ErrConflict, a.trial.number, time.Until(a.trial.until).Round(time.Second))
}

// confirmTime is at most a day.
func confirmTime(seconds float64) time.Duration {
	return time.Duration(min(max(seconds, 0), 86400) * float64(time.Second))
}

// wantedLocked returns the files of the configuration that is asked for.
func (a *applier) wantedLocked(c *control.ConfigChange) (revision.Files, error) {
	if c.Revision != 0 {
		r, known := a.book.Find(c.Revision)
		if !known {
			return nil, fmt.Errorf("%w: there is no revision %d", control.ErrNotFound, c.Revision)
		}
		return r.Files, nil
	}
	files, err := filesOf(a.file)
	if err == nil && c.Text != nil {
		files[filepath.Base(a.file)] = *c.Text
	}
	return files, err
}

// applyLocked is steps 2 and 3.
func (a *applier) applyLocked(out *control.ConfigApplied, next *config, files revision.Files, texts map[string][]byte, limit time.Duration, who string) error {
	log := a.gate.g.log
	before := a.gate.g.uplink.State()
	// What changes no connection and no leaf has nothing to prove at the hub.
	link := limit > 0 && before.Connected && slices.ContainsFunc(out.Changes, func(k control.ConfigKey) bool {
		return k.Change != changeLive || strings.HasPrefix(k.Key, "leaf")
	})
	unproven := a.gate.unproven(next)
	number, err := a.book.Add(files, who, revision.OnTrial, time.Now())
	if err != nil {
		return fmt.Errorf("cannot keep the revision: %w", err)
	}
	failed := func(err error) error {
		if _, undone := a.undo(err.Error()); undone != nil {
			log.Error("cannot put back the files of the last good configuration", "error", undone)
		}
		return err
	}
	if err := putFiles(a.file, texts); err != nil {
		return failed(fmt.Errorf("the gateway cannot write its configuration: %w", err))
	}
	fresh := out.Restart
	if !out.Restart {
		if _, fresh, err = a.gate.takeOver(next); err != nil {
			return failed(err)
		}
	}
	log.Info("configuration is applied", "event", "configuration-applied", "revision", number, "by", who, "on_trial", link || out.Restart, "restart", out.Restart)
	out.Revision, out.State = number, string(revision.OnTrial)
	switch {
	case out.Restart:
		before.Connects = nil
		a.trial = &trial{number: number, until: time.Now().Add(limit), limit: limit, link: link, before: before, fresh: true, unproven: unproven}
		a.restartLocked()
	case link:
		a.trial = &trial{number: number, until: time.Now().Add(limit), limit: limit, link: true, before: before, fresh: fresh, unproven: unproven}
	default:
		out.State = string(revision.Good)
		return a.book.End(revision.Good, "")
	}
	return nil
}

// restartLocked has the gateway start again. The one that runs proves nothing any more.
func (a *applier) restartLocked() {
	a.again()
	a.gate = nil
}

// startLimit is how much longer a gateway that starts again may take until leaves can
// connect: a store that was damaged is put in order first.
const startLimit = time.Minute

// lookEvery is how often a trial, or the daemon, is looked at.
const lookEvery = 200 * time.Millisecond

// watch is step 4 for a gateway that runs, and obeys signals, until ctx ends. The error
// is errAgain when the gateway is to start again.
func (a *applier) watch(ctx context.Context, gate *reloader, hup <-chan os.Signal) error {
	again := make(chan struct{}, 1)
	a.begin(gate, func() {
		select {
		case again <- struct{}{}:
		default:
		}
	})
	defer a.end()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.prove(ctx)
			a.judge(time.Now())
		case <-hup:
			a.signalled()
		case <-again:
			return errAgain
		case <-ctx.Done():
			return nil
		}
	}
}

// prove shows the hub how leaves are proven now of which that has changed: else one that
// has nothing to send would be found out when the trial is over. The hub takes its
// time, so nothing is locked meanwhile.
func (a *applier) prove(ctx context.Context) {
	a.mu.Lock()
	t, gate := a.trial, a.gate
	a.mu.Unlock()
	if t == nil || gate == nil || len(t.unproven) == 0 || time.Now().Before(t.ask) {
		return
	}
	if s := gate.g.uplink.State(); t.away(&s) != "" {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, t.until)
	defer cancel()
	t.unproven = gate.prove(ctx, t.unproven)
	t.ask = time.Now().Add(t.settle())
}

// judge ends the trial if it is time.
func (a *applier) judge(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.trial
	if t == nil || a.gate == nil {
		return
	}
	s := a.gate.g.uplink.State()
	why, until := "leaves could not connect", t.until.Add(startLimit)
	if a.gate.g.ready() {
		why, until = t.missing(&s, a.gate.g.clock().Wall), t.until
	}
	switch {
	case why == "":
		if err := a.book.End(revision.Good, ""); err != nil {
			if !t.proven {
				a.gate.g.log.Error("cannot note that the configuration has proven itself; till then the next start undoes it", "error", err)
			}
			t.proven = true
			return // to be tried again
		}
		a.trial = nil
		a.gate.g.log.Info("configuration has proven itself", "revision", t.number)
	case now.After(until):
		a.trial = nil
		a.rollBackLocked(t.number, fmt.Sprintf("%s within %v", why, t.limit))
	}
}

// missing says what the trial still lacks, "" for nothing. now is as the state's times
// are.
func (t *trial) missing(s *uplink.State, now time.Time) string {
	if !t.link {
		return ""
	}
	if away := t.away(s); away != "" {
		return away
	}
	for _, failed := range []map[string]string{s.Refused, t.unproven} {
		for _, leaf := range slices.Sorted(maps.Keys(failed)) {
			if _, known := t.before.Refused[leaf]; !known {
				return fmt.Sprintf("the hub did not take leaf %s any more (%s)", leaf, failed[leaf])
			}
		}
	}
	// What else the hub does not take any more shows when there is something to be taken.
	if now.Sub(s.Since) < t.settle() {
		return "the connection to the hub was not back for long enough"
	}
	return ""
}

// away says what the connection to the hub lacks, "" for nothing.
func (t *trial) away(s *uplink.State) string {
	switch {
	case s.Connected && (!t.fresh || s.Connects[uplink.ConnectOK] > t.before.Connects[uplink.ConnectOK]):
		return ""
	case s.LastError != "" && !s.Connected:
		return "the connection to the hub was not back (" + s.LastError + ")"
	}
	return "the connection to the hub was not back"
}

// settleTime is how long a connection must last to count, if there is time for that.
const settleTime = 10 * time.Second

func (t *trial) settle() time.Duration { return min(t.limit/4, settleTime) }

// rollBackLocked goes back to the last good configuration.
func (a *applier) rollBackLocked(number int, why string) {
	log := a.gate.g.log
	unlock, err := lockFolder(filepath.Dir(a.file))
	if err == nil {
		defer unlock()
	}
	texts, err := a.undo(why)
	if err != nil {
		log.Error("cannot put back the files of the last good configuration; it counts all the same", "error", err)
	}
	next, err := loadRunning(a.file, texts)
	if err == nil {
		_, _, err = a.gate.takeOver(next)
	}
	if _, restart := errors.AsType[needsRestart](err); restart {
		r, _ := a.book.Find(number)
		a.undone = r.Files
		a.restartLocked()
		err = nil
	}
	if err != nil {
		log.Error("cannot go back to the last good configuration", "error", err, "next", "fieldgate config validate "+a.file)
		return
	}
	log.Error("configuration is rolled back", "event", "configuration-rolled-back", "revision", number, "why", why)
}

// startFailed is told that the gateway could not start or go on. It says whether that
// may be for a configuration on trial, which is undone then.
func (a *applier) startFailed(err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.trial == nil {
		return false
	}
	r, _ := a.book.Find(a.trial.number)
	a.trial, a.undone = nil, r.Files
	_, failed := a.undo("the gateway could not go on with it: " + err.Error())
	return failed == nil
}

// steady has a leaf added or removed by do. That is done to files that are in no
// revision, so it has to fit the last good one as well: the gateway may go back to that
// at any time. back is nil where it cannot.
func (a *applier) steady(id string, do func(back *wayBack) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.toldLocked(func(gate *reloader) error { return gate.wrote(id) })
	good, known := a.book.Good()
	if !known {
		return do(nil)
	}
	back := &wayBack{good.Files, unapplied}
	if a.trial != nil {
		back.differs = "a configuration is on trial"
	}
	return do(back)
}

// toldLocked has the gateway that runs note what it has written itself. Where it cannot,
// that is shown as a change at the next apply, and does no harm.
func (a *applier) toldLocked(tell func(*reloader) error) {
	if a.gate == nil {
		return
	}
	if err := tell(a.gate); err != nil {
		a.gate.g.log.Debug("cannot note what was written", "error", err)
	}
}

// wayBack is the last good revision.
type wayBack struct {
	files   revision.Files
	differs string // why the files that are there may be others
}

// has says whether a leaf stands there.
func (b *wayBack) has(id string) bool {
	name, _ := alteredIn(b.files, id, "id", strconv.Quote(id))
	return name != ""
}

const unapplied = "the files of the configuration have changes that do not count yet (fieldgate config apply)"

// alter has a leaf altered: do writes a key of it into its file and makes that count.
// The key is written into all revisions as well, so that no rollback undoes it: who is
// let in is not theirs to say. Who is put out is so there first: a process that ends
// between the two does not let it in again, whichever files count at the next start.
func (a *applier) alter(id, key, value string, do func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	amend := func() error {
		return a.book.Amend(func(files revision.Files) {
			if name, text := alteredIn(files, id, key, value); name != "" {
				files[name] = text
			}
		})
	}
	var noted error
	out := key == "disabled" && value != ""
	if out {
		noted = amend()
	}
	if err := do(); err != nil {
		return err
	}
	if !out {
		noted = amend()
	}
	a.toldLocked(func(gate *reloader) error { return gate.altered(id, key, value) })
	if noted != nil {
		return fmt.Errorf("it is done, but a rollback of the configuration would undo it: %w", noted)
	}
	return nil
}

// alteredIn returns the file of a revision in which a leaf stands, and its text with a
// key of the leaf changed; no name if there is none that can be.
func alteredIn(files revision.Files, id, key, value string) (name, text string) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := []byte(files[name])
		s, err := readSettingsWith(name, false, map[string][]byte{name: text})
		if err != nil {
			continue // it counts for nobody
		}
		if at := s.leaf(id); at != nil {
			if text, err = at.beside(text, key, value); err == nil {
				return name, string(text)
			}
		}
	}
	return "", ""
}

// mayRenameLocked is an error where the last good revision is not what the files say:
// tables there may want the name that the leaf has no more, or not yet, and then nobody
// could go back.
func (a *applier) mayRenameLocked() error {
	if err := a.busyLocked(); err != nil {
		return err
	}
	good, known := a.book.Good()
	if !known {
		return nil
	}
	files, err := filesOf(a.file)
	if err == nil && !maps.Equal(good.Files, files) {
		err = fmt.Errorf("%w: %s", control.ErrConflict, unapplied)
	}
	return err
}

// signalled takes over what the files say, as a signal asks for.
func (a *applier) signalled() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gate == nil {
		return // it starts again, and reads its files then
	}
	if a.trial != nil {
		a.gate.g.log.Error("configuration is as it was", "error", fmt.Sprintf("revision %d has to prove itself first", a.trial.number))
		return
	}
	if next := a.gate.obey(); next != nil {
		a.noteLocked(next, "signal")
	}
}
