package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
)

func bleCommand(std streams) *cobra.Command {
	return group("ble", "Look around over Bluetooth, pair devices",
		scanBLECommand(std), pairBLECommand(std), forgetBLECommand(std))
}

// bleHint is what to do about a device that is not found.
const bleHint = "switch it on, bring it near, make it ready to be paired; what is heard: fieldgate ble scan"

func scanBLECommand(std streams) *cobra.Command {
	r := remote{list: bleHint}
	var length time.Duration
	c := &cobra.Command{
		Use:   "scan",
		Short: "List the devices that are heard",
		Long: `Asks all Bluetooth devices around for their names and lists those that are heard,
the strongest first.`,
		Example: "  fieldgate ble scan --for 10s",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := r.client().HeardDevices(cmd.Context(), length)
			if err != nil {
				return r.failed("cannot listen", err)
			}
			if !r.forPeople() {
				return encode(std.out, r.output, found)
			}
			t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "ADDRESS\tDBM\tPAIRED\tNAME")
			for _, f := range found {
				strength, paired := "-", "no"
				if f.RSSI != 0 {
					strength = strconv.Itoa(f.RSSI)
				}
				if f.Paired {
					paired = "yes"
				}
				putRow(t, f.Address, strength, paired, orDash(f.Name))
			}
			return t.Flush()
		},
	}
	r.flags(c, forms...)
	c.Flags().DurationVar(&length, "for", 5*time.Second, "how long to listen, up to "+short(control.MaxScan))
	return c
}

func pairBLECommand(std streams) *cobra.Command {
	r := remote{list: bleHint}
	var passkey string
	var p control.Pairing
	c := &cobra.Command{
		Use:   "pair ADDRESS",
		Short: "Pair a device",
		Long: `Pairs the device at an address, and keeps its keys. What the device wants is asked
for: the passkey that it shows, or whether it shows the same number; the answer is
a line on standard input, and none rejects. A number that is to be typed at the
device is shown. A device that can prove nothing is paired only with --just-works.
What is paired becomes a leaf by a table [[ble.device]]. It exits with 0 if the
device is paired, 6 if the passkey is wrong or the numbers differ, 7 if it took too
long, 8 if the device is not heard, 9 if it can prove nothing.`,
		Example: "  fieldgate ble pair C8:12:34:56:78:9A\n  fieldgate ble pair C8:12:34:56:78:9A --passkey 123456",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Address = args[0]
			return pairDevice(cmd.Context(), std, &r, &p, passkey)
		},
	}
	r.flags(c)
	ceremonyFlags(c, &p, &passkey)
	return c
}

// ceremonyFlags are how a device proves that it is the one that is meant.
func ceremonyFlags(c *cobra.Command, p *control.Pairing, passkey *string) {
	c.Flags().StringVar(passkey, "passkey", "", "the number on the device's label, six `DIGITS`")
	c.Flags().BoolVar(&p.JustWorks, "just-works", false, "accept a device that proves nothing")
}

// pairDevice pairs a device; with a passkey of "" it is asked for.
func pairDevice(ctx context.Context, std streams, r *remote, p *control.Pairing, passkey string) error {
	if passkey != "" {
		n, err := passkeyOf(passkey)
		if err != nil {
			return fmt.Errorf("--passkey: %w", err)
		}
		p.Passkey = &n
	}
	in := bufio.NewReader(std.in)
	if err := r.client().PairDevice(ctx, *p, func(s control.Step) (control.Answer, error) { return answerStep(std, in, s) }); err != nil {
		const what = "the device is not paired"
		if errors.Is(err, control.ErrConflict) {
			return &failure{exitForbidden, what, err, "fieldgate ble forget " + p.Address + ", then pair it again"}
		}
		return r.failed(what, err)
	}
	fmt.Fprintln(std.out, "paired "+p.Address)
	return nil
}

func passkeyOf(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > control.MaxPasskey {
		return 0, fmt.Errorf("%q is no passkey: it has six digits", text)
	}
	return uint32(n), nil
}

// answerStep asks the operator. What cannot be read is asked again; the end of the
// input rejects.
func answerStep(std streams, in *bufio.Reader, s control.Step) (control.Answer, error) {
	switch s.Ask {
	case control.ShowNumber:
		fmt.Fprintf(std.err, "type %06d at the device\n", s.Number)
		return control.Answer{}, nil
	case control.AskAgree:
		fmt.Fprintf(std.err, "does the device show %06d? (yes or no) ", s.Number)
		line, err := readAnswer(in)
		return control.Answer{Yes: line == "yes" || line == "y"}, err
	}
	for {
		fmt.Fprint(std.err, "passkey that the device shows: ")
		line, err := readAnswer(in)
		if line == "" || err != nil {
			return control.Answer{}, err
		}
		n, err := passkeyOf(line)
		if err == nil {
			return control.Answer{Passkey: n, Yes: true}, nil
		}
		fmt.Fprintln(std.err, err)
	}
}

// readAnswer reads a line; none is no answer.
func readAnswer(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err == io.EOF {
		err = nil
	}
	return strings.ToLower(strings.TrimSpace(line)), err
}

func forgetBLECommand(std streams) *cobra.Command {
	return remote{list: "what is paired is marked in: fieldgate ble scan"}.asking(std, &cobra.Command{
		Use:     "forget ADDRESS",
		Short:   "Forget a paired device and its keys",
		Example: "  fieldgate ble forget C8:12:34:56:78:9A",
		Args:    cobra.ExactArgs(1),
	}, "the device is not forgotten", func(ctx context.Context, c *control.Client, args []string) (string, error) {
		return "forgotten " + args[0], c.ForgetDevice(ctx, args[0])
	})
}
