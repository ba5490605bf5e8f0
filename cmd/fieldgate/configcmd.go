package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func configCommand(std streams) *cobra.Command {
	return group("config", "Look at the configuration, change it",
		validateCommand(std), listKeysCommand(std), getKeyCommand(std), setKeyCommand(std), unsetKeyCommand(std),
		addTableCommand(std), removeTableCommand(std),
		diffCommand(std), showConfigCommand(std), schemaCommand(std), applyCommand(std), editCommand(std), rollBackCommand(std), historyCommand(std))
}

// defaultConfig is what the commands read that are not told otherwise.
func defaultConfig() string {
	return cmp.Or(os.Getenv("FIELDGATE_CONFIG"), "/etc/fieldgate/fieldgate.toml")
}

// local is what subcommands that read the configuration file have in common.
type local struct {
	formFlag

	file string
}

// flags adds the common flags; formats are what --output takes, the first one is the
// default.
func (l *local) flags(c *cobra.Command, formats ...string) {
	c.Flags().StringVarP(&l.file, "config", "c", defaultConfig(), "configuration `FILE`")
	l.flag(c, formats...)
}

// read reads the configuration.
func (l *local) read() (*settings, error) {
	s, err := readSettings(l.file, true)
	if err != nil {
		return nil, configFailure(l.file, err, exitConfig, "mend it, then check it: fieldgate config validate "+l.file)
	}
	return s, nil
}

func listKeysCommand(std streams) *cobra.Command {
	var form formFlag
	var doc bool
	c := &cobra.Command{
		Use:   "list [TABLE]",
		Short: "List all keys",
		Long: `Lists every key that a configuration can have, or those of one table, with what
it takes and its default; --doc says what each one means.

CHANGE is what happens when a changed key is taken over: "live" nothing is
interrupted, "reconnect" the connection to the hub is replaced while leaves stay,
"restart" it counts only when the daemon starts again. DATA is "secret" for keys whose value is never shown.`,
		Example: "  fieldgate config list\n  fieldgate config list hub --doc\n  fieldgate config list --output json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			keys := listKeys(configShape(), strings.Join(args, ""))
			if len(keys) == 0 {
				return &failure{exitNotFound, "there is no table " + args[0], fmt.Errorf("no key begins with %q", args[0]), "run: fieldgate config list"}
			}
			switch {
			case !form.forPeople():
				return encode(std.out, form.output, keys)
			case doc:
				printDocs(std.out, keys)
				return nil
			}
			return printKeys(std.out, keys)
		},
	}
	c.Flags().BoolVar(&doc, "doc", false, "say what each key means")
	form.flag(c, forms...)
	return c
}

// listed is a key as it is listed.
type listed struct {
	Key     string   `json:"key"`
	Type    string   `json:"type"`
	Default any      `json:"default"`
	Only    []string `json:"only,omitempty"` // of serial its formats, of module its names
	Change  string   `json:"change"`
	Data    string   `json:"data"`
	Meaning string   `json:"meaning"`
}

// listKeys lists the keys of a table, or the one key; all for "".
func listKeys(s *shape, under string) []listed {
	var all []listed
	var walk func(s *shape, only []string)
	walk = func(s *shape, only []string) {
		for _, k := range s.keys {
			if k.only != nil {
				only = k.only
			}
			if k.table != nil {
				walk(k.table, only)
			} else if below(k.path, under) {
				all = append(all, listed{k.path, k.takes(), k.fallback(), only, k.change(), k.data(), fieldDocs[k.field]})
			}
			if k.only != nil {
				only = nil
			}
		}
	}
	walk(s, nil)
	return all
}

// below says whether a key is the one named or in the table named, with or without
// the brackets of lists.
func below(path, under string) bool {
	plain := strings.ReplaceAll(path, "[]", "") + "."
	return under == "" || strings.HasPrefix(plain, strings.TrimSuffix(strings.ReplaceAll(under, "[]", ""), ".")+".")
}

func printKeys(out io.Writer, keys []listed) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tTYPE\tDEFAULT\tCHANGE\tDATA")
	for _, k := range keys {
		fmt.Fprintf(t, "%s%s\t%s\t%s\t%s\t%s\n", k.Key, k.onlyWord(), k.Type, spellValue(k.Default), k.Change, k.Data)
	}
	return t.Flush()
}

func (k *listed) onlyWord() string {
	if len(k.Only) == 0 {
		return ""
	}
	return " (" + strings.Join(k.Only, ", ") + ")"
}

func printDocs(out io.Writer, keys []listed) {
	for _, k := range keys {
		fmt.Fprintf(out, "%s = %s%s\n", k.Key, spellValue(k.Default), k.onlyWord())
		fmt.Fprintf(out, "    %s; %s, %s\n", k.Type, k.Change, k.Data)
		for _, line := range wrap(k.Meaning, 76) {
			fmt.Fprintf(out, "    %s\n", line)
		}
		fmt.Fprintln(out)
	}
}

// wrap breaks text into lines of at most width bytes, where words allow.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}

func schemaCommand(std streams) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration",
		Long: `Prints a JSON Schema (2020-12) of the configuration file, for editors that complete
and check TOML with one. It knows keys and types; what goes together is known to
"fieldgate config validate" alone.`,
		Example: "  fieldgate config schema > fieldgate.schema.json",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return writeJSON(std.out, configSchema()) },
	}
}
