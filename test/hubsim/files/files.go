// Package files lets devices put files into blob storage: it hands out
// addresses with signatures, keeps the uploads in progress, and makes the notice
// of each finished one (wire contract, section 4.4). The bytes go from the
// device to a blob server, never through here.
//
// An upload is what a device starts with the hub and finishes with it; its
// correlation id names it. A blob is the file in the storage account. A SAS is
// the signature in a blob's address that lets its bearer write it for a while.
package files

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// MaxActive is how many uploads one device may have in progress (section 6.2).
const MaxActive = 10

// DefaultLife is how long an upload, and the SAS for its blob, lives.
const DefaultLife = time.Hour

// maxName is the longest name of a blob, in bytes, as the storage service has
// it.
const maxName = 1024

// Config says where the files go.
type Config struct {
	// Endpoint is the blob server as devices reach it: https://host, with a
	// port and with a path in front of containers when it has them. SDKs speak
	// HTTPS with it whatever the scheme; http is for other clients.
	Endpoint  string
	Account   string
	Key       string // of the account, in Base64
	Container string // must exist

	Life time.Duration // of an upload; default DefaultLife

	// Look finds out about a finished blob. Without it the blob server is
	// asked over HTTP with Client, which defaults to http.DefaultClient.
	Look   func(ctx context.Context, container, blob string) (Properties, error)
	Client *http.Client
}

// Properties are what a notice tells of a blob.
type Properties struct {
	Size         int64 // bytes
	LastModified time.Time
}

// Ticket is what a device needs for its upload, in the words of section 4.4.
type Ticket struct {
	CorrelationID string `json:"correlationId"`
	HostName      string `json:"hostName"` // with port and path, if there are any
	ContainerName string `json:"containerName"`
	BlobName      string `json:"blobName"` // device/name, not escaped
	SASToken      string `json:"sasToken"` // begins with "?"
}

// Notice tells services of a finished upload, in the words of section 5.8.
type Notice struct {
	DeviceID        string    `json:"deviceId"`
	BlobURI         string    `json:"blobUri"`
	BlobName        string    `json:"blobName"`
	LastUpdatedTime time.Time `json:"lastUpdatedTime"`
	BlobSize        int64     `json:"blobSizeInBytes"`
	Enqueued        time.Time `json:"enqueuedTimeUtc"`
}

// Uploads are the uploads in progress of all devices. Create them with New. A
// nil *Uploads refuses everything: no storage is configured. Safe for concurrent
// use.
type Uploads struct {
	cfg      Config
	endpoint *url.URL
	key      []byte

	mu      sync.Mutex                      // guards devices
	devices map[string]map[string]*progress // by device and correlation id
}

// progress is an upload that is not finished, or that never was.
type progress struct {
	blob  string
	until time.Time
}

// New returns no uploads yet, or says what is wrong with cfg.
func New(cfg Config) (*Uploads, error) {
	if cfg.Life <= 0 {
		cfg.Life = DefaultLife
	}
	u := &Uploads{cfg: cfg, devices: make(map[string]map[string]*progress)}
	var err error
	if u.endpoint, err = url.Parse(strings.TrimSuffix(cfg.Endpoint, "/")); err != nil {
		return nil, fmt.Errorf("blob endpoint: %w", err)
	}
	if u.endpoint.Host == "" || (u.endpoint.Scheme != "https" && u.endpoint.Scheme != "http") {
		return nil, fmt.Errorf("blob endpoint: %q is not an https address", cfg.Endpoint)
	}
	if u.key, err = base64.StdEncoding.DecodeString(cfg.Key); err != nil || len(u.key) == 0 {
		return nil, errors.New("blob key: not Base64")
	}
	if cfg.Account == "" || cfg.Container == "" {
		return nil, errors.New("blob storage: account and container must be named")
	}
	if u.cfg.Look == nil {
		u.cfg.Look = u.ask
	}
	return u, nil
}

// Start begins an upload of a device. The error is a *refusal.Error: 400014,
// 400004 for the name, or 403006 when too many are in progress.
func (u *Uploads) Start(device, name string) (Ticket, error) {
	if u == nil {
		return Ticket{}, errNotConfigured()
	}
	blob := device + "/" + name
	if name == "" || len(blob) > maxName {
		return Ticket{}, refusal.New(400004, fmt.Sprintf("the name of a blob must have 1 to %d bytes", maxName))
	}
	now := time.Now()
	p := &progress{blob: blob, until: now.Add(u.cfg.Life)}
	id := newCorrelationID()
	if !u.add(device, id, p, now) {
		return Ticket{}, refusal.New(403006, fmt.Sprintf("%d uploads are in progress", MaxActive))
	}
	return Ticket{
		CorrelationID: id, HostName: u.endpoint.Host + u.endpoint.Path,
		ContainerName: u.cfg.Container, BlobName: blob, SASToken: "?" + u.sign(blob, "rw", p.until),
	}, nil
}

// Finish ends an upload. For a good one it returns the notice about it, after a
// look at the blob; for a failed one nil. The error is a *refusal.Error: 400014,
// 400015 for an unknown or finished upload, 400016 for one that took too long,
// 400020 when there is no such blob, which leaves the upload in progress.
func (u *Uploads) Finish(ctx context.Context, device, correlationID string, success bool) (*Notice, error) {
	if u == nil {
		return nil, errNotConfigured()
	}
	p, err := u.find(device, correlationID)
	if err != nil {
		return nil, err
	}
	if !success {
		return nil, u.remove(device, correlationID)
	}
	properties, err := u.cfg.Look(ctx, u.cfg.Container, p.blob)
	if err != nil {
		return nil, refusal.New(400020, "cannot look at "+p.blob+": "+err.Error())
	}
	if err := u.remove(device, correlationID); err != nil {
		return nil, err
	}
	return &Notice{
		DeviceID: device, BlobURI: u.address(p.blob).String(), BlobName: p.blob,
		LastUpdatedTime: properties.LastModified.UTC(), BlobSize: properties.Size,
		Enqueued: time.Now().UTC(),
	}, nil
}

func errNotConfigured() error {
	return refusal.New(400014, "the hub has no storage for files")
}

// address is where a blob is, without signature.
func (u *Uploads) address(blob string) *url.URL {
	address := *u.endpoint
	address.Path += "/" + u.cfg.Container + "/" + blob
	address.RawPath = ""
	return &address
}

// add keeps a new upload; false when the device has too many. Uploads that
// expired are remembered for one more life, to tell 400016 from 400015.
func (u *Uploads) add(device, id string, p *progress, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	active := 0
	for other, q := range u.devices[device] {
		switch {
		case now.After(q.until.Add(u.cfg.Life)):
			delete(u.devices[device], other)
		case now.Before(q.until):
			active++
		}
	}
	if active >= MaxActive {
		return false
	}
	if u.devices[device] == nil {
		u.devices[device] = make(map[string]*progress)
	}
	u.devices[device][id] = p
	return true
}

// find returns an upload that may still be finished.
func (u *Uploads) find(device, id string) (*progress, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.devices[device][id]
	if p == nil {
		return nil, errNoUpload(id)
	}
	if !time.Now().Before(p.until) {
		return nil, refusal.New(400016, "the upload has expired")
	}
	return p, nil
}

// remove forgets an upload, unless someone else has been faster.
func (u *Uploads) remove(device, id string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.devices[device][id] == nil {
		return errNoUpload(id)
	}
	delete(u.devices[device], id)
	if len(u.devices[device]) == 0 {
		delete(u.devices, device)
	}
	return nil
}

func errNoUpload(id string) error {
	return refusal.New(400015, "no upload has the correlation id "+id)
}

// newCorrelationID makes an id that holds "/" and "=", as those of the real hub
// may, so that clients that do not escape it fail here too.
func newCorrelationID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return time.Now().UTC().Format("200601021504") + "/" + base64.StdEncoding.EncodeToString(b[:])
}
