package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/gateway/control"
	"github.com/fieldgate/fieldgate/gateway/identity"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// openAuthority reads the authority of leaves, or has it made when it is needed. Leaves
// that are here do not need it: where it cannot be read the gateway runs on, and
// whatever needs its key fails with the reason.
func openAuthority(cfg *config, log *slog.Logger) *identity.Authority {
	file := filepath.Join(cfg.Gateway.DataDir, "keys", "authority.pem")
	if cfg.machine != nil { // it lies in the clear where an older version has made it
		if _, err := cfg.machine.SealFile(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("the authority of leaves is not sealed", "file", file, "error", err)
		}
	}
	a, err := readAuthority(cfg, file)
	if err != nil {
		log.Warn("no leaf can pair with a certificate: the authority of leaves cannot be read", "file", file, "error", err)
		return identity.LostAuthority(err)
	}
	return a
}

func readAuthority(cfg *config, file string) (*identity.Authority, error) {
	text, err := seal.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	a, err := identity.OpenAuthority("Fieldgate leaves of "+cfg.Gateway.Name, string(text), func(text string) error {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		return writeNew(file, cfg.sealed(text), 0o600)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return a, nil
}

// knows says whether there is a leaf of that name, also a disabled one.
func (d *devices) knows(id string) bool {
	_, known := d.roster.leaf(id)
	return known
}

// at returns the port or the device that a leaf is bound to, "" for none.
func (d *devices) at(id string) string {
	for _, s := range d.fleet.of(id) {
		return s.address
	}
	return ""
}

// pair admits a leaf that has paired, with a certificate or a password.
func (d *devices) pair(a *identity.Authority, r pairing.Request, auth string) (pairing.Answer, error) {
	n, out := newLeaf{id: r.ID, auth: auth}, pairing.Answer{ID: r.ID}
	var err error
	if r.CSR != nil {
		var print [sha256.Size]byte
		out.Certificate, print, err = a.Sign(r.ID, r.CSR)
		n.thumbprint = hex.EncodeToString(print[:])
	} else {
		out.Password = newPassword()
		n.passwordHash, err = pairing.HashPassword(out.Password)
	}
	if err == nil {
		err = d.enter(&n)
	}
	if err != nil {
		return pairing.Answer{}, err
	}
	return out, nil
}

// invite is what the QR code of a window says: FG:, the transport, where, the SHA-256
// of the certificate that is found there, and the code; set apart by semicolons.
func (g *assembly) invite(code pairing.Code) string {
	for i, l := range g.cfg.Broker.Listeners {
		if l.Plain || l.WebSocket {
			continue
		}
		shown, addresses := g.broker.Certificate(i), g.broker.Addrs()
		if shown == nil || i >= len(addresses) {
			continue
		}
		_, port, _ := net.SplitHostPort(addresses[i].String())
		print := sha256.Sum256(shown.Raw)
		return fmt.Sprintf("FG:mqtt;%s;%x;%s", net.JoinHostPort(g.cfg.Gateway.Name, port), print, code.Text())
	}
	return "FG:mqtt;" + g.cfg.Gateway.Name + ";;" + code.Text()
}

// pairHint is what to do where a window or a claim is missing.
const pairHint = "look: fieldgate pair status"

func pairCommand(std streams) *cobra.Command {
	return group("pair", "Let a new leaf join, on the spot",
		openWindowCommand(std), windowStatusCommand(std), windowCodeCommand(std), closeWindowCommand(std), pairSerialCommand(std), pairBLELeafCommand(std))
}

func openWindowCommand(std streams) *cobra.Command {
	r := remote{list: pairHint}
	var o control.Opening
	var limit time.Duration
	var qr bool
	c := &cobra.Command{
		Use:   "open",
		Short: "Open the pairing window and show its code",
		Long: `Opens the window in which one new leaf may join over MQTT, and shows its single-use
code. The leaf logs in with the user name "pair" and the code as its password,
subscribes to $fieldgate/pair/response and publishes on $fieldgate/pair/request

  {"id": "pump-7", "csr": "-----BEGIN CERTIFICATE REQUEST-----\n..."}

for a certificate, or {"id": "sensor-3", "password": true} for a password. Nobody else
hears the answer. It gets one when it is approved: fieldgate device approve pump-7.

With --transport serial or ble there is no code: fieldgate pair serial, or pair ble, are
used within the window then. They open one by themselves if none is open.

Five wrong codes, or passkeys, close the window. It exits with 9 if one is open already, or if wrong
codes were tried of late.`,
		Example: "  fieldgate pair open --qr\n  fieldgate pair open --auto --for 5m",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Seconds = limit.Seconds()
			w, err := r.client().OpenWindow(cmd.Context(), o)
			if err != nil {
				return r.failed("cannot open the pairing window", err)
			}
			if err := printWindow(std.out, &r, &w, qr); err != nil || !r.forPeople() {
				return err
			}
			fmt.Fprintf(std.out, "next   %s\n", nextInWindow(&o))
			return nil
		},
	}
	r.flags(c, textForms...)
	c.Flags().DurationVar(&limit, "for", pairing.DefaultWindow, "how long, up to "+short(pairing.MaxWindow))
	c.Flags().BoolVar(&o.Auto, "auto", false, "approve whoever has the code")
	c.Flags().StringVar(&o.Auth, "auth", "", "how the leaf is proven to the hub: key or gateway; by default what is usual here")
	c.Flags().BoolVar(&qr, "qr", false, "show a QR code as well")
	c.Flags().StringVar(&o.Transport, "transport", pairing.OverMQTT, fmt.Sprintf("over which `TRANSPORT` it may join, one of %v", control.Transports))
	_ = c.RegisterFlagCompletionFunc("transport", cobra.FixedCompletions(control.Transports, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// nextInWindow is what is to be done in a window that was opened like that.
func nextInWindow(o *control.Opening) string {
	switch {
	case o.Transport == pairing.OverSerial:
		return "fieldgate pair serial PORT --as LEAF"
	case o.Transport == pairing.OverBLE:
		return "fieldgate pair ble ADDRESS --as LEAF"
	case o.Auto:
		return `have the leaf log in as "pair" with the code: it is approved at once`
	}
	return `have the leaf log in as "pair" with the code, then: fieldgate pair status`
}

func printWindow(out io.Writer, r *remote, w *control.Opened, qr bool) error {
	if !r.forPeople() {
		return encode(out, r.output, w)
	}
	if w.Code == "" {
		fmt.Fprintf(out, "until  %s\n", w.Until.Format(time.RFC3339))
		return nil
	}
	fmt.Fprintf(out, "code   %s\nuntil  %s\n", w.Code, w.Until.Format(time.RFC3339))
	if qr {
		qrterminal.GenerateWithConfig(w.Payload, qrterminal.Config{
			Level: qrterminal.L, Writer: out, HalfBlocks: true, QuietZone: 2,
			BlackChar: qrterminal.BLACK_BLACK, WhiteChar: qrterminal.WHITE_WHITE,
			BlackWhiteChar: qrterminal.BLACK_WHITE, WhiteBlackChar: qrterminal.WHITE_BLACK,
		})
	}
	return nil
}

func windowCodeCommand(std streams) *cobra.Command {
	r := remote{list: pairHint}
	var qr bool
	c := &cobra.Command{
		Use:     "code",
		Short:   "Show the code of the window that is open",
		Example: "  fieldgate pair code --qr",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := r.client().WindowCode(cmd.Context())
			if err != nil {
				return r.failed("cannot show the code", err)
			}
			return printWindow(std.out, &r, &w, qr)
		},
	}
	r.flags(c, textForms...)
	c.Flags().BoolVar(&qr, "qr", false, "show a QR code as well")
	return c
}

func windowStatusCommand(std streams) *cobra.Command {
	r := remote{list: pairHint}
	c := &cobra.Command{
		Use:   "status",
		Short: "Say whether the window is open, and who has asked to join",
		Long: `Says whether the pairing window is open, which leaf has asked to join, with the
SHA-256 of its key to compare with what the leaf shows, and how the last window ended.`,
		Example: "  fieldgate pair status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := r.client().WindowState(cmd.Context())
			if err != nil {
				return r.failed("cannot read the state of the pairing window", err)
			}
			if !r.forPeople() {
				return encode(std.out, r.output, s)
			}
			printWindowState(std.out, &s, time.Now())
			return nil
		},
	}
	r.flags(c, textForms...)
	return c
}

func printWindowState(out io.Writer, s *pairing.WindowState, now time.Time) {
	switch {
	case s.Open:
		fmt.Fprintf(out, "window  open for %s, over %s\nwrong   %d codes\n", short(s.Until.Sub(now)), s.Transport, s.Wrong)
	case s.Retry.After(now):
		say(out, "window  closed; wrong codes were tried, it can be opened again in %s", short(s.Retry.Sub(now)))
	default:
		fmt.Fprintln(out, "window  closed")
	}
	if s.Claim != "" {
		say(out, "leaf    %s, %s", s.Claim, s.State)
	}
	switch {
	case s.Claim == "":
	case s.Address != "":
		say(out, "at      %s", s.Address)
	default:
		say(out, "key     %s", orDash(s.Key))
	}
	if s.Claim != "" && s.Address == "" && s.State == pairing.Claimed {
		say(out, "next    fieldgate device approve %s, or reject", s.Claim)
	}
	if s.Last != "" {
		say(out, "last    %s", s.Last)
	}
}

func closeWindowCommand(std streams) *cobra.Command {
	return remote{list: pairHint}.asking(std, &cobra.Command{
		Use:     "close",
		Short:   "Close the pairing window",
		Example: "  fieldgate pair close",
		Args:    cobra.NoArgs,
	}, "cannot close the pairing window", func(ctx context.Context, c *control.Client, _ []string) (string, error) {
		return "the pairing window is closed", c.CloseWindow(ctx)
	})
}

// decideCommands approve or reject the leaf that has asked to join.
func decideCommands(std streams) []*cobra.Command {
	decide := func(approve bool, done string) func(context.Context, *control.Client, []string) (string, error) {
		return func(ctx context.Context, c *control.Client, args []string) (string, error) {
			return args[0] + done, c.Decide(ctx, args[0], approve)
		}
	}
	return []*cobra.Command{
		changeDevice(std, pairHint, "approve LEAF", "Let the leaf join that has asked to pair",
			"Lets the leaf join that has asked to pair under that name; see fieldgate pair status.",
			decide(true, " is admitted")),
		changeDevice(std, pairHint, "reject LEAF", "Turn away the leaf that has asked to pair",
			"Turns away the leaf that has asked to pair under that name, and closes the window.",
			decide(false, " is turned away")),
	}
}
