package bulk

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// How many transfers may wait or run, and how many are remembered. The oldest
// that have ended are forgotten first.
const (
	maxUnfinished = 10
	maxRemembered = 200
)

// The names of blobs unless the order gives others.
const (
	devicesBlob = "devices.txt"
	errorsBlob  = "importErrors.log"
)

// Order is what a service asks for. The first version of jobs has these names;
// the jobs of section 5.6 are others.
type Order struct {
	Type        string        `json:"type"` // export or import
	InputURI    registry.Text `json:"inputBlobContainerUri"`
	InputBlob   registry.Text `json:"inputBlobName"` // default devices.txt
	OutputURI   registry.Text `json:"outputBlobContainerUri"`
	OutputBlob  registry.Text `json:"outputBlobName"` // default devices.txt
	ExcludeKeys bool          `json:"excludeKeysInExport"`
	StorageAuth registry.Text `json:"storageAuthenticationType"` // keyBased
}

// Status is how far a transfer is.
type Status string

// The states of a transfer.
const (
	Enqueued  Status = "enqueued"
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

// Transfer is a job as services see it. It is a copy.
type Transfer struct {
	ID string `json:"jobId"`
	Order
	Status   Status        `json:"status"`
	Progress int           `json:"progress"` // per cent
	Reason   registry.Text `json:"failureReason"`
	Started  time.Time     `json:"startTimeUtc"`
	Ended    time.Time     `json:"endTimeUtc"` // zero until then
}

// running is a transfer with what its goroutine needs.
type running struct {
	Transfer // guarded by Transfers.mu
	cancel   context.CancelFunc
	done     chan struct{} // closed at the end
}

// Transfers imports and exports the registry, one transfer at a time. It is safe
// for concurrent use and must be closed.
type Transfers struct {
	changer Changer
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	workers sync.WaitGroup
	turn    chan struct{} // holds one token: who has it transfers

	mu     sync.Mutex // guards everything below
	client *http.Client
	list   []*running // oldest first
}

// NewTransfers returns an empty list.
func NewTransfers(c Changer) *Transfers {
	t := &Transfers{changer: c, turn: make(chan struct{}, 1), client: http.DefaultClient}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

// SetClient has containers reached by another client than http.DefaultClient,
// for example one that trusts the hub's authority. It counts for orders to come.
func (t *Transfers) SetClient(c *http.Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.client = c
}

// Start takes an order on and returns at once. It fails with 400004, 400005 or
// 400020 for an order that cannot be, and 429004 when too many are unfinished.
func (t *Transfers) Start(order Order) (Transfer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return Transfer{}, refusal.New(503001, "the hub is closing")
	}
	run, err := t.plan(&order, t.client)
	if err != nil {
		return Transfer{}, err
	}
	if !t.roomLocked() {
		return Transfer{}, refusal.New(429004, "too many imports and exports are not done yet")
	}
	ctx, cancel := context.WithCancel(t.ctx)
	r := &running{
		Transfer: Transfer{ID: newID(), Order: order, Status: Enqueued, Started: now()},
		cancel:   cancel, done: make(chan struct{}),
	}
	t.list = append(t.list, r)
	t.workers.Go(func() { t.work(ctx, r, run) })
	return r.Transfer, nil
}

// roomLocked forgets what is old; false when too many are unfinished.
func (t *Transfers) roomLocked() bool {
	unfinished := 0
	for _, r := range t.list {
		if r.Ended.IsZero() {
			unfinished++
		}
	}
	if len(t.list) >= maxRemembered {
		oldest := slices.IndexFunc(t.list, func(r *running) bool { return !r.Ended.IsZero() })
		t.list = slices.Delete(t.list, oldest, oldest+1)
	}
	return unfinished < maxUnfinished
}

// procedure is a transfer's work. It tells how many per cent are done.
type procedure func(ctx context.Context, progress func(percent int)) error

// plan checks an order and fills in what it leaves out.
func (t *Transfers) plan(order *Order, client *http.Client) (procedure, error) {
	order.Type = strings.ToLower(order.Type)
	if auth := order.StorageAuth; auth != "" && !strings.EqualFold(string(auth), "keyBased") {
		return nil, refusal.New(400004, "the hub has no identity of its own: it reaches storage by signed URIs only")
	}
	output, err := openContainer("outputBlobContainerUri", string(order.OutputURI), client)
	if err != nil {
		return nil, err
	}
	switch order.Type {
	case "export":
		setDefault(&order.OutputBlob, devicesBlob)
		e := export{t.changer, output, string(order.OutputBlob), order.ExcludeKeys}
		return e.run, nil
	case "import":
		input, err := openContainer("inputBlobContainerUri", string(order.InputURI), client)
		if err != nil {
			return nil, err
		}
		setDefault(&order.InputBlob, devicesBlob)
		i := intake{t.changer, input, string(order.InputBlob), output}
		return i.run, nil
	}
	return nil, refusal.New(400004, fmt.Sprintf("there are no jobs of type %q", order.Type))
}

func setDefault(name *registry.Text, value registry.Text) {
	if *name == "" {
		*name = value
	}
}

// work waits for its turn, transfers, and notes how it ended.
func (t *Transfers) work(ctx context.Context, r *running, run procedure) {
	defer close(r.done)
	defer r.cancel()
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case t.turn <- struct{}{}:
		t.note(func() { r.Status = Running })
		err = run(ctx, func(percent int) { t.note(func() { r.Progress = percent }) })
		<-t.turn
	}
	t.note(func() {
		r.Ended = now()
		switch {
		case err == nil:
			r.Status, r.Progress = Completed, 100
		case ctx.Err() != nil:
			r.Status = Cancelled
		default:
			r.Status, r.Reason = Failed, registry.Text(err.Error())
		}
	})
}

// note changes a transfer.
func (t *Transfers) note(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
}

// List returns all transfers that are remembered, oldest first.
func (t *Transfers) List() []Transfer {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Transfer, len(t.list))
	for n, r := range t.list {
		list[n] = r.Transfer
	}
	return list
}

// Get returns a transfer, or 404002.
func (t *Transfers) Get(id string) (Transfer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.findLocked(id)
	if err != nil {
		return Transfer{}, err
	}
	return r.Transfer, nil
}

// Cancel ends a transfer, or fails with 404002. One that has ended stays as it
// is. Identities that an import has changed by then stay changed.
func (t *Transfers) Cancel(id string) error {
	t.mu.Lock()
	r, err := t.findLocked(id)
	t.mu.Unlock()
	if err != nil {
		return err
	}
	r.cancel()
	<-r.done
	return nil
}

func (t *Transfers) findLocked(id string) (*running, error) {
	n := slices.IndexFunc(t.list, func(r *running) bool { return r.ID == id })
	if n < 0 {
		return nil, refusal.New(404002, "there is no such job")
	}
	return t.list[n], nil
}

// Close cancels all transfers and returns when they have ended.
func (t *Transfers) Close() {
	t.note(t.stop) // under the lock, so that nothing starts after
	t.workers.Wait()
}

// now is precise to the millisecond, which every client can read.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
