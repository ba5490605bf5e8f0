package arm

import (
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// certificate is the certificate of an authority that its operator has uploaded.
// The hub trusts it once it is verified.
type certificate struct {
	name     string
	parsed   *x509.Certificate
	text     string // as uploaded
	verified bool
	code     string // that proves possession of the key; "" when none was asked for
	etag     string
	created  time.Time
	updated  time.Time
}

// certificateName is how the names of certificates must look; the vendor's
// client checks it too.
var certificateName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// certificateRequests adds the requests about certificates.
func (p *Provider) certificateRequests() {
	const all = hubPath + "/certificates"
	p.mux.HandleFunc("GET "+all, p.answer(p.listCertificates))
	p.mux.HandleFunc("GET "+all+"/{certificate}", p.answer(p.getCertificate))
	p.mux.HandleFunc("PUT "+all+"/{certificate}", p.answer(p.putCertificate))
	p.mux.HandleFunc("DELETE "+all+"/{certificate}", p.answer(p.deleteCertificate))
	p.mux.HandleFunc("POST "+all+"/{certificate}/generateverificationcode", p.answer(p.newVerificationCode))
	p.mux.HandleFunc("POST "+all+"/{certificate}/verify", p.answer(p.verifyCertificate))
}

// certificateInfo is a certificate as its operator reads it. Its times are in the
// form of HTTP.
type certificateInfo struct {
	ID         string                `json:"id"`
	Name       string                `json:"name"`
	Type       string                `json:"type"`
	ETag       string                `json:"etag"`
	Properties certificateProperties `json:"properties"`
}

type certificateProperties struct {
	Subject          string `json:"subject"`
	Expiry           string `json:"expiry"`
	Thumbprint       string `json:"thumbprint"` // SHA-1, hex in capitals
	IsVerified       bool   `json:"isVerified"`
	Created          string `json:"created"`
	Updated          string `json:"updated"`
	VerificationCode string `json:"verificationCode,omitempty"`
	Certificate      string `json:"certificate"`
}

func (res *resource) describeCertificate(c *certificate) certificateInfo {
	thumbprint := sha1.Sum(c.parsed.Raw)
	at := func(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
	return certificateInfo{
		ID:   res.id() + "/certificates/" + c.name,
		Name: c.name, Type: hubType + "/Certificates", ETag: c.etag,
		Properties: certificateProperties{
			Subject: c.parsed.Subject.CommonName, Expiry: at(c.parsed.NotAfter),
			Thumbprint: strings.ToUpper(hex.EncodeToString(thumbprint[:])),
			IsVerified: c.verified, Created: at(c.created), Updated: at(c.updated),
			VerificationCode: c.code, Certificate: c.text,
		},
	}
}

// findCertificate returns the certificate that a path names, when its ETag is
// what the request wants.
func (p *Provider) findCertificate(r *request) (*resource, *certificate, error) {
	res, err := p.find(r)
	if err != nil {
		return nil, nil, err
	}
	c := res.certificates[strings.ToLower(r.PathValue("certificate"))]
	if c == nil {
		return nil, nil, failed(404, "NotFound", "there is no certificate %q", r.PathValue("certificate"))
	}
	return res, c, matches(r, c.etag)
}

func (p *Provider) listCertificates(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	var found []certificateInfo
	for _, name := range slices.Sorted(maps.Keys(res.certificates)) {
		found = append(found, res.describeCertificate(res.certificates[name]))
	}
	return 200, newList(found), nil
}

func (p *Provider) getCertificate(r *request) (int, any, error) {
	res, c, err := p.findCertificate(r)
	if err != nil {
		return 0, nil, err
	}
	return 200, res.describeCertificate(c), nil
}

// putCertificate uploads a certificate, in place of another of its name when the
// request says which.
func (p *Provider) putCertificate(r *request) (int, any, error) {
	res, err := p.find(r)
	if err != nil {
		return 0, nil, err
	}
	next, verified, err := uploadedCertificate(r)
	if err != nil {
		return 0, nil, err
	}
	key := strings.ToLower(next.name)
	status, etag, before := 201, "", res.certificates[key]
	if before != nil {
		status, etag, next.created = 200, before.etag, before.created
	}
	if err := matches(r, etag); err != nil {
		return 0, nil, err
	}
	if verified {
		if err := res.trust(next); err != nil {
			return 0, nil, err
		}
	}
	next.etag = p.newETag()
	res.certificates[key] = next
	if before != nil {
		res.distrust(before)
	}
	return status, res.describeCertificate(next), nil
}

// uploadedCertificate reads the certificate that a request uploads, and whether
// the operator wants it believed without proof.
func uploadedCertificate(r *request) (c *certificate, verified bool, err error) {
	name := r.PathValue("certificate")
	if !certificateName.MatchString(name) {
		return nil, false, failed(400, "InvalidRequestContent", "%q cannot be the name of a certificate", name)
	}
	var body struct {
		Properties struct {
			Certificate string `json:"certificate"`
			IsVerified  bool   `json:"isVerified"`
		} `json:"properties"`
	}
	if err := r.read(&body); err != nil {
		return nil, false, err
	}
	parsed, err := parseCertificate(body.Properties.Certificate)
	if err != nil {
		return nil, false, failed(400, "InvalidRequestContent", "properties.certificate: %v", err)
	}
	now := time.Now()
	c = &certificate{name: name, parsed: parsed, text: body.Properties.Certificate, created: now, updated: now}
	return c, body.Properties.IsVerified, nil
}

// deleteCertificate forgets a certificate, and ends the trust in it.
func (p *Provider) deleteCertificate(r *request) (int, any, error) {
	res, c, err := p.findCertificate(r)
	if err != nil {
		return 0, nil, err
	}
	delete(res.certificates, strings.ToLower(c.name))
	res.distrust(c)
	return 200, nil, nil
}

// newVerificationCode makes up what the operator must have certified to prove
// that the authority's key is his.
func (p *Provider) newVerificationCode(r *request) (int, any, error) {
	res, c, err := p.findCertificate(r)
	if err != nil {
		return 0, nil, err
	}
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	c.code = strings.ToUpper(hex.EncodeToString(b[:]))
	c.etag, c.updated = p.newETag(), time.Now()
	return 200, res.describeCertificate(c), nil
}

// verifyCertificate checks the certificate that proves it: its subject is the
// code, and the authority has signed it.
func (p *Provider) verifyCertificate(r *request) (int, any, error) {
	res, c, err := p.findCertificate(r)
	if err != nil {
		return 0, nil, err
	}
	var body struct {
		Certificate string `json:"certificate"`
	}
	if err := r.read(&body); err != nil {
		return 0, nil, err
	}
	proof, err := parseCertificate(body.Certificate)
	switch {
	case err != nil:
	case c.code == "" || proof.Subject.CommonName != c.code:
		err = errors.New("the subject is not the verification code")
	default:
		err = proof.CheckSignatureFrom(c.parsed)
	}
	if err != nil {
		return 0, nil, failed(400, "InvalidRequestContent", "the certificate proves nothing: %v", err)
	}
	if err := res.trust(c); err != nil {
		return 0, nil, err
	}
	c.etag, c.updated, c.code = p.newETag(), time.Now(), ""
	return 200, res.describeCertificate(c), nil
}

// trust makes the hub believe devices whose certificates come from c.
func (res *resource) trust(c *certificate) error {
	if err := res.registry.AddAuthority(c.parsed); err != nil {
		return err
	}
	c.verified = true
	return nil
}

// distrust ends that for a certificate that is no longer there, unless the same
// one is there under another name.
func (res *resource) distrust(gone *certificate) {
	for _, c := range res.certificates {
		if c.verified && c.parsed.Equal(gone.parsed) {
			return
		}
	}
	if gone.verified {
		res.registry.RemoveAuthority(gone.parsed)
	}
}

// parseCertificate reads a certificate in one of the forms in which operators
// upload them: PEM, Base64 of PEM, or Base64 of DER.
func parseCertificate(text string) (*x509.Certificate, error) {
	data := []byte(text)
	if decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err == nil {
		data = decoded
	}
	if block, _ := pem.Decode(data); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q", block.Type)
		}
		data = block.Bytes
	}
	return x509.ParseCertificate(data)
}
