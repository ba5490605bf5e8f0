package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// forms are the ways in which every command that lists something can write it,
// the first one for people. Names in the others are stable.
var forms = []string{"table", "json", "yaml", "jsonl"}

// textForms are the same for commands that do not list.
var textForms = []string{"text", "json", "yaml", "jsonl"}

// formFlag is the flag --output.
type formFlag struct {
	output string
	people string // the form for people
}

// flag adds it; forms are what it takes, the first one is for people and the default.
func (f *formFlag) flag(c *cobra.Command, forms ...string) {
	f.people = forms[0]
	c.Flags().StringVarP(&f.output, "output", "o", forms[0], fmt.Sprintf("`FORMAT`, one of %v", forms))
	c.PreRunE = func(*cobra.Command, []string) error {
		if slices.Contains(forms, f.output) {
			return nil
		}
		return fmt.Errorf("unknown format %q for --output: write one of %v", f.output, forms)
	}
}

// forPeople says that the form asked for is not one for programs.
func (f *formFlag) forPeople() bool { return f.output == f.people }

// encode writes v as JSON, as YAML, or as lines of JSON, one for each element
// where v is a list.
func encode(out io.Writer, form string, v any) error {
	switch form {
	case "json":
		return writeJSON(out, v)
	case "yaml":
		text, err := json.Marshal(v) // names are those of JSON
		if err != nil {
			return err
		}
		if text, err = yaml.JSONToYAML(text); err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	case "jsonl":
		return writeLines(out, v)
	}
	return fmt.Errorf("unknown format %q", form)
}

// writeLines writes each element of a list as a line, and all else as one.
func writeLines(out io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(text, []byte("[")) {
		_, err = fmt.Fprintf(out, "%s\n", text)
		return err
	}
	var all []json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	for _, one := range all {
		if _, err := fmt.Fprintf(out, "%s\n", one); err != nil {
			return err
		}
	}
	return nil
}
