package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
)

// maxLooks is how many callers may look at the backlog at a time: each has a segment
// open.
const maxLooks = 2

// Waiting is a message that waits on flash, in a list.
type Waiting struct {
	Leaf       string    `json:"leaf"`
	Lane       string    `json:"lane"`
	Start      uint32    `json:"start"`
	Seq        uint64    `json:"seq"` // of leaf, lane and start
	MessageID  string    `json:"message_id"`
	Captured   time.Time `json:"captured"`    // when the gateway took it
	Clock      string    `json:"clock"`       // how far that is to be trusted: synced, estimated, unsynced
	AgeSeconds *float64  `json:"age_seconds"` // null: not known, the clock was not set then or is not now
	Bytes      int       `json:"bytes"`       // of the body
	State      string    `json:"state"`       // waiting; parked: the leaf's identity is refused; sending: on its way to the hub
}

// FullWaiting is a message that waits on flash, in an export.
type FullWaiting struct {
	Waiting
	Content
}

// Choice says which of the messages that wait are meant; what is not set chooses all.
type Choice struct {
	Leaf string `json:"leaf,omitempty"`
	Lane string `json:"lane,omitempty"`
	// OlderSeconds leaves only those that are known to be older.
	OlderSeconds float64 `json:"older_seconds,omitempty"`
}

// PurgeOrder asks for a purge, or, with Look, how much it would lose.
type PurgeOrder struct {
	Choice
	Look bool `json:"look,omitempty"`
}

// PurgeResult is what a purge came to.
type PurgeResult struct {
	Messages int `json:"messages"` // purged
	Sending  int `json:"sending"`  // chosen, but on their way to the hub: they stay
}

// Verified is what reading all that waits in a lane came to.
type Verified struct {
	Lane     string    `json:"lane"`
	Messages int       `json:"messages"` // intact
	Bytes    int64     `json:"bytes"`
	Damaged  int       `json:"damaged"` // messages
	Spans    []Damaged `json:"spans"`   // the first of them
}

// Damaged is a run of messages that cannot be read.
type Damaged struct {
	Segment  uint64    `json:"segment"`
	Block    uint32    `json:"block"`
	Index    uint16    `json:"index"` // of the first in its block
	Messages int       `json:"messages"`
	From     time.Time `json:"captured_from"` // of the segment around them
	To       time.Time `json:"captured_to"`
	Error    string    `json:"error"`
}

// lanes are those of a choice.
func (c Choice) lanes() (lanes []gateway.Lane, err error) {
	if c.Lane != "" {
		i := slices.Index(gateway.LaneNames[:], c.Lane)
		if i < 0 {
			return nil, fmt.Errorf("there is no lane %q: it is one of %v", c.Lane, gateway.LaneNames)
		}
		return []gateway.Lane{gateway.Lane(i)}, nil
	}
	for i := range gateway.Lanes {
		lanes = append(lanes, gateway.Lane(i))
	}
	return lanes, nil
}

// matcher judges by the time of now.
func (c Choice) matcher(now gateway.Instant) func(*gateway.Message) bool {
	return func(m *gateway.Message) bool {
		if c.Leaf != "" && m.Leaf != c.Leaf {
			return false
		}
		if c.OlderSeconds <= 0 {
			return true
		}
		age, known := m.Captured.Age(now)
		return known && age.Seconds() > c.OlderSeconds
	}
}

func (c Choice) query() url.Values {
	q := url.Values{"leaf": {c.Leaf}, "lane": {c.Lane}}
	if c.OlderSeconds > 0 {
		q.Set("older", strconv.FormatFloat(c.OlderSeconds, 'f', -1, 64))
	}
	return q
}

func choiceOf(q url.Values) (c Choice, err error) {
	c = Choice{Leaf: q.Get("leaf"), Lane: q.Get("lane")}
	if text := q.Get("older"); text != "" {
		c.OlderSeconds, err = strconv.ParseFloat(text, 64)
	}
	return c, err
}

func waitingOf(w gateway.Waiting, now gateway.Instant) Waiting {
	m := w.Message
	captured := m.Captured.Repair(now)
	out := Waiting{
		Leaf: m.Leaf, Lane: m.Lane.String(), Start: m.Start, Seq: m.Seq, MessageID: m.System.MessageID,
		Captured: captured.Wall.UTC(), Clock: captured.Quality.String(), Bytes: len(m.Body), State: "waiting",
	}
	switch w.State {
	case gateway.Out:
		out.State = "sending"
	case gateway.Parked:
		out.State = "parked"
	}
	if age, known := m.Captured.Age(now); known {
		seconds := age.Seconds()
		out.AgeSeconds = &seconds
	}
	return out
}

// look bounds how many look at the backlog, and lets them take their time.
func (s *Server) look(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.looks <- struct{}{}:
			defer func() { <-s.looks }()
		default:
			refuse(w, http.StatusTooManyRequests, "%d others look at what waits already: try again later", maxLooks)
			return
		}
		c := http.NewResponseController(w)
		_ = c.SetReadDeadline(time.Time{}) // see begin
		_ = c.SetWriteDeadline(time.Time{})
		serve(w, r)
		_ = c.SetWriteDeadline(time.Now().Add(patience)) // for what is not written out yet
	}
}

// unhurried gives each write patience, and lets any time go by between them: it may take
// long until the next message is found.
type unhurried struct {
	w http.ResponseWriter
	c *http.ResponseController // of w
}

func (u unhurried) Write(b []byte) (int, error) {
	_ = u.c.SetWriteDeadline(time.Now().Add(patience))
	n, err := u.w.Write(b)
	_ = u.c.SetWriteDeadline(time.Time{})
	return n, err
}

// waiting writes one message after the other: all of them need not fit in memory.
func (s *Server) waiting(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	choice, err := choiceOf(q)
	limit := 0
	if text := q.Get("limit"); err == nil && text != "" {
		limit, err = strconv.Atoi(text)
	}
	lanes, lerr := choice.lanes()
	if err = errors.Join(err, lerr); err != nil {
		refuse(w, http.StatusBadRequest, "%v", err)
		return
	}
	full := q.Get("full") != ""
	now := s.Clock()
	match, out, n := choice.matcher(now), json.NewEncoder(unhurried{w, http.NewResponseController(w)}), 0
	w.Header().Set("Content-Type", "application/jsonl")
	for _, lane := range lanes {
		var broken error
		err := s.Backlog.Look(r.Context(), lane, func(m gateway.Waiting) bool {
			if limit > 0 && n >= limit {
				return false
			}
			if !match(m.Message) {
				return true
			}
			var line any = waitingOf(m, now)
			if full {
				line = FullWaiting{waitingOf(m, now), contentOf(m.Message)}
			}
			n++
			broken = out.Encode(line)
			return broken == nil
		})
		if err != nil && n == 0 {
			refuse(w, storeStatus(err), "%v", err)
			return
		}
		if err = errors.Join(err, broken); err != nil {
			s.Log.Warn("list of what waits ended early", "error", err)
			panic(http.ErrAbortHandler) // so that the client sees it too
		}
	}
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	all := []Verified{}
	for lane := range gateway.Lanes {
		v, err := s.Backlog.Verify(r.Context(), gateway.Lane(lane))
		if err != nil {
			refuse(w, storeStatus(err), "%v", err)
			return
		}
		out := Verified{Lane: gateway.LaneNames[lane], Messages: v.Messages, Bytes: v.Bytes, Damaged: v.Damaged, Spans: []Damaged{}}
		for _, x := range v.Spans {
			out.Spans = append(out.Spans, Damaged{
				Segment: x.First.Segment, Block: x.First.Block, Index: x.First.Index, Messages: x.Messages,
				From: x.From.Wall.UTC(), To: x.To.Wall.UTC(), Error: x.Err.Error(),
			})
		}
		all = append(all, out)
	}
	answer(w, all)
}

// storeStatus is that of an error of the store.
func storeStatus(err error) int {
	if errors.Is(err, gateway.ErrStoreFull) || errors.Is(err, gateway.ErrStoreFailed) {
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// purgeBacklog says in the log what is lost, also when it ends early.
func (s *Server) purgeBacklog(w http.ResponseWriter, r *http.Request) {
	var order PurgeOrder
	if !read(w, r, &order) {
		return
	}
	lanes, err := order.lanes()
	if err != nil {
		refuse(w, http.StatusBadRequest, "%v", err)
		return
	}
	match, chosen := order.matcher(s.Clock()), make(map[string]bool)
	collect := func(m *gateway.Message) bool {
		if !match(m) {
			return false
		}
		chosen[m.Leaf] = true
		return true
	}
	var sum PurgeResult
	for _, lane := range lanes {
		var p gateway.Purged
		if order.Look {
			p, err = s.wouldPurge(r.Context(), lane, match)
		} else {
			p, err = s.Backlog.Purge(r.Context(), lane, collect)
		}
		sum.Messages += p.Messages
		sum.Sending += p.Under
		if err != nil {
			break
		}
	}
	for leaf := range chosen { // one that waits for the hub's word may have nothing more that waits
		s.EndPause(leaf)
	}
	if !order.Look && (sum.Messages > 0 || err != nil) {
		p, _ := r.Context().Value(accessKey{}).(peer)
		log := s.Log.With("messages", sum.Messages, "who", p.who)
		if order.Leaf != "" {
			log = log.With("leaf", order.Leaf)
		}
		if order.Lane != "" {
			log = log.With("lane", order.Lane)
		}
		if order.OlderSeconds > 0 {
			log = log.With("older_seconds", order.OlderSeconds)
		}
		if err != nil {
			log = log.With("error", err)
		}
		log.Warn("operator purged messages that waited")
	}
	if err != nil {
		refuse(w, storeStatus(err), "%d messages were purged; %v", sum.Messages, err)
		return
	}
	answer(w, sum)
}

// wouldPurge counts what a purge would give up.
func (s *Server) wouldPurge(ctx context.Context, lane gateway.Lane, match func(*gateway.Message) bool) (p gateway.Purged, err error) {
	err = s.Backlog.Look(ctx, lane, func(m gateway.Waiting) bool {
		switch {
		case !match(m.Message):
		case m.State == gateway.Out:
			p.Under++
		default:
			p.Messages++
		}
		return true
	})
	return p, err
}

// Waiting calls use for each message that waits, lane by lane in their order, at most
// limit, 0 for all. An error of use ends it.
func (c *Client) Waiting(ctx context.Context, choice Choice, limit int, use func(Waiting) error) error {
	q := choice.query()
	q.Set("limit", strconv.Itoa(limit))
	body, err := c.do(ctx, http.MethodGet, "/v1/store/messages?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer body.Close()
	for in := json.NewDecoder(body); ; {
		var w Waiting
		if err := in.Decode(&w); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("the daemon has broken off: %w", err)
		}
		if err := use(w); err != nil {
			return err
		}
	}
}

// ExportWaiting writes each FullWaiting as a line of JSON.
func (c *Client) ExportWaiting(ctx context.Context, choice Choice, limit int, w io.Writer) error {
	q := choice.query()
	q.Set("limit", strconv.Itoa(limit))
	q.Set("full", "1")
	body, err := c.do(ctx, http.MethodGet, "/v1/store/messages?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(w, body)
	return err
}

// Purge gives up messages that wait.
func (c *Client) Purge(ctx context.Context, order PurgeOrder) (out PurgeResult, err error) {
	err = c.change(ctx, http.MethodPost, "/v1/store/purge", order, &out)
	return out, err
}

// Verify reads all that waits, lane by lane.
func (c *Client) Verify(ctx context.Context) (all []Verified, err error) {
	err = c.get(ctx, "/v1/store/verify", &all)
	return all, err
}
