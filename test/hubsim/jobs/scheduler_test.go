package jobs_test

import (
	"encoding/json"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/jobs"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

func TestStartTime(t *testing.T) {
	run(t, 1, func(t *testing.T, b *bench) {
		later, past := time.Now().Add(time.Hour), time.Unix(0, 0)
		request := updateJob("later", "*")
		request.Start = &later
		b.must(t, request)
		request = updateJob("past", "*")
		request.Start = &past
		if j := b.must(t, request); j.Start.Before(j.Created) {
			t.Errorf("a start in the past stays %v", j.Start)
		}
		if j := b.get(t, "past"); j.Status != jobs.Completed {
			t.Errorf("the job of the past is %s", j.Status)
		}
		if j := b.get(t, "later"); j.Status != jobs.Scheduled || j.Statistics != nil {
			t.Errorf("before its time the job is %+v", j)
		}
		time.Sleep(time.Hour - time.Second)
		if j := b.get(t, "later"); j.Status != jobs.Scheduled {
			t.Errorf("a second before its time the job is %s", j.Status)
		}
		time.Sleep(time.Second)
		if j := b.get(t, "later"); j.Status != jobs.Completed || !j.End.Equal(later) {
			t.Errorf("at its time the job is %s, ended %v", j.Status, j.End)
		}
	})
}

// One job runs at a time; the others wait in the order of their start times.
func TestQueue(t *testing.T) {
	run(t, 1, func(t *testing.T, b *bench) {
		b.ignore(leaf(0))
		b.must(t, methodJob("first", "*"))
		b.must(t, methodJob("second", "*"))
		b.must(t, updateJob("third", "*"))
		want := func(statuses ...jobs.Status) {
			t.Helper()
			var got []jobs.Status
			for _, id := range []string{"first", "second", "third"} {
				got = append(got, b.get(t, id).Status)
			}
			if !slices.Equal(got, statuses) {
				t.Errorf("the jobs are %v, want %v", got, statuses)
			}
		}
		want(jobs.Running, jobs.Queued, jobs.Queued)
		time.Sleep(30 * time.Second)
		want(jobs.Completed, jobs.Running, jobs.Queued)
		if _, err := b.Cancel("second"); err != nil {
			t.Error(err)
		}
		want(jobs.Completed, jobs.Cancelled, jobs.Completed)
	})
}

// Devices that the job does not reach in its time have failed.
func TestMaxExecution(t *testing.T) {
	const devices = 25 // more than are served at once
	run(t, devices, func(t *testing.T, b *bench) {
		for n := range devices {
			b.ignore(leaf(n))
		}
		request := methodJob("m", "*")
		request.MaxExecution = 40
		b.must(t, request)
		time.Sleep(31 * time.Second)
		if j := b.get(t, "m"); *j.Statistics != (jobs.Statistics{Devices: devices, Failed: 10, Running: 10, Pending: 5}) {
			t.Errorf("in the middle the job has %+v", j.Statistics)
		}
		time.Sleep(9 * time.Second)
		if j := b.get(t, "m"); j.Status != jobs.Completed || *j.Statistics != (jobs.Statistics{Devices: devices, Failed: devices}) {
			t.Errorf("after its time the job is %s with %+v", j.Status, j.Statistics)
		}
		codes := make(map[any]int)
		for _, row := range b.rows("m") {
			codes[row["error"].(map[string]any)["code"]]++
		}
		if codes["504101"] != 10 || codes["500008"] != 15 {
			t.Errorf("devices by error: %v", codes)
		}
	})
}

func TestCancel(t *testing.T) {
	const devices = 12
	run(t, devices, func(t *testing.T, b *bench) {
		for n := range devices {
			b.ignore(leaf(n))
		}
		b.must(t, methodJob("running", "*"))
		b.must(t, updateJob("waiting", "*"))
		synctest.Wait()
		for _, id := range []string{"waiting", "running", "running"} { // a second time changes nothing
			if j, err := b.Cancel(id); err != nil || j.Status != jobs.Cancelled || j.End == nil {
				t.Errorf("cancelling %s gives %+v, %v", id, j, err)
			}
		}
		if j := b.get(t, "running"); *j.Statistics != (jobs.Statistics{Devices: devices, Failed: devices}) {
			t.Errorf("the cancelled job has %+v", j.Statistics)
		}
		for device, row := range b.rows("running") {
			if row["status"] != "canceled" {
				t.Errorf("the row of %s is %v", device, row)
			}
		}
		if rows := b.rows("waiting"); len(rows) != 0 {
			t.Errorf("a job that never ran has the rows %v", rows)
		}
		b.must(t, updateJob("done", "*"))
		b.get(t, "done")
		if _, err := b.Cancel("done"); !refusal.Is(err, 400003) {
			t.Errorf("cancelling a job that has ended gives %v", err)
		}
		for _, err := range []error{second(b.Cancel("no")), second(b.Get("no"))} {
			if !refusal.Is(err, 404002) {
				t.Errorf("an unknown job gives %v, want 404002", err)
			}
		}
	})
}

// A patch that the twin refuses fails at the device, not the job.
func TestRefusedUpdate(t *testing.T) {
	run(t, 1, func(t *testing.T, b *bench) {
		request := updateJob("u", "*")
		request.UpdateTwin = json.RawMessage(`{"tags":{"$x":1}}`)
		b.must(t, request)
		j := b.get(t, "u")
		failure, _ := b.rows("u")["leaf-0"]["error"].(map[string]any)
		if j.Status != jobs.Completed || j.Statistics.Failed != 1 || failure["code"] != "400004" {
			t.Errorf("the job is %+v with %+v, its error %v", j, j.Statistics, failure)
		}
	})
}

// The tier's rate of devices slows a job down, and fails nothing.
func TestRate(t *testing.T) {
	run(t, 40, func(t *testing.T, b *bench) {
		if err := b.limits.SetTier("S1", 1); err != nil {
			t.Fatal(err)
		}
		b.must(t, updateJob("u", "*"))
		synctest.Wait()
		if j := b.get(t, "u"); j.Status != jobs.Running {
			t.Errorf("40 devices at 10 a second are %s at once", j.Status)
		}
		time.Sleep(10 * time.Second)
		if j := b.get(t, "u"); j.Status != jobs.Completed || j.Statistics.Succeeded != 40 {
			t.Errorf("the job is %s with %+v", j.Status, j.Statistics)
		}
	})
}

// Close gives up the job that runs and leaves the others alone.
func TestClose(t *testing.T) {
	run(t, 1, func(t *testing.T, b *bench) {
		b.ignore(leaf(0))
		b.must(t, methodJob("running", "*"))
		b.must(t, updateJob("waiting", "*"))
		synctest.Wait()
		b.Close()
		if j := b.get(t, "running"); j.Status != jobs.Cancelled {
			t.Errorf("after Close the job that ran is %s", j.Status)
		}
		if j := b.get(t, "waiting"); j.Status != jobs.Queued {
			t.Errorf("after Close the job that waited is %s", j.Status)
		}
	})
}
