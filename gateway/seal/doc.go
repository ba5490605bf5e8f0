// Package seal keeps secrets on flash so that only this machine can read them: each
// in its own file, encrypted with the machine's key. The machine's key is, the first
// that there is:
//
//   - what systemd hands to the service as the credential "fieldgate.machine-key";
//   - a key that the TPM has sealed, in machine.tpm of the data folder;
//   - machine.key of the data folder, mode 0600.
//
// Against whoever pulls the card out only the first two help; the last keeps secrets
// out of backups, bundles and copies of the configuration folder.
package seal
