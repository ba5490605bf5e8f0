package arm

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span that JSON has in the form of ISO 8601, such as PT1H.
type Duration time.Duration

// ErrDuration is wrapped by every error of ParseDuration.
var ErrDuration = errors.New("not an ISO 8601 duration")

// units of ISO 8601, in the order in which they must come. Years and months are
// not among them, as nobody knows how long one is.
var units = []struct {
	letter byte
	clock  bool // stands behind the T
	length time.Duration
}{
	{'W', false, 7 * 24 * time.Hour},
	{'D', false, 24 * time.Hour},
	{'H', true, time.Hour},
	{'M', true, time.Minute},
	{'S', true, time.Second},
}

// ParseDuration reads a duration that is not negative, in weeks to seconds. Only
// seconds may have a fraction, of up to nine digits.
func ParseDuration(text string) (Duration, error) {
	date, clock, hasClock := strings.Cut(text, "T")
	date, ok := strings.CutPrefix(date, "P")
	if !ok || (hasClock && clock == "") || date+clock == "" {
		return 0, fmt.Errorf("%w: %q", ErrDuration, text)
	}
	var total time.Duration
	for _, u := range units {
		rest := &date
		if u.clock {
			rest = &clock
		}
		number, behind, found := strings.Cut(*rest, string(u.letter))
		if !found {
			continue
		}
		*rest = behind
		length, err := scale(number, u.length)
		if err != nil || length > math.MaxInt64-total {
			return 0, fmt.Errorf("%w: %q", ErrDuration, text)
		}
		total += length
	}
	if date+clock != "" {
		return 0, fmt.Errorf("%w: %q", ErrDuration, text)
	}
	return Duration(total), nil
}

// scale returns number times unit.
func scale(number string, unit time.Duration) (time.Duration, error) {
	whole, fraction, hasFraction := strings.Cut(number, ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/unit) {
		return 0, ErrDuration
	}
	length := time.Duration(n) * unit
	if !hasFraction {
		return length, nil
	}
	const digits = 9 // of a second, down to nanoseconds
	if unit != time.Second || len(fraction) > digits {
		return 0, ErrDuration
	}
	part, err := strconv.ParseUint(fraction+strings.Repeat("0", digits-len(fraction)), 10, 63)
	if err != nil || fraction == "" || time.Duration(part) > math.MaxInt64-length {
		return 0, ErrDuration
	}
	return length + time.Duration(part), nil
}

// String writes the duration in days to seconds.
func (d Duration) String() string {
	if d == 0 {
		return "PT0S"
	}
	text, rest := "P", time.Duration(d)
	for _, u := range units[1:] {
		n := rest / u.length
		rest %= u.length
		fraction := ""
		if u.letter == 'S' && rest > 0 {
			fraction = "." + strings.TrimRight(fmt.Sprintf("%09d", int64(rest)), "0")
		}
		if n == 0 && fraction == "" {
			continue
		}
		if u.clock && !strings.Contains(text, "T") {
			text += "T"
		}
		text += strconv.FormatInt(int64(n), 10) + fraction + string(u.letter)
	}
	return text
}

// MarshalText writes the duration for JSON.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the duration from JSON.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}
