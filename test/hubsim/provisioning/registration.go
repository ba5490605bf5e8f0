package provisioning

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/hub"
	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// The states of a registration (section 8.2).
const (
	assigning = "assigning"
	assigned  = "assigned"
	failed    = "failed"
	disabled  = "disabled"
)

// registration is what became of a device that has asked. The service's lock
// guards it.
type registration struct {
	operation string
	polls     int // yet to be answered with assigning
	created   time.Time
	state     state
}

// state is a registration as the device reads it, in JSON.
type state struct {
	SymmetricKey   *groupName      `json:"symmetricKey,omitempty"`
	X509           *struct{}       `json:"x509,omitempty"`
	RegistrationID string          `json:"registrationId"`
	Created        string          `json:"createdDateTimeUtc"`
	AssignedHub    string          `json:"assignedHub,omitempty"`
	DeviceID       string          `json:"deviceId,omitempty"`
	Status         string          `json:"status"`
	Substatus      string          `json:"substatus,omitempty"`
	ErrorCode      int             `json:"errorCode,omitempty"`
	ErrorMessage   string          `json:"errorMessage,omitempty"`
	LastUpdated    string          `json:"lastUpdatedDateTimeUtc"`
	ETag           string          `json:"etag"`
	Payload        json.RawMessage `json:"payload,omitempty"`
}

type groupName struct {
	ID string `json:"enrollmentGroupId,omitempty"`
}

// result is how an operation stands, in JSON.
type result struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       *state `json:"registrationState,omitempty"`
}

// Answer is what the routes tell a device, each in its protocol's way.
type Answer struct {
	Status     int // as HTTP has it
	RetryAfter int // seconds to wait before the next request; 0 for none said
	Body       []byte
	Refusal    *refusal.Error // why Status is 400 or above; nil when it is not
}

// Register begins an assignment, or joins the one that is under way. The body is
// the device's JSON; none, or a single space, will do. A device that is assigned
// keeps its identity, generation included, and gets the enrolment's keys again.
func (r *Registrant) Register(body []byte) Answer {
	return r.answer(func() (int, any, error) {
		if err := r.checkBody(body); err != nil {
			return 0, nil, err
		}
		reg := r.service.registrations[lookup(r.id)]
		if reg == nil || reg.state.Status != assigning {
			reg = r.begin(reg)
		}
		if r.disabled {
			reg.set(disabled)
			return 200, reg.result(true), nil
		}
		return 202, reg.result(false), nil
	})
}

// Poll says how an operation stands, and ends it when it is due.
func (r *Registrant) Poll(operation string) Answer {
	return r.answer(func() (int, any, error) {
		reg := r.service.registrations[lookup(r.id)]
		switch {
		case reg == nil || reg.operation != operation:
			return 0, nil, notFound("no such operation: " + operation)
		case reg.state.Status != assigning:
		case r.disabled: // since it has registered
			reg.set(disabled)
		case reg.polls > 0:
			reg.polls--
			return 202, reg.result(true), nil
		default:
			r.assign(reg)
		}
		return 200, reg.result(true), nil
	})
}

// State says how the registration stands.
func (r *Registrant) State() Answer {
	return r.answer(func() (int, any, error) {
		reg := r.service.registrations[lookup(r.id)]
		if reg == nil {
			return 0, nil, notFound(r.id + " has not registered")
		}
		return 200, &reg.state, nil
	})
}

// answer makes an answer of what f returns. f runs with the service's lock held.
func (r *Registrant) answer(f func() (status int, body any, err error)) Answer {
	s := r.service
	wait := int(s.cfg.RetryAfter / time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	err := r.checkExpiry()
	if s.throttled > 0 {
		s.throttled--
		err = refusal.New(429001, "the service is busy")
	}
	var status int
	var body any
	if err == nil {
		status, body, err = f()
	}
	if err != nil {
		return refuse(err, wait)
	}
	a := Answer{Status: status, Body: encode(body)}
	if status == 202 {
		a.RetryAfter = wait
	}
	return a
}

// refuse makes an answer of an error. Only those that go away by themselves say
// when to come back.
func refuse(err error, wait int) Answer {
	e := refusal.Of(err)
	text, _ := e.ForDevice()
	a := Answer{Status: e.Status(), Body: text, Refusal: e}
	if a.Status == 429 || a.Status >= 500 {
		a.RetryAfter = wait
	}
	return a
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("provisioning: " + err.Error()) // texts and numbers, and a payload that was checked
	}
	return b
}

// checkBody reads what a device sends with its request. The payload is for
// assignment by code of the operator's, which there is none of here.
func (r *Registrant) checkBody(body []byte) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	var request struct {
		RegistrationID string `json:"registrationId"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return refusal.New(400004, "the body is not what it should be: "+err.Error())
	}
	if request.RegistrationID != "" && !strings.EqualFold(request.RegistrationID, r.id) {
		return refusal.New(400004, "the body is about another registration")
	}
	return nil
}

// begin starts an operation. What was there before loses only its result.
func (r *Registrant) begin(before *registration) *registration {
	reg := &registration{operation: newOperation(), polls: r.service.cfg.Polls, created: time.Now()}
	if before != nil {
		reg.created = before.created
	}
	reg.state = state{RegistrationID: r.id, Created: hub.Time(reg.created)}
	if r.auth.Type == registry.AuthSelfSigned {
		reg.state.X509 = &struct{}{}
	} else {
		reg.state.SymmetricKey = &groupName{r.group}
	}
	reg.set(assigning)
	r.service.registrations[lookup(r.id)] = reg
	return reg
}

// assign puts the device into the hub, and ends the operation with what came of
// that. The registry is called with the service's lock held; nothing that it
// calls in turn calls the service.
func (r *Registrant) assign(reg *registration) {
	if err := r.enter(); err != nil {
		e := refusal.Of(err)
		reg.state.ErrorCode, reg.state.ErrorMessage = e.Code, e.Error()
		reg.set(failed)
		return
	}
	reg.state.AssignedHub, reg.state.DeviceID = r.service.hub.Name, r.deviceID
	reg.state.Substatus, reg.state.Payload = "initialAssignment", r.payload
	reg.set(assigned)
}

// enter makes the device's identity in the hub, or brings it up to date.
func (r *Registrant) enter() error {
	identities := r.service.hub.Registry
	id := registry.ID{Device: r.deviceID}
	i, ok := identities.Get(id)
	if !ok {
		_, err := identities.Create(registry.Identity{ID: id, Auth: r.auth})
		return err
	}
	auth := r.auth
	if auth.SecondaryKey == "" && i.Auth.Type == auth.Type {
		auth.SecondaryKey = i.Auth.SecondaryKey // made up by the registry at creation
	}
	if i.Auth == auth {
		return nil
	}
	i.Auth = auth
	_, err := identities.Update(i, "*")
	return err
}

func (reg *registration) set(status string) {
	reg.state.Status = status
	reg.state.LastUpdated = hub.Time(time.Now())
	reg.state.ETag = randomHex(8)
}

func (reg *registration) result(withState bool) result {
	out := result{OperationID: reg.operation, Status: reg.state.Status}
	if withState {
		out.State = &reg.state
	}
	return out
}

// newOperation makes up an operation id in the form of the real ones.
func newOperation() string {
	h := randomHex(24)
	return "4." + h[:16] + "." + h[16:24] + "-" + h[24:28] + "-" + h[28:32] + "-" + h[32:36] + "-" + h[36:]
}
