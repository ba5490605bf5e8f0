// Package identity holds the keys with which leaves prove who they are, and
// signs and checks the hub's shared access signature tokens with them. A key
// goes in and never comes out: others get tokens and verdicts.
package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fieldgate/fieldgate/gateway/seal"
)

// Key is a symmetric key of a hub identity. The zero Key signs nothing. It
// prints as "redacted" everywhere; inside a function, because fmt does not ask a
// value in an unexported field of something else how it wants to be printed.
type Key struct {
	mac func(text string) []byte // HMAC-SHA256 with the secret
}

// Bounds of a hub key, in bytes (identity registry, "16 to 64 bytes").
const (
	minKey = 16
	maxKey = 64
)

// ParseKey reads the Base64 text in which the hub hands out keys. White space
// around it does not matter. The error never contains the text.
func ParseKey(text string) (Key, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return Key{}, errors.New("key is not Base64")
	}
	if len(b) < minKey || len(b) > maxKey {
		return Key{}, fmt.Errorf("key has %d bytes, the hub's keys have %d to %d", len(b), minKey, maxKey)
	}
	return keyOf(b), nil
}

func keyOf(secret []byte) Key {
	return Key{func(text string) []byte {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(text))
		return h.Sum(nil)
	}}
}

// ReadKeyFile reads a key from a file that holds nothing else.
func ReadKeyFile(path string) (Key, error) {
	text, err := seal.ReadFile(path)
	if err != nil {
		return Key{}, err
	}
	k, err := ParseKey(string(text))
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// IsZero says that there is no key.
func (k Key) IsZero() bool { return k.mac == nil }

// Equal says whether o signs as k does.
func (k Key) Equal(o Key) bool {
	if k.IsZero() || o.IsZero() {
		return k.IsZero() == o.IsZero()
	}
	return hmac.Equal(k.mac("equal"), o.mac("equal"))
}

// String hides the key.
func (k Key) String() string { return "redacted" }

// Format hides the key, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "redacted") }

// LogValue hides the key in logs.
func (k Key) LogValue() slog.Value { return slog.StringValue("redacted") }

// sign returns the signature over the text that a token signs: the resource as
// it stands in the token, a line feed, and the expiry.
func (k Key) sign(rawResource, expiry string) []byte {
	return k.mac(rawResource + "\n" + expiry)
}

// Derive returns the key of a registration in the enrolment group whose key k is
// (wire contract, section 8.1). k must not be zero.
func (k Key) Derive(registration string) Key { return keyOf(k.mac(registration)) }

// Token returns a SAS token for resource (not escaped, for example
// "myhub.azure-devices.net/devices/pump-1") that is valid until expiry, to the
// second below. k must not be zero.
func (k Key) Token(resource string, expiry time.Time) string {
	// A space must be %20: a plus sign is a plus sign to whoever reads it.
	sr := strings.ReplaceAll(url.QueryEscape(resource), "+", "%20")
	se := strconv.FormatInt(expiry.Unix(), 10)
	sig := url.QueryEscape(base64.StdEncoding.EncodeToString(k.sign(sr, se)))
	return "SharedAccessSignature sr=" + sr + "&sig=" + sig + "&se=" + se
}

// PolicyToken is Token with the name of the policy whose key k is: "registration"
// for provisioning, or a shared access policy of the hub.
func (k Key) PolicyToken(policy, resource string, expiry time.Time) string {
	return k.Token(resource, expiry) + "&skn=" + url.QueryEscape(policy)
}

// Token is a parsed SAS token. It is not proven until SignedBy says so.
type Token struct {
	Resource string    // decoded
	Policy   string    // skn, "" for a device key
	Expiry   time.Time // UTC
	raw, se  string    // as they stand in the text: this is what is signed
	sig      []byte
}

// ErrToken says that a text is not a SAS token.
var ErrToken = errors.New("not a SAS token")

// ParseToken reads the text form. Fields may come in any order, unknown ones
// are ignored (wire contract, section 1.1).
func ParseToken(text string) (Token, error) {
	rest, ok := strings.CutPrefix(text, "SharedAccessSignature ")
	if !ok {
		return Token{}, ErrToken
	}
	var t Token
	for field := range strings.SplitSeq(rest, "&") {
		name, value, _ := strings.Cut(field, "=")
		var err error
		switch name {
		case "sr":
			t.raw = value
			t.Resource, err = url.PathUnescape(value)
		case "skn":
			t.Policy, err = url.QueryUnescape(value)
		case "se":
			t.se = value
			// 40 bits reach beyond the year 36000; times beyond 2^63 wrap around.
			var s uint64
			s, err = strconv.ParseUint(value, 10, 40)
			t.Expiry = time.Unix(int64(s), 0).UTC()
		case "sig":
			var b64 string
			if b64, err = url.QueryUnescape(value); err == nil {
				// An unescaped + has become a space; Base64 knows no space.
				t.sig, err = base64.StdEncoding.DecodeString(strings.ReplaceAll(b64, " ", "+"))
			}
		}
		if err != nil {
			return Token{}, fmt.Errorf("%w: field %s", ErrToken, name)
		}
	}
	if t.raw == "" || t.se == "" || len(t.sig) == 0 {
		return Token{}, fmt.Errorf("%w: field missing", ErrToken)
	}
	return t, nil
}

// SignedBy says whether k signed the token. It takes the same time whatever the
// signature is.
func (t Token) SignedBy(k Key) bool {
	return !k.IsZero() && hmac.Equal(t.sig, k.sign(t.raw, t.se))
}

// Names says whether the token is for that leaf on one of the hosts (compared
// without case; the leaf id with case). What follows the leaf id is ignored, as
// the hub does (wire contract, section 1.1, rule 3).
func (t Token) Names(leaf string, hosts ...string) bool {
	if leaf == "" {
		return false
	}
	host, path, _ := strings.Cut(t.Resource, "/")
	for _, h := range hosts {
		if strings.EqualFold(h, host) {
			tail, ok := strings.CutPrefix(path, "devices/"+leaf)
			return ok && (tail == "" || tail[0] == '/')
		}
	}
	return false
}

// Keyring holds the hub keys of leaves. Safe for concurrent use.
type Keyring struct {
	host string
	mu   sync.RWMutex
	keys map[string]Key // guarded by mu
}

// NewKeyring makes an empty keyring for identities of the hub named host.
func NewKeyring(host string) *Keyring {
	return &Keyring{host: host, keys: make(map[string]Key)}
}

// Put sets the key of a leaf; the zero Key removes it.
func (r *Keyring) Put(leaf string, k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k.IsZero() {
		delete(r.keys, leaf)
		return
	}
	r.keys[leaf] = k
}

// Key returns the key of a leaf, the zero Key if there is none.
func (r *Keyring) Key(leaf string) Key {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys[leaf]
}

// ErrNoKey says that the gateway holds no key for a leaf.
var ErrNoKey = errors.New("no key for this leaf")

// DeviceToken returns a token with which the hub accepts the leaf until expiry.
func (r *Keyring) DeviceToken(leaf string, expiry time.Time) (string, error) {
	k := r.Key(leaf)
	if k.IsZero() {
		return "", fmt.Errorf("leaf %q: %w", leaf, ErrNoKey)
	}
	return k.Token(r.host+"/devices/"+leaf, expiry), nil
}
