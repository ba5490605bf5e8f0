package jobs_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/jobs"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/methods"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
	"github.com/fieldgate/fieldgate/test/hubsim/twins"
)

// bench is a scheduler and the hub's parts it works with.
type bench struct {
	*jobs.Scheduler
	registry *registry.Registry
	twins    *twins.Store
	methods  *methods.Exchange
	limits   *limits.Limits
}

// run calls f with a bench of the devices leaf-0, leaf-1 and so on, in a bubble
// of its own time. Each has its number as a tag.
func run(t *testing.T, devices int, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{registry: registry.New([]string{"hub"}, nil), limits: &limits.Limits{}}
		b.twins = twins.New(b.registry, func(registry.ID) twins.Status { return twins.Status{} })
		b.methods = methods.New(func(id registry.ID) error {
			_, err := b.registry.Find(id)
			return err
		})
		for n := range devices {
			id := leaf(n)
			if _, err := b.registry.Create(registry.Identity{ID: id}); err != nil {
				t.Fatal(err)
			}
			if _, err := b.twins.Update(id, fmt.Appendf(nil, `{"tags":{"n":%d}}`, n), false, ""); err != nil {
				t.Fatal(err)
			}
		}
		b.Scheduler = jobs.New(b.twins, b.methods, b.limits)
		defer b.Close()
		f(t, b)
	})
}

func leaf(n int) registry.ID { return registry.ID{Device: fmt.Sprintf("leaf-%d", n)} }

// answer has a device answer methods at once with its own name.
func (b *bench) answer(id registry.ID) {
	b.methods.Listen(id, func(r methods.Request) {
		b.methods.Answer(id, r.ID, 200, fmt.Appendf(nil, `{"name":%q,"got":%s}`, r.Name, r.Payload))
	})
}

// ignore has a device that never answers.
func (b *bench) ignore(id registry.ID) { b.methods.Listen(id, func(methods.Request) {}) }

// must schedules a job.
func (b *bench) must(t *testing.T, r jobs.Request) jobs.Job {
	t.Helper()
	j, err := b.Schedule(r)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// get returns a job once the scheduler rests.
func (b *bench) get(t *testing.T, id string) jobs.Job {
	t.Helper()
	synctest.Wait()
	j, err := b.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// rows returns the devices of a job by their ids.
func (b *bench) rows(job string) map[string]map[string]any {
	found := make(map[string]map[string]any)
	for _, document := range b.Rows("") {
		if document["jobId"] == job {
			found[document["deviceId"].(string)] = document
		}
	}
	return found
}

func updateJob(id, condition string) jobs.Request {
	return jobs.Request{ID: id, Type: jobs.UpdateTwin, Condition: condition, UpdateTwin: json.RawMessage(`{"properties":{"desired":{"rate":5}}}`)}
}

func methodJob(id, condition string) jobs.Request {
	return jobs.Request{
		ID: id, Type: jobs.DeviceMethod, Condition: condition,
		Method: &jobs.Method{Name: "reboot", Payload: json.RawMessage(`{"in":1}`), ResponseTimeout: 30},
	}
}

func TestUpdateTwin(t *testing.T) {
	run(t, 4, func(t *testing.T, b *bench) {
		if j := b.must(t, updateJob("u", `tags.n >= 2`)); j.Status != jobs.Queued || j.Statistics != nil || j.MaxExecution != 3600 {
			t.Errorf("a new job is %+v", j)
		}
		j := b.get(t, "u")
		if j.Status != jobs.Completed || *j.Statistics != (jobs.Statistics{Devices: 2, Succeeded: 2}) || j.End == nil {
			t.Errorf("the job is %+v with %+v", j, j.Statistics)
		}
		for n := range 4 {
			text, err := b.twins.ForDevice(leaf(n))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(text), `"rate":5`); got != (n >= 2) {
				t.Errorf("leaf-%d has %s", n, text)
			}
		}
		rows := b.rows("u")
		row := rows["leaf-3"]
		if len(rows) != 2 || row["status"] != "completed" || row["jobType"] != "scheduleUpdateTwin" || row["startTimeUtc"] == nil || row["endTimeUtc"] == nil {
			t.Errorf("the rows are %v", rows)
		}
	})
}

func TestModules(t *testing.T) {
	run(t, 1, func(t *testing.T, b *bench) {
		for _, name := range []string{"a", "b"} {
			if _, err := b.registry.Create(registry.Identity{ID: registry.ID{Device: "leaf-0", Module: name}}); err != nil {
				t.Fatal(err)
			}
		}
		b.answer(registry.ID{Device: "leaf-0", Module: "b"})
		b.must(t, methodJob("m", `FROM devices.modules WHERE ModuleId = 'b'`))
		j := b.get(t, "m")
		row := b.rows("m")["leaf-0"]
		if j.Statistics.Succeeded != 1 || j.Statistics.Devices != 1 || row["moduleId"] != "b" {
			t.Errorf("the job is %+v with %+v, its row %v", j, j.Statistics, row)
		}
	})
}

// Each device has its own outcome: answered, absent, silent.
func TestDeviceMethod(t *testing.T) {
	run(t, 3, func(t *testing.T, b *bench) {
		b.answer(leaf(0))
		b.ignore(leaf(2))
		b.must(t, methodJob("m", "*"))
		if j := b.get(t, "m"); j.Status != jobs.Running || *j.Statistics != (jobs.Statistics{Devices: 3, Succeeded: 1, Failed: 1, Running: 1}) {
			t.Errorf("on its way the job is %+v with %+v", j, j.Statistics)
		}
		time.Sleep(31 * time.Second)
		if j := b.get(t, "m"); j.Status != jobs.Completed || *j.Statistics != (jobs.Statistics{Devices: 3, Succeeded: 1, Failed: 2}) {
			t.Errorf("at its end the job is %+v with %+v", j, j.Statistics)
		}
		rows := b.rows("m")
		for device, want := range map[string]string{
			"leaf-0": `{"deviceMethodResponse":{"payload":{"got":{"in":1},"name":"reboot"},"status":200}}`,
			"leaf-1": `{"deviceMethodResponse":null}`,
			"leaf-2": `{"deviceMethodResponse":null}`,
		} {
			if got, err := json.Marshal(rows[device]["outcome"]); err != nil || string(got) != want {
				t.Errorf("the outcome of %s is %s, %v; want %s", device, got, err, want)
			}
		}
		for device, want := range map[string]string{"leaf-1": "404103", "leaf-2": "504101"} {
			failure, _ := rows[device]["error"].(map[string]any)
			if rows[device]["status"] != "failed" || failure["code"] != want {
				t.Errorf("the row of %s is %v, want error %s", device, rows[device], want)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestRequests(t *testing.T) {
	run(t, 1, func(t *testing.T, b *bench) {
		for name, change := range map[string]func(*jobs.Request){
			"no id":            func(r *jobs.Request) { r.ID = "" },
			"long id":          func(r *jobs.Request) { r.ID = strings.Repeat("x", 129) },
			"slash in id":      func(r *jobs.Request) { r.ID = "a/b" },
			"type of v1":       func(r *jobs.Request) { r.Type = "export" },
			"no update":        func(r *jobs.Request) { r.UpdateTwin = nil },
			"update is text":   func(r *jobs.Request) { r.UpdateTwin = json.RawMessage(`"x"`) },
			"update is null":   func(r *jobs.Request) { r.UpdateTwin = json.RawMessage(`null`) },
			"no method":        func(r *jobs.Request) { r.Type = jobs.DeviceMethod },
			"nameless method":  func(r *jobs.Request) { r.Type, r.Method = jobs.DeviceMethod, &jobs.Method{} },
			"no condition":     func(r *jobs.Request) { r.Condition = "" },
			"negative maximum": func(r *jobs.Request) { r.MaxExecution = -1 },
			"huge maximum":     func(r *jobs.Request) { r.MaxExecution = 1 << 40 },
		} {
			request := updateJob("u", "*")
			change(&request)
			if _, err := b.Schedule(request); !refusal.Is(err, 400004) {
				t.Errorf("%s gives %v, want 400004", name, err)
			}
		}
		b.must(t, updateJob("u", "SELECT * FROM devices"))
		if j := b.get(t, "u"); j.Status != jobs.Failed || !strings.Contains(j.FailureReason, `"SELECT"`) || j.Statistics != nil {
			t.Errorf("a job without a proper condition is %+v", j)
		}
		if _, err := b.Schedule(updateJob("u", "*")); !refusal.Is(err, 409104) {
			t.Errorf("the same id again gives %v, want 409104", err)
		}
		time.Sleep(31 * 24 * time.Hour)
		if _, err := b.Schedule(updateJob("u", "*")); err != nil {
			t.Errorf("the id of a job of last month: %v", err)
		}
	})
}

func TestList(t *testing.T) {
	run(t, 1, func(t *testing.T, b *bench) {
		for n := range 12 { // more than nine, to see that they are not sorted as texts
			b.must(t, updateJob(fmt.Sprintf("u%d", n), "*"))
		}
		b.ignore(leaf(0))
		b.must(t, methodJob("m", "*"))
		synctest.Wait()
		ids := func(jobType, status string, size int) (found []string, pages int) {
			after := ""
			for {
				list, next := b.List(jobType, status, after, size)
				pages++
				for _, j := range list {
					found = append(found, j.ID)
				}
				if next == "" {
					return found, pages
				}
				after = next
			}
		}
		if got, pages := ids(jobs.UpdateTwin, "", 5); pages != 3 || strings.Join(got, " ") != "u0 u1 u2 u3 u4 u5 u6 u7 u8 u9 u10 u11" {
			t.Errorf("%d pages with %v", pages, got)
		}
		if got, pages := ids("", string(jobs.Running), 5); pages != 1 || !slices.Equal(got, []string{"m"}) {
			t.Errorf("running are %v on %d pages", got, pages)
		}
		if got, _ := ids(jobs.DeviceMethod, string(jobs.Completed), 5); len(got) != 0 {
			t.Errorf("completed methods are %v", got)
		}
		if got, pages := ids("", "", 13); len(got) != 13 || pages != 1 {
			t.Errorf("%d jobs on %d pages, want 13 on one", len(got), pages)
		}
	})
}
