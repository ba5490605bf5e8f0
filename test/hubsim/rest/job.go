package rest

import (
	"net/http"

	"github.com/fieldgate/fieldgate/test/hubsim/jobs"
	"github.com/fieldgate/fieldgate/test/hubsim/limits"
	"github.com/fieldgate/fieldgate/test/hubsim/query"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// jobRequests are those about jobs over many devices (section 5.6). Those that
// import and export devices are elsewhere.
func (a *API) jobRequests() {
	a.job("PUT /jobs/v2/{id}", a.scheduleJob)
	a.job("GET /jobs/v2/{id}", func(w http.ResponseWriter, r *http.Request) error {
		return replyJob(w, a.hub.Jobs.Get, r)
	})
	a.job("POST /jobs/v2/{id}/cancel", func(w http.ResponseWriter, r *http.Request) error {
		return replyJob(w, a.hub.Jobs.Cancel, r)
	})
	a.job("GET /jobs/v2/query", a.listJobs)
}

// job adds a request at the rate of jobs operations.
func (a *API) job(pattern string, f answer) {
	a.service(pattern, registry.ServiceConnect, func(w http.ResponseWriter, r *http.Request) error {
		if err := a.hub.Limits.Take(limits.Job, 0); err != nil {
			return err
		}
		return f(w, r)
	})
}

// scheduleJob takes a job. The id in the body may be missing.
func (a *API) scheduleJob(w http.ResponseWriter, r *http.Request) error {
	var request jobs.Request
	if err := read(r, &request); err != nil {
		return err
	}
	id := r.PathValue("id")
	if request.ID != "" && request.ID != id {
		return refusal.New(400004, "the job is called "+id+" in the path and "+request.ID+" in the body")
	}
	request.ID = id
	job, err := a.hub.Jobs.Schedule(request)
	if err != nil {
		return err
	}
	return reply(w, job)
}

// replyJob writes what f says of the job that the path names.
func replyJob(w http.ResponseWriter, f func(id string) (jobs.Job, error), r *http.Request) error {
	job, err := f(r.PathValue("id"))
	if err != nil {
		return err
	}
	return reply(w, job)
}

// listJobs gives one page of the jobs of a type and a status.
func (a *API) listJobs(w http.ResponseWriter, r *http.Request) error {
	jobType, status := r.FormValue("jobType"), r.FormValue("jobStatus")
	question := "jobs of type " + jobType + " and status " + status
	size, err := pageSize(r)
	if err != nil {
		return err
	}
	from, err := continuation(r, question)
	if err != nil {
		return err
	}
	list, next := a.hub.Jobs.List(jobType, status, from.Key, size)
	w.Header().Set(itemTypeHeader, "JobResponse")
	if next != "" {
		setContinuation(w, question, query.Position{Key: next})
	}
	return reply(w, list)
}
