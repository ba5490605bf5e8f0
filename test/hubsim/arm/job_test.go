package arm

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// oneJob is the jobs of a hub that has one.
type oneJob struct{ asked string }

func (j *oneJob) Create(kind string, request json.RawMessage) (json.RawMessage, error) {
	j.asked = kind + string(request)
	return json.RawMessage(`{"jobId":"1"}`), nil
}

func (j *oneJob) List() []json.RawMessage { return []json.RawMessage{json.RawMessage(`{"jobId":"1"}`)} }

func (j *oneJob) Get(id string) (json.RawMessage, error) {
	if id != "1" {
		return nil, refusal.New(404002, "no such job")
	}
	return json.RawMessage(`{"jobId":"1"}`), nil
}

func TestJobs(t *testing.T) {
	jobs := &oneJob{}
	p, _ := bench(t, Config{Jobs: jobs})
	for wish, want := range map[[2]string]string{
		{"/exportDevices", `{"exportBlobContainerUri":"u","excludeKeys":true,"authenticationType":"keyBased"}`}: `export{"outputBlobContainerUri":"u","excludeKeysInExport":true,"storageAuthenticationType":"keyBased"}`,
		{"/importDevices", `{"inputBlobContainerUri":"i","inputBlobName":"n","outputBlobContainerUri":"o"}`}:    `import{"inputBlobContainerUri":"i","inputBlobName":"n","outputBlobContainerUri":"o","excludeKeysInExport":false}`,
	} {
		if a := ask(t, p, "POST", served+wish[0], wish[1]).want(t, 200); a.at("jobId") != "1" || jobs.asked != want {
			t.Errorf("got %s for %s, want %s", a.text, jobs.asked, want)
		}
	}
	ask(t, p, "POST", served+"/importDevices", `no JSON`).want(t, 400)
	if a := ask(t, p, "GET", served+"/jobs", "").want(t, 200); string(a.text) != `{"value":[{"jobId":"1"}]}` {
		t.Errorf("got %s", a.text)
	}
	ask(t, p, "GET", served+"/jobs/1", "").want(t, 200)
	if a := ask(t, p, "GET", served+"/jobs/2", "").want(t, 404); a.at("error", "code") != "JobNotFound" {
		t.Errorf("got %s", a.text)
	}
	ask(t, p, "PUT", other, aHub).want(t, 201)
	ask(t, p, "POST", other+"/exportDevices", `{}`).want(t, 400)
	ask(t, p, "GET", other+"/jobs/1", "").want(t, 404)
}

// An error that is nobody's refusal is the provider's own fault.
func TestUnknownErrors(t *testing.T) {
	p, _ := bench(t, Config{Jobs: brokenJobs{}})
	ask(t, p, "GET", served+"/jobs/1", "").want(t, 500)
}

type brokenJobs struct{ noJobs }

func (brokenJobs) Get(string) (json.RawMessage, error) { return nil, errors.New("disk full") }
