package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

// binding makes a leaf of a device that is reached by a driver. Drivers read their
// tables when the gateway starts, so it starts again, within its process.
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

// mayBind says whether there is something in the way that can be seen beforehand. What
// else was changed and does not count yet is not the binding's to apply.
func (b *binding) mayBind(ctx context.Context, what string) error {
	pending, err := b.client().ApplyConfig(ctx, control.ConfigChange{Look: true})
	if err != nil {
		return b.failed(what, err)
	}
	if i := slices.IndexFunc(pending.Changes, func(k control.ConfigKey) bool { return !strings.HasPrefix(k.Key, "leaf") }); i >= 0 {
		return &failure{exitForbidden, what, fmt.Errorf("the configuration has changes that do not count yet, like %s", pending.Changes[i].Key), "apply them first, or undo them: fieldgate config apply --restart"}
	}
	return nil
}

// bind has the daemon write the tables of the leaf, and start again with them.
func (b *binding) bind(ctx context.Context, std streams, what string, a control.Admission) error {
	a.ID, a.Auth = b.leaf, b.auth
	if b.keyFile != "" {
		text, err := readSecret(std, b.keyFile)
		if err != nil {
			return &failure{exitFailed, "cannot read the key", err, "name a file that can be read, or - for standard input"}
		}
		a.HubKey = text
	}
	if _, err := b.client().AddDevice(ctx, a); err != nil {
		return b.failed(what, err)
	}
	// There is nothing to go back to: the hub's connection does not hang on a driver.
	again := applying{remote: b.remote, restart: true}
	return again.apply(ctx, streams{in: std.in, out: io.Discard, err: io.Discard}, control.ConfigChange{})
}
