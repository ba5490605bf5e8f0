package arm

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"net/url"
	"time"
)

// forget is how long an operation can be asked about after its end.
const forget = 10 * time.Minute

// started begins a long-running operation on a hub and writes the answer that
// says where to ask about it. The change itself is done already; only what is
// said about it takes time.
func (p *Provider) started(r *request, res *resource, status int, what string) (int, any, error) {
	now := time.Now()
	for id, end := range p.operations {
		if now.Sub(end) > forget {
			delete(p.operations, id)
		}
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	id := hex.EncodeToString(b[:])
	res.busy, res.what = now.Add(p.cfg.Busy), what
	p.operations[id] = res.busy
	r.header.Set("Azure-AsyncOperation", (&url.URL{
		Scheme:   "https",
		Host:     r.Host,
		Path:     "/subscriptions/" + Subscription + "/providers/Microsoft.Devices/locations/" + res.settings.Location + "/operationResults/" + id,
		RawQuery: url.Values{"api-version": {r.URL.Query().Get("api-version")}}.Encode(),
	}).String())
	r.header.Set("Retry-After", "1")
	if r.Method == http.MethodDelete || r.Method == http.MethodPost {
		return status, nil, nil
	}
	return status, p.describe(res), nil
}

// operation says how a long-running operation stands. None fails: what could
// have gone wrong was refused at once.
func (p *Provider) operation(r *request) (int, any, error) {
	end, ok := p.operations[r.PathValue("operation")]
	if !ok {
		return 0, nil, failed(404, "ResourceNotFound", "there is no operation %q", r.PathValue("operation"))
	}
	status := "Succeeded"
	if time.Now().Before(end) {
		status = "InProgress"
		r.header.Set("Retry-After", "1")
	}
	return 200, map[string]string{"status": status}, nil
}
