package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// job is a job on its way. Everything but the first three fields, its targets
// included, is guarded by the scheduler's lock.
type job struct {
	request Request // does not change
	created time.Time
	number  uint64 // in the order of scheduling, from 1

	targets []*target          // once it has started
	started bool               // its devices have been chosen, or are about to be
	stop    context.CancelFunc // while it runs
	ended   Status             // "" until it has
	end     time.Time
	failure string // why it failed
}

// target is one device of a job.
type target struct {
	id                registry.ID
	status            targetStatus
	start, end, moved time.Time       // moved is when status changed
	answer            *methods.Answer // of a method
	err               *refusal.Error  // why it failed
}

// targetStatus is how far one device of a job is.
type targetStatus string

const (
	targetPending   targetStatus = "pending"
	targetRunning   targetStatus = "running"
	targetCompleted targetStatus = "completed"
	targetFailed    targetStatus = "failed"
	targetCanceled  targetStatus = "canceled" // as the vendor spells it here
)

// key sorts jobs by their numbers, as a text.
func (j *job) key() string { return fmt.Sprintf("%020d", j.number) }

// before says whether the job starts before another one, or was scheduled before
// it to start at the same time.
func (j *job) before(other *job) bool {
	if order := j.request.Start.Compare(*other.request.Start); order != 0 {
		return order < 0
	}
	return j.number < other.number
}

// status is how far the job is.
func (j *job) status(now time.Time) Status {
	switch {
	case j.ended != "":
		return j.ended
	case j.started:
		return Running
	case j.request.Start.After(now):
		return Scheduled
	}
	return Queued
}

// finish ends the job.
func (j *job) finish(s Status) {
	j.ended, j.end = s, time.Now().UTC()
	j.leaveOut()
}

// leaveOut gives up the devices that were not reached.
func (j *job) leaveOut() {
	for _, t := range j.targets {
		if t.status == targetPending {
			t.move(targetCanceled)
		}
	}
}

// move changes the status of a device.
func (t *target) move(s targetStatus) {
	t.status, t.moved = s, time.Now().UTC()
	if s == targetRunning {
		t.start = t.moved
	} else {
		t.end = t.moved
	}
}

// fail ends the target with a reason.
func (t *target) fail(err *refusal.Error) {
	t.err = err
	t.move(targetFailed)
}

// view is what services see of the job.
func (j *job) view(now time.Time) Job {
	v := Job{Request: j.request, Created: j.created, Status: j.status(now), FailureReason: j.failure}
	if j.ended != "" {
		v.End = &j.end
	}
	if j.started {
		v.Statistics = j.statistics()
	}
	return v
}

// statistics counts the devices. One that was left out counts as failed.
func (j *job) statistics() *Statistics {
	n := &Statistics{Devices: len(j.targets)}
	for _, t := range j.targets {
		switch t.status {
		case targetPending:
			n.Pending++
		case targetRunning:
			n.Running++
		case targetCompleted:
			n.Succeeded++
		case targetFailed, targetCanceled:
			n.Failed++
		}
	}
	return n
}

// rows are the documents of devices.jobs, one for each device.
func (j *job) rows(yield func(key string, document map[string]any)) {
	for _, t := range j.targets {
		document := map[string]any{
			"jobId":                  j.request.ID,
			"jobType":                j.request.Type,
			"deviceId":               t.id.Device,
			"status":                 string(t.status),
			"createdDateTimeUtc":     twins.Time(j.created),
			"lastUpdatedDateTimeUtc": twins.Time(t.moved),
			"outcome":                t.outcome(),
		}
		if t.id.Module != "" {
			document["moduleId"] = t.id.Module
		}
		if !t.start.IsZero() {
			document["startTimeUtc"] = twins.Time(t.start)
		}
		if !t.end.IsZero() {
			document["endTimeUtc"] = twins.Time(t.end)
		}
		if t.err != nil {
			document["error"] = map[string]any{"code": fmt.Sprint(t.err.Code), "description": t.err.Error()}
		}
		yield(j.request.ID+"/"+t.id.String(), document)
	}
}

// outcome is what the device answered to a method.
func (t *target) outcome() map[string]any {
	if t.answer == nil {
		return map[string]any{"deviceMethodResponse": nil}
	}
	return map[string]any{"deviceMethodResponse": map[string]any{
		"status":  int(t.answer.Status),
		"payload": decoded(t.answer.Payload),
	}}
}

// decoded returns what a method answered; nil when that was nothing.
func decoded(payload json.RawMessage) any {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil { // empty: methods has checked the rest
		return nil
	}
	return value
}
