package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// pairingText is what fieldgate-pairing(7) is made of: there is one text about pairing.
const pairingText = "../../docs/pairing.md"

func pairingPage() string {
	text, err := os.ReadFile(pairingText)
	if err != nil {
		panic(err) // it is in the tree
	}
	r := new(roff)
	r.begin("fieldgate-pairing", "7")
	r.request(".SH NAME")
	r.request(r.spell("fieldgate-pairing - how leaves are admitted to a fieldgate gateway"))
	r.request(".SH DESCRIPTION")
	_, body, _ := strings.Cut(string(text), "\n") // without its title
	r.markdown(strings.Replace(body, "This page is also `man 7 fieldgate-pairing`.\n", "", 1))
	r.request(".SH SEE ALSO")
	r.request(r.spell("fieldgate-pair(1), fieldgate-device(1), fieldgate-ble(1), fieldgate-serial(1), fieldgate-config(5)"))
	return r.String()
}

// markdown is a text in as much of Markdown as our pages use: headings, paragraphs,
// blocks of what is typed, and tables, of which each row becomes an item.
func (r *roff) markdown(text string) {
	for block := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		block = strings.Trim(block, "\n")
		switch {
		case strings.HasPrefix(block, "## "):
			r.request(".SH " + r.spell(strings.ToUpper(block[3:])))
		case strings.HasPrefix(block, "```"):
			_, block, _ = strings.Cut(block, "\n")
			r.verbatim(strings.TrimSuffix(block, "\n```"))
		case strings.HasPrefix(block, "|"):
			r.table(strings.Split(block, "\n"))
		case block != "":
			r.request(".PP\n" + r.inline(block))
		}
	}
}

func (r *roff) table(rows []string) {
	heads := cells(rows[0])
	for _, row := range rows[2:] {
		fields := cells(row)
		text := fields[1]
		for i := 2; i < len(fields); i++ {
			if fields[i] != "" {
				text += "; " + heads[i] + ": " + fields[i]
			}
		}
		if len(heads) > 2 && heads[1] != "what it is" {
			text = heads[1] + ": " + text
		}
		r.request(".TP\n" + r.inline(fields[0]) + "\n" + r.inline(text))
	}
}

func cells(row string) (all []string) {
	for cell := range strings.SplitSeq(strings.Trim(row, "|"), "|") {
		all = append(all, strings.TrimSpace(cell))
	}
	return all
}

var (
	linkText = regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`)
	marked   = regexp.MustCompile("`([^`]+)`|\\*\\*([^*]+)\\*\\*")
)

// inline is text with what stands out in it.
func (r *roff) inline(text string) string {
	return marked.ReplaceAllString(r.spell(linkText.ReplaceAllString(text, "$1")), `\fB$1$2\fR`)
}

func TestMarkdownBecomesRoff(t *testing.T) {
	r := new(roff)
	r.markdown("## Words\n\nA `b-c` and **d** of [a page](x.md).\n'e'\n\n```\na | b\n.c\n```\n\n| word | is | over MQTT |\n|---|---|---|\n| `w` | one | two |\n| x | y |  |\n")
	want := ".SH WORDS\n.PP\nA \\fBb\\-c\\fR and \\fBd\\fR of a page.\n\\&'e'\n.PP\n.RS\n.nf\na | b\n\\&.c\n.fi\n.RE\n" +
		".TP\n\\fBw\\fR\nis: one; over MQTT: two\n.TP\nx\nis: y\n"
	if r.String() != want {
		t.Errorf("got\n%s\nwant\n%s", r, want)
	}
}

// The page about pairing has every word of the ceremonies and every command of them.
func TestPairingPage(t *testing.T) {
	page := strings.ReplaceAll(pairingPage(), `\-`, "-")
	for _, want := range []string{
		"\nwindow\n", "\nclaim\n", "\nproof\n", "\napprove\n", "\nbind\n", "\nforget\n",
		".SH PAIRING OVER MQTT", ".SH PAIRING OVER A SERIAL PORT", ".SH PAIRING OVER BLUETOOTH",
		"fieldgate pair open", "fieldgate device approve", "fieldgate pair serial", "fieldgate pair ble", "fieldgate ble forget", "fieldgate device remove",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
}
