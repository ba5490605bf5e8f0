package hubsim_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// Jobs through the service's SDK: twin updates and methods over a query, each
// device's outcome, cancelling, and pages of jobs.
func TestJobs(t *testing.T) {
	t.Parallel()
	h := newFleet(t)
	for n := range 3 {
		id := registry.ID{Device: fmt.Sprintf("leaf-%d", n)}
		t.Cleanup(h.Domain().Methods.Listen(id, func(r methods.Request) {
			h.Domain().Methods.Answer(id, r.ID, 200, fmt.Appendf(nil, `{"did":%q,"got":%s}`, r.Name, r.Payload))
		}))
	}
	info := h.Info()
	steps := bySteps(node(t, []string{"NODE_EXTRA_CA_CERTS=" + info.CAFile}, "hub-job.js", info.OwnerConnectionString))
	for _, c := range []struct {
		step, status                string
		devices, succeeded, failing any
	}{
		{"update", "completed", 2.0, 2.0, 0.0},
		{"method", "completed", 6.0, 3.0, 3.0},
		{"later", "scheduled", nil, nil, nil},
		{"cancel", "cancelled", nil, nil, nil},
		{"wrong", "failed", nil, nil, nil},
	} {
		job := steps[c.step]["job"]
		n := dig(job, "deviceJobStatistics")
		if dig(job, "status") != c.status || dig(n, "deviceCount") != c.devices || dig(n, "succeededCount") != c.succeeded || dig(n, "failedCount") != c.failing {
			t.Errorf("%s: the job is %v", c.step, job)
		}
	}
	if reason := fmt.Sprint(dig(steps["wrong"], "job", "failureReason")); !strings.Contains(reason, "SELECT") {
		t.Errorf("the reason of the failure is %s", reason)
	}
	checkJobRows(t, steps["rows"]["rows"].([]any))
	for step, want := range map[string]string{"again": "DeviceAlreadyExistsError", "unknown": "Error"} {
		if got := steps[step]["error"]; got != want {
			t.Errorf("%s gives %v, want %s", step, steps[step], want)
		}
	}
	if got := fmt.Sprint(steps["all"]["pages"]); got != "[[update method later] [wrong]]" {
		t.Errorf("pages of jobs are %s", got)
	}
	if got := fmt.Sprint(steps["completed"]["pages"]); got != "[[update]]" {
		t.Errorf("completed updates are %s", got)
	}
	for n, want := range []bool{true, false, false, false, false, true} {
		text, err := h.Domain().Twins.ForDevice(registry.ID{Device: fmt.Sprintf("leaf-%d", n)})
		if err != nil || strings.Contains(string(text), `"rate":5`) != want {
			t.Errorf("leaf-%d has %s, %v; updated should be %v", n, text, err, want)
		}
	}
}

// checkJobRows compares the rows of devices.jobs of the method job.
func checkJobRows(t *testing.T, rows []any) {
	t.Helper()
	if len(rows) != 6 {
		t.Fatalf("%d rows, want 6: %v", len(rows), rows)
	}
	for n, row := range rows {
		status, answer, code := "completed", `map[payload:map[did:reboot got:map[in:5]] status:200]`, any(nil)
		if n >= 3 { // nobody listens there
			status, answer, code = "failed", "<nil>", "404103"
		}
		if dig(row, "deviceId") != fmt.Sprintf("leaf-%d", n) || dig(row, "status") != status || dig(row, "error", "code") != code ||
			fmt.Sprint(dig(row, "outcome", "deviceMethodResponse")) != answer {
			t.Errorf("row %d is %v", n, row)
		}
	}
}
