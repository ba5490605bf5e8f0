package firstboot

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/crypto/ssh"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
)

// Span is a range of bytes.
type Span struct{ From, To int }

// sheet is what an operator's file says.
type sheet struct {
	text    []byte
	secrets []secret
	blanks  []Span // what is no configuration of the gateway
	keys    []string
	wifi    *network
	hub     *connection
}

// secret is a text that stands in the file and belongs into one of its own.
type secret struct {
	name  string // of its file
	path  string // "leaf[].password"
	value string
	key   Span // from the key to the end of the value
	stars Span // what is overwritten on the card
	as    string
}

// public are files beside the secrets that are none, and are read as they are.
var public = regexp.MustCompile(`(^|[._])(ca|cert)$`)

// hidden says whether it is sealed on the disk.
func (s *secret) hidden() bool { return !public.MatchString(s.path) }

// kept says that the value was overwritten: it was taken over before.
func (s *secret) kept() bool { return s.value != "" && kept(s.value, '*') }

// kept says that nothing but marks stands in a value.
func kept(value string, mark byte) bool { return strings.Trim(value, string(mark)+"\r\n") == "" }

// connection is what a connection string of the hub says.
type connection struct {
	host, device string
	key          string
	at           Span // from the key connection_string to the end of its value
	inline       bool
	line         int
}

// network is a Wi-Fi network.
type network struct {
	SSID    string `toml:"ssid"`
	PSK     string `toml:"psk"`
	Country string `toml:"country"`
	Hidden  bool   `toml:"hidden"`
}

// ours are the tables that only the first boot knows, with their keys.
var ours = map[string][]string{
	"ssh":  {"authorized_keys"},
	"wifi": {"ssid", "psk", "country", "hidden"},
}

// extras is what stands in them, and in [hub] beside the configuration.
type extras struct {
	Hub struct {
		ConnectionString string `toml:"connection_string"`
	} `toml:"hub"`
	SSH struct {
		AuthorizedKeys []string `toml:"authorized_keys"`
	} `toml:"ssh"`
	WiFi *network `toml:"wifi"`
}

// mistakes is the error of a file that cannot be applied: all that is wrong, with the
// places.
type mistakes []strict.Problem

func (m mistakes) Error() string {
	lines := make([]string, len(m))
	for i, p := range m {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// read reads a file. known says which keys the configuration of the gateway has:
// one that ends in _file may be given without that, with what is in the file as its
// value.
func read(name string, text []byte, known func(path string) bool) (*sheet, error) {
	if mark := []byte("\xef\xbb\xbf"); bytes.HasPrefix(text, mark) { // by editors on Windows, and no TOML
		text = append([]byte("   "), text[len(mark):]...)
	}
	r := &reader{name: name, known: known, sheet: sheet{text: text}}
	entries, headers, err := edit.Outline(text)
	if err != nil {
		return nil, mistakes(strict.Parse(name, text).Problems())
	}
	var all extras
	if err := toml.Unmarshal(text, &all); err != nil {
		return nil, mistakes{r.problem(0, "%v", err)}
	}
	ids := make(map[string]string) // of the tables around keys
	for _, e := range entries {
		if e.Path[len(e.Path)-1].Name == "id" {
			ids[e.Path[:len(e.Path)-1].String()] = text1(text[e.ValueFrom:e.ValueTo])
		}
	}
	for _, h := range headers {
		if ours[h.Path[0].Name] != nil {
			r.blanks = append(r.blanks, Span{h.From, h.To})
		}
	}
	for _, e := range entries {
		r.entry(e, ids)
	}
	r.extras(&all)
	if len(r.problems) > 0 {
		return nil, r.problems
	}
	return &r.sheet, nil
}

// reader is a sheet in the making.
type reader struct {
	sheet
	name     string
	known    func(string) bool
	problems mistakes
	keysAt   int
	wifiAt   int
}

func (r *reader) problem(at int, format string, args ...any) strict.Problem {
	before := r.text[:at]
	line := bytes.LastIndexByte(before, '\n') + 1
	return strict.Problem{
		File: r.name, Line: 1 + bytes.Count(before, []byte("\n")), Column: 1 + len([]rune(string(before[line:]))),
		Message: fmt.Sprintf(format, args...),
	}
}

func (r *reader) report(at int, format string, args ...any) {
	r.problems = append(r.problems, r.problem(at, format, args...))
}

var index = regexp.MustCompile(`\[\d+\]`)

// entry looks what one key is for.
func (r *reader) entry(e edit.Entry, ids map[string]string) {
	path, last := e.Path.String(), e.Path[len(e.Path)-1].Name
	shape := index.ReplaceAllString(path, "[]")
	if keys := ours[e.Path[0].Name]; keys != nil {
		r.own(e, keys)
		return
	}
	if path == "hub.connection_string" {
		r.connection(e)
		return
	}
	if r.known(shape) || !r.known(shape+"_file") || last == "id" {
		return
	}
	table := e.Path[:len(e.Path)-1]
	name := path
	if id := ids[table.String()]; id != "" {
		name = index.ReplaceAllString(table.String(), "") + "." + id + "." + last // stays when the order changes
	}
	value := text1(r.text[e.ValueFrom:e.ValueTo])
	if value == "" {
		r.report(e.From, "%s is empty: write what is to be in its file", path)
		return
	}
	r.secrets = append(r.secrets, secret{
		name: fileName(name), path: shape, value: value, key: Span{e.From, e.To}, stars: r.inner(e), as: last + "_file",
	})
}

// own looks at a key of a table of ours.
func (r *reader) own(e edit.Entry, keys []string) {
	if !e.Inline {
		r.blanks = append(r.blanks, Span{e.From, e.To})
	}
	if len(e.Path) < 2 {
		return // the table in braces, of which each key comes as well
	}
	switch name := e.Path[1].Name; {
	case !slices.Contains(keys, name):
		r.report(e.From, "unknown key %s in [%s]: there are %s", name, e.Path[0].Name, strings.Join(keys, ", "))
	case name == "psk":
		value := text1(r.text[e.ValueFrom:e.ValueTo])
		r.secrets = append(r.secrets, secret{name: "wifi.psk", path: "wifi.psk", value: value, stars: r.inner(e)})
	case name == "authorized_keys":
		r.keysAt = e.From
	case name == "ssid":
		r.wifiAt = e.From
	}
}

// connection reads a connection string, as the hub's own tools show it.
func (r *reader) connection(e edit.Entry) {
	c := &connection{at: Span{e.From, e.To}, inline: e.Inline, line: r.problem(e.From, "").Line}
	for field := range strings.SplitSeq(text1(r.text[e.ValueFrom:e.ValueTo]), ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		switch name {
		case "HostName":
			c.host = value
		case "DeviceId":
			c.device = value
		case "SharedAccessKey":
			c.key = value
		case "SharedAccessKeyName":
			r.report(e.From, "this is the connection string of a policy of the hub: write that of a device, it has DeviceId= in it")
			return
		}
	}
	if c.host == "" || c.device == "" || c.key == "" {
		r.report(e.From, "this is no connection string of a device: it is HostName=…;DeviceId=…;SharedAccessKey=…")
		return
	}
	r.hub = c
	const mark = "SharedAccessKey="
	in := r.inner(e)
	raw := string(r.text[in.From:in.To])
	from := strings.Index(raw, mark) + len(mark)
	to := len(raw)
	if n := strings.IndexByte(raw[from:], ';'); n >= 0 {
		to = from + n
	}
	r.secrets = append(r.secrets, secret{
		name: "hub.key", path: "hub.key", value: c.key, stars: Span{in.From + from, in.From + to},
	})
}

// inner is the value between its quotes.
func (r *reader) inner(e edit.Entry) Span {
	raw := string(r.text[e.ValueFrom:e.ValueTo])
	for _, quote := range []string{`"""`, `'''`, `"`, `'`} {
		if strings.HasPrefix(raw, quote) && len(raw) >= 2*len(quote) {
			return Span{e.ValueFrom + len(quote), e.ValueTo - len(quote)}
		}
	}
	return Span{e.ValueFrom, e.ValueTo}
}

func (r *reader) extras(all *extras) {
	for i, line := range all.SSH.AuthorizedKeys {
		line = strings.TrimSpace(line)
		if !publicKey(line) {
			r.report(r.keysAt, "authorized_keys: key %d is no public key of SSH: copy the whole line of a file like id_ed25519.pub", i+1)
			continue
		}
		r.keys = append(r.keys, line)
	}
	if w := all.WiFi; w != nil {
		if problem := w.problem(false); problem != "" {
			r.report(r.wifiAt, "[wifi] %s", problem)
		}
		r.wifi = w
	}
}

// publicKey says whether a line is one of authorized_keys of sshd(8).
func publicKey(line string) bool {
	_, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	return err == nil && len(rest) == 0 && !strings.ContainsAny(line, "\r\n")
}

// text1 is the value of a string of TOML, "" of anything else.
func text1(raw []byte) string {
	var v struct{ X any }
	if toml.Unmarshal(append([]byte("X = "), raw...), &v) != nil {
		return ""
	}
	s, _ := v.X.(string)
	return s
}

var strange = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// fileName is a name for the file of a secret. What is no letter is spelt so that two
// names stay two.
func fileName(name string) string {
	return strange.ReplaceAllStringFunc(name, func(s string) string { return fmt.Sprintf("=%X", s) })
}

// configuration is the text for the gateway, with secrets in files of the folder, which
// is named from the place of the configuration. Its
// lines are those of the file, but that extra come behind the line at.
func (s *sheet) configuration(folder string) (text []byte, at, extra int) {
	type change struct {
		Span
		to string
	}
	var all []change
	for _, b := range s.blanks {
		all = append(all, change{b, strings.Repeat("\n", bytes.Count(s.text[b.From:b.To], []byte("\n")))})
	}
	file := func(name string) string { return edit.Quote(filepath.Join(folder, name)) }
	for _, one := range s.secrets {
		if one.as != "" {
			lines := strings.Repeat("\n", bytes.Count(s.text[one.key.From:one.key.To], []byte("\n")))
			all = append(all, change{one.key, one.as + " = " + file(one.name) + lines})
		}
	}
	if c := s.hub; c != nil {
		between := "\n"
		if c.inline {
			between = ", "
		} else {
			at, extra = c.line, 2
		}
		all = append(all, change{c.at, strings.Join([]string{
			"host = " + edit.Quote(c.host), "device_id = " + edit.Quote(c.device), "key_file = " + file("hub.key"),
		}, between)})
	}
	slices.SortFunc(all, func(a, b change) int { return cmp.Compare(a.From, b.From) })
	var out bytes.Buffer
	from := 0
	for _, c := range all {
		out.Write(s.text[from:c.From])
		out.WriteString(c.to)
		from = c.To
	}
	out.Write(s.text[from:])
	return out.Bytes(), at, extra
}

// spans are the places of the secrets.
func (s *sheet) spans() []Span {
	all := make([]Span, len(s.secrets))
	for i := range s.secrets {
		all[i] = s.secrets[i].stars
	}
	return all
}

// starred is the text with marks in the place of what is in the spans. Ends of lines
// stay.
func starred(text []byte, spans []Span, mark byte) []byte {
	text = slices.Clone(text)
	for _, s := range spans {
		for i := max(0, s.From); i < min(s.To, len(text)); i++ {
			if text[i] != '\n' && text[i] != '\r' {
				text[i] = mark
			}
		}
	}
	return text
}
