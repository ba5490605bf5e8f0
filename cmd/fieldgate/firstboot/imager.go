package firstboot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/pelletier/go-toml/v2"

	"github.com/fieldgate/fieldgate/cmd/fieldgate/edit"
	"github.com/fieldgate/fieldgate/cmd/fieldgate/strict"
)

// What Raspberry Pi Imager writes on a card, by its versions. The formats are those of
// github.com/raspberrypi/rpi-preseed, of raspberrypi-sys-mods, and of cloud-init
// ("Cloud config data" and "Networking config Version 2" in its documentation). Host
// name, SSH keys and Wi-Fi are taken from them; all else is passed over. What comes
// later counts more, and File most.
var imagers = []struct {
	file string
	read func(*wishes) error
	mark byte // in the place of secrets
}{
	{"custom.toml", (*wishes).preseed, '*'},
	{"rpi-preseed.toml", (*wishes).preseed, '*'},
	{"user-data", (*wishes).userData, '-'}, // a star would be an alias of YAML
	{"network-config", (*wishes).networkConfig, '-'},
}

// Takes says whether a file of that name on a card is read.
func Takes(name string) bool {
	for _, i := range imagers {
		if i.file == name {
			return true
		}
	}
	return name == File
}

// wishes are what one of these files asks for.
type wishes struct {
	file     string
	text     []byte
	mark     byte
	name     string // of the machine
	keys     []string
	wifi     *network
	secrets  []string // all that the file has, also those that nobody needs here
	spans    []Span   // where they stand
	problems mistakes
}

// maxImager bounds what is read of such a file, in bytes.
const maxImager = 1 << 20

// applyImagers applies what Raspberry Pi Imager has written into the folder from, each
// file once. It returns whether there was any that was not applied before.
func (g *Gateway) applyImagers(from string) (changed bool, err error) {
	for _, i := range imagers {
		name := filepath.Join(from, i.file)
		text, wrong := os.ReadFile(name)
		if errors.Is(wrong, fs.ErrNotExist) {
			continue
		}
		if wrong == nil {
			var applied bool
			applied, wrong = g.applyImager(name, text, i.read, i.mark)
			changed = changed || applied
		}
		err = errors.Join(err, wrong)
	}
	return changed, err
}

func (g *Gateway) applyImager(name string, text []byte, read func(*wishes) error, mark byte) (changed bool, err error) {
	noted := g.noteFile(filepath.Dir(name) + "." + filepath.Base(name))
	last, err := readNote(noted)
	if err != nil {
		return false, err
	}
	if !last.about(text, mark) {
		w := &wishes{file: filepath.Base(name), text: text, mark: mark}
		if err := w.check(read); err != nil {
			return false, err
		}
		last = &note{digest(starred(text, w.spans, mark)), len(text), w.spans, ""}
		if err := g.grant(w, noted, last); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, g.overwrite(name, text, last.Spans, mark)
}

// grant puts what is wished for in its place.
func (g *Gateway) grant(w *wishes, noted string, n *note) error {
	for _, file := range []string{g.SSHKeys, g.WiFi} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
	}
	if len(w.keys) > 0 {
		if err := replace(g.SSHKeys, []byte(strings.Join(w.keys, "\n")+"\n"), 0o600, false); err != nil {
			return err
		}
	}
	if w.wifi != nil {
		text, err := w.wifi.supplicant(w.wifi.PSK)
		if err == nil {
			err = replace(g.WiFi, []byte(text), 0o600, false)
		}
		if err != nil {
			return err
		}
	}
	if w.name != "" {
		if err := replace(g.nameFile(), []byte(w.name+"\n"), 0o644, false); err != nil {
			return err
		}
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return replace(noted, text, 0o600, false)
}

func (g *Gateway) nameFile() string { return filepath.Join(g.dir(), ".first-boot.name") }

// Name is the host name that Raspberry Pi Imager was told, "" for none.
func (g *Gateway) Name() string {
	text, err := os.ReadFile(g.nameFile())
	if err != nil {
		return "" // it has a name of its own then
	}
	return strings.TrimSpace(string(text))
}

// hostName is a name of RFC 1123, section 2.1, without dots.
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// check reads the text and looks whether all of it can be granted.
func (w *wishes) check(read func(*wishes) error) error {
	if len(w.text) > maxImager {
		w.report("", "it is longer than %d bytes", maxImager)
		return w.problems
	}
	if err := read(w); err != nil {
		return err
	}
	if w.name != "" && !hostName.MatchString(w.name) {
		w.report(w.name, "%q is no host name: letters, digits and dashes, at most 63", w.name)
	}
	for _, key := range w.keys {
		if !publicKey(key) {
			w.report(key, "this is no public key of SSH: copy the whole line of a file like id_ed25519.pub")
		}
	}
	if n := w.wifi; n != nil {
		if n.PSK != "" && kept(n.PSK, w.mark) {
			w.wifi = nil // it was taken over before
		} else if problem := n.problem(true); problem != "" {
			w.report(n.SSID, "Wi-Fi: %s", problem)
		}
	}
	w.secrets = slices.DeleteFunc(w.secrets, func(s string) bool { return s == "" || kept(s, w.mark) })
	if len(w.problems) > 0 {
		return w.problems
	}
	// Where a secret is spelt in a way that hides it, it could not be taken away.
	if len(w.spans) == 0 && len(w.secrets) == 0 {
		return nil
	}
	again := &wishes{file: w.file, text: starred(w.text, w.spans, w.mark), mark: w.mark}
	if err := read(again); err != nil {
		w.report("", "its passwords cannot be overwritten: write each of them on a line of its own, in quotes")
		return w.problems
	}
	for _, s := range again.secrets {
		if s != "" && !kept(s, w.mark) {
			w.report(s, "this password cannot be overwritten: write it on a line of its own, in quotes")
		}
	}
	if len(w.problems) > 0 {
		return w.problems
	}
	return nil
}

// report notes what is wrong with what stands first at what.
func (w *wishes) report(what, format string, args ...any) {
	r := reader{name: w.file, sheet: sheet{text: w.text}}
	w.problems = append(w.problems, r.problem(max(0, bytes.Index(w.text, []byte(what))), format, args...))
}

// preseed reads what Imager writes since 2.0.11, and what Raspberry Pi OS has read
// before as custom.toml.
func (w *wishes) preseed() error {
	var says struct {
		System struct {
			Hostname string `toml:"hostname"`
		} `toml:"system"`
		SSH struct {
			AuthorizedKeys []string `toml:"authorized_keys"`
		} `toml:"ssh"`
		WLAN struct {
			SSID     string `toml:"ssid"`
			Password string `toml:"password"`
			Hidden   bool   `toml:"hidden"`
			Country  string `toml:"country"`
		} `toml:"wlan"`
	}
	entries, _, err := edit.Outline(w.text)
	if err != nil {
		return mistakes(strict.Parse(w.file, w.text).Problems())
	}
	if err := toml.Unmarshal(w.text, &says); err != nil {
		w.report("", "%v", err)
		return w.problems
	}
	w.name = says.System.Hostname
	for _, key := range says.SSH.AuthorizedKeys {
		w.keys = append(w.keys, strings.TrimSpace(key))
	}
	if n := says.WLAN; n.SSID != "" {
		w.wifi = &network{SSID: n.SSID, PSK: n.Password, Country: n.Country, Hidden: n.Hidden}
	}
	r := reader{sheet: sheet{text: w.text}}
	for _, e := range entries {
		switch e.Path.String() {
		case "wlan.password", "user.password", "connect.token":
			w.secrets = append(w.secrets, text1(w.text[e.ValueFrom:e.ValueTo]))
			w.spans = append(w.spans, r.inner(e))
		}
	}
	return nil
}

// userData reads cloud-init's user-data.
func (w *wishes) userData() error {
	first, _, _ := strings.Cut(string(w.text), "\n")
	if strings.TrimSpace(first) != "#cloud-config" {
		w.report("", "only a file that begins with #cloud-config is understood: nothing of it is run")
		return w.problems
	}
	says, err := w.yaml()
	if err != nil {
		return err
	}
	w.name = word(cmp.Or(says["hostname"], says["fqdn"]))
	w.name, _, _ = strings.Cut(w.name, ".")
	w.addKeys(says)
	users, _ := says["users"].([]any)
	for _, one := range users {
		user, _ := one.(map[string]any) // or a word, like "default"
		w.addKeys(user)
		for _, key := range passwords {
			w.secrets = append(w.secrets, word(user[key]))
		}
	}
	for _, key := range passwords {
		w.secrets = append(w.secrets, word(says[key]))
	}
	w.findPasswords()
	return nil
}

// addKeys takes the SSH keys of a user; whoever logs in is root.
func (w *wishes) addKeys(user map[string]any) {
	for _, name := range []string{"ssh_authorized_keys", "ssh-authorized-keys"} {
		keys, _ := user[name].([]any)
		for _, key := range keys {
			w.keys = append(w.keys, strings.TrimSpace(word(key)))
		}
	}
}

// networkConfig reads cloud-init's network-config.
func (w *wishes) networkConfig() error {
	says, err := w.yaml()
	if err != nil {
		return err
	}
	if inner, ok := says["network"].(map[string]any); ok {
		says = inner
	}
	radios, _ := says["wifis"].(map[string]any)
	for _, one := range radios {
		radio, _ := one.(map[string]any)
		points, _ := radio["access-points"].(map[string]any)
		for ssid, one := range points {
			point, _ := one.(map[string]any)
			auth, _ := point["auth"].(map[string]any)
			n := &network{SSID: ssid, PSK: cmp.Or(word(point["password"]), word(auth["password"])), Country: word(radio["regulatory-domain"])}
			n.Hidden, _ = point["hidden"].(bool)
			w.secrets = append(w.secrets, n.PSK)
			if w.wifi != nil {
				w.report(ssid, "Wi-Fi: there is more than one network: leave one")
				return w.problems
			}
			w.wifi = n
		}
	}
	w.findPasswords()
	return nil
}

// yaml reads the text. The library's own words would show lines of it, with passwords.
func (w *wishes) yaml() (map[string]any, error) {
	var says map[string]any
	err := yaml.Unmarshal(w.text, &says)
	if err == nil {
		return says, nil
	}
	p := strict.Problem{File: w.file, Line: 1, Column: 1, Message: "this is not YAML"}
	if known, ok := errors.AsType[yaml.Error](err); ok {
		if at := known.GetToken(); at != nil && at.Position != nil {
			p.Line, p.Column = at.Position.Line, at.Position.Column
		}
		p.Message = "this is not YAML: " + known.GetMessage()
	}
	return nil, mistakes{p}
}

// word is a scalar of YAML as text: names and passwords may look like numbers.
func word(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// passwords are the keys of cloud-init that have one.
var passwords = []string{"password", "passwd", "plain_text_passwd", "hashed_passwd"}

var passwordLine = regexp.MustCompile(`(?m)^[ \t-]*["']?(?:password|passwd|plain_text_passwd|hashed_passwd)["']?[ \t]*:[ \t]+(?:"([^"\r\n]*)"|'([^'\r\n]*)'|([^"'\s{\[|>&*!#][^\r\n#]*?))[ \t\r]*(?:#.*)?$`)

// findPasswords finds them where they stand on a line of their own. Whether that were all
// is looked at afterwards.
func (w *wishes) findPasswords() {
	for _, at := range passwordLine.FindAllSubmatchIndex(w.text, -1) {
		for i := 2; i < len(at); i += 2 {
			if at[i] >= 0 {
				w.spans = append(w.spans, Span{at[i], at[i+1]})
			}
		}
	}
}
