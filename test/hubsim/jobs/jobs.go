// Package jobs runs what services schedule for many devices: updates of twins
// and direct methods (wire contract, section 5.6). Import and export of devices
// are jobs of another kind and another package.
//
// A Scheduler has one goroutine, which runs one job at a time, as the hub does
// at the tiers F1 and S1; the others wait. Devices of the running job are served
// a few at a time.
package jobs

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// The types of jobs that are done here.
const (
	UpdateTwin   = "scheduleUpdateTwin"
	DeviceMethod = "scheduleDeviceMethod"
)

// Status is how far a job is, or one of its devices.
type Status string

// What a job goes through (section 5.6); it ends as one of the last three.
const (
	Scheduled Status = "scheduled" // its start time is to come
	Queued    Status = "queued"    // it is its time, but another job runs
	Running   Status = "running"
	Completed Status = "completed" // every device was tried, or the time is over
	Failed    Status = "failed"    // its condition is not one
	Cancelled Status = "cancelled"
)

// Bounds of requests.
const (
	maxID            = 128                 // characters of a job id; not documented
	defaultExecution = time.Hour           // what the vendor's client sends when it is not told
	maxTimeout       = 300                 // seconds (section 5.7)
	history          = 30 * 24 * time.Hour // for which ended jobs are remembered (section 5.6)
)

// Method is the direct method of a job. Its zero times mean what they mean in
// methods.Call.
type Method struct {
	Name            string          `json:"methodName"`
	Payload         json.RawMessage `json:"payload,omitempty"`
	ResponseTimeout int             `json:"responseTimeoutInSeconds,omitempty"`
	ConnectTimeout  int             `json:"connectTimeoutInSeconds,omitempty"`
}

// call is the method as the hub calls it.
func (m *Method) call() methods.Call {
	return methods.Call{
		Name: m.Name, Payload: m.Payload,
		ConnectTimeout:  time.Duration(m.ConnectTimeout) * time.Second,
		ResponseTimeout: time.Duration(m.ResponseTimeout) * time.Second,
	}
}

// timely says whether the times are such that a call can take them; whether it
// does is for the exchange to say.
func (m *Method) timely() bool {
	return min(m.ResponseTimeout, m.ConnectTimeout) >= 0 && max(m.ResponseTimeout, m.ConnectTimeout) <= maxTimeout
}

// Request is what a service asks for.
type Request struct {
	ID           string          `json:"jobId"`
	Type         string          `json:"type"`
	Method       *Method         `json:"cloudToDeviceMethod,omitempty"`
	UpdateTwin   json.RawMessage `json:"updateTwin,omitempty"`      // as for twins.Store.Update
	Condition    string          `json:"queryCondition"`            // as for query.ParseCondition
	Start        *time.Time      `json:"startTime"`                 // nil and the past mean now
	MaxExecution int64           `json:"maxExecutionTimeInSeconds"` // 0 means an hour
}

// Job is what is known of a job.
type Job struct {
	Request
	Created       time.Time   `json:"createdTime"`
	End           *time.Time  `json:"endTime,omitempty"`
	Status        Status      `json:"status"`
	FailureReason string      `json:"failureReason,omitempty"`
	Statistics    *Statistics `json:"deviceJobStatistics,omitempty"` // once it has run
}

// Statistics counts the devices of a job.
type Statistics struct {
	Devices   int `json:"deviceCount"`
	Failed    int `json:"failedCount"`
	Succeeded int `json:"succeededCount"`
	Running   int `json:"runningCount"`
	Pending   int `json:"pendingCount"`
}

// check says what is wrong with a request, and completes it.
func (r *Request) check(now time.Time) error {
	switch {
	case r.ID == "" || len(r.ID) > maxID || strings.ContainsFunc(r.ID, func(c rune) bool { return c <= ' ' || c == '/' || c == 0x7f }):
		return invalid("a job id must have 1 to 128 characters without spaces and slashes")
	case r.Type != UpdateTwin && r.Type != DeviceMethod:
		return invalid("the type must be " + UpdateTwin + " or " + DeviceMethod)
	case r.Type == UpdateTwin && !isObject(r.UpdateTwin):
		return invalid("updateTwin must be an object")
	case r.Type == DeviceMethod && (r.Method == nil || r.Method.Name == ""):
		return invalid("cloudToDeviceMethod must name a method")
	case r.Type == DeviceMethod && !r.Method.timely():
		return invalid("the timeouts of a method must be 0 to 300 seconds")
	case r.Condition == "":
		return invalid("there is no queryCondition")
	case r.MaxExecution < 0 || r.MaxExecution > int64(history/time.Second):
		return invalid("maxExecutionTimeInSeconds must be from 0 to 30 days")
	}
	if r.MaxExecution == 0 {
		r.MaxExecution = int64(defaultExecution / time.Second)
	}
	if r.Start == nil || r.Start.Before(now) {
		r.Start = &now
	}
	return nil
}

func invalid(message string) *refusal.Error { return refusal.New(400004, message) }

func isObject(text json.RawMessage) bool {
	var members map[string]json.RawMessage
	return json.Unmarshal(text, &members) == nil && members != nil
}

// Schedule takes a job. It fails with 409104 when there is one of that id, ended
// or not, and with 400004 for a request that breaks a rule. A condition that is
// not one fails the job when it starts, not the request.
func (s *Scheduler) Schedule(r Request) (Job, error) {
	now := time.Now().UTC()
	if err := r.check(now); err != nil {
		return Job{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(now)
	if s.jobs[r.ID] != nil {
		return Job{}, refusal.New(409104, "there is a job "+r.ID)
	}
	s.scheduled++
	j := &job{request: r, created: now, number: s.scheduled}
	s.jobs[r.ID] = j
	s.wakeUp()
	return j.view(now), nil
}

// forget drops jobs that ended long ago. s.mu is held.
func (s *Scheduler) forget(now time.Time) {
	maps.DeleteFunc(s.jobs, func(_ string, j *job) bool {
		return j.ended != "" && now.Sub(j.end) > history
	})
}

// Get returns a job; 404002 when there is none of the id.
func (s *Scheduler) Get(id string) (Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[id]
	if j == nil {
		return Job{}, missing(id)
	}
	return j.view(time.Now()), nil
}

func missing(id string) *refusal.Error { return refusal.New(404002, "there is no job "+id) }

// Cancel ends a job. Devices that it has not reached are left alone; calls of
// methods in progress are given up. A job that was cancelled before stays so. It
// fails with 404002 when there is no such job and 400003 when it has ended.
func (s *Scheduler) Cancel(id string) (Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[id]
	switch {
	case j == nil:
		return Job{}, missing(id)
	case j.ended != "" && j.ended != Cancelled:
		return Job{}, refusal.New(400003, "the job has ended")
	case j.ended == "":
		j.finish(Cancelled)
		if j.stop != nil {
			j.stop()
		}
		s.wakeUp()
	}
	return j.view(time.Now()), nil
}

// List returns up to size jobs of a type and a status, oldest first; "" means
// any. after is "" or the next of the page before; next is "" behind the last
// job.
func (s *Scheduler) List(jobType, status, after string, size int) (list []Job, next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	list = []Job{} // an empty page is written [], not null
	var last string
	for _, j := range s.sorted() {
		wanted := (jobType == "" || jobType == j.request.Type) && (status == "" || status == string(j.status(now)))
		if key := j.key(); key > after && wanted {
			if len(list) == size {
				return list, last
			}
			list, last = append(list, j.view(now)), key
		}
	}
	return list, ""
}

// sorted returns the jobs in the order in which they were scheduled. s.mu is
// held.
func (s *Scheduler) sorted() []*job {
	return slices.SortedFunc(maps.Values(s.jobs), func(a, b *job) int { return cmp.Compare(a.number, b.number) })
}
