package registry

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/fieldgate/fieldgate/test/hubsim/refusal"
)

// Text is a JSON text that is null when it is empty.
type Text string

// MarshalJSON writes the text, or null.
func (t Text) MarshalJSON() ([]byte, error) {
	if t == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(t))
}

// authJSON is what the service calls authentication (section 5.2).
type authJSON struct {
	Keys        keysJSON       `json:"symmetricKey"`
	Thumbprints thumbprintJSON `json:"x509Thumbprint"`
	Type        AuthType       `json:"type"`
}

type keysJSON struct {
	Primary   Text `json:"primaryKey"`
	Secondary Text `json:"secondaryKey"`
}

type thumbprintJSON struct {
	Primary   Text `json:"primaryThumbprint"`
	Secondary Text `json:"secondaryThumbprint"`
}

// MarshalJSON writes the authentication of section 5.2.
func (a Auth) MarshalJSON() ([]byte, error) {
	return json.Marshal(authJSON{
		Keys:        keysJSON{Text(a.PrimaryKey), Text(a.SecondaryKey)},
		Thumbprints: thumbprintJSON{Text(a.PrimaryThumbprint), Text(a.SecondaryThumbprint)},
		Type:        a.Type,
	})
}

// UnmarshalJSON reads the authentication of section 5.2. Without a type it is
// the one that thumbprints or keys speak for, or none.
func (a *Auth) UnmarshalJSON(text []byte) error {
	var j authJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*a = Auth{
		Type:                j.Type,
		PrimaryKey:          string(j.Keys.Primary),
		SecondaryKey:        string(j.Keys.Secondary),
		PrimaryThumbprint:   string(j.Thumbprints.Primary),
		SecondaryThumbprint: string(j.Thumbprints.Secondary),
	}
	switch {
	case a.Type != "":
	case a.PrimaryThumbprint != "" || a.SecondaryThumbprint != "":
		a.Type = AuthSelfSigned
	case a.PrimaryKey != "" || a.SecondaryKey != "":
		a.Type = AuthSAS
	}
	return nil
}

// The two words for whether a device may connect (section 5.2).
const (
	enabled  = "enabled"
	disabled = "disabled"
)

// Status is the word for whether a device may connect.
func Status(off bool) string {
	if off {
		return disabled
	}
	return enabled
}

// ParseStatus reads the word; "" means enabled.
func ParseStatus(word string) (off bool, err error) {
	switch strings.ToLower(word) {
	case "", enabled:
		return false, nil
	case disabled:
		return true, nil
	}
	return false, refusal.New(400004, fmt.Sprintf("a status is enabled or disabled, not %q", word))
}
