package seal

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Place is where the machine's key is looked for.
type Place struct {
	Dir string // the data folder, "" for none
	// Credentials is the folder in which systemd hands over credentials, "" for none.
	Credentials string
	// TPM is a device, or the unix socket of a simulated one; "" for none.
	TPM string
}

// Names of what holds the key.
const (
	CredentialName = "fieldgate.machine-key"
	tpmName        = "machine.tpm"
	fileName       = "machine.key"
)

// Files are where a key is kept on flash, if it is.
func (p Place) Files() []string {
	return []string{filepath.Join(p.Dir, tpmName), filepath.Join(p.Dir, fileName)}
}

// Find makes all keys that there are known to Open and returns the one to seal with.
// The error wraps fs.ErrNotExist where there is none.
func Find(p Place) (*Machine, error) {
	var best *Machine
	var failed error
	for _, find := range []func(Place) (*Machine, error){credentialKey, tpmKey, fileKey} {
		m, err := find(p)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			failed = errors.Join(failed, err)
		case err == nil && best == nil:
			best = m
		}
	}
	switch {
	case failed != nil:
		return nil, failed // another key in the place of one that is there would be a surprise
	case best == nil:
		return nil, fmt.Errorf("there is no machine key yet: %w", fs.ErrNotExist)
	}
	return best, nil
}

// Make is Find, and makes a key where there is none: with the TPM if there is one,
// else in a file.
func Make(p Place) (*Machine, error) {
	m, err := Find(p)
	if !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return nil, err
	}
	secret := make([]byte, keySize)
	rand.Read(secret) // never fails
	if _, err := os.Stat(p.TPM); p.TPM != "" && err == nil {
		blob, err := tpmSeal(p.TPM, secret)
		if err != nil {
			return nil, fmt.Errorf("the TPM %s cannot seal a key: %w", p.TPM, err)
		}
		if err := replace(filepath.Join(p.Dir, tpmName), blob, -1, -1); err != nil {
			return nil, err
		}
		return Find(p)
	}
	if err := replace(filepath.Join(p.Dir, fileName), secret, -1, -1); err != nil {
		return nil, err
	}
	return Find(p)
}

func credentialKey(p Place) (*Machine, error) {
	if p.Credentials == "" {
		return nil, fs.ErrNotExist
	}
	secret, err := os.ReadFile(filepath.Join(p.Credentials, CredentialName))
	if err != nil {
		return nil, err
	}
	return newMachine(secret, "the credential "+CredentialName)
}

func tpmKey(p Place) (*Machine, error) {
	if p.Dir == "" {
		return nil, fs.ErrNotExist
	}
	name := filepath.Join(p.Dir, tpmName)
	blob, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if p.TPM == "" {
		return nil, fmt.Errorf("%s needs the TPM that has sealed it, and none is configured", name)
	}
	secret, err := tpmOpen(p.TPM, blob)
	if err != nil {
		return nil, fmt.Errorf("the TPM %s does not open %s: %v", p.TPM, name, err)
	}
	return newMachine(secret, "the TPM "+p.TPM)
}

func fileKey(p Place) (*Machine, error) {
	if p.Dir == "" {
		return nil, fs.ErrNotExist
	}
	name := filepath.Join(p.Dir, fileName)
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("others can read %s (mode %04o): run chmod 0600 on it, and take the secrets that it seals for known", name, mode)
	}
	secret, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return newMachine(secret, name)
}

// KeyPair reads a certificate and its key, both PEM, the key sealed or in the clear.
func KeyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ReadFile(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}
