package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
	"github.com/fieldgate/fieldgate/drivers/ble"
	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/pairing"
)

// blePairing is how a leaf is bound to a Bluetooth device.
type blePairing struct {
	binding
	pairing    control.Pairing
	passkey    string
	advertised bool
	peer       control.RadioPeer
	file       string // of characteristics
}

func pairBLELeafCommand(std streams) *cobra.Command {
	p := blePairing{binding: binding{remote: remote{list: bleHint}}}
	c := &cobra.Command{
		Use:   "ble ADDRESS --as LEAF",
		Short: "Pair a Bluetooth device and make a leaf of it",
		Long: `Pairs the device at an address, as "fieldgate ble pair" does, and makes it a leaf: its
bond is its identity. What it speaks is mqtt-sn, or gatt with the tables
[[ble.device.characteristic]] of a file.

With --advertised the device is not paired: it is a sensor that cannot be connected,
known by nothing but its address. All that it says is marked as unproven, with
fieldgate-trust = "advertised".

It happens in a pairing window: one that is open with --transport ble, or one that the
command opens and says so. A wrong passkey counts as a wrong code: the fifth closes the
window. A name that belongs to a leaf is an alarm, and closes it as well.

The tables are written into leaf.d, checked like all of the configuration, and count
at once, with the hub or without; other leaves notice nothing. It exits with 6 if the passkey is wrong or the numbers
differ, 7 if it took too long, 8 if the device is not heard, 9 if it can prove
nothing, or if the name belongs to a leaf.`,
		Example: "  fieldgate pair ble C8:12:34:56:78:9A --as valve-1 --passkey 123456 --characteristics valve.toml\n  fieldgate pair ble A4:C1:38:12:34:56 --as room-1 --advertised",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.pairing.Address, p.peer.Address = args[0], args[0]
			return p.pair(cmd.Context(), std)
		},
	}
	p.binding.flags(c)
	ceremonyFlags(c, &p.pairing, &p.passkey)
	c.Flags().BoolVar(&p.advertised, "advertised", false, "do not pair it: it only advertises, and proves nothing")
	c.Flags().StringVar(&p.peer.Format, "format", "", "what it speaks: gatt (default) or mqtt-sn; of one that advertises auto (default), bthome, ruuvi, mibeacon, atc, ibeacon or eddystone")
	c.Flags().StringVar(&p.file, "characteristics", "", "its tables [[ble.device.characteristic]] are in `FILE`, in TOML")
	c.MarkFlagsMutuallyExclusive("advertised", "passkey", "just-works")
	c.MarkFlagsMutuallyExclusive("advertised", "characteristics")
	_ = c.MarkFlagRequired("as") // there is such a flag
	return c
}

// pair is window, claim, proof, approval and binding: whoever types the name is the one
// who has seen the passkey.
func (p *blePairing) pair(ctx context.Context, std streams) error {
	const what = "cannot make a leaf of the device"
	if p.file != "" {
		text, err := os.ReadFile(p.file)
		if err != nil {
			return &failure{exitFailed, what, err, "name a file that can be read"}
		}
		p.peer.Tables = string(text)
	}
	if !p.advertised && p.peer.Format != mqttsn.Format && p.peer.Tables == "" {
		return &failure{exitUsage, what, errors.New("it is not said what is to be done with its characteristics"), "write them into a file and name it with --characteristics, or say --format mqtt-sn: docs/ble.md"}
	}
	return p.within(ctx, std, what, pairing.OverBLE, p.peer.Address, pairing.DefaultWindow+lookFor, func() error { return p.prove(ctx, std, what) })
}

// prove is proof and binding.
func (p *blePairing) prove(ctx context.Context, std streams, what string) error {
	if !p.advertised {
		p.peer.Pairing = ble.PairingPasskey
		if p.pairing.JustWorks {
			p.peer.Pairing = ble.PairingJustWorks
		}
		if err := pairDevice(ctx, std, &p.remote, &p.pairing, p.passkey); err != nil {
			return err
		}
	}
	if err := p.bind(ctx, std, what, control.Admission{Peer: &p.peer}); err != nil {
		return err
	}
	proof := "paired"
	if p.advertised {
		proof = "advertised: nothing proves what it says"
	}
	fmt.Fprintf(std.out, "%s is bound to %s, %s\n", p.leaf, p.peer.Address, proof)
	return nil
}

// peerTables are the tables of a leaf over Bluetooth.
func peerTables(leaf string, p *control.RadioPeer) string {
	text := "\n[[ble.device]]\n"
	if p.Pairing == "" {
		text = "\n[[ble.advert]]\n"
	}
	text += fmt.Sprintf("address = %s\nleaf = %s\n", edit.Quote(p.Address), edit.Quote(leaf))
	for _, s := range []struct{ key, value string }{{"pairing", p.Pairing}, {"format", p.Format}} {
		if s.value != "" {
			text += fmt.Sprintf("%s = %s\n", s.key, edit.Quote(s.value))
		}
	}
	return text + p.Tables
}
