// Package sas reads and checks shared access signatures, the tokens with which
// clients of the hub prove who they are (wire contract, section 1.1).
package sas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const prefix = "SharedAccessSignature "

// Token is a token taken apart. It proves nothing until SignedBy says so.
type Token struct {
	Resource string    // what it is about, decoded
	Policy   string    // who signed it; "" for a device's own key
	Expiry   time.Time // UTC, whole seconds

	signed    string // the text under the signature, exactly as it came
	signature []byte
}

// ErrMalformed is wrapped by every error of Parse.
var ErrMalformed = errors.New("not a shared access signature")

// Parse reads the text of a token. Fields may come in any order, and unknown
// ones are ignored.
func Parse(text string) (Token, error) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return Token{}, fmt.Errorf("%w: no %q in front", ErrMalformed, strings.TrimSpace(prefix))
	}
	fields := make(map[string]string)
	for field := range strings.SplitSeq(rest, "&") {
		name, value, _ := strings.Cut(field, "=")
		fields[name] = value
	}
	for _, name := range []string{"sr", "sig", "se"} {
		if fields[name] == "" {
			return Token{}, fmt.Errorf("%w: no field %q", ErrMalformed, name)
		}
	}
	return fromFields(fields)
}

func fromFields(fields map[string]string) (t Token, err error) {
	t.signed = fields["sr"] + "\n" + fields["se"]
	if t.Resource, err = url.PathUnescape(fields["sr"]); err != nil {
		return Token{}, fmt.Errorf("%w: sr: %v", ErrMalformed, err)
	}
	if t.Policy, err = url.PathUnescape(fields["skn"]); err != nil {
		return Token{}, fmt.Errorf("%w: skn: %v", ErrMalformed, err)
	}
	seconds, err := strconv.ParseInt(fields["se"], 10, 64)
	if err != nil || seconds < 0 || seconds > maxExpiry {
		return Token{}, fmt.Errorf("%w: se is not a time", ErrMalformed)
	}
	t.Expiry = time.Unix(seconds, 0).UTC()
	sig, err := url.PathUnescape(fields["sig"])
	if err != nil {
		return Token{}, fmt.Errorf("%w: sig: %v", ErrMalformed, err)
	}
	if t.signature, err = base64.StdEncoding.DecodeString(sig); err != nil {
		return Token{}, fmt.Errorf("%w: sig is not Base64", ErrMalformed)
	}
	return t, nil
}

// maxExpiry is the last second of the year 9999: later times do not fit into
// the vendor's clients.
const maxExpiry = 253402300799

// SignedBy says whether key signed the token, in constant time.
func (t Token) SignedBy(key []byte) bool {
	return len(key) > 0 && hmac.Equal(t.signature, sign(key, t.signed))
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// New makes a token for resource, which it escapes. policy is "" for a
// device's own key.
func New(resource, policy string, key []byte, expiry time.Time) string {
	sr := url.QueryEscape(resource)
	se := strconv.FormatInt(expiry.Unix(), 10)
	sig := url.QueryEscape(base64.StdEncoding.EncodeToString(sign(key, sr+"\n"+se)))
	text := prefix + "sr=" + sr + "&sig=" + sig + "&se=" + se
	if policy != "" {
		text += "&skn=" + url.QueryEscape(policy)
	}
	return text
}
