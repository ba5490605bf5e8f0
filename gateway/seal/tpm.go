package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// A key is sealed under the storage root key of the TPM's owner, without a policy:
// an update of the system must not lock the machine out. It can be opened by this TPM
// only, and by whoever runs as root on this machine.

func openTPM(path string) (transport.TPMCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() == os.ModeSocket {
		return linuxudstpm.Open(path)
	}
	return linuxtpm.Open(path)
}

// withRoot calls use with the storage root key loaded.
func withRoot(path string, use func(t transport.TPM, root tpm2.NamedHandle, public tpm2.TPMTPublic) error) (err error) {
	t, err := openTPM(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(t)
	if err != nil {
		return err
	}
	defer func() {
		_, ferr := tpm2.FlushContext{FlushHandle: made.ObjectHandle}.Execute(t)
		err = errors.Join(err, ferr)
	}()
	public, err := made.OutPublic.Contents()
	if err != nil {
		return err
	}
	return use(t, tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}, *public)
}

// session encrypts what travels between the processor and the TPM: the wires can be
// listened to.
func session(root tpm2.NamedHandle, public tpm2.TPMTPublic, direction tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(root.Handle, public), direction)
}

// tpmSeal returns a secret as only that TPM opens it.
func tpmSeal(path string, secret []byte) (blob []byte, err error) {
	err = withRoot(path, func(t transport.TPM, root tpm2.NamedHandle, public tpm2.TPMTPublic) error {
		made, err := tpm2.Create{
			ParentHandle: tpm2.AuthHandle{
				Handle: root.Handle, Name: root.Name, Auth: session(root, public, tpm2.AESEncryption(128, tpm2.EncryptIn)),
			},
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
			}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
			}),
		}.Execute(t)
		if err != nil {
			return err
		}
		for _, part := range [][]byte{tpm2.Marshal(made.OutPublic), tpm2.Marshal(made.OutPrivate)} {
			blob = append(binary.BigEndian.AppendUint32(blob, uint32(len(part))), part...)
		}
		return nil
	})
	return blob, err
}

var errBlob = errors.New("it is not what a TPM has sealed")

// cutPart returns the next part of a blob.
func cutPart(blob []byte) (part, rest []byte, err error) {
	if len(blob) < 4 {
		return nil, nil, errBlob
	}
	n := int64(binary.BigEndian.Uint32(blob))
	if n > int64(len(blob)-4) {
		return nil, nil, errBlob
	}
	return blob[4 : 4+n], blob[4+n:], nil
}

// readBlob is the inverse of what tpmSeal writes.
func readBlob(blob []byte) (public *tpm2.TPM2BPublic, private *tpm2.TPM2BPrivate, err error) {
	first, rest, err := cutPart(blob)
	if err != nil {
		return nil, nil, err
	}
	second, _, err := cutPart(rest)
	if err != nil {
		return nil, nil, err
	}
	if public, err = tpm2.Unmarshal[tpm2.TPM2BPublic](first); err != nil {
		return nil, nil, errBlob
	}
	if private, err = tpm2.Unmarshal[tpm2.TPM2BPrivate](second); err != nil {
		return nil, nil, errBlob
	}
	return public, private, nil
}

// tpmOpen returns what tpmSeal has sealed.
func tpmOpen(path string, blob []byte) (secret []byte, err error) {
	inPublic, inPrivate, err := readBlob(blob)
	if err != nil {
		return nil, err
	}
	err = withRoot(path, func(t transport.TPM, root tpm2.NamedHandle, public tpm2.TPMTPublic) error {
		loaded, err := tpm2.Load{ParentHandle: root, InPrivate: *inPrivate, InPublic: *inPublic}.Execute(t)
		if err != nil {
			return err
		}
		opened, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{
			Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: session(root, public, tpm2.AESEncryption(128, tpm2.EncryptOut)),
		}}.Execute(t)
		if err == nil {
			secret = bytes.Clone(opened.OutData.Buffer)
		}
		_, ferr := tpm2.FlushContext{FlushHandle: loaded.ObjectHandle}.Execute(t)
		return errors.Join(err, ferr)
	})
	return secret, err
}
