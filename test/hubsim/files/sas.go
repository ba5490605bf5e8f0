package files

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// sasVersion is the version of the storage service whose rules our signatures
// follow.
const sasVersion = "2018-11-09"

// scopeVersion is the first one that signs an encryption scope too.
const scopeVersion = "2020-12-06"

// SAS is a service SAS, the signature in the address of a blob: who has it may
// do what Permissions say until it expires. Its texts are exactly those of the
// address, because they are what is signed ("Create a service SAS" of the
// storage service's REST reference).
type SAS struct {
	Version     string // sv
	Resource    string // sr: b for the blob, c for its container
	Permissions string // sp, for example rw
	Start       string // st, "" for none
	Expiry      string // se
	Protocol    string // spr: https, "https,http" or ""
	Signature   string // sig, in Base64

	overrides [5]string // rscc, rscd, rsce, rscl, rsct
}

// overrideKeys are headers of the answer that the address may ask for.
var overrideKeys = [5]string{"rscc", "rscd", "rsce", "rscl", "rsct"}

// errUnsupported is for what the bench does not check and hence does not trust.
var errUnsupported = errors.New("stored policies, addresses, snapshots and encryption scopes are not supported")

// ParseSAS takes the query of an address apart; ok is false when it holds no
// service SAS.
func ParseSAS(query url.Values) (s SAS, ok bool, err error) {
	s = SAS{
		Version: query.Get("sv"), Resource: query.Get("sr"), Permissions: query.Get("sp"),
		Start: query.Get("st"), Expiry: query.Get("se"), Protocol: query.Get("spr"), Signature: query.Get("sig"),
	}
	for n, key := range overrideKeys {
		s.overrides[n] = query.Get(key)
	}
	if s.Signature == "" || s.Resource == "" {
		return SAS{}, false, nil
	}
	if slices.ContainsFunc([]string{"si", "sip", "ses", "snapshot", "skoid"}, query.Has) {
		return SAS{}, false, errUnsupported
	}
	if s.Version < sasVersion {
		return SAS{}, false, fmt.Errorf("the version %q is older than %s", s.Version, sasVersion)
	}
	return s, true, nil
}

// Query writes the SAS as the query of an address, without "?".
func (s SAS) Query() string {
	values := url.Values{}
	for _, p := range [...][2]string{
		{"sv", s.Version},
		{"sr", s.Resource},
		{"sp", s.Permissions},
		{"st", s.Start},
		{"se", s.Expiry},
		{"spr", s.Protocol},
		{"sig", s.Signature},
	} {
		if p[1] != "" {
			values.Set(p[0], p[1])
		}
	}
	return values.Encode()
}

// SignedBy says whether key has signed the SAS for a blob of an account.
func (s SAS) SignedBy(key []byte, account, container, blob string) bool {
	signature, err := base64.StdEncoding.DecodeString(s.Signature)
	return err == nil && hmac.Equal(signature, s.mac(key, account, container, blob))
}

// Sign sets the signature that key gives for a blob of an account.
func (s *SAS) Sign(key []byte, account, container, blob string) {
	s.Signature = base64.StdEncoding.EncodeToString(s.mac(key, account, container, blob))
}

// mac is the signature that key gives.
func (s SAS) mac(key []byte, account, container, blob string) []byte {
	resource := "/blob/" + account + "/" + container
	if s.Resource == "b" {
		resource += "/" + blob
	}
	fields := []string{
		s.Permissions, s.Start, s.Expiry, resource,
		"", // identifier of a stored policy
		"", // range of addresses
		s.Protocol, s.Version, s.Resource,
		"", // snapshot
	}
	if s.Version >= scopeVersion {
		fields = append(fields, "") // encryption scope
	}
	fields = append(fields, s.overrides[:]...)
	h := hmac.New(sha256.New, key)
	h.Write([]byte(strings.Join(fields, "\n")))
	return h.Sum(nil)
}

// InForce says whether the SAS is valid at time now.
func (s SAS) InForce(now time.Time) bool {
	if start, err := parseTime(s.Start); s.Start != "" && (err != nil || now.Before(start)) {
		return false
	}
	expiry, err := parseTime(s.Expiry)
	return err == nil && now.Before(expiry)
}

// parseTime reads a time in any of the forms that the storage service takes.
func parseTime(text string) (t time.Time, err error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z", time.DateOnly} {
		if t, err = time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, err
}

// Allows says whether the SAS has the permission, which is one letter.
func (s SAS) Allows(permission string) bool { return strings.Contains(s.Permissions, permission) }

// sign returns a SAS for a blob as the query of its address.
func (u *Uploads) sign(blob, permissions string, until time.Time) string {
	s := SAS{
		Version: sasVersion, Resource: "b", Permissions: permissions,
		Expiry: until.UTC().Format(time.RFC3339), Protocol: "https",
	}
	if u.endpoint.Scheme == "http" {
		s.Protocol = "https,http"
	}
	s.Sign(u.key, u.cfg.Account, u.cfg.Container, blob)
	return s.Query()
}
