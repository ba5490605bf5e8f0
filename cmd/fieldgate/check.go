package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/rights"
	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/control"
)

// finding is what one check came to. The names are stable.
type finding struct {
	ID     string `json:"id"`
	Result result `json:"result"`
	What   string `json:"what"`
	Why    string `json:"why,omitempty"`
	Next   string `json:"next,omitempty"` // the command that mends it

	code int // exit code of an error
}

// result is the outcome of a check.
type result string

// The outcomes. A warning is something that will become an error, or that costs
// something; skipped is what could not be asked, because of another finding.
const (
	resultOK      result = "ok"
	resultWarning result = "warning"
	resultError   result = "error"
	resultSkipped result = "skipped"
)

func fine(format string, args ...any) []finding {
	return []finding{{Result: resultOK, What: fmt.Sprintf(format, args...)}}
}

func passOver(format string, args ...any) []finding {
	return []finding{{Result: resultSkipped, What: fmt.Sprintf(format, args...)}}
}

func wrong(code int, what string, why error, next string) []finding {
	f := finding{Result: resultError, What: what, Next: next, code: code}
	if why != nil {
		f.Why = strings.ReplaceAll(why.Error(), "\n", "; ")
	}
	return []finding{f}
}

// check is one question that "fieldgate check" asks.
type check struct {
	id    string
	asks  string
	needs []string // checks that must not have failed
	run   func(*examiner, context.Context) []finding
}

// checks are all of them, in the order in which one hangs on the other: what is
// wrong first is mended first.
var checks = []check{
	{"config", "does the configuration have mistakes?", nil, (*examiner).checkConfig},
	{"daemon", "does the daemon run?", nil, (*examiner).checkDaemon},
	{"disk", "has the data folder room, and can it be written?", []string{"config"}, (*examiner).checkDisk},
	{"store", "can the daemon write its store, and do the lanes have room?", []string{"config"}, (*examiner).checkStore},
	{"serial", "are the serial ports plugged in?", []string{"config"}, (*examiner).checkSerial},
	{"dns", "can the hub's name be looked up?", []string{"config"}, (*examiner).checkDNS},
	{"reach", "can the hub be reached on the ways that are configured?", []string{"config", "dns"}, (*examiner).checkReach},
	{"clock", "is the clock right, by the hub's?", []string{"config"}, (*examiner).checkClock},
	{"certificate", "are the certificates that leaves see good?", []string{"config", "clock"}, (*examiner).checkCertificates},
	{"hub-certificate", "does the hub prove that it is the hub?", []string{"config", "dns", "reach"}, (*examiner).checkHubCertificate},
	{"throttling", "does the hub ask to wait?", []string{"config", "dns", "reach", "clock", "hub-certificate"}, (*examiner).checkThrottling},
	{"identity", "does the hub take the leaves' keys?", []string{"config", "dns", "reach", "clock", "hub-certificate", "throttling"}, (*examiner).checkIdentities},
}

// examiner asks the questions and remembers what it has found out.
type examiner struct {
	file    string
	socket  string // "": that of the configuration
	timeout time.Duration
	offline bool // nobody is asked but this machine

	who      rights.User // with which the files of the configuration are read
	cfg      *config
	clock    gateway.Clock
	state    *state    // nil: no daemon has answered
	attempts []attempt // one for each way that is configured
	time     time.Time // the hub's, zero: unknown
	asked    bool      // throttling and identities have been asked for
	verdicts []verdict
	refusal  error // of the connection itself
}

// examine asks all questions but those that are not wanted.
func (x *examiner) examine(ctx context.Context, wanted func(id string) bool) (all []finding) {
	failed := make(map[string]bool)
	for _, c := range checks {
		if !wanted(c.id) && !needed(c.id, wanted) {
			continue
		}
		found := x.one(ctx, &c, failed)
		for i := range found {
			found[i].ID = c.id
			failed[c.id] = failed[c.id] || found[i].Result == resultError
		}
		if wanted(c.id) {
			all = append(all, found...)
		}
	}
	return all
}

// needed says that a check is not asked for, but one that hangs on it is.
func needed(id string, wanted func(string) bool) bool {
	return slices.ContainsFunc(checks, func(c check) bool { return wanted(c.id) && slices.Contains(c.needs, id) })
}

func (x *examiner) one(ctx context.Context, c *check, failed map[string]bool) []finding {
	for _, n := range c.needs {
		if failed[n] {
			return passOver("cannot be asked before %s is mended", n)
		}
	}
	return c.run(x, ctx)
}

func checkCommand(std streams) *cobra.Command {
	x := examiner{}
	var r remote
	var list bool
	var only, ignore []string
	c := &cobra.Command{
		Use:   "check",
		Short: "Find out what is wrong, and what mends it",
		Long: `Looks at the configuration, the machine, the daemon and the way to the hub, and
says for each thing that is wrong what it is, why, and the command that mends it.
It works with the daemon and without, changes nothing, and sends nothing on behalf
of a leaf: identities are only shown to the hub.

The exit code is 0 if there is no error, else that of the first: 3 configuration,
4 no daemon, 5 hub not reachable, 6 identity refused, 10 store, 1 the rest.`,
		Example: "  fieldgate check\n  fieldgate check --id dns --id reach\n  fieldgate check --ignore daemon --output json\n  fieldgate check --list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, id := range slices.Concat(only, ignore) {
				if !slices.ContainsFunc(checks, func(c check) bool { return c.id == id }) {
					return fmt.Errorf("there is no check %q: see fieldgate check --list", id)
				}
			}
			if list {
				return listChecks(std.out, r.output)
			}
			if !cmd.Flags().Changed("socket") {
				r.socket = ""
			}
			x.socket = r.socket
			all := x.examine(cmd.Context(), func(id string) bool {
				return !slices.Contains(ignore, id) && (len(only) == 0 || slices.Contains(only, id))
			})
			if err := writeFindings(std.out, r.output, all); err != nil {
				return err
			}
			return verdictOf(all)
		},
	}
	r.flags(c, forms...)
	x.flags(c)
	c.Flags().BoolVar(&list, "list", false, "list the checks")
	c.Flags().StringArrayVar(&only, "id", nil, "only this `CHECK`; may be repeated")
	c.Flags().StringArrayVar(&ignore, "ignore", nil, "leave this `CHECK` out; may be repeated")
	return c
}

func (x *examiner) flags(c *cobra.Command) {
	c.Flags().StringVarP(&x.file, "config", "c", defaultConfig(), "configuration `FILE`")
	c.Flags().DurationVar(&x.timeout, "timeout", 10*time.Second, "how long each step on the network may take")
}

func listChecks(out io.Writer, form string) error {
	type line struct {
		ID   string `json:"id"`
		Asks string `json:"asks"`
	}
	var all []line
	for _, c := range checks {
		all = append(all, line{c.id, c.asks})
	}
	if form != "table" {
		return encode(out, form, all)
	}
	for _, l := range all {
		say(out, "%-16s %s", l.ID, l.Asks)
	}
	return nil
}

func writeFindings(out io.Writer, form string, all []finding) error {
	if form != "table" {
		return encode(out, form, all)
	}
	for _, f := range all {
		say(out, "%-8s %-16s %s", f.Result, f.ID, f.What)
		if f.Why != "" {
			say(out, "         %-16s why: %s", "", f.Why)
		}
		if f.Next != "" {
			say(out, "         %-16s next: %s", "", f.Next)
		}
	}
	return nil
}

// verdictOf is the end of the command: nil, or the first error.
func verdictOf(all []finding) error {
	i := slices.IndexFunc(all, func(f finding) bool { return f.Result == resultError })
	if i < 0 {
		return nil
	}
	n := 0
	for _, f := range all {
		if f.Result == resultError {
			n++
		}
	}
	f := all[i]
	return &failure{max(f.code, exitFailed), "found " + count(n, "error", "errors"), errors.New(f.What), f.Next}
}

// client is that of the daemon: of the socket given, else of the configuration.
func (x *examiner) client() *control.Client {
	socket := x.socket
	if socket == "" && x.cfg != nil {
		socket = x.cfg.Control.Socket
	}
	if socket == "" {
		socket = control.DefaultSocket
	}
	return control.NewClient(socket)
}
