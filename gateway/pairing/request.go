package pairing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxRequest bounds a request to pair, in bytes: anybody can send one. A signing
// request with an RSA key of 4,096 bits has about 1,800.
const MaxRequest = 6 << 10

// Request is what a leaf asks for that wants to pair.
type Request struct {
	ID string // that it would like to have; nobody has looked at it
	// CSR asks for a certificate; its signature is good, so whoever sent it holds the
	// key. Nil asks for a password.
	CSR *x509.CertificateRequest
	// Key is the SHA-256 of the public key; the zero value where there is none.
	Key [sha256.Size]byte
}

// ParseRequest reads the JSON {"id": …, "csr": …}, where csr is a signing request in
// PEM form, or {"id": …, "password": true}. Unknown fields are refused.
func ParseRequest(text []byte) (Request, error) {
	if len(text) > MaxRequest {
		return Request{}, fmt.Errorf("the request has %d bytes, at most %d are read", len(text), MaxRequest)
	}
	var in struct {
		ID       string `json:"id"`
		CSR      string `json:"csr"`
		Password bool   `json:"password"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return Request{}, errors.New(`the request is not of the form {"id": "…", "csr": "…"} or {"id": "…", "password": true}`)
	}
	r := Request{ID: in.ID}
	if in.Password == (in.CSR != "") {
		return Request{}, errors.New("the request asks for a certificate with csr, or for a password, not for both or neither")
	}
	if in.Password {
		return r, nil
	}
	block, _ := pem.Decode([]byte(in.CSR))
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return Request{}, errors.New("csr holds no CERTIFICATE REQUEST in PEM form")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return Request{}, errors.New("csr cannot be read")
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return Request{}, err
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, errors.New("csr is not signed with its own key")
	}
	r.CSR, r.Key = csr, sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return r, nil
}

// checkKey takes keys that are strong enough, and not so large that looking at one
// costs a small board seconds.
func checkKey(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return errors.New("the curve of the key is too small: use P-256")
		}
		return nil
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fmt.Errorf("the RSA key has %d bits, 2,048 to 4,096 are taken", n)
		}
		return nil
	}
	return errors.New("the kind of key is not known: use ECDSA P-256, Ed25519 or RSA")
}
