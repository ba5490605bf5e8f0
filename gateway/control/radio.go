package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// Radio reaches Bluetooth devices for an operator, whether they are leaves or not.
// Safe for concurrent use. Errors may be a *Refusal.
type Radio interface {
	// Scan lists the devices that are heard within a time, the strongest first.
	Scan(ctx context.Context, length time.Duration) ([]Heard, error)

	// Pair pairs a device; it ends when ctx does.
	Pair(ctx context.Context, address string, ask Ceremony) error

	// Forget makes the gateway forget a paired device and its keys.
	Forget(ctx context.Context, address string) error
}

// Ceremony is how a device proves that it is the one that is meant. Each of the
// questions ends when ctx does.
type Ceremony struct {
	// Passkey asks for the number that the device shows, or that stands on its label.
	Passkey func(ctx context.Context) (number uint32, ok bool)
	// Agree asks whether the device shows this number of six digits, too.
	Agree func(ctx context.Context, number uint32) bool
	// Show shows a number of six digits that is to be typed at the device. It does not wait.
	Show func(number uint32)
	// JustWorks allows a device that proves nothing.
	JustWorks bool
}

// Refusal is an error with a status of HTTP.
type Refusal struct {
	Status int
	Err    error
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// Heard is a Bluetooth device in reach.
type Heard struct {
	Address string    `json:"address"`
	Name    string    `json:"name,omitempty"`
	RSSI    int       `json:"rssi,omitempty"` // dBm
	Paired  bool      `json:"paired"`
	Seen    time.Time `json:"seen"`
}

// Pairing is a device to pair.
type Pairing struct {
	Address string `json:"address"`
	// Passkey is the number on the device's label, 0 to 999999; null: it is asked for.
	Passkey *uint32 `json:"passkey,omitempty"`
	// JustWorks allows a device that proves nothing.
	JustWorks bool `json:"just_works,omitempty"`
}

// MaxPasskey is the highest number (Core Specification, volume 3, part H, section
// 2.3.5.1).
const MaxPasskey = 999999

// Step is a line of the answer to a Pairing. The last one is Over.
type Step struct {
	ID     int64    `json:"id,omitempty"`     // of the question
	Ask    Question `json:"ask,omitempty"`    // an Answer is awaited, but for ShowNumber
	Number uint32   `json:"number,omitempty"` // to be compared or shown
	Over   bool     `json:"over,omitempty"`
	Error  string   `json:"error,omitempty"`  // why it is not paired
	Status int      `json:"status,omitempty"` // of that, as a status of HTTP
}

// Question is what a pairing wants to know.
type Question string

// The questions.
const (
	AskPasskey Question = "passkey" // the number that the device shows
	AskAgree   Question = "agree"   // whether the device shows Step.Number
	ShowNumber Question = "show"    // none: Step.Number is to be typed at the device
)

// Answer is the word on a question.
type Answer struct {
	ID      int64  `json:"id"` // of the question
	Passkey uint32 `json:"passkey,omitempty"`
	Yes     bool   `json:"yes"` // false: reject
}

const (
	// MaxScan bounds how long an operator may have the air listened to.
	MaxScan = time.Minute
	// answerWait is how long an answer waits for its question.
	answerWait = 2 * time.Second
)

// radio returns the way to Bluetooth devices; it answers if there is none.
func (s *Server) radio(w http.ResponseWriter) (Radio, bool) {
	var radio Radio
	if s.Radio != nil {
		radio = s.Radio()
	}
	if radio == nil {
		refuse(w, http.StatusServiceUnavailable, "no Bluetooth is configured: write a table [ble]")
		return nil, false
	}
	return radio, true
}

// statusOf is the status of an error.
func statusOf(err error) int {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Status
	}
	return http.StatusInternalServerError
}

func (s *Server) scanRadio(w http.ResponseWriter, r *http.Request) {
	radio, ok := s.radio(w)
	if !ok {
		return
	}
	length, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil || length <= 0 || length > MaxScan {
		refuse(w, http.StatusBadRequest, "cannot listen for so long: write for=5s, up to %v", MaxScan)
		return
	}
	patient(w, length)
	found, err := radio.Scan(r.Context(), length)
	if err != nil {
		refuse(w, statusOf(err), "%v", err)
		return
	}
	answer(w, append([]Heard{}, found...))
}

// patient gives a connection so much more time than others have. The reading
// deadline has to go too: with it the server would take the caller for gone.
func patient(w http.ResponseWriter, length time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(length + time.Minute))
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (s *Server) pairRadio(w http.ResponseWriter, r *http.Request) {
	radio, ok := s.radio(w)
	if !ok {
		return
	}
	var p Pairing
	if !readJSON(w, r, &p) {
		return
	}
	if p.Passkey != nil && *p.Passkey > MaxPasskey {
		refuse(w, http.StatusBadRequest, "%d is no passkey: it has six digits", *p.Passkey)
		return
	}
	patient(w, MaxTimeout)
	ctx, cancel := context.WithTimeout(r.Context(), MaxTimeout)
	defer cancel()
	w.Header().Set("Content-Type", "application/jsonl")
	var mu sync.Mutex
	over := false
	say := func(step Step) {
		mu.Lock()
		defer mu.Unlock()
		// BlueZ may ask in the moment in which the operator goes: w is another's soon.
		if over {
			return
		}
		over = step.Over
		_ = json.NewEncoder(w).Encode(step) // a caller that has gone ends ctx
		_ = http.NewResponseController(w).Flush()
	}
	err := radio.Pair(ctx, p.Address, s.ceremony(&p, say))
	last := Step{Over: true}
	if err != nil {
		last.Error, last.Status = err.Error(), statusOf(err)
	}
	if last.Status == http.StatusUnauthorized && s.Window != nil {
		s.Window.Wrong(pairing.OverBLE, p.Address)
	}
	say(last)
}

// ceremony puts the questions of a pairing to the operator.
func (s *Server) ceremony(p *Pairing, say func(Step)) Ceremony {
	ask := func(ctx context.Context, step Step) Answer {
		step.ID = s.questions.Add(1)
		say(step)
		for {
			select {
			case a := <-s.answers:
				if a.ID == step.ID { // not the late answer to another
					return a
				}
			case <-ctx.Done():
				return Answer{}
			}
		}
	}
	return Ceremony{
		JustWorks: p.JustWorks,
		Passkey: func(ctx context.Context) (uint32, bool) {
			if p.Passkey != nil {
				return *p.Passkey, true
			}
			a := ask(ctx, Step{Ask: AskPasskey})
			return a.Passkey, a.Yes
		},
		Agree: func(ctx context.Context, number uint32) bool {
			return ask(ctx, Step{Ask: AskAgree, Number: number}).Yes
		},
		Show: func(number uint32) { say(Step{Ask: ShowNumber, Number: number}) },
	}
}

func (s *Server) answerRadio(w http.ResponseWriter, r *http.Request) {
	var a Answer
	if !readJSON(w, r, &a) {
		return
	}
	if a.Passkey > MaxPasskey {
		refuse(w, http.StatusBadRequest, "%d is no passkey: it has six digits", a.Passkey)
		return
	}
	select {
	case s.answers <- a:
		answer(w, Result{Count: 1})
	case <-time.After(answerWait):
		refuse(w, http.StatusConflict, "nothing is asked")
	case <-r.Context().Done():
	}
}

func (s *Server) forgetRadio(w http.ResponseWriter, r *http.Request) {
	radio, ok := s.radio(w)
	if !ok {
		return
	}
	var p Pairing
	if !readJSON(w, r, &p) {
		return
	}
	if err := radio.Forget(r.Context(), p.Address); err != nil {
		refuse(w, statusOf(err), "%v", err)
		return
	}
	answer(w, Result{Count: 1})
}

// readJSON reads what is asked for; it answers if it cannot.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		refuse(w, http.StatusBadRequest, "the request cannot be read: %v", err)
		return false
	}
	return true
}
