package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/drivers/serial/port"
)

// ports is where the ports of a machine are looked for.
type ports struct {
	root string
	file string // configuration, which says what some are used for
}

func (p *ports) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.root, "root", "/", "where /sys of the machine is, `FOLDER`")
	c.Flags().StringVarP(&p.file, "config", "c", defaultConfig(), "configuration `FILE`")
}

// listedPort is a port in the output.
type listedPort struct {
	Name   string `json:"name"`   // for [[serial]] port
	Device string `json:"device"` // at present, "" if it is not there
	Leaf   string `json:"leaf"`   // whose it is by the configuration, "" if it is nobody's
}

// whose says by the names of ports in the configuration which leaf they belong to.
// Without a configuration they are nobody's.
func (p *ports) whose() map[string]string {
	whose := make(map[string]string)
	if s, err := readSettings(p.file, true); err == nil {
		for _, one := range s.all {
			if one.key != nil && one.key.path == "serial[].port" {
				table := one.steps[0].element.values
				leaf, _ := table["leaf"].(string)
				whose[fmt.Sprint(one.value)] = cmp.Or(leaf, "(several)")
			}
		}
	}
	return whose
}

// list returns the ports of the machine, and those of the configuration that are none of
// them: a pseudo-terminal, or an adapter that is not plugged in. It is in the order of
// their names.
func (p *ports) list() []listedPort {
	whose := p.whose()
	all := []listedPort{}
	for _, s := range board.SerialPorts(p.root) {
		all = append(all, listedPort{s.Name, s.Device, cmp.Or(whose[s.Name], whose[s.Device])})
		delete(whose, s.Name)
		delete(whose, s.Device)
	}
	for name, leaf := range whose {
		device, err := port.Find(name)
		if err != nil {
			device = ""
		}
		if i := slices.IndexFunc(all, func(one listedPort) bool { return one.Device == device && device != "" }); i >= 0 {
			all[i].Leaf = cmp.Or(all[i].Leaf, leaf) // it is called by another name there
			continue
		}
		all = append(all, listedPort{name, device, leaf})
	}
	slices.SortFunc(all, func(a, b listedPort) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Device, b.Device)) })
	return all
}

// present are those of the list that are there.
func (p *ports) present() []listedPort {
	return slices.DeleteFunc(p.list(), func(one listedPort) bool { return one.Device == "" })
}

func serialCommand(std streams) *cobra.Command {
	return group("serial", "Find serial ports", listPortsCommand(std), watchPortsCommand(std))
}

func listPortsCommand(std streams) *cobra.Command {
	var p ports
	var form formFlag
	c := &cobra.Command{
		Use:   "list",
		Short: "List the serial ports of the machine",
		Long: `Lists the serial ports of this machine under the names by which [[serial]] tables call
them, which stay the same when adapters are plugged in another order, and whose they
are by the configuration. What [[serial]] tables name besides, a pseudo-terminal or an
adapter that is not plugged in, is listed as well: without a device if it is not there.`,
		Example: "  fieldgate serial list",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all := p.list()
			if !form.forPeople() {
				return encode(std.out, form.output, all)
			}
			t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "PORT\tDEVICE\tLEAF")
			for _, one := range all {
				fmt.Fprintf(t, "%s\t%s\t%s\n", one.Name, orDash(one.Device), orDash(one.Leaf))
			}
			return t.Flush()
		},
	}
	p.flags(c)
	form.flag(c, forms...)
	return c
}

// watchEvery is how often ports are looked for.
const watchEvery = 200 * time.Millisecond

func watchPortsCommand(std streams) *cobra.Command {
	var p ports
	var limit time.Duration
	c := &cobra.Command{
		Use:   "watch",
		Short: "Say which serial ports come and go",
		Long: `Says which ports are there (=), come (+) and go (-) while adapters are plugged in and pulled out, so
that it is seen which one is which. It ends with Ctrl-C; with --timeout when one has
come, or with 7 when none has in that time.`,
		Example: "  fieldgate serial watch\n  fieldgate serial watch --timeout 1m",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return watchPorts(cmd.Context(), std.out, &p, limit)
		},
	}
	p.flags(c)
	c.Flags().DurationVar(&limit, "timeout", 0, "wait for one port that comes, so long; 0s watches until Ctrl-C")
	return c
}

// watchPorts ends when ctx does, or with a limit when a port has come.
func watchPorts(ctx context.Context, out io.Writer, p *ports, limit time.Duration) error {
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	before := p.present()
	for _, one := range before {
		fmt.Fprintf(out, "= %s %s\n", one.Name, one.Device)
	}
	for {
		now, came := p.present(), false
		for _, one := range before {
			if !slices.Contains(now, one) {
				fmt.Fprintf(out, "- %s %s\n", one.Name, one.Device)
			}
		}
		for _, one := range now {
			if !slices.Contains(before, one) {
				came = true
				fmt.Fprintf(out, "+ %s %s\n", one.Name, one.Device)
			}
		}
		if before = now; came && limit > 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			return &failure{exitTimedOut, "no port has come", fmt.Errorf("nothing was plugged in within %s", short(limit)), "plug the adapter in while this runs; what is there already: fieldgate serial list"}
		case <-ctx.Done():
			return nil
		}
	}
}
