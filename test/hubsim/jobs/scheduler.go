package jobs

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/query"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

const (
	atOnce   = 10                     // devices that a job serves at a time
	throttle = 100 * time.Millisecond // between two questions whether the tier allows a device more
)

// Scheduler runs jobs. It is safe for concurrent use.
type Scheduler struct {
	twins   *twins.Store
	methods *methods.Exchange
	limits  *limits.Limits

	close   context.CancelFunc
	running sync.WaitGroup // the goroutine of loop
	wake    chan struct{}  // holds one; the jobs have changed

	mu        sync.Mutex // guards everything below, and the jobs
	jobs      map[string]*job
	scheduled uint64 // jobs ever
}

// New returns a scheduler that updates twins and calls methods, each device at
// the rate that l allows. It must be closed.
func New(t *twins.Store, m *methods.Exchange, l *limits.Limits) *Scheduler {
	ctx, stop := context.WithCancel(context.Background())
	s := &Scheduler{
		twins: t, methods: m, limits: l,
		close: stop, wake: make(chan struct{}, 1), jobs: make(map[string]*job),
	}
	s.running.Go(func() { s.loop(ctx) })
	return s
}

// Close cancels the job that runs and waits until nothing does. The jobs that
// wait are not run.
func (s *Scheduler) Close() {
	s.close()
	s.running.Wait()
}

// wakeUp has the loop look at the jobs again.
func (s *Scheduler) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// loop runs jobs, one after the other, each when its time has come.
func (s *Scheduler) loop(ctx context.Context) {
	for ctx.Err() == nil {
		j, wait := s.due()
		if j != nil {
			s.run(ctx, j)
			continue
		}
		var start <-chan time.Time // never, until somebody schedules a job
		if wait > 0 {
			start = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-start:
		}
	}
}

// due returns the job that waits for longest, or how long it is to the next; 0
// when there is no next.
func (s *Scheduler) due() (next *job, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j.ended == "" && (next == nil || j.before(next)) {
			next = j
		}
	}
	if next == nil {
		return nil, 0
	}
	if wait = time.Until(*next.request.Start); wait > 0 {
		return nil, wait
	}
	return next, 0
}

// run does one job: it chooses the devices once, and serves each.
func (s *Scheduler) run(ctx context.Context, j *job) {
	ctx, stop := context.WithTimeout(ctx, time.Duration(j.request.MaxExecution)*time.Second)
	defer stop()
	q, ok := s.start(j, stop)
	if !ok {
		return
	}
	targets := s.choose(q)
	s.mu.Lock()
	j.targets = targets
	if j.ended != "" { // cancelled meanwhile
		j.leaveOut()
	}
	s.mu.Unlock()
	s.serve(ctx, j, targets)
	s.end(ctx, j)
}

// start notes that the job runs; false when it cannot.
func (s *Scheduler) start(j *job, stop context.CancelFunc) (*query.Query, bool) {
	q, err := query.ParseCondition(j.request.Condition)
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.ended != "" { // cancelled just now
		return nil, false
	}
	if err != nil {
		j.failure = refusal.Of(err).Message
		j.finish(Failed)
		return nil, false
	}
	j.started, j.stop = true, stop
	return q, true
}

// end notes that the job has been done, unless it was cancelled.
func (s *Scheduler) end(ctx context.Context, j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.stop = nil
	if j.ended != "" {
		return
	}
	if errors.Is(ctx.Err(), context.Canceled) { // by Close
		j.finish(Cancelled)
		return
	}
	j.finish(Completed)
}

// choose returns the devices or modules that a condition matches.
func (s *Scheduler) choose(q *query.Query) []*target {
	var targets []*target
	for key, document := range s.twins.Documents(q.Source == query.Modules, "") {
		if q.Matches(document) {
			targets = append(targets, &target{id: registry.ParseID(key), status: targetPending, moved: time.Now().UTC()})
		}
	}
	return targets
}

// serve works on all targets, a few at a time. It returns when each is done or
// the time of the job is over.
func (s *Scheduler) serve(ctx context.Context, j *job, targets []*target) {
	next := make(chan *target)
	var workers sync.WaitGroup
	for range min(atOnce, len(targets)) {
		workers.Go(func() {
			for t := range next {
				s.work(ctx, j, t)
			}
		})
	}
	for _, t := range targets {
		next <- t
	}
	close(next)
	workers.Wait()
}

// work does the job at one device.
func (s *Scheduler) work(ctx context.Context, j *job, t *target) {
	if !s.begin(ctx, j, t) {
		return
	}
	answer, err := s.act(ctx, j, t.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	t.answer = answer
	switch {
	case err == nil:
		t.move(targetCompleted)
	case errors.Is(ctx.Err(), context.Canceled):
		t.move(targetCanceled)
	case ctx.Err() != nil:
		t.fail(timeIsOver())
	default:
		t.fail(refusal.Of(err))
	}
}

// begin waits until the tier allows one device more and says whether there is
// still time for it.
func (s *Scheduler) begin(ctx context.Context, j *job, t *target) bool {
	for ctx.Err() == nil && s.limits.Take(limits.JobDevice, 0) != nil {
		select {
		case <-ctx.Done():
		case <-time.After(throttle):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case j.ended != "": // cancelled, and the target with it
		return false
	case errors.Is(ctx.Err(), context.Canceled): // closed; run cancels what is pending
		return false
	case ctx.Err() != nil:
		t.fail(timeIsOver())
		return false
	}
	t.move(targetRunning)
	return true
}

func timeIsOver() *refusal.Error {
	return refusal.New(500008, "maxExecutionTimeInSeconds was over before the device was done")
}

// act updates the twin or calls the method.
func (s *Scheduler) act(ctx context.Context, j *job, id registry.ID) (*methods.Answer, error) {
	if j.request.Type == UpdateTwin {
		_, err := s.twins.Update(id, j.request.UpdateTwin, false, "")
		return nil, err
	}
	answer, err := s.methods.Invoke(ctx, id, j.request.Method.call())
	if err != nil {
		return nil, err
	}
	return &answer, nil
}

// Rows gives the documents of devices.jobs: one for each device of each job, as
// query.Rows wants them.
func (s *Scheduler) Rows(after string) iter.Seq2[string, map[string]any] {
	type row struct {
		key      string
		document map[string]any
	}
	var rows []row
	s.mu.Lock()
	for _, j := range s.jobs {
		j.rows(func(key string, document map[string]any) {
			if key > after {
				rows = append(rows, row{key, document})
			}
		})
	}
	s.mu.Unlock()
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.key, b.key) })
	return func(yield func(string, map[string]any) bool) {
		for _, r := range rows {
			if !yield(r.key, r.document) {
				return
			}
		}
	}
}
