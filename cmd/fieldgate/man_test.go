package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fieldgate/fieldgate/gateway/control"
)

// manFolder holds the manual pages, made of the commands and keys of the code by "go
// generate". They are in the tree because whoever installs a program for another
// kind of machine cannot run it.
const manFolder = "../../docs/man"

// Every command has a manual page that says what its --help says, every key is in
// fieldgate-config(5), and fieldgate-pairing(7) says what docs/pairing.md does; there are
// no others.
func TestManPages(t *testing.T) {
	t.Setenv("FIELDGATE_CONFIG", "") // defaults of flags are those of a machine without
	want := manPages()
	if *updateDocs {
		if err := os.RemoveAll(manFolder); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(manFolder, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(manFolder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	list, err := os.ReadDir(manFolder)
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]string)
	for _, e := range list {
		text, err := os.ReadFile(filepath.Join(manFolder, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		there[e.Name()] = string(text)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		switch got, ok := there[name]; {
		case !ok:
			t.Errorf("%s is missing: run go generate ./cmd/fieldgate", name)
		case got != want[name]:
			t.Errorf("%s is not what the code says: run go generate ./cmd/fieldgate", name)
		}
		delete(there, name)
	}
	for name := range there {
		t.Errorf("%s is about nothing that there is: run go generate ./cmd/fieldgate", name)
	}
}

// The pages are roff that every formatter reads: no line of text is taken for a request,
// and all of it is ASCII.
func TestManPagesAreRoff(t *testing.T) {
	for name, text := range manPages() {
		for line := range strings.Lines(text) {
			request, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			if strings.ContainsFunc(line, func(c rune) bool { return c > 0x7f }) || strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") &&
				!slices.Contains([]string{".TH", ".SH", ".PP", ".TP", ".nf", ".fi", ".RS", ".RE"}, request) {
				t.Errorf("%s has the line %q", name, line)
			}
		}
		if strings.Count(text, "\n.nf\n") != strings.Count(text, "\n.fi\n") || strings.Count(text, "\n.RS\n") != strings.Count(text, "\n.RE\n") {
			t.Errorf("%s begins what it does not end", name)
		}
	}
	if page := manPages()["fieldgate-config-set.1"]; !strings.Contains(page, `leaf.d`) || !strings.Contains(page, `\fB\-c\fR, \fB\-\-config\fR \fIFILE\fR`) {
		t.Errorf("the page about config set is\n%s", page)
	}
}

// manPages are all pages, by the name of the file.
func manPages() map[string]string {
	pages := make(map[string]string)
	var add func(c *cobra.Command)
	add = func(c *cobra.Command) {
		pages[manName(c)+".1"] = manPage(c)
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				add(sub)
			}
		}
	}
	add(commands(streams{in: strings.NewReader(""), out: io.Discard, err: io.Discard}))
	pages["fieldgate-config.5"] = configPage()
	pages["fieldgate-pairing.7"] = pairingPage()
	return pages
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// roff is a page in the making, in the language of man(7).
type roff struct{ strings.Builder }

// roffText keeps what is said from being taken for requests and escapes.
var roffText = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "\n.", "\n\\&.", "\n'", "\n\\&'")

// spell writes text as it is to be read.
func (r *roff) spell(text string) string {
	return strings.TrimPrefix(roffText.Replace("\n"+text), "\n")
}

func (r *roff) request(text string) { r.WriteString(text + "\n") }

func (r *roff) begin(name, section string) {
	fmt.Fprintf(r, ".TH %s %s \"\" Fieldgate \"Fieldgate manual\"\n", r.spell(strings.ToUpper(name)), section)
}

// verbatim is text whose lines stay as they are.
func (r *roff) verbatim(text string) {
	fmt.Fprintf(r, ".PP\n.RS\n.nf\n%s\n.fi\n.RE\n", r.spell(text))
}

// prose is text of paragraphs. Lines that are indented are tables and the like.
func (r *roff) prose(text string) {
	for paragraph := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		paragraph = strings.Trim(paragraph, "\n")
		switch {
		case paragraph == "":
		case strings.HasPrefix(paragraph, " "):
			r.verbatim(paragraph)
		default:
			fmt.Fprintf(r, ".PP\n%s\n", r.spell(paragraph))
		}
	}
}

func (r *roff) item(head, text string) {
	fmt.Fprintf(r, ".TP\n%s\n%s\n", head, r.spell(text))
}

func (r *roff) bold(text string) string { return `\fB` + r.spell(text) + `\fR` }

// manPage is the page of one command.
func manPage(c *cobra.Command) string {
	r := new(roff)
	r.begin(manName(c), "1")
	r.request(".SH NAME")
	r.request(r.spell(manName(c) + " - " + c.Short))
	r.request(".SH SYNOPSIS")
	r.request(r.bold(c.CommandPath()) + r.spell(strings.TrimPrefix(c.UseLine(), c.CommandPath())))
	r.request(".SH DESCRIPTION")
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	r.prose(text)
	also := r.commands(c)
	r.options(c)
	if c.Example != "" {
		r.request(".SH EXAMPLES")
		r.verbatim(strings.ReplaceAll(strings.TrimPrefix(c.Example, "  "), "\n  ", "\n"))
	}
	r.request(".SH EXIT STATUS")
	if c.HasParent() {
		also = append([]string{manName(c.Parent()) + "(1)"}, also...)
		r.request("0 if it went well; the others are in fieldgate(1).")
	} else {
		r.exitCodes()
	}
	if slices.Contains([]string{"fieldgate", "fieldgate-pair", "fieldgate-ble", "fieldgate-device"}, manName(c)) || strings.HasPrefix(manName(c), "fieldgate-pair-") {
		also = append(also, "fieldgate-pairing(7)")
	}
	if manName(c) != "fieldgate-config" {
		also = append(also, "fieldgate-config(5)")
	}
	r.request(".SH SEE ALSO")
	r.request(r.spell(strings.Join(also, ", ")))
	return r.String()
}

// commands lists those of a group, and returns their pages.
func (r *roff) commands(c *cobra.Command) (pages []string) {
	for _, sub := range c.Commands() {
		if !sub.IsAvailableCommand() {
			continue
		}
		if pages == nil {
			r.request(".SH COMMANDS")
		}
		r.item(r.bold(sub.Name()), sub.Short+".")
		pages = append(pages, manName(sub)+"(1)")
	}
	return pages
}

func (r *roff) options(c *cobra.Command) {
	c.InitDefaultHelpFlag()
	r.request(".SH OPTIONS")
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		head := r.bold("--" + f.Name)
		if f.Shorthand != "" {
			head = r.bold("-"+f.Shorthand) + ", " + head
		}
		if value != "" {
			head += ` \fI` + r.spell(value) + `\fR`
		}
		fallback := f.DefValue
		if f.Name == "socket" {
			fallback = control.DefaultSocket // not what the configuration here says
		}
		if zero := []string{"", "false", "0", "0s", "[]"}; !slices.Contains(zero, fallback) {
			usage += fmt.Sprintf(" (default %s)", fallback)
		}
		r.item(head, usage)
	})
}

func (r *roff) exitCodes() {
	for _, e := range []struct {
		code int
		says string
	}{
		{exitOK, "It went well."},
		{exitFailed, "It did not; of cert needs-renewal: no."},
		{exitUsage, "The command line cannot be understood."},
		{exitConfig, "The configuration has mistakes."},
		{exitNotRunning, "No daemon answers."},
		{exitUnreachable, "The hub cannot be reached."},
		{exitRejected, "Credentials are refused."},
		{exitTimedOut, "There was no answer in time."},
		{exitNotFound, "What is named is not there."},
		{exitForbidden, "It is not allowed, or not as things are."},
		{exitStore, "The store is full or damaged."},
		{exitExConfig, "The daemon ends, for its configuration has mistakes."},
	} {
		r.item(r.bold(fmt.Sprint(e.code)), e.says)
	}
}

// configPage is the page with all keys.
func configPage() string {
	r := new(roff)
	r.begin("fieldgate-config", "5")
	r.request(".SH NAME")
	r.request(r.spell("fieldgate-config - the configuration file of fieldgate"))
	r.request(".SH DESCRIPTION")
	r.prose(`The configuration is /etc/fieldgate/fieldgate.toml, in TOML, and the files *.toml of
the folder leaf.d beside it, which can hold the lists leaf, serial, map, ble.advert and
ble.device. Paths are relative to the file. What is not there has a default; an unknown
key is an error.

[] behind a name says that there can be many such tables: [[leaf]] in the file. Each key
has its default, what it takes, and what happens when a changed one is applied: nothing
is interrupted (live), the connection to the hub is replaced (reconnect), or the daemon
starts again (restart). A key whose value is never shown is called secret.`)
	table := ""
	for _, k := range listKeys(configShape(), "") {
		at := k.Key[:max(0, strings.LastIndexByte(k.Key, '.'))]
		if at != table {
			table = at
			r.request(".SH " + r.spell(strings.ToUpper(at)))
		}
		what := k.Type + "; " + k.Change
		if k.Data == dataSecret {
			what += "; secret"
		}
		value := spellValue(k.Default)
		if k.Key == "gateway.name" {
			value = "the name of the machine"
		}
		r.item(r.bold(k.Key)+r.spell(" = "+value+k.onlyWord()), fmt.Sprintf("%s (%s)", k.Meaning, what))
	}
	r.request(".SH SEE ALSO")
	r.request(r.spell("fieldgate-config(1), fieldgate-config-list(1), fieldgate-config-validate(1), fieldgate(1)"))
	return r.String()
}
