package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Errors, by what is to be done.
var (
	// ErrNoKey says that something is sealed with a key that is not at hand.
	ErrNoKey = errors.New("it is sealed with a machine key that is not at hand")
	// ErrBroken says that a sealed text was changed.
	ErrBroken = errors.New("it is sealed and damaged")
)

// prefix begins a sealed text: its form, then the key's id, then Base64 of nonce and
// what AES-256-GCM makes of the secret.
const prefix = "fieldgate-sealed:1:"

// keySize is the least number of bytes that a machine key is made of.
const keySize = 32

// Machine is the key of a machine. Safe for concurrent use.
type Machine struct {
	id   string // names the key without giving it away
	aead cipher.AEAD
	from string
}

// From says where the key is kept, in words.
func (m *Machine) From() string { return m.from }

// String hides the key.
func (m *Machine) String() string { return "machine key " + m.id }

// known are the keys at hand, by id. A process may have those of several data folders.
var known sync.Map

// newMachine makes a key of a secret, which may be longer than keySize, and makes it
// known to Open.
func newMachine(secret []byte, from string) (*Machine, error) {
	if len(secret) < keySize {
		return nil, fmt.Errorf("%s holds %d bytes, at least %d are needed", from, len(secret), keySize)
	}
	derive := func(label string) []byte {
		h := sha256.New()
		h.Write([]byte("fieldgate machine key " + label + "\x00"))
		h.Write(secret)
		return h.Sum(nil)
	}
	block, err := aes.NewCipher(derive("seal"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	m := &Machine{id: hex.EncodeToString(derive("name")[:8]), aead: aead, from: from}
	known.Store(m.id, m)
	return m, nil
}

// Seal returns a line of text that only this machine can open.
func (m *Machine) Seal(secret []byte) []byte {
	nonce := make([]byte, m.aead.NonceSize())
	rand.Read(nonce) // never fails
	sealed := m.aead.Seal(nonce, nonce, secret, []byte(prefix+m.id))
	return []byte(prefix + m.id + ":" + base64.StdEncoding.EncodeToString(sealed) + "\n")
}

// Sealed says whether a text is sealed, or was meant to be.
func Sealed(text []byte) bool { return bytes.HasPrefix(text, []byte(prefix)) }

// Open returns the secret of a sealed text, and any other text as it is. The error
// wraps ErrNoKey or ErrBroken.
func Open(text []byte) ([]byte, error) {
	if !Sealed(text) {
		return text, nil
	}
	id, body, ok := strings.Cut(strings.TrimSpace(string(text[len(prefix):])), ":")
	if !ok {
		return nil, ErrBroken
	}
	m, found := known.Load(id)
	if !found {
		return nil, fmt.Errorf("%w: key %.16q", ErrNoKey, id)
	}
	sealed, err := base64.StdEncoding.Strict().DecodeString(body)
	aead := m.(*Machine).aead
	if err != nil || len(sealed) < aead.NonceSize() {
		return nil, ErrBroken
	}
	secret, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(prefix+id))
	if err != nil {
		return nil, ErrBroken
	}
	return secret, nil
}

// ReadFile reads a file that holds a secret, sealed or in the clear.
func ReadFile(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	secret, err := Open(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return secret, nil
}

// WriteFile writes a secret sealed: it is on flash when it returns, or the file is as
// before. The folder must be there; the mode is 0600.
func (m *Machine) WriteFile(name string, secret []byte) error {
	return replace(name, m.Seal(secret), -1, -1)
}

// SealFile seals a file in its place, once: it is done already where changed is
// false. Owner and group stay, the mode becomes 0600. What was there in the clear is
// overwritten, as far as the flash lets anybody.
func (m *Machine) SealFile(name string) (changed bool, err error) {
	old, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer old.Close()
	text, err := os.ReadFile(name)
	if err != nil || Sealed(text) {
		return false, err
	}
	var info unix.Stat_t
	if err := unix.Fstat(int(old.Fd()), &info); err != nil {
		return false, err
	}
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		return false, err
	}
	if err := replace(target, m.Seal(text), int(info.Uid), int(info.Gid)); err != nil {
		return false, err
	}
	_, err = old.WriteAt(make([]byte, len(text)), 0)
	return true, errors.Join(err, old.Sync())
}

// replace puts a file in the place of another: synced under another name, then
// renamed. uid and gid of -1 are those of the process.
func replace(name string, text []byte, uid, gid int) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".sealing-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if uid >= 0 && (uid != os.Geteuid() || gid != os.Getegid()) {
		err = errors.Join(err, f.Chown(uid, gid))
	}
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
