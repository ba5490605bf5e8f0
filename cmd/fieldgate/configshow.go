package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
)

func getKeyCommand(std streams) *cobra.Command {
	var l local
	c := &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a key",
		Long: `Prints the value of a key, which is its default where it is not set, or all keys of
a table with their values. In lists of tables one is named by its id or its place:
leaf.pump-1.key_file, leaf[id=pump-1].key_file or leaf[0].key_file. Leaves, ports
and the like that stand in files of leaf.d are found there.`,
		Example: "  fieldgate config get hub.keep_alive\n  fieldgate config get leaf.pump-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := l.read()
			if err != nil {
				return err
			}
			found, err := s.find(args[0])
			if err != nil {
				return err
			}
			if !l.forPeople() {
				return encode(std.out, l.output, toldAll(found))
			}
			for _, one := range found {
				text, plain := one.value.(string)
				switch {
				case len(found) > 1:
					fmt.Fprintf(std.out, "%s = %s\n", one.name, one.shown())
				case plain && !one.secret():
					fmt.Fprintln(std.out, text)
				default:
					fmt.Fprintln(std.out, one.shown())
				}
			}
			return nil
		},
	}
	l.flags(c, textForms...)
	return c
}

// told is a setting for JSON.
type told struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
	Set   bool   `json:"set"` // false: it is the default
	File  string `json:"file,omitempty"`
}

func toldAll(list []*setting) []told {
	all := make([]told, len(list))
	for i, one := range list {
		all[i] = told{one.name, one.seen(), one.set, one.file}
		if !one.set {
			all[i].File = ""
		}
	}
	return all
}

func showConfigCommand(std streams) *cobra.Command {
	var l local
	c := &cobra.Command{
		Use:   "show",
		Short: "Print the whole configuration as it counts",
		Long: `Prints the configuration with everything that counts: what the file and the files
of leaf.d say, and the defaults of all else. Secrets are not shown, nor is what is
in the files that the configuration names.`,
		Example: "  fieldgate config show\n  fieldgate config show --output json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := l.read()
			if err != nil {
				return err
			}
			if !l.forPeople() {
				return encode(std.out, l.output, s.nested())
			}
			s.print(std.out)
			return nil
		},
	}
	l.flags(c, "toml", "json", "yaml", "jsonl")
	return c
}

// nested is the whole configuration as a tree.
func (s *settings) nested() map[string]any {
	root := make(map[string]any)
	for _, one := range s.all {
		at := root
		for _, step := range one.steps[:len(one.steps)-1] {
			at = inner(at, step)
		}
		if v := one.seen(); v != nil {
			at[one.steps[len(one.steps)-1].name] = v
		}
	}
	return root
}

// inner is the table that a step leads to.
func inner(at map[string]any, s step) map[string]any {
	if s.element == nil {
		table, ok := at[s.name].(map[string]any)
		if !ok {
			table = make(map[string]any)
			at[s.name] = table
		}
		return table
	}
	list, _ := at[s.name].([]any)
	if s.element.index == len(list) {
		list = append(list, make(map[string]any))
		at[s.name] = list
	}
	return list[s.element.index].(map[string]any)
}

// print writes the whole configuration in TOML. What is a default says so.
func (s *settings) print(out io.Writer) {
	table := ""
	begun := make(map[*element]bool)
	for _, one := range s.all {
		around := one.steps[:len(one.steps)-1]
		if header := headerOf(around, begun); header != "" && (header != table || strings.HasPrefix(header, "[[")) {
			fmt.Fprintf(out, "\n%s\n", header)
			table = header
		}
		name := edit.Key(one.steps[len(one.steps)-1].name).String()
		switch {
		case one.secret():
			fmt.Fprintf(out, "# %s: %s\n", name, hidden)
		case one.value == nil:
		case one.set:
			fmt.Fprintf(out, "%s = %s\n", name, one.shown())
		default:
			fmt.Fprintf(out, "%s = %s # default\n", name, one.shown())
		}
	}
}

// headerOf is the header of a table: [[…]] when a table of a list begins, "" within it.
func headerOf(steps []step, begun map[*element]bool) string {
	if len(steps) == 0 {
		return ""
	}
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.name
	}
	path := edit.Key(names...)
	text := make([]string, len(path))
	for i := range path {
		text[i] = path[i : i+1].String()
	}
	e := steps[len(steps)-1].element
	switch {
	case e == nil:
		return "[" + strings.Join(text, ".") + "]"
	case begun[e]:
		return ""
	}
	begun[e] = true
	return "[[" + strings.Join(text, ".") + "]]"
}

func diffCommand(std streams) *cobra.Command {
	var l local
	c := &cobra.Command{
		Use:   "diff FILE",
		Short: "Say what another configuration file would change",
		Long: `Compares the configuration file with another one, key by key: how they are written
does not matter, and a default is the same as its value written out. The files of
leaf.d are left out. Exit code 0, whether there is a difference or not.`,
		Example: "  fieldgate config diff new.toml\n  fieldgate config diff new.toml --output json",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var sides [2]*settings
			for i, file := range []string{l.file, args[0]} {
				var err error
				if sides[i], err = readSettings(file, false); err != nil {
					return configFailure(file, err, exitConfig, "mend it, then check it: fieldgate config validate "+file)
				}
			}
			all := difference(sides[0], sides[1])
			if !l.forPeople() {
				return encode(std.out, l.output, all)
			}
			return printDifference(std.out, all)
		},
	}
	l.flags(c, forms...)
	return c
}

// differing is a key that two configurations do not agree about. A value is nil where
// there is no such table.
type differing struct {
	Key    string `json:"key"`
	From   any    `json:"from"`
	To     any    `json:"to"`
	Change string `json:"change"` // what it needs
}

// difference compares two configurations.
func difference(from, to *settings) []differing {
	all := []differing{}
	old, now := from.byName(), to.byName()
	for _, one := range from.all {
		other := now[one.name]
		if other == nil && !one.set || other != nil && spellValue(one.value) == spellValue(other.value) {
			continue
		}
		d := differing{one.name, one.seen(), nil, one.changeWord()}
		if other != nil {
			d.To = other.seen()
		}
		all = append(all, d)
	}
	for _, one := range to.all {
		if old[one.name] == nil && one.set {
			all = append(all, differing{one.name, nil, one.seen(), one.changeWord()})
		}
	}
	return all
}

func (s *settings) byName() map[string]*setting {
	all := make(map[string]*setting, len(s.all))
	for _, one := range s.all {
		all[one.name] = one
	}
	return all
}

func (s *setting) changeWord() string {
	if s.key == nil {
		return "unknown key"
	}
	return s.key.change()
}

func printDifference(out io.Writer, all []differing) error {
	if len(all) == 0 {
		fmt.Fprintln(out, "no difference")
		return nil
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tFROM\tTO\tCHANGE")
	for _, d := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", d.Key, differingValue(d.From), differingValue(d.To), d.Change)
	}
	return t.Flush()
}

// differingValue spells one side; hidden values are no text.
func differingValue(v any) string {
	if v == hidden {
		return hidden
	}
	return spellValue(v)
}
