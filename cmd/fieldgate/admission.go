package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// Admit is described at control.Devices.
func (d *devices) Admit(_ context.Context, a control.Admission) (control.Admitted, error) {
	n := newLeaf{id: a.ID, auth: a.Auth, hubKey: strings.TrimSpace(a.HubKey), thumbprint: a.Thumbprint}
	out := control.Admitted{ID: a.ID}
	key := n.hubKey // with which the leaf makes its tokens
	switch {
	case a.Line != nil:
		n.lineKey = strings.TrimSpace(a.Line.Key)
		n.more = fmt.Sprintf("\n[[serial]]\nport = %s\nbaud = %d\nformat = %s\nleaf = %s\n",
			edit.Quote(a.Line.Port), a.Line.Baud, edit.Quote(a.Line.Format), edit.Quote(a.ID))
		key = ""
	case a.Peer != nil:
		n.more, key = peerTables(a.ID, a.Peer), ""
	case a.Password:
		out.Password = newPassword()
		var err error
		if n.passwordHash, err = pairing.HashPassword(out.Password); err != nil {
			return control.Admitted{}, err
		}
		key = ""
	case a.Thumbprint != "" || a.Auth == string(identity.AuthRelay):
		key = ""
	case key == "":
		n.loginKey = newKey()
		key = n.loginKey
	}
	if err := d.enter(&n); err != nil {
		return control.Admitted{}, err
	}
	if key != "" {
		cfg := d.roster.cfg
		out.ConnectionString = "HostName=" + cfg.Hub.Host + ";DeviceId=" + a.ID + ";SharedAccessKey=" + key + ";GatewayHostName=" + cfg.Gateway.Name
	}
	return out, nil
}

// enter writes a new leaf to flash and lets it in.
func (d *devices) enter(n *newLeaf) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if _, known := d.roster.leaf(n.id); known {
		return fmt.Errorf("%w: there is a leaf %q already", control.ErrConflict, n.id)
	}
	return d.changes.steady(n.id, func(back *wayBack) error {
		next, err := d.files.add(n, back)
		if err != nil {
			return err
		}
		l, err := next.leaf(n.id)
		if err == nil {
			err = d.roster.admit(l)
		}
		if err == nil {
			err = d.fleet.follow(next, n.id)
		}
		return err
	})
}

// Alter is described at control.Devices. A leaf that is disabled is out at once, even
// if that cannot be written down.
func (d *devices) Alter(_ context.Context, id string, a control.Alteration) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	l, known := d.roster.leaf(id)
	if !known {
		return fmt.Errorf("%w: there is no leaf %q", control.ErrNotFound, id)
	}
	if a.Disabled != nil {
		if err := d.disable(l, *a.Disabled); err != nil {
			return err
		}
	}
	if a.ID == "" || a.ID == id {
		return nil
	}
	if _, taken := d.roster.leaf(a.ID); taken {
		return fmt.Errorf("%w: there is a leaf %q already", control.ErrConflict, a.ID)
	}
	if !l.key.IsZero() {
		return fmt.Errorf("%w: the hub knows the key of %q under that name only: add %q with its own key, then remove %q", control.ErrConflict, id, a.ID, id)
	}
	name := strconv.Quote(a.ID)
	return d.changes.alter(id, "id", name, func() error {
		if err := d.changes.mayRenameLocked(); err != nil {
			return err
		}
		renamed, err := d.files.set(id, "id", name, a.ID)
		if err != nil {
			return err
		}
		d.roster.dismiss(id)
		return d.roster.admit(renamed)
	})
}

func (d *devices) disable(l leaf, out bool) error {
	value := ""
	if out {
		value = "true"
		l.Disabled = true
		if err := d.roster.admit(l); err != nil {
			return err
		}
	}
	return d.changes.alter(l.ID, "disabled", value, func() error {
		fresh, err := d.files.set(l.ID, "disabled", value, l.ID)
		switch {
		case err != nil && out:
			return fmt.Errorf("it is out now, but will be back after a restart: %w", err)
		case err != nil:
			return err
		}
		return d.roster.admit(fresh)
	})
}

// Dismiss is described at control.Devices.
func (d *devices) Dismiss(ctx context.Context, id string) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	former := d.fleet.of(id)
	err := d.changes.steady(id, func(back *wayBack) error {
		var runs *leaf
		if l, known := d.roster.leaf(id); known {
			runs = &l
		}
		rest, err := d.files.remove(id, runs, back)
		if rest == nil {
			return err
		}
		d.roster.dismiss(id)
		return errors.Join(err, d.fleet.follow(rest, id))
	})
	if err != nil || len(d.fleet.of(id)) > 0 {
		return err
	}
	if err := d.fleet.forget(ctx, former); err != nil {
		return fmt.Errorf("it is removed, but its keys are kept by the Bluetooth adapter: %w", err)
	}
	return nil
}

// newPassword makes a password of 128 random bits that can be typed.
func newPassword() string { return rand.Text() }

// newKey makes a key as long as those that the hub makes.
func newKey() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

func addDeviceCommand(std streams) *cobra.Command {
	r := remote{list: devicesHint}
	var a control.Admission
	var keyFile string
	var bare bool
	c := &cobra.Command{
		Use:   "add LEAF",
		Short: "Admit a leaf and print what it is to be given",
		Long: `Admits a leaf at once and for good, with the hub or without, and prints, once, the
secret that it is to be given: a connection string for a device SDK of the hub's
vendor, or with --password a password of 128 bits for a simple MQTT client. With
--thumbprint it logs in with its own certificate and needs no secret.

The key in the connection string is good at this gateway only, unless --hub-key-file
gives the key that the leaf has at the hub. Without that the gateway enrols the leaf
there when it can ([enrol]); until then what the leaf sends waits on flash. It exits
with 9 if there is a leaf of that name already.`,
		Example: "  fieldgate device add pump-1\n  fieldgate device add sensor-3 --password\n  fieldgate device add pump-2 --hub-key-file - < pump-2.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.ID = args[0]
			if keyFile != "" {
				text, err := readSecret(std, keyFile)
				if err != nil {
					return &failure{exitFailed, "cannot read the key", err, "name a file that can be read, or - for standard input"}
				}
				a.HubKey = text
			}
			out, err := r.client().AddDevice(cmd.Context(), a)
			if _, invalid := errors.AsType[*control.Invalid](err); invalid && a.HubKey == "" {
				return &failure{
					exitFailed, "cannot add the leaf", err,
					"give its key at the hub: --hub-key-file FILE; or say how leaves are enrolled there: fieldgate config list enrol --doc",
				}
			}
			if err != nil {
				return r.failed("cannot add the leaf", err)
			}
			if !r.forPeople() {
				return encode(std.out, r.output, out)
			}
			printAdmitted(std, &out, bare)
			return nil
		},
	}
	r.flags(c, textForms...)
	c.Flags().StringVar(&a.Auth, "auth", "", "how it is proven to the hub: key, relay or gateway; by default what is usual here")
	c.Flags().StringVar(&keyFile, "hub-key-file", "", "its key at the hub is in `FILE`; - is standard input")
	c.Flags().StringVar(&a.Thumbprint, "thumbprint", "", "SHA-1 or SHA-256 of its certificate, in hexadecimal `DIGITS`")
	c.Flags().BoolVar(&a.Password, "password", false, "it logs in with a password")
	c.Flags().BoolVar(&bare, "print-connection-string", false, "print the connection string and nothing else")
	c.MarkFlagsMutuallyExclusive("thumbprint", "password", "print-connection-string")
	return c
}

// readSecret reads a file that holds one secret.
func readSecret(std streams, file string) (string, error) {
	in := std.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, 4096))
	return strings.TrimSpace(string(text)), err
}

func printAdmitted(std streams, a *control.Admitted, bare bool) {
	switch {
	case bare:
		fmt.Fprintln(std.out, a.ConnectionString)
		return
	case a.ConnectionString != "":
		fmt.Fprintf(std.out, "connection string  %s\n", a.ConnectionString)
	case a.Password != "":
		fmt.Fprintf(std.out, "user      %s\npassword  %s\n", a.ID, a.Password)
	}
	fmt.Fprintf(std.err, "%s is admitted.", a.ID)
	if a.ConnectionString != "" || a.Password != "" {
		fmt.Fprint(std.err, " This is shown once: the gateway cannot show it again.")
	}
	fmt.Fprintln(std.err)
}

// changeDeviceCommands are those that change a leaf that is there.
func changeDeviceCommands(std streams) []*cobra.Command {
	yes, no := true, false
	return []*cobra.Command{
		changeDevice(std, devicesHint, "disable LEAF", "Keep a leaf out without forgetting it",
			`Ends the leaf's connections at once and lets it in no more, for good. What it has
handed over still goes to the hub.`,
			func(ctx context.Context, c *control.Client, args []string) (string, error) {
				return args[0] + " is disabled", c.AlterDevice(ctx, args[0], control.Alteration{Disabled: &yes})
			}),
		changeDevice(std, devicesHint, "enable LEAF", "Let a disabled leaf in again", "Lets a leaf in again that was disabled.",
			func(ctx context.Context, c *control.Client, args []string) (string, error) {
				return args[0] + " is enabled", c.AlterDevice(ctx, args[0], control.Alteration{Disabled: &no})
			}),
		changeDevice(std, devicesHint, "rename LEAF NAME", "Give a leaf another id",
			`Gives a leaf another id; its password or key stays. It is another device for the
hub then, and has to log in with the new id. One that has its hub key here cannot be
renamed.`,
			func(ctx context.Context, c *control.Client, args []string) (string, error) {
				return args[0] + " is " + args[1] + " now", c.AlterDevice(ctx, args[0], control.Alteration{ID: args[1]})
			}),
		changeDevice(std, devicesHint, "remove LEAF", "Forget a leaf",
			`Ends the leaf's connections at once and forgets its credentials. What it has handed
over still goes to the hub. One that stands in a file that the gateway has not written
itself is not removed: it says where it stands.`,
			func(ctx context.Context, c *control.Client, args []string) (string, error) {
				return args[0] + " is removed", c.RemoveDevice(ctx, args[0])
			}),
	}
}

func changeDevice(std streams, hint, use, short, long string, change func(context.Context, *control.Client, []string) (string, error)) *cobra.Command {
	verb, names, _ := strings.Cut(use, " ")
	example := "  fieldgate device " + verb + " pump-1"
	if verb == "rename" {
		example += " pump-7"
	}
	return remote{list: hint}.asking(std, &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: cobra.ExactArgs(len(strings.Fields(names))),
	}, "cannot "+verb+" the leaf", change)
}
