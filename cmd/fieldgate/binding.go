package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/pairing"
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

// within has do happen in a pairing window for the transport, in which the device at an
// address is claimed as the leaf. One that is open for it is used; else one is opened, and
// closed if do fails. After a wrong passkey it stays open and claimed, since these are
// counted in it. The window of somebody else is left alone.
func (b *binding) within(ctx context.Context, std streams, what, transport, address string, length time.Duration, do func() error) error {
	r := b.remote
	r.list = "remove that leaf first, if it is right: fieldgate device remove " + b.leaf
	opening := control.Opening{Seconds: min(length, pairing.MaxWindow).Seconds(), Auth: b.auth, Transport: transport}
	claim, err := r.client().Claim(ctx, control.Claiming{Opening: opening, ID: b.leaf, Address: address})
	if err != nil {
		return r.failed(what, err)
	}
	defer claim.Release(releaseWait)
	if claim.Opened {
		fmt.Fprintf(std.err, "pairing window open over %s until %s\n", transport, claim.Until.Format(time.RFC3339))
	}
	return do()
}

// releaseWait is how long a command that is done waits for its claim to be given up.
const releaseWait = 5 * time.Second

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
