package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/spf13/cobra"
)

func certCommand(std streams) *cobra.Command {
	return group("cert", "Look after certificates",
		group("ca", "The gateway's own authority, which signs the certificates of leaves that pair",
			showAuthorityCommand(std), rotateAuthorityCommand(std)))
}

func showAuthorityCommand(std streams) *cobra.Command {
	var r remote
	var whole bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the authority of leaves",
		Long: `Shows the certificate of the authority with which the gateway signs the certificates
of leaves that pair, and the one from before the last rotation, if there was one.`,
		Example: "  fieldgate cert ca show\n  fieldgate cert ca show --pem > leaves-ca.pem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := r.client().Authority(cmd.Context())
			if err != nil {
				return r.failed("cannot show the authority", err)
			}
			if whole {
				fmt.Fprint(std.out, text)
				return nil
			}
			for i, rest := 0, []byte(text); ; i++ {
				var block *pem.Block
				if block, rest = pem.Decode(rest); block == nil {
					return nil
				}
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					return r.failed("cannot read the authority", err)
				}
				fmt.Fprintf(std.out, "%-7s  %s  %s\n", []string{"current", "former"}[min(i, 1)], hexPrint(c), c.Subject.CommonName)
			}
		},
	}
	r.flags(c)
	c.Flags().BoolVar(&whole, "pem", false, "show the certificates themselves")
	return c
}

func rotateAuthorityCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Give the authority of leaves a new key",
		Long: `Gives the authority a new key, with which certificates are signed from now on. Leaves
that have paired before stay as they are: each is known by its own certificate. The
former certificate is shown beside the new one until the next rotation.`,
		Example: "  fieldgate cert ca rotate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := r.client().RotateAuthority(cmd.Context()); err != nil {
				return r.failed("cannot rotate the authority", err)
			}
			fmt.Fprintln(std.out, "the authority of leaves has a new key")
			return nil
		},
	}
	r.flags(c)
	return c
}

// hexPrint is the SHA-256 of a certificate in hexadecimal.
func hexPrint(c *x509.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(c.Raw)) }
