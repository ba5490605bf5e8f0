package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
)

func addTableCommand(std streams) *cobra.Command {
	var l local
	c := &cobra.Command{
		Use:   "add LIST [KEY VALUE]...",
		Short: "Add a table to a list: a leaf, a port, a rule",
		Long: `Adds a table with these keys to a list of tables, behind the last one that stands in the
configuration file. Nothing else in it changes. The result is checked before it is
written, so all keys that the table needs are given at once. Values are written as for
"config set".

The lists are leaf, serial, map, module, broker.listener, ble.advert, ble.device, and
those in a table of these, like serial[0].slave or ble.device[0].characteristic.`,
		Example: "  fieldgate config add leaf id pump-7 key_file pump-7.key\n" +
			"  fieldgate config add serial port usb:A50285BI baud 9600 format text leaf pump-7\n" +
			"  fieldgate config add map topic 'tele/{leaf}/{channel}'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args)%2 != 1 {
				return errors.New("write the list, then keys and values in turn, like leaf id pump-7")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return l.edit(std, func(s *settings) (string, editing, error) {
				list, err := s.findList(args[0])
				if err != nil {
					return "", nil, err
				}
				entries, err := list.entries(args[1:])
				if err != nil {
					return "", nil, err
				}
				return list.file, func(text []byte) ([]byte, error) { return edit.Add(text, list.path, entries) }, nil
			})
		},
	}
	l.flags(c, textForms...)
	return c
}

func removeTableCommand(std streams) *cobra.Command {
	var l local
	c := &cobra.Command{
		Use:   "remove TABLE",
		Short: "Remove a table from a list",
		Long: `Removes a table of a list from the file in which it stands, with the tables in it. It is
named by its id or its place: leaf.pump-7, leaf[id=pump-7], serial[0]. Comments between
its keys go with it; those above it stay. The result is checked before it is written. A
leaf that the gateway has admitted itself is removed by "device remove".`,
		Example: "  fieldgate config remove leaf.pump-7\n  fieldgate config remove serial[0]",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return l.edit(std, func(s *settings) (string, editing, error) {
				parts, err := parseAddress(args[0])
				if err != nil {
					return "", nil, &failure{exitUsage, "cannot find the table", err, "run: fieldgate config list"}
				}
				file, path, err := s.findTable(parts)
				if err != nil {
					return "", nil, &failure{exitNotFound, "there is no table " + args[0] + " of a list", err, "run: fieldgate config show"}
				}
				if strings.HasSuffix(file, leafSuffix) {
					return "", nil, &failure{exitForbidden, "cannot remove " + args[0], fmt.Errorf("the gateway has written %s itself", file), "fieldgate device remove LEAF"}
				}
				return file, func(text []byte) ([]byte, error) { return edit.Remove(text, path) }, nil
			})
		},
	}
	l.flags(c, textForms...)
	return c
}

// listPlace is a list of tables, and where one is added to it.
type listPlace struct {
	table *shape // what its tables hold
	file  string
	path  edit.Path
}

// findList returns the list of tables that a name means.
func (s *settings) findList(address string) (listPlace, error) {
	parts, err := parseAddress(address)
	if err != nil {
		return listPlace{}, &failure{exitUsage, "cannot find the list", err, "run: fieldgate config list"}
	}
	at := listPlace{table: configShape(), file: s.files[0]}
	list := false
	for i := 0; i < len(parts); i++ {
		k := at.table.key(parts[i].word)
		if parts[i].brackets || k == nil || k.table == nil {
			return listPlace{}, &failure{exitNotFound, "there is no list " + address, s.nearest(parts), "run: fieldgate config list"}
		}
		at.table, at.path, list = k.table, at.path.Child(parts[i].word), k.list
		if !k.list || i == len(parts)-1 {
			continue
		}
		i++
		list = false
		if at.file, at.path, err = s.findTable(parts[:i+1]); err != nil {
			return listPlace{}, &failure{exitNotFound, "there is no list " + address, err, "run: fieldgate config show"}
		}
	}
	if !list {
		return listPlace{}, &failure{exitUsage, address + " is no list of tables", errors.New("of it there is one, at most"), "set its keys: fieldgate config set"}
	}
	return at, nil
}

// findTable returns the file in which a table of a list stands, and its path there.
func (s *settings) findTable(parts []addressPart) (file string, path edit.Path, err error) {
	for _, one := range s.all {
		if used, _ := one.match(parts); used != len(parts) {
			continue
		}
		used := 0
		for i, step := range one.steps {
			used++
			if step.element == nil {
				continue
			}
			if used++; used == len(parts) {
				return one.file, one.path[:i+1], nil
			}
		}
	}
	return "", nil, s.nearest(parts)
}

// entries spells the keys of a new table.
func (p *listPlace) entries(args []string) ([]edit.NewEntry, error) {
	typed := make(map[string]any)
	for i := 0; i < len(args); i += 2 {
		if _, twice := typed[args[i]]; twice {
			return nil, &failure{exitUsage, "cannot make the table", fmt.Errorf("%s is there twice", args[i]), "give it once"}
		}
		typed[args[i]] = args[i+1]
	}
	table := p.table.kind(typed)
	var all []edit.NewEntry
	for i := 0; i < len(args); i += 2 {
		parts, err := parseAddress(args[i])
		if err != nil || slices.ContainsFunc(parts, func(t addressPart) bool { return t.brackets }) {
			return nil, &failure{exitUsage, "cannot make the table", fmt.Errorf("%q is no key in it", args[i]), "its keys: fieldgate config list " + strings.Join(p.words(), ".")}
		}
		var path edit.Path
		for _, t := range parts {
			path = path.Child(t.word)
		}
		k := table.key(parts[0].word)
		if len(parts) > 1 {
			k = nil // within a table of values
		}
		all = append(all, edit.NewEntry{Path: path, Value: spellAs(k, args[i+1])})
	}
	return all, nil
}

// words are the names of the list and the tables around it.
func (p *listPlace) words() []string {
	all := make([]string, len(p.path))
	for i, step := range p.path {
		all[i] = step.Name
	}
	return all
}
