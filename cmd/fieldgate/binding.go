package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

// binding makes a leaf of a device that is reached by a driver.
type binding struct {
	remote
	leaf    string // "": only look
	auth    string
	keyFile string
}

func (b *binding) flags(c *cobra.Command) {
	b.remote.flags(c)
	c.Flags().StringVar(&b.leaf, "as", "", "the `LEAF` that it becomes")
	c.Flags().StringVar(&b.auth, "auth", "", "how the leaf is proven to the hub: key or gateway; by default what is usual here")
	c.Flags().StringVar(&b.keyFile, "hub-key-file", "", "its key at the hub is in `FILE`; - is standard input")
}

// bind has the daemon write the tables of the leaf, and serve it.
func (b *binding) bind(ctx context.Context, std streams, what string, a control.Admission) error {
	a.ID, a.Auth = b.leaf, b.auth
	if b.keyFile != "" {
		text, err := readSecret(std, b.keyFile)
		if err != nil {
			return &failure{exitFailed, "cannot read the key", err, "name a file that can be read, or - for standard input"}
		}
		a.HubKey = text
	}
	_, err := b.client().AddDevice(ctx, a)
	return b.failed(what, err)
}
