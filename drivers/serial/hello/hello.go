// Package hello has the device on a serial line prove which leaf it is: that it has the
// leaf's key. It is asked when the port is opened, also when it is opened again, since
// another device may be plugged in by then; what it says before that proof is nobody's.
//
// The words on the line are ASCII, each line ended by LF or CRLF:
//
//	gateway  HELLO <nonce>       32 hexadecimal digits, another nonce each time
//	device   HELLO <id> <proof>  its leaf id, and 64 hexadecimal digits
//
// The proof is HMAC-SHA256 with the key over the text
//
//	fieldgate hello 1 <nonce> <id>
//
// with the nonce as it came. The text names what the proof is for, so that no other use
// of the key can make one; a proof for one nonce is none for another, so that one that
// was overheard is worth nothing; and the device's words differ from the gateway's, so
// that an echo is no answer.
//
// It says who is there at that moment, and does not protect what is said afterwards: a
// wire that is tapped while the port stays open is out of its reach.
package hello

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/port"
)

// Errors of those who ask.
var (
	// ErrSilent says that nothing like an answer has come.
	ErrSilent = errors.New("the device does not answer HELLO")
	// ErrWrong says that an answer has come, and does not prove that it is the leaf.
	ErrWrong = errors.New("the device has not proven that it is the leaf")
)

// The length of a key, in bytes.
const (
	minKey = 16
	maxKey = 64
)

// Key is what a leaf proves itself with. It prints as "redacted". The zero value is no
// key: nothing can be proven with it.
type Key struct{ secret []byte }

// ParseKey reads a key: 32 to 128 hexadecimal digits, and white space around them.
func ParseKey(text string) (Key, error) {
	secret, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(secret) < minKey || len(secret) > maxKey {
		return Key{}, fmt.Errorf("there is no key in it: %d to %d hexadecimal digits, an even number, and nothing else", 2*minKey, 2*maxKey)
	}
	return Key{secret}, nil
}

// IsZero says that it is no key.
func (k Key) IsZero() bool { return len(k.secret) == 0 }

// Text is the key as ParseKey reads it.
func (k Key) Text() string { return hex.EncodeToString(k.secret) }

// String hides the key.
func (Key) String() string { return "redacted" }

// GoString hides the key.
func (Key) GoString() string { return "redacted" }

// LogValue hides the key.
func (Key) LogValue() slog.Value { return slog.StringValue("redacted") }

// proof is what the leaf of that name answers to a nonce.
func (k Key) proof(nonce, leaf string) []byte {
	mac := hmac.New(sha256.New, k.secret)
	mac.Write([]byte("fieldgate hello 1 " + nonce + " " + leaf))
	return mac.Sum(nil)
}

// word begins the lines of both sides.
const word = "HELLO "

// maxAnswer is the longest line that can be an answer, without its line end.
const maxAnswer = len(word) + port.MaxLeafID + 1 + 2*sha256.Size

// Answer is what a device has answered. It says nothing until it is checked.
type Answer struct {
	Leaf  string // who it says it is
	nonce string // to which it is an answer
	proof []byte
}

// IsAnswer says whether a line, without its line end, is what a device answers.
func IsAnswer(line []byte) bool { return parse(line) != nil }

// parse reads a line without its line end; nil is no answer.
func parse(line []byte) *Answer {
	line, ok := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\r")), []byte(word))
	if !ok || len(word)+len(line) > maxAnswer {
		return nil
	}
	leaf, digits, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(digits) != 2*sha256.Size || !port.ValidLeaf(string(leaf)) {
		return nil
	}
	proof := make([]byte, sha256.Size)
	if _, err := hex.Decode(proof, digits); err != nil {
		return nil
	}
	return &Answer{Leaf: string(leaf), proof: proof}
}

// Check says whether it proves that the device is that leaf; else the error is ErrWrong.
func (a *Answer) Check(leaf string, key Key) error {
	switch {
	case a.Leaf != leaf:
		return fmt.Errorf("%w %q: it says that it is %q", ErrWrong, leaf, a.Leaf)
	case key.IsZero() || !hmac.Equal(a.proof, key.proof(a.nonce, leaf)):
		return fmt.Errorf("%w %q: it has another key", ErrWrong, leaf)
	}
	return nil
}

// How often it is asked: noise eats lines, and many a board starts anew when its port is
// opened, and hears nothing meanwhile.
const (
	againMin = time.Second
	againMax = 10 * time.Second
	// tick is how soon it is seen that ctx has ended.
	tick = 200 * time.Millisecond
	// writeLimit is how long a question waits for room on the line.
	writeLimit = time.Second
)

// Ask asks the device at an open port who it is, again and again with one nonce, until
// there is an answer: the first line that can be one. It does not say whether that is
// right. What else comes meanwhile is thrown away; lost, if it is not nil, is told how
// many bytes. The error is ErrSilent when the limit is over, 0 for none, that of ctx, or
// why the port cannot be used.
func Ask(ctx context.Context, p *port.Port, limit time.Duration, lost func(bytes int)) (*Answer, error) {
	var raw [16]byte
	rand.Read(raw[:]) // never fails
	nonce := hex.EncodeToString(raw[:])
	e := ear{p: p, lost: lost}
	defer e.drop()
	begun := time.Now()
	for wait := againMin; ; wait = min(2*wait, againMax) {
		// The line end before it ends what the device has of a line that was cut off.
		if _, err := p.Write([]byte("\n"+word+nonce+"\n"), writeLimit); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		if left := limit - time.Since(begun); limit > 0 {
			wait = min(wait, left)
		}
		a, err := e.listen(ctx, wait)
		switch {
		case err != nil:
			return nil, err
		case a != nil:
			a.nonce = nonce
			return a, p.SetReadDeadline(time.Time{})
		case limit > 0 && time.Since(begun) >= limit:
			return nil, ErrSilent
		}
	}
}

// Prove asks the device at an open port until it has proven that it is that leaf, and
// three times if it answers wrongly, since noise makes a right answer a wrong one. The
// errors are those of Ask, and ErrWrong, also where it says no more after that.
func Prove(ctx context.Context, p *port.Port, leaf string, key Key, limit time.Duration, lost func(bytes int)) (wrong error) {
	for range 3 {
		a, err := Ask(ctx, p, limit, lost)
		switch {
		case wrong != nil && errors.Is(err, ErrSilent):
			return wrong
		case err != nil:
			return err
		}
		if wrong = a.Check(leaf, key); wrong == nil {
			return nil
		}
		limit = againMax
	}
	return wrong
}

// ear finds an answer in what comes. It holds at most one line.
type ear struct {
	p    *port.Port
	lost func(bytes int)
	line []byte // under way: its end, as long as an answer and CR
}

// listen returns the first answer within a time, nil if there is none. What has come
// behind it is given back to the port.
func (e *ear) listen(ctx context.Context, limit time.Duration) (*Answer, error) {
	buf := make([]byte, 1024)
	for end := time.Now().Add(limit); ; {
		left := time.Until(end)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case left <= 0:
			return nil, nil
		}
		if err := e.p.SetReadDeadline(time.Now().Add(min(left, tick))); err != nil {
			return nil, err
		}
		n, err := e.p.Read(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		a, rest := e.feed(buf[:n])
		if a != nil {
			e.p.Unread(rest)
			return a, nil
		}
	}
}

// feed takes what has come, up to an answer, and returns what is behind that.
func (e *ear) feed(b []byte) (a *Answer, rest []byte) {
	const most = maxAnswer + 2
	for {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		if over := len(e.line) + len(line) - most; over > 0 {
			e.count(over)
			kept := e.line[min(over, len(e.line)):]
			line = line[max(0, over-len(e.line)):]
			e.line = append(e.line[:0], kept...)
		}
		e.line = append(e.line, line...)
		if !ended {
			return nil, nil
		}
		if i := bytes.LastIndex(e.line, []byte(word)); i >= 0 {
			a = parse(e.line[i:]) // what stands before it may be frames, which know no line end
			if a != nil {
				e.count(i)
				e.line = e.line[:0]
				return a, rest
			}
		}
		e.drop()
		e.count(len("\n"))
		b = rest
	}
}

// drop counts what is no answer, or will not become one.
func (e *ear) drop() {
	e.count(len(e.line))
	e.line = e.line[:0]
}

func (e *ear) count(n int) {
	if e.lost != nil && n > 0 {
		e.lost(n)
	}
}
