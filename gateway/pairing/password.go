package pairing

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

const (
	// hashCost makes one check cost about a tenth of a second on a small board:
	// slow enough to make guessing hopeless, quick enough for a leaf to wait for.
	hashCost = 10
	// maxHashCost bounds what one login can cost; each step doubles it.
	maxHashCost = 14
	// maxPassword is what bcrypt looks at, in bytes; it would silently ignore
	// the rest.
	maxPassword = 72
)

// PasswordHash is what the gateway keeps of a leaf's password. The zero value
// is matched by no password. It prints as "redacted" everywhere.
type PasswordHash struct{ text string }

// IsZero says that the leaf has no password.
func (h PasswordHash) IsZero() bool { return h.text == "" }

// String hides the hash.
func (h PasswordHash) String() string { return "redacted" }

// GoString hides the hash.
func (h PasswordHash) GoString() string { return "redacted" }

// LogValue hides the hash in logs.
func (h PasswordHash) LogValue() slog.Value { return slog.StringValue("redacted") }

// HashPassword returns the text that ParsePasswordHash reads, to be kept
// instead of the password. Passwords have 1 to 72 bytes.
func HashPassword(password string) (string, error) {
	if password == "" {
		return "", errors.New("password is empty")
	}
	if len(password) > maxPassword {
		return "", fmt.Errorf("password has %d bytes, at most %d count", len(password), maxPassword)
	}
	text, err := bcrypt.GenerateFromPassword([]byte(password), hashCost)
	if err != nil {
		return "", fmt.Errorf("cannot hash password: %w", err)
	}
	return string(text), nil
}

// ParsePasswordHash reads what HashPassword wrote, or any bcrypt text of cost
// 10 to 14. White space around it does not matter. The error never contains the
// text.
func ParsePasswordHash(text string) (PasswordHash, error) {
	text = strings.TrimSpace(text)
	cost, err := bcrypt.Cost([]byte(text))
	if err != nil {
		return PasswordHash{}, errors.New("password hash is not bcrypt text")
	}
	if cost < hashCost || cost > maxHashCost {
		return PasswordHash{}, fmt.Errorf("password hash has cost %d, allowed are %d to %d", cost, hashCost, maxHashCost)
	}
	return PasswordHash{text}, nil
}

// matches takes a tenth of a second and more.
func (h PasswordHash) matches(password string) bool {
	return bcrypt.CompareHashAndPassword([]byte(h.text), []byte(password)) == nil
}
