package rest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/limits"
)

func TestJobRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFleet(t)
		// The form and the start time are those of the vendor's client.
		const update = `{"jobId":"u","type":"scheduleUpdateTwin","updateTwin":{"etag":"*","tags":{"new":true}},` +
			`"startTime":"1970-01-01T00:00:00.000Z","maxExecutionTimeInSeconds":3600,"queryCondition":"tags.odd = true"}`
		b.object("PUT", "/jobs/v2/u?api-version=2021-04-12", "", update)
		synctest.Wait()
		job := b.object("GET", "/jobs/v2/u", "", "")
		for name, want := range map[string]any{
			"jobId": "u", "type": "scheduleUpdateTwin", "status": "completed", "queryCondition": "tags.odd = true",
			"maxExecutionTimeInSeconds": 3600.0, "cloudToDeviceMethod": nil, "failureReason": nil,
		} {
			if job[name] != want {
				t.Errorf("%s is %v, want %v", name, job[name], want)
			}
		}
		if member(job, "updateTwin", "tags", "new") != true || member(job, "deviceJobStatistics", "succeededCount") != 6.0 ||
			job["createdTime"] == nil || job["startTime"] == nil || job["endTime"] == nil {
			t.Errorf("the job is %v", job)
		}
		if twin := b.object("GET", "/twins/leaf-03", "", ""); member(twin, "tags", "new") != true {
			t.Errorf("the twin of leaf-03 is %v", twin)
		}
		b.refused(409104, "PUT", "/jobs/v2/u", "", update)
		b.refused(400004, "PUT", "/jobs/v2/other", "", update)
		b.refused(400004, "PUT", "/jobs/v2/x", "", `{"type":"scheduleUpdateTwin"}`)
		b.refused(400004, "PUT", "/jobs/v2/x", "", `{"startTime":"tomorrow"}`)
		for _, seconds := range []string{"-1", "301", "36893488150"} { // the last would become 2.6 s when nanoseconds overflow
			b.refused(400004, "PUT", "/jobs/v2/x", "", `{"type":"scheduleDeviceMethod","queryCondition":"*",
				"cloudToDeviceMethod":{"methodName":"blink","responseTimeoutInSeconds":`+seconds+`}}`)
		}
		b.refused(404002, "GET", "/jobs/v2/other", "", "")
		b.refused(404002, "POST", "/jobs/v2/other/cancel", "", "")
		b.refused(400003, "POST", "/jobs/v2/u/cancel", "", "")

		later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		waiting := b.object("PUT", "/jobs/v2/m", "", `{"type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"reboot","payload":null,`+
			`"responseTimeoutInSeconds":30},"startTime":"`+later+`","queryCondition":"*"}`)
		if waiting["status"] != "scheduled" || waiting["startTime"] != later {
			t.Errorf("a job for later is %v", waiting)
		}
		if job := b.object("POST", "/jobs/v2/m/cancel", "", ""); job["status"] != "cancelled" {
			t.Errorf("the cancelled job is %v", job)
		}
		b.as = "registryReadWrite"
		b.refused(401002, "GET", "/jobs/v2/u", "", "")
	})
}

func TestJobPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFleet(t)
		for n := range 5 {
			b.object("PUT", fmt.Sprintf("/jobs/v2/u%d", n), "", `{"type":"scheduleUpdateTwin","updateTwin":{},"queryCondition":"tags.n = 3"}`)
		}
		synctest.Wait()
		const all = "/jobs/v2/query?api-version=2021-04-12"
		first := b.page(all, "3", "")
		second := b.page(all, "3", header(first, "x-ms-continuation"))
		var ids []string
		for _, job := range append(b.results(first), b.results(second)...) {
			ids = append(ids, job["jobId"].(string))
		}
		if strings.Join(ids, " ") != "u0 u1 u2 u3 u4" || header(second, "x-ms-continuation") != "" || header(first, "x-ms-item-type") != "JobResponse" {
			t.Errorf("the pages have %v", ids)
		}
		for query, want := range map[string]int{
			"&jobType=scheduleUpdateTwin&jobStatus=completed": 5,
			"&jobType=scheduleDeviceMethod":                   0,
			"&jobStatus=running":                              0,
		} {
			if got := b.results(b.page(all+query, "", "")); len(got) != want {
				t.Errorf("%s gives %d jobs, want %d", query, len(got), want)
			}
		}
		rows := b.results(b.page(`SELECT * FROM devices.jobs WHERE devices.jobs.jobId IN ['u1', 'u2'] AND devices.jobs.status = 'completed'`, "", ""))
		if len(rows) != 2 || rows[0]["deviceId"] != "leaf-03" || rows[1]["jobId"] != "u2" {
			t.Errorf("the rows are %v", rows)
		}
	})
}

func TestJobRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock stands still between the last one and the refused one
		b := newRegistryBench(t)
		if err := b.hub.Limits.SetTier("S1", 1); err != nil {
			t.Fatal(err)
		}
		for b.hub.Limits.Take(limits.Job, 0) == nil {
			continue
		}
		b.refused(429001, "GET", "/jobs/v2/u", "", "")
	})
}

// Whatever a job should be, it is taken or refused, and can be read when it is
// taken.
func FuzzJobRequest(f *testing.F) {
	fleet := newFleet(f)
	f.Add([]byte(`{"type":"scheduleUpdateTwin","updateTwin":{"tags":{"a":1}},"queryCondition":"*","startTime":"1970-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"m","payload":null},"queryCondition":"tags.n = "}`))
	f.Add([]byte(`{"startTime":7}`))
	n := 0
	f.Fuzz(func(t *testing.T, body []byte) {
		b := &registryBench{t, fleet.hub, fleet.api, fleet.as}
		n++
		path := fmt.Sprintf("/jobs/v2/u%d", n)
		w := b.ask("PUT", path, "", string(body))
		switch w.Code {
		case http.StatusOK:
			b.object("GET", path, "", "")
		case http.StatusBadRequest:
		default:
			t.Errorf("%s gives %d %s", body, w.Code, w.Body)
		}
	})
}
