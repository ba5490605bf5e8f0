package upload

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// Proofs proves leaves to the hub; *identity.Proofs is one.
type Proofs interface {
	Identity(leaf string) string
	Token(ctx context.Context, leaf string, now, until time.Time) (text string, expiry time.Time, err error)
}

// Client makes requests to the hub and to the storage. It trusts what its
// Transport trusts.
type Client interface {
	Do(*http.Request) (*http.Response, error)
}

// Hub is where files go.
type Hub struct {
	Host    string // the hub's name, in tokens
	Address string // "host:port" to dial; the hub's name and 443 mostly
	Proofs  Proofs
	Client  Client
	Clock   gateway.Clock
}

const (
	apiVersion     = "2021-04-12"
	storageVersion = "2021-08-06" // of the storage service's REST interface

	// requestTimeout bounds one request; a block of 4 MiB may take its time.
	requestTimeout = 5 * time.Minute
	tokenLife      = 10 * time.Minute

	// retryMin and retryMax bound the wait after a failure.
	retryMin = 2 * time.Second
	retryMax = 5 * time.Minute

	// maxRefusals is how often the hub or the storage may refuse a file for good
	// before it is dropped.
	maxRefusals = 5
)

// place is where a file may be written, as the hub says it (wire contract, section
// 4.4).
type place struct {
	CorrelationID string `json:"correlationId"`
	HostName      string `json:"hostName"`
	ContainerName string `json:"containerName"`
	BlobName      string `json:"blobName"`
	SASToken      string `json:"sasToken"`
}

// refused is an answer that says no.
type refused struct {
	what   string
	status int
	text   string
	wait   time.Duration // before the next try; 0 for the usual
}

func (r *refused) Error() string {
	return fmt.Sprintf("%s: answer %d %.200s", r.what, r.status, strings.TrimSpace(r.text))
}

// forGood says that the answer is about the file, not about the moment, the leaf or
// the service.
func (r *refused) forGood() bool {
	switch r.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests, http.StatusRequestTimeout:
		return false
	}
	return r.status >= 400 && r.status < 500
}

// Run sends files to the hub until ctx ends, one at a time: the oldest whose leaf
// is not waiting after a failure.
func (s *Spool) Run(ctx context.Context, hub Hub) error {
	w := &sender{Spool: s, hub: hub, until: make(map[string]time.Time), failures: make(map[string]int)}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for w.sendNext(ctx) {
		}
		if now := hub.Clock(); now.Quality != gateway.Unsynced {
			s.abandon(now.Wall)
		}
		select {
		case <-s.whole:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// sender is the one who sends. It alone changes the head of a file that is whole,
// so it may read it as it is.
type sender struct {
	*Spool
	hub      Hub
	until    map[string]time.Time // by leaf: no try before
	failures map[string]int       // by leaf, in a row
	day      time.Time            // of what was sent of the daily budget
	sentDay  int64
}

// sendNext sends a file if there is one whose time has come.
func (w *sender) sendNext(ctx context.Context) bool {
	if w.hub.Clock().Quality == gateway.Unsynced {
		return false // tokens and certificates would be judged by a wrong time
	}
	for _, f := range w.next() {
		leaf := f.head.Leaf
		if ctx.Err() != nil || time.Now().Before(w.until[leaf]) {
			continue
		}
		err := w.send(ctx, f)
		switch {
		case err == nil:
			delete(w.failures, leaf)
			w.count(func(st *State) { st.Sent++; st.LastError = "" })
			return true
		case errors.Is(err, errBudget):
			return false
		case ctx.Err() == nil:
			w.failed(f, err)
		}
	}
	return false
}

// failed waits before the leaf's next try, and drops a file that is refused for
// good again and again.
func (w *sender) failed(f *file, err error) {
	leaf := f.head.Leaf
	wait := min(retryMin<<min(w.failures[leaf], 10), retryMax)
	w.failures[leaf]++
	wait = wait/2 + rand.N(wait/2+1)
	r, said := errors.AsType[*refused](err)
	if said {
		wait = max(wait, r.wait)
	}
	w.until[leaf] = time.Now().Add(wait)
	w.count(func(st *State) { st.LastError = err.Error() })
	w.log.Debug("file not sent", "leaf", leaf, "file", f.head.Name, "err", err, "pause_ms", wait.Milliseconds())
	if !said || !r.forGood() {
		return
	}
	err = w.update(f, func(h *head) { h.Refusals++ })
	if err == nil && f.head.Refusals < maxRefusals {
		return
	}
	w.log.Warn("file is refused and dropped", "leaf", leaf, "file", f.head.Name, "reason", r.Error())
	f.writing.Lock()
	w.drop(f)
	f.writing.Unlock()
	w.count(func(st *State) { st.Dropped++ })
}

// send takes a file from where it is to the end.
func (w *sender) send(ctx context.Context, f *file) error {
	if heard, err := w.settle(ctx, f); err != nil || heard {
		return err
	}
	p, err := w.start(ctx, f)
	if err != nil {
		return err
	}
	if err := w.update(f, func(h *head) { h.Correlation = p.CorrelationID }); err != nil {
		return err
	}
	target := "https://" + p.HostName + "/" + p.ContainerName + "/" + escapePath(p.BlobName) + p.SASToken
	blob := p.HostName + "/" + p.ContainerName + "/" + p.BlobName
	if f.head.Blob != blob { // blocks that went elsewhere are of no use
		if err := w.update(f, func(h *head) { h.Blob, h.Sent = blob, 0 }); err != nil {
			return err
		}
	}
	for i := f.head.Sent; i < len(f.head.Order); i++ {
		if err := w.sendBlock(ctx, f, target, i); err != nil {
			return err
		}
	}
	if err := w.commit(ctx, f, target); err != nil {
		// The storage may have thrown the blocks away meanwhile.
		return errors.Join(err, w.update(f, func(h *head) { h.Sent = 0 }))
	}
	// Before the hub is told: should its answer be lost, it is not told of another
	// upload of the same file.
	if err := w.update(f, func(h *head) { h.Told = true }); err != nil {
		return err
	}
	if err := w.finish(ctx, f, true); err != nil {
		return err
	}
	w.done(f)
	return nil
}

// settle ends what the try before has begun at the hub, and says whether the hub
// has the file. An upload that is not ended counts against the leaf there for an
// hour (wire contract, section 4.4).
func (w *sender) settle(ctx context.Context, f *file) (heard bool, err error) {
	if f.head.Correlation == "" {
		return false, nil
	}
	err = w.finish(ctx, f, f.head.Told)
	r, said := errors.AsType[*refused](err)
	switch {
	case err != nil && (!said || !r.forGood()):
		return false, err
	case f.head.Told && (err == nil || r.unknownUpload()):
		w.done(f) // it knew already, or knows now
		return true, nil
	}
	return false, w.update(f, func(h *head) { h.Correlation, h.Told = "", false })
}

// unknownUpload says that the hub knows no such upload, or no more: what it says
// to who tells it again that one is finished (400015).
func (r *refused) unknownUpload() bool {
	return r.status == http.StatusBadRequest && strings.Contains(r.text, "CorrelationId")
}

// done lets go of a file that the hub has.
func (w *sender) done(f *file) {
	w.log.Info("file sent", "leaf", f.head.Leaf, "file", f.head.Name, "bytes", f.head.Size)
	w.mu.Lock()
	w.sent = append(w.sent, f.id)
	w.sent = w.sent[max(0, len(w.sent)-maxSent):]
	w.mu.Unlock()
	f.writing.Lock()
	defer f.writing.Unlock()
	w.drop(f)
}

// escapePath escapes a blob's name, whose slashes stay.
func escapePath(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

// start asks the hub where the file may go.
func (w *sender) start(ctx context.Context, f *file) (p place, err error) {
	name := f.head.Name
	if w.hub.Proofs.Identity(f.head.Leaf) != f.head.Leaf {
		name = f.head.Leaf + "/" + name // others have files under that identity too
	}
	body, err := json.Marshal(map[string]string{"blobName": name})
	if err != nil {
		return p, err
	}
	text, err := w.askHub(ctx, f, "cannot start", "/files", body)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("cannot start: the hub's answer: %w", err)
	}
	if p.HostName == "" || p.ContainerName == "" || p.BlobName == "" {
		return p, errors.New("cannot start: the hub's answer names no place")
	}
	return p, nil
}

// finish tells the hub that the file is there, or that this upload will come to
// nothing.
func (w *sender) finish(ctx context.Context, f *file, there bool) error {
	said := map[string]any{"correlationId": f.head.Correlation, "isSuccess": there, "statusCode": 201, "statusDescription": "Created"}
	if !there {
		said["statusCode"], said["statusDescription"] = 500, "begun anew"
	}
	body, err := json.Marshal(said)
	if err != nil {
		return err
	}
	_, err = w.askHub(ctx, f, "cannot finish", "/files/notifications", body)
	return err
}

func (w *sender) askHub(ctx context.Context, f *file, what, path string, body []byte) ([]byte, error) {
	now := w.hub.Clock().Wall
	token, _, err := w.hub.Proofs.Token(ctx, f.head.Leaf, now, now.Add(tokenLife))
	if err != nil {
		return nil, err
	}
	address := "https://" + w.hub.Address + "/devices/" + url.PathEscape(w.hub.Proofs.Identity(f.head.Leaf)) + path + "?api-version=" + apiVersion
	return w.ask(ctx, what, http.MethodPost, address, body, http.Header{
		"Authorization": {token}, "Content-Type": {"application/json; charset=utf-8"},
	})
}

// blockID is the id of a block at the storage: all of one file have the same
// length there.
func blockID(i int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%06d", i))
}

func (w *sender) sendBlock(ctx context.Context, f *file, target string, i int) error {
	content, err := w.read(f, f.head.Order[i])
	if err != nil {
		return &refused{what: "cannot read", status: http.StatusBadRequest, text: err.Error()}
	}
	if err := w.budget(ctx, len(content)); err != nil {
		return err
	}
	_, err = w.ask(ctx, "cannot send block", http.MethodPut, target+"&comp=block&blockid="+url.QueryEscape(blockID(i)), content, http.Header{
		"X-Ms-Version": {storageVersion}, "Content-Type": {"application/octet-stream"},
	})
	if err != nil {
		return err
	}
	w.count(func(st *State) { st.SentBytes += int64(len(content)) })
	return w.update(f, func(h *head) { h.Sent = i + 1 })
}

// blockList is what makes a blob of blocks.
type blockList struct {
	XMLName xml.Name `xml:"BlockList"`
	Latest  []string `xml:"Latest"`
}

func (w *sender) commit(ctx context.Context, f *file, target string) error {
	var list blockList
	for i := range f.head.Order {
		list.Latest = append(list.Latest, blockID(i))
	}
	body, err := xml.Marshal(list)
	if err != nil {
		return err
	}
	_, err = w.ask(ctx, "cannot put blocks together", http.MethodPut, target+"&comp=blocklist", body, http.Header{
		"X-Ms-Version": {storageVersion}, "Content-Type": {"application/xml"},
	})
	return err
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

func (w *sender) ask(ctx context.Context, what, method, address string, body []byte, header http.Header) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	req.Header = header
	res, err := w.hub.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, withoutSecrets(err))
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode >= 300 {
		seconds, _ := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 16)
		return nil, &refused{what, res.StatusCode, string(text), min(time.Duration(seconds)*time.Second, time.Hour)}
	}
	return text, err
}

// withoutSecrets takes the address out of an error: the signature in it opens the
// storage.
func withoutSecrets(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// errBudget says that today's budget is used up.
var errBudget = errors.New("the budget for files of today is used up")

// budget waits until so many bytes may go.
func (w *sender) budget(ctx context.Context, n int) error {
	day := w.hub.Clock().Wall.UTC().Truncate(24 * time.Hour)
	if !day.Equal(w.day) {
		w.day, w.sentDay = day, 0
	}
	if w.cfg.Load().Daily > 0 && w.sentDay+int64(n) > int64(w.cfg.Load().Daily) {
		return errBudget
	}
	w.sentDay += int64(n)
	t := time.NewTimer(time.Duration(float64(n) / float64(w.cfg.Load().Rate) * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
