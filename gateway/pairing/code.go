package pairing

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
)

// Code is the single-use code of a pairing window: eight random digits and one by
// which slips of the finger are told. It prints as "redacted"; Text shows it.
type Code struct{ digits string }

// NewCode makes a code up. Trivial ones are never issued.
func NewCode() Code {
	for {
		n, err := rand.Int(rand.Reader, big.NewInt(100_000_000))
		if err != nil {
			panic(err) // crypto/rand never fails
		}
		if d := fmt.Sprintf("%08d", n); !trivial(d) {
			return Code{d + string(checkDigit(d))}
		}
	}
}

func trivial(d string) bool {
	return d == strings.Repeat(d[:1], 8) || d == "12345678" || d == "87654321"
}

// Text is how the code is shown, "1234-5678-9".
func (c Code) Text() string { return c.digits[:4] + "-" + c.digits[4:8] + "-" + c.digits[8:] }

// String hides the code.
func (c Code) String() string { return "redacted" }

// GoString hides the code.
func (c Code) GoString() string { return "redacted" }

// LogValue hides the code in logs.
func (c Code) LogValue() slog.Value { return slog.StringValue("redacted") }

// parseCode reads what somebody has typed. Anything that is not a code, or has a
// digit wrong, is not one.
func parseCode(text string) (Code, bool) {
	if len(text) > 32 {
		return Code{}, false
	}
	d := strings.NewReplacer("-", "", " ", "").Replace(text)
	if len(d) != 9 || strings.Trim(d, "0123456789") != "" || checkDigit(d[:8]) != d[8] {
		return Code{}, false
	}
	return Code{d}, true
}

// checkDigit is Luhn's (ISO/IEC 7812-1, annex B): it tells a wrong digit, and two
// neighbours that have changed places.
func checkDigit(d string) byte {
	sum := 0
	for i := range len(d) {
		n := int(d[len(d)-1-i] - '0')
		if i%2 == 0 {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
	}
	return byte('0' + (10-sum%10)%10)
}
