// Package enrol makes leaves known to the hub that nobody has registered by hand:
// through the provisioning service with the key of an enrolment group, or in the
// hub's own registry with a shared access policy.
package enrol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/gateway/identity"
)

// Errors that asking again does not change, until somebody has changed something.
var (
	ErrRefused  = errors.New("refused")
	ErrOtherHub = errors.New("assigned to another hub")
)

// Client makes the requests. It trusts what its Transport trusts.
type Client interface {
	Do(*http.Request) (*http.Response, error)
}

// tokenLife is how long the tokens of enrolment requests are good.
const tokenLife = 10 * time.Minute

// maxAnswer bounds what a service may answer, in bytes.
const maxAnswer = 64 << 10

// Provisioning enrols leaves through the device provisioning service (wire
// contract, section 8). It is an identity.Enroller.
type Provisioning struct {
	Host    string // of the service, with a port if it is not 443
	IDScope string
	Group   identity.Key // of the enrolment group
	Hub     string       // the leaf must be assigned to it
	Client  Client
	Now     func() time.Time
}

const provisioningVersion = "2019-03-31"

// registration is what the service says.
type registration struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       struct {
		AssignedHub  string `json:"assignedHub"`
		DeviceID     string `json:"deviceId"`
		ErrorCode    int    `json:"errorCode"`
		ErrorMessage string `json:"errorMessage"`
	} `json:"registrationState"`
}

// Enrol registers the leaf and waits until it is assigned. The key is derived from
// the group's.
func (p *Provisioning) Enrol(ctx context.Context, leaf string) (identity.Key, error) {
	key := p.Group.Derive(leaf)
	resource := p.IDScope + "/registrations/" + leaf
	base := "https://" + p.Host + "/" + url.PathEscape(p.IDScope) + "/registrations/" + url.PathEscape(leaf)
	token := key.PolicyToken("registration", resource, p.Now().Add(tokenLife))
	body, err := json.Marshal(map[string]string{"registrationId": leaf})
	if err != nil {
		return identity.Key{}, err
	}
	var r registration
	wait, err := p.ask(ctx, http.MethodPut, base+"/register?api-version="+provisioningVersion, token, body, &r)
	for err == nil && r.Status == "assigning" {
		if err = sleep(ctx, wait); err == nil {
			poll := base + "/operations/" + url.PathEscape(r.OperationID) + "?api-version=" + provisioningVersion
			wait, err = p.ask(ctx, http.MethodGet, poll, token, nil, &r)
		}
	}
	if err != nil {
		return identity.Key{}, fmt.Errorf("cannot enrol leaf %q: %w", leaf, err)
	}
	return key, p.judge(leaf, &r)
}

// judge reads the end of a registration.
func (p *Provisioning) judge(leaf string, r *registration) error {
	switch {
	case r.Status != "assigned":
		return fmt.Errorf("leaf %q: %w: %s %d %s", leaf, ErrRefused, r.Status, r.State.ErrorCode, r.State.ErrorMessage)
	case !strings.EqualFold(r.State.AssignedHub, p.Hub):
		return fmt.Errorf("leaf %q: %w: %s, not %s", leaf, ErrOtherHub, r.State.AssignedHub, p.Hub)
	case r.State.DeviceID != leaf:
		return fmt.Errorf("leaf %q: %w: it was given the device id %q", leaf, ErrRefused, r.State.DeviceID)
	}
	return nil
}

func (p *Provisioning) ask(ctx context.Context, method, address, token string, body []byte, r *registration) (wait time.Duration, err error) {
	answer, err := ask(ctx, p.Client, method, address, token, body)
	if err != nil {
		return 0, err
	}
	return answer.wait, json.Unmarshal(answer.body, r)
}

// Registry makes leaves in the hub's identity registry (wire contract, section
// 5.2). It is an identity.Enroller.
type Registry struct {
	Address string // of the hub, with a port if it is not 443
	Hub     string // its name, in tokens
	Policy  string // with the right to write the registry
	Key     identity.Key
	Client  Client
	Now     func() time.Time
	// Keep remembers the key, Base64 as the hub spells it, before it is used.
	Keep func(leaf, text string) error
}

const registryVersion = "2021-04-12"

// device is the part of a device identity that matters here.
type device struct {
	DeviceID       string `json:"deviceId"`
	Status         string `json:"status,omitempty"`
	Authentication struct {
		Type         string `json:"type,omitempty"`
		SymmetricKey struct {
			PrimaryKey string `json:"primaryKey"`
		} `json:"symmetricKey"`
	} `json:"authentication"`
}

// Enrol returns the key of the leaf's device, which it makes if there is none.
func (r *Registry) Enrol(ctx context.Context, leaf string) (identity.Key, error) {
	d, err := r.get(ctx, leaf)
	if errors.Is(err, errNotFound) {
		d, err = r.create(ctx, leaf)
	}
	if err != nil {
		return identity.Key{}, fmt.Errorf("cannot enrol leaf %q: %w", leaf, err)
	}
	if d.Authentication.Type != "" && d.Authentication.Type != "sas" {
		return identity.Key{}, fmt.Errorf("leaf %q: %w: the hub knows it by %s", leaf, ErrRefused, d.Authentication.Type)
	}
	key, err := identity.ParseKey(d.Authentication.SymmetricKey.PrimaryKey)
	if err != nil {
		return identity.Key{}, fmt.Errorf("leaf %q: the hub's answer: %w", leaf, err)
	}
	if err := r.Keep(leaf, d.Authentication.SymmetricKey.PrimaryKey); err != nil {
		return identity.Key{}, fmt.Errorf("cannot keep the key of leaf %q: %w", leaf, err)
	}
	return key, nil
}

func (r *Registry) get(ctx context.Context, leaf string) (d device, err error) {
	return d, r.ask(ctx, http.MethodGet, leaf, nil, &d)
}

// create makes the device. If another gateway was faster, its device is the one.
func (r *Registry) create(ctx context.Context, leaf string) (device, error) {
	d := device{DeviceID: leaf, Status: "enabled"}
	d.Authentication.Type = "sas"
	body, err := json.Marshal(d) // empty keys ask for new ones
	if err != nil {
		return d, err
	}
	err = r.ask(ctx, http.MethodPut, leaf, body, &d)
	if errors.Is(err, errConflict) {
		return r.get(ctx, leaf)
	}
	return d, err
}

func (r *Registry) ask(ctx context.Context, method, leaf string, body []byte, d *device) error {
	token := r.Key.PolicyToken(r.Policy, r.Hub, r.Now().Add(tokenLife))
	address := "https://" + r.Address + "/devices/" + url.PathEscape(leaf) + "?api-version=" + registryVersion
	answer, err := ask(ctx, r.Client, method, address, token, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer.body, d)
}

var (
	errNotFound = errors.New("not there")
	errConflict = errors.New("there already")
)

// answer is a success.
type answer struct {
	body []byte
	wait time.Duration // before the next poll
}

// minPoll is the wait where the service names none (wire contract, section 8.2).
const minPoll = 2 * time.Second

// ask makes one request, again while the service asks to wait. What is refused
// for good wraps ErrRefused.
func ask(ctx context.Context, client Client, method, address, token string, body []byte) (answer, error) {
	var word error // the service's last: it says more than that time is up
	for {
		a, wait, err := once(ctx, client, method, address, token, body)
		if err != nil && wait == 0 && word != nil && ctx.Err() != nil {
			return answer{}, word
		}
		if err == nil || wait == 0 {
			return a, err
		}
		word = err
		if slept := sleep(ctx, wait); slept != nil {
			return answer{}, word
		}
	}
}

// once makes one request; wait is not 0 when it should be made again.
func once(ctx context.Context, client Client, method, address, token string, body []byte) (a answer, wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return answer{}, 0, err
	}
	req.Header.Set("Authorization", token)
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	res, err := client.Do(req)
	if err != nil {
		return answer{}, 0, err
	}
	defer res.Body.Close()
	if a.body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer)); err != nil {
		return answer{}, 0, err
	}
	a.wait = retryAfter(res.Header, minPoll)
	said := fmt.Errorf("the service answers %s: %.200s", res.Status, bytes.TrimSpace(a.body))
	switch status := res.StatusCode; {
	case status < 300:
		return a, 0, nil
	case status == http.StatusNotFound:
		return a, 0, fmt.Errorf("%w: %w: %w", ErrRefused, errNotFound, said)
	case status == http.StatusConflict:
		return a, 0, fmt.Errorf("%w: %w", errConflict, said)
	case status == http.StatusTooManyRequests || status >= 500:
		return a, retryAfter(res.Header, 5*time.Second), said
	default:
		return a, 0, fmt.Errorf("%w: %w", ErrRefused, said)
	}
}

// retryAfter reads how long to wait, in seconds, between 1 s and 1 min.
func retryAfter(h http.Header, otherwise time.Duration) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return otherwise
	}
	return min(max(time.Duration(n)*time.Second, time.Second), time.Minute)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
