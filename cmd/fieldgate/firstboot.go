package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/firstboot"
	"github.com/fieldgate/fieldgate/gateway/pairing"
	"github.com/fieldgate/fieldgate/gateway/seal"
)

// appliance is where on the machine things are put that a card brings.
type appliance struct {
	from     []string
	hostName bool
	wipe     bool
	gateway  firstboot.Gateway
}

func (a *appliance) flags(c *cobra.Command) {
	g := &a.gateway
	c.Flags().StringArrayVar(&a.from, "from", []string{"/boot"}, "`FOLDER` in which fieldgate.toml may be; can be given again, the last one counts")
	c.Flags().StringVarP(&g.Config, "config", "c", defaultConfig(), "configuration `FILE`")
	c.Flags().StringVar(&g.SSHKeys, "ssh-keys", "/data/ssh/authorized_keys", "`FILE` of sshd with the keys of those who may log in")
	c.Flags().StringVar(&g.WiFi, "wifi", "/data/wifi/wpa_supplicant.conf", "configuration `FILE` of wpa_supplicant")
	c.Flags().StringVar(&g.Data, "data", defaults().Gateway.DataDir, "data `FOLDER` of the gateway, which a reset empties")
}

// ready completes what the flags have begun.
func (a *appliance) ready() *firstboot.Gateway {
	g := &a.gateway
	if a.wipe {
		a.from[0] = filepath.Clean(a.from[0]) // it is compared
		g.Card = a.from[0]
	}
	if whole, err := filepath.Abs(g.Config); err == nil {
		g.Config = whole // its folder names secrets
	}
	known := make(map[string]bool)
	var note func(s *shape)
	note = func(s *shape) {
		for _, k := range s.keys {
			known[k.path] = true
			if k.table != nil {
				note(k.table)
			}
		}
	}
	note(configShape())
	g.Known = func(path string) bool { return known[path] }
	g.Hash = pairing.HashPassword
	g.Sealer = a.sealer
	g.Check = func(text []byte) error {
		_, err := loadConfigWith(g.Config, map[string][]byte{g.Config: text})
		if all, ok := errors.AsType[invalid](err); ok {
			each := make([]error, len(all))
			for i, p := range all {
				each[i] = p
			}
			return errors.Join(each...)
		}
		return err
	}
	return g
}

// sealer makes ready to seal secrets of a configuration that does not count yet, with
// the key that the daemon will find.
func (a *appliance) sealer(text []byte) (func([]byte) []byte, error) {
	at := defaults()
	at.Gateway.DataDir = a.gateway.Data
	var says struct {
		Gateway struct {
			DataDir string  `toml:"data_dir"`
			TPM     *string `toml:"tpm"`
		} `toml:"gateway"`
	}
	if err := toml.Unmarshal(text, &says); err == nil { // what is wrong with it is said when it is checked
		at.Gateway.DataDir = cmp.Or(says.Gateway.DataDir, at.Gateway.DataDir)
		if says.Gateway.TPM != nil {
			at.Gateway.TPM = *says.Gateway.TPM
		}
	}
	if !filepath.IsAbs(at.Gateway.DataDir) {
		at.Gateway.DataDir = filepath.Join(filepath.Dir(a.gateway.Config), at.Gateway.DataDir)
	}
	machine, err := seal.Make(at.place())
	if err != nil {
		return nil, err
	}
	return func(secret []byte) []byte {
		if seal.Sealed(secret) {
			return secret
		}
		return machine.Seal(secret)
	}, firstboot.GiveToDaemon(at.place().Files()...)
}

func firstBootCommand(std streams) *cobra.Command {
	var a appliance
	c := &cobra.Command{
		Use:   "first-boot",
		Short: "Apply what is on the card: configuration, SSH keys, Wi-Fi",
		Long: `Applies fieldgate.toml of the boot partition, or of a stick, once: later only when it
is another one. Secrets in it are moved into files that the daemon alone can read, and
stars stand in their place on the card. FIELDGATE-STATUS.txt beside it says what became
of it. A file RESET there takes everything away first. A unit runs this before the
daemon starts.

Host name, SSH keys and Wi-Fi are taken from what Raspberry Pi Imager writes, too:
rpi-preseed.toml, custom.toml, user-data, network-config. fieldgate.toml counts more.`,
		Example: "  fieldgate first-boot --from /boot --from /run/fieldgate/stick",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return a.boot(std) },
	}
	a.flags(c)
	c.Flags().BoolVar(&a.hostName, "host-name", false, "name the machine as [gateway] name says, or fieldgate- and a part of its serial number")
	c.Flags().BoolVar(&a.wipe, "wipe", false, "the first folder is the machine's own boot partition: note when its free room, in which editors leave secrets, is to be overwritten by report")
	c.AddCommand(reportCommand(std))
	return c
}

func (a *appliance) boot(std streams) error {
	const what = "cannot apply what is on the card"
	g := a.ready()
	reset, err := g.Reset(a.from...)
	if err != nil {
		return &failure{exitFailed, "cannot reset the gateway", err, "it is tried again at the next start"}
	}
	if reset {
		fmt.Fprintln(std.out, "reset: configuration, keys and data are gone")
	}
	for _, from := range a.from {
		outcome, wrong := g.Apply(from)
		if outcome == firstboot.Applied {
			fmt.Fprintf(std.out, "applied what is in %s\n", from)
		}
		err = errors.Join(err, wrong)
	}
	if a.hostName {
		err = errors.Join(err, a.nameMachine())
	}
	err = errors.Join(err, a.writeStatus(nil, false))
	if err != nil {
		return &failure{exitConfig, what, err, "mend " + firstboot.File + " on the card, and start the gateway again"}
	}
	return nil
}

// nameMachine gives the machine its name, until it is switched off.
func (a *appliance) nameMachine() error {
	name := cmp.Or(a.gateway.Name(), "fieldgate-"+serialEnd("/"))
	if cfg, err := loadConfig(a.gateway.Config); err == nil {
		if own, _ := os.Hostname(); cfg.Gateway.Name != own && cfg.Gateway.Name != "" {
			name = cfg.Gateway.Name
		}
	}
	return unix.Sethostname([]byte(name))
}

// serialEnd is the end of the machine's serial number, or of its machine-id(5).
func serialEnd(root string) string {
	for _, file := range []string{"proc/device-tree/serial-number", "sys/class/dmi/id/product_serial", "etc/machine-id"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		text = bytes.Trim(text, " \x00\r\n")
		if err == nil && len(text) >= 4 {
			return strings.ToLower(string(text[len(text)-4:]))
		}
	}
	return "0000"
}

func reportCommand(std streams) *cobra.Command {
	var a appliance
	var r remote
	c := &cobra.Command{
		Use:   "report",
		Short: "Write on the card how the gateway is and what to do",
		Long: `Writes FIELDGATE-STATUS.txt beside fieldgate.toml, where it says something else than
before: whoever has only the card can read it. A timer runs this.

With --wipe it then overwrites the free room of that partition once after secrets were
taken from it, and after a reset: editors write a file anew, and earlier versions stay
where they were. The partition is full meanwhile.`,
		Example: "  fieldgate first-boot report --from /boot --wipe",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.ready()
			var s state
			err := r.client().State(cmd.Context(), &s)
			running := err == nil
			_ = a.gateway.Clear() // or there is no room for the status; Wipe says what is wrong
			err = a.writeStatus(&s, running)
			if a.wipe && err == nil {
				err = errors.Join(a.gateway.Wipe(cmd.Context()), a.writeStatus(&s, running))
			}
			if err != nil {
				return &failure{exitFailed, "cannot write on the card", err, "look whether the boot partition is mounted"}
			}
			fmt.Fprint(std.out, a.status(&s, running))
			return nil
		},
	}
	a.flags(c)
	c.Flags().BoolVar(&a.wipe, "wipe", false, "overwrite the free room of the first folder, a partition of at most 1 GiB, where that is due")
	r.flags(c)
	return c
}

// writeStatus writes the status onto the card, which is the first of the folders.
func (a *appliance) writeStatus(s *state, running bool) error {
	if _, err := os.Stat(a.from[0]); err != nil {
		return nil // there is no card to write on
	}
	return firstboot.WriteStatus(a.from[0], a.status(s, running))
}

// status is what the file on the card says. There is nothing in it that changes with
// every look: a card is not to be worn by it.
func (a *appliance) status(s *state, running bool) string {
	var out strings.Builder
	line := func(name, text string) {
		fmt.Fprintf(&out, "%-8s %s\n", name, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n         "))
	}
	what, wrong, next := a.diagnosis(s, running)
	line("STATE", what)
	if wrong != "" {
		line("WRONG", wrong)
	}
	line("NEXT", next)
	name, _ := os.Hostname()
	line("NAME", name)
	addresses := machineAddresses()
	if len(addresses) == 0 {
		line("ADDRESS", "none: there is no network")
	} else {
		line("ADDRESS", strings.Join(addresses, " "))
	}
	if info, err := os.Stat(a.gateway.SSHKeys); err == nil && info.Size() > 0 {
		line("SSH", "ssh root@"+name)
	} else {
		line("SSH", "closed: write authorized_keys under [ssh] in fieldgate.toml on this card")
	}
	if residue := a.gateway.Residue(); residue != "" {
		line("CARD", residue)
	}
	return out.String()
}

// diagnosis says how the gateway is, what is wrong and what to do about it.
func (a *appliance) diagnosis(s *state, running bool) (what, wrong, next string) {
	const again = ", and start the gateway again"
	if m := a.gateway.Mistake(); m != "" {
		file := firstboot.File
		if name, _, ok := strings.Cut(m, ":"); ok && firstboot.Takes(name) {
			file = name
		}
		what = file + " was not applied"
		if running {
			what += "; the one before counts: " + s.Uplink.where()
		}
		return what, m, "mend these places in " + file + " on this card" + again
	}
	_, err := os.Stat(a.gateway.Config)
	switch {
	case err != nil:
		return "waits for its configuration", "", "write fieldgate.toml on this card" + again
	case !running:
		if _, err := loadConfig(a.gateway.Config); err != nil {
			return "the configuration has mistakes", err.Error(), "mend them, or write fieldgate.toml on this card" + again
		}
		return "configured, and starting", "", "wait a minute"
	case s.Uplink.Connected && s.Uplink.OwnRefused != "":
		return s.Uplink.where(), s.Uplink.OwnRefused, uplinkAdvice(s.Uplink.OwnRefused)
	case s.Uplink.Connected:
		return s.Uplink.where(), "", "nothing: all is well"
	}
	return s.Uplink.where(), s.Uplink.LastError, uplinkAdvice(s.Uplink.LastError)
}

// where says in words that do not change with the time how the uplink is.
func (u *uplinkState) where() string {
	if u.Connected {
		return "connected to " + u.Hub
	}
	return "not connected to " + u.Hub
}

// uplinkAdvice is what to do about an error of the uplink.
func uplinkAdvice(text string) string {
	low := strings.ToLower(text)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(low, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("unauthorized", "401", "not authorized", "not accepted"):
		return "the hub refuses the gateway: write the connection string of an enabled device into fieldgate.toml on this card, and start the gateway again"
	case has("no such host", "lookup "):
		return "the name of the hub is wrong, or the network resolves no names: look at host under [hub] in fieldgate.toml, and at the network"
	case has("expired or is not yet valid"):
		return "the clock here, or the hub's certificate, is of the wrong time: the clock is set by a time server, which the network must let in (NTP, port 123), or by hand over SSH: date -s"
	case has("certificate", "x509"):
		return "what answers is not the hub, or its authority is not known: look at host and ca_file under [hub] in fieldgate.toml"
	case has("clock"):
		return "wait until the clock is set, which needs a time server"
	}
	return "it tries again by itself; look at the cable, or at [wifi] in fieldgate.toml, and whether the network lets port 5671 or 443 out"
}

// machineAddresses are the addresses under which the machine can be reached.
func machineAddresses() (all []string) {
	list, _ := net.InterfaceAddrs() // none is said as such
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			all = append(all, n.IP.String())
		}
	}
	return all
}

func factoryResetCommand(std streams) *cobra.Command {
	var a appliance
	var yes bool
	c := &cobra.Command{
		Use:   "factory-reset",
		Short: "Take configuration, keys and data away at the next start",
		Long: `At the next start of the machine, before the daemon starts, all of this is deleted:
the configuration, keys and certificates, SSH keys, and the data folder, with
messages in it that no hub has taken yet. A file RESET on the card does the same.`,
		Example: "  sudo fieldgate factory-reset --yes && sudo systemctl reboot",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if !yes {
				return &failure{exitUsage, "nothing is reset", errors.New("it deletes the configuration, all keys, and messages that no hub has taken yet"), "run it with --yes if that is meant"}
			}
			if err := a.ready().Request(); err != nil {
				return &failure{exitFailed, "cannot ask for the reset", err, "run it with sudo"}
			}
			// The daemon need not run, and its log goes with the data: the journal may stay.
			log := slog.New(newJournalFields(slog.LevelInfo, slog.DiscardHandler))
			log.Warn("factory reset: an operator has asked for it, everything is deleted at the next start", "event", "factory-reset", "uid", os.Getuid())
			fmt.Fprintln(std.out, "at the next start everything is deleted: systemctl reboot")
			return nil
		},
	}
	a.flags(c)
	c.Flags().BoolVar(&yes, "yes", false, "it is meant")
	return c
}

func motdCommand(std streams) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:     "motd",
		Short:   "Say in a few lines how the gateway is, for whoever logs in",
		Example: "  fieldgate motd",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s state
			err := r.client().State(cmd.Context(), &s)
			if err != nil {
				f := r.failed("", err).(*failure)
				what := err.Error()
				if f.code == exitNotRunning {
					what = "the daemon does not run"
				}
				name, _ := os.Hostname()
				fmt.Fprintf(std.out, "Fieldgate on %s: %s\n%s\n", name, what, f.next)
				return nil // a login goes on
			}
			fmt.Fprintf(std.out, "fieldgate %s on %s, up %s, clock %s\n", s.Build.Version, s.Name, short(s.Now.Sub(s.Started)), s.Clock)
			all := s.judge(growth{})
			all.print(std.out)
			fmt.Fprintf(std.out, "uplink   %s\n", s.Uplink.line(s.Now))
			waiting := 0
			for _, l := range s.Store.Lanes {
				waiting += l.Messages
			}
			fmt.Fprintf(std.out, "store    %s on flash; %d leaves connected\n", count(waiting, "message", "messages"), s.Leaves.Connected)
			all.printNext(std.out)
			fmt.Fprintln(std.out, "run: fieldgate status")
			return nil
		},
	}
	r.flags(c)
	return c
}
