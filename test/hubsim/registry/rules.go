package registry

import (
	"cmp"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// idMarks are the characters of ids beside letters and digits (section 5.2).
const idMarks = "-:.+%_#*?!(),=@$';"

// check says what is wrong with an identity that somebody wants to store.
func (i *Identity) check() error {
	names := []string{i.ID.Device}
	if i.ID.Module != "" {
		names = append(names, i.ID.Module)
	}
	for _, name := range names {
		if name == "" || len(name) > 128 {
			return refusal.New(400004, fmt.Sprintf("the id %q must have 1 to 128 characters", name))
		}
		for _, c := range name {
			letter := (c|0x20 >= 'a' && c|0x20 <= 'z') || (c >= '0' && c <= '9')
			if !letter && !strings.ContainsRune(idMarks, c) {
				return refusal.New(400004, fmt.Sprintf("the id %q must not hold %q", name, c))
			}
		}
	}
	return i.Auth.check()
}

// check says what is wrong with how an identity wants to prove itself.
func (a Auth) check() error {
	switch a.Type {
	case AuthSAS, AuthAuthority, AuthNone:
	case AuthSelfSigned:
		if a.PrimaryThumbprint == "" && a.SecondaryThumbprint == "" {
			return refusal.New(400004, "a certificate without authority needs a thumbprint")
		}
	default:
		return refusal.New(400004, fmt.Sprintf("there is no authentication of type %q", a.Type))
	}
	for _, thumbprint := range []string{a.PrimaryThumbprint, a.SecondaryThumbprint} {
		b, err := hex.DecodeString(thumbprint)
		if err != nil || (thumbprint != "" && len(b) != sha1.Size && len(b) != sha256.Size) {
			return refusal.New(400004, "a thumbprint must be SHA-1 or SHA-256 in hex")
		}
	}
	for _, key := range []string{a.PrimaryKey, a.SecondaryKey} {
		b, err := base64.StdEncoding.DecodeString(key)
		if err != nil || (key != "" && (len(b) < 16 || len(b) > 64)) {
			return refusal.New(400004, "a key must be 16 to 64 bytes in Base64")
		}
	}
	return nil
}

// complete fills in what the hub decides; old is nil for a new identity. What
// does not belong to the type of authentication goes.
func (i *Identity) complete(old *Identity) {
	i.Generation, i.StatusUpdated = cmp.Or(i.Generation, newGeneration()), time.Time{}
	if old != nil {
		i.Generation, i.StatusUpdated = old.Generation, old.StatusUpdated
		if i.Disabled != old.Disabled {
			i.StatusUpdated = time.Now().UTC()
		}
	}
	i.Auth.complete(old)
	i.ETag = newETag()
}

func (a *Auth) complete(old *Identity) {
	if old != nil && a.Type == "" {
		*a = old.Auth
	}
	a.Type = cmp.Or(a.Type, AuthSAS)
	if a.Type != AuthSelfSigned {
		a.PrimaryThumbprint, a.SecondaryThumbprint = "", ""
	}
	if a.Type != AuthSAS {
		a.PrimaryKey, a.SecondaryKey = "", ""
		return
	}
	if old != nil && old.Auth.Type == AuthSAS {
		a.PrimaryKey = cmp.Or(a.PrimaryKey, old.Auth.PrimaryKey)
		a.SecondaryKey = cmp.Or(a.SecondaryKey, old.Auth.SecondaryKey)
	}
	a.PrimaryKey, a.SecondaryKey = cmp.Or(a.PrimaryKey, NewKey()), cmp.Or(a.SecondaryKey, NewKey())
}

func newGeneration() string {
	var b [9]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func newETag() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}
