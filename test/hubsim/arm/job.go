package arm

import (
	"encoding/json"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Jobs are the import and export jobs of the served hub. They are safe for
// concurrent use, and must not ask the provider. Requests and jobs are JSON in the
// form of the hub's own requests (section 5.1, jobs of the first kind). Errors
// are *refusal.Error.
type Jobs interface {
	// Create starts a job. kind is "export" or "import".
	Create(kind string, request json.RawMessage) (json.RawMessage, error)
	// List returns all jobs.
	List() []json.RawMessage
	// Get returns one job.
	Get(id string) (json.RawMessage, error)
}

// noJobs are those of a hub that nobody serves.
type noJobs struct{}

func (noJobs) Create(string, json.RawMessage) (json.RawMessage, error) {
	return nil, refusal.New(400003, "nobody does the jobs of this hub")
}

func (noJobs) List() []json.RawMessage { return nil }

func (noJobs) Get(id string) (json.RawMessage, error) {
	return nil, refusal.New(404002, "there is no job "+id)
}

// jobRequests adds the requests about jobs.
func (p *Provider) jobRequests() {
	p.mux.HandleFunc("POST "+hubPath+"/exportdevices", p.answer(p.export))
	p.mux.HandleFunc("POST "+hubPath+"/importdevices", p.answer(p.imports))
	p.mux.HandleFunc("GET "+hubPath+"/jobs", p.answer(p.listJobs))
	p.mux.HandleFunc("GET "+hubPath+"/jobs/{job}", p.answer(p.getJob))
}

// order is a request for a job as the hub has it.
type order struct {
	InputURI    string `json:"inputBlobContainerUri,omitempty"`
	InputBlob   string `json:"inputBlobName,omitempty"`
	OutputURI   string `json:"outputBlobContainerUri,omitempty"`
	OutputBlob  string `json:"outputBlobName,omitempty"`
	ExcludeKeys bool   `json:"excludeKeysInExport"`
	StorageAuth string `json:"storageAuthenticationType,omitempty"`
}

// export writes the registry to a container, which the provider calls otherwise
// than the hub does.
func (p *Provider) export(r *request) (int, any, error) {
	var body struct {
		URI         string `json:"exportBlobContainerUri"`
		Blob        string `json:"exportBlobName"`
		ExcludeKeys bool   `json:"excludeKeys"`
		Auth        string `json:"authenticationType"`
	}
	if err := r.read(&body); err != nil {
		return 0, nil, err
	}
	return p.createJob(r, "export", order{
		OutputURI: body.URI, OutputBlob: body.Blob, ExcludeKeys: body.ExcludeKeys, StorageAuth: body.Auth,
	})
}

// imports reads the registry from a container.
func (p *Provider) imports(r *request) (int, any, error) {
	var body struct {
		order
		Auth string `json:"authenticationType"`
	}
	if err := r.read(&body); err != nil {
		return 0, nil, err
	}
	body.StorageAuth = body.Auth
	return p.createJob(r, "import", body.order)
}

func (p *Provider) createJob(r *request, kind string, o order) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return 0, nil, err
	}
	job, err := res.jobs.Create(kind, text)
	return 200, job, err
}

func (p *Provider) listJobs(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	return 200, newList(res.jobs.List()), nil
}

func (p *Provider) getJob(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	job, err := res.jobs.Get(r.PathValue("job"))
	return 200, job, err
}
