package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/keypair"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// place is where the machine's key is.
func (c *tables) place() seal.Place {
	return seal.Place{Dir: c.Gateway.DataDir, Credentials: os.Getenv("CREDENTIALS_DIRECTORY"), TPM: c.Gateway.TPM}
}

// sealed makes of a secret what is written: where there is no machine key it is the
// secret itself.
func (c *config) sealed(secret string) string {
	if c.machine == nil {
		return secret
	}
	return string(c.machine.Seal([]byte(secret)))
}

// secretFiles are all files that hold a secret: those that the configuration names,
// and those that the gateway has written itself, also keys of former certificates. Each
// comes once.
func (c *config) secretFiles() []string {
	keys := filepath.Join(c.Gateway.DataDir, "keys")
	kept, _ := filepath.Glob(filepath.Join(keys, "*.key"))
	authorities, _ := filepath.Glob(filepath.Join(keys, "*.pem"))
	all := slices.Concat(c.secrets, kept, authorities)
	for _, l := range c.Broker.Listeners {
		if !l.Plain {
			all = append(all, keypair.Place{Cert: l.CertFile, Key: l.KeyFile}.Keys()...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// keepsSecret says whether the configuration names a file for a secret.
func (c *config) keepsSecret(file string) bool {
	return slices.ContainsFunc(c.secrets, func(one string) bool {
		a, failed := filepath.Abs(one)
		b, err := filepath.Abs(file)
		return a == b || failed != nil || err != nil
	})
}

func secretsCommand(std streams) *cobra.Command {
	return group("secrets", "Keep keys and passwords so that only this machine can read them", secretsListCommand(std), secretsSealCommand(std))
}

// withSecrets adds --config and gives run the configuration.
func withSecrets(c *cobra.Command, run func(*config) error) *cobra.Command {
	var file string
	c.Args = cobra.NoArgs
	c.Flags().StringVarP(&file, "config", "c", defaultConfig(), "configuration `FILE`")
	c.RunE = func(*cobra.Command, []string) error {
		cfg, err := loadConfig(file)
		if err != nil {
			return configFailure(file, err, exitConfig, "mend it, or run this as the user of the daemon or as root")
		}
		return run(cfg)
	}
	return c
}

func secretsListCommand(std streams) *cobra.Command {
	return withSecrets(&cobra.Command{
		Use:     "list",
		Short:   "Say which secrets are sealed, and with what",
		Example: "  fieldgate secrets list",
	}, func(cfg *config) error {
		from := "none yet: fieldgate secrets seal makes one"
		if cfg.machine != nil {
			from = cfg.machine.From()
		}
		fmt.Fprintf(std.out, "machine key: %s\n", from)
		return eachSecret(cfg, std.out, func(name string) (string, error) {
			text, err := os.ReadFile(name)
			return map[bool]string{true: "sealed", false: "in the clear"}[seal.Sealed(text)], err
		})
	})
}

func secretsSealCommand(std streams) *cobra.Command {
	return withSecrets(&cobra.Command{
		Use:   "seal",
		Short: "Seal the secrets that lie in the clear",
		Long: `Encrypts each file that the configuration names for a secret (keys of leaves and of
listeners, hashes of passwords, keys of enrolment, passwords), and the keys of the
gateway's own authorities, in its place, with the key
of this machine: a systemd credential where there is one, else one that the TPM keeps,
else a file in the data folder that only its owner can read. It is made if there is none.

A sealed file can be read by this machine only. Keep the original elsewhere, or be ready
to give the leaf a new one. What stood there in the clear is overwritten, but flash may
keep old blocks.`,
		Example: `  sudo -u fieldgate fieldgate secrets seal
  fieldgate secrets seal --config /etc/fieldgate/fieldgate.toml`,
	}, func(cfg *config) error {
		machine, err := seal.Make(cfg.place())
		if err != nil {
			return &failure{exitFailed, "there is no key to seal with", err, "look at [gateway] data_dir and tpm"}
		}
		fmt.Fprintf(std.err, "sealing with %s\n", machine.From())
		return eachSecret(cfg, std.out, func(name string) (string, error) {
			changed, err := machine.SealFile(name)
			return map[bool]string{true: "sealed now", false: "sealed already"}[changed], err
		})
	})
}

// eachSecret writes what use says of each file.
func eachSecret(cfg *config, out io.Writer, use func(name string) (string, error)) error {
	var failed error
	files, width := cfg.secretFiles(), 0
	for _, name := range files {
		width = max(width, len(name))
	}
	for _, name := range files {
		says, err := use(name)
		if err != nil {
			failed, says = errors.Join(failed, err), "failed: "+err.Error()
		}
		fmt.Fprintf(out, "%-*s  %s\n", width, name, cmp.Or(says, "-"))
	}
	if failed != nil {
		return &failure{exitFailed, "not all secrets could be dealt with", failed, "run it as the user of the daemon or as root"}
	}
	return nil
}
