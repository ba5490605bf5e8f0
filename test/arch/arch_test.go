package arch

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/fieldgate/fieldgate/"

type arrow struct {
	from string
	to   []string
}

// mayImport says which of our packages each of our packages may import. A
// pattern ends in /... to mean everything below; "*" is all of ours. Tests of a
// package may import more: see mayImportInTests.
var mayImport = []arrow{
	// The domain knows nobody; adapters know the domain and not each other.
	// All may say where they may die: that imports nothing and, in the shipped
	// build, is nothing.
	{"gateway/failpoint", nil},
	{"gateway", []string{"gateway/failpoint"}},
	{"gateway/seal", nil}, // secrets on flash, for whoever reads one
	{"gateway/identity", []string{"gateway/seal"}},
	{"gateway/identity/enrol", []string{"gateway/identity"}},
	{"gateway/hub", []string{"gateway"}},
	{"gateway/plain", []string{"gateway", "gateway/hub"}},
	{"gateway/pairing", []string{"gateway", "gateway/identity"}},
	{"gateway/store", []string{"gateway", "gateway/failpoint"}},
	{"gateway/twin", []string{"gateway", "gateway/hub", "gateway/identity"}},
	{"gateway/upload", []string{"gateway", "gateway/hub", "gateway/identity"}},
	{"gateway/broker/...", []string{"gateway", "gateway/hub", "gateway/identity", "gateway/pairing", "gateway/plain", "gateway/broker/...", "gateway/failpoint", "gateway/seal"}},
	{"gateway/uplink", []string{"gateway", "gateway/failpoint"}},
	{"gateway/trace", []string{"gateway"}},
	{"gateway/control", []string{"gateway", "gateway/pairing", "gateway/trace"}},
	{"gateway/uplink/dial", []string{"gateway", "gateway/uplink", "gateway/seal"}}, // the stream under both transports
	{"gateway/uplink/amqp", []string{"gateway", "gateway/hub", "gateway/identity/...", "gateway/uplink", "gateway/uplink/dial"}},
	{"gateway/uplink/mqtt", []string{"gateway", "gateway/seal", "gateway/hub", "gateway/identity/...", "gateway/uplink", "gateway/uplink/dial"}},
	{"modules/...", []string{"gateway", "modules"}},
	{"drivers/serial/...", []string{"gateway", "gateway/failpoint", "gateway/hub", "gateway/plain", "board", "drivers/handover", "drivers/serial/..."}}, // many protocols, one way to open a port
	{"drivers/ble/...", []string{"gateway", "gateway/seal", "gateway/failpoint", "board", "drivers/handover", "drivers/ble/..."}},
	{"drivers/...", []string{"gateway", "gateway/failpoint", "board", "drivers/handover"}},
	{"board", nil},
	{"board/slots", nil},

	// The shipped binary ties them together.
	{"cmd/fieldgate", []string{"gateway/...", "drivers/...", "modules/...", "board", "board/slots", "cmd/fieldgate/strict", "cmd/fieldgate/edit", "cmd/fieldgate/editor", "cmd/fieldgate/revision", "cmd/fieldgate/firstboot", "cmd/fieldgate/keypair", "cmd/fieldgate/rights"}},
	{"cmd/fieldgate/strict", []string{"gateway"}},
	{"cmd/fieldgate/edit", nil},
	{"cmd/fieldgate/editor", nil},
	{"cmd/fieldgate/revision", nil},
	{"cmd/fieldgate/keypair", nil},
	{"cmd/fieldgate/rights", nil},
	{"cmd/fieldgate/firstboot", []string{"cmd/fieldgate/edit", "cmd/fieldgate/strict", "gateway/seal"}},

	// The hub on the bench shares no code with the gateway: if both spelt a
	// property wrong the same way, every test would pass.
	{"test/hubsim/...", []string{"test/hubsim/..."}},
	{"test/cmd/hubsim", []string{"test/hubsim/..."}},
	{"test/...", []string{"*"}},
}

// mayImportInTests is what the test files of a package may import in addition.
var mayImportInTests = []arrow{
	{"gateway/uplink/...", []string{"test/hubsim/...", "test/faultproxy", "gateway/..."}}, // the real protocol needs a real hub, and a bad link
	{"gateway", []string{"gateway/store"}},
	{"gateway/identity/...", []string{"test/hubsim/...", "gateway/identity"}},
	{"gateway/upload", []string{"test/hubsim/..."}},
	{"drivers/serial/...", []string{"test/leafsim/meter"}}, // slaves on a bus
	{"drivers/ble/...", []string{"test/fakebluez"}},        // a radio
	{"cmd/...", []string{"test/..."}},
}

// owners says which of our packages may import a library.
var owners = []struct {
	library string // a prefix of import paths
	by      []string
}{
	{"github.com/dgraph-io/", []string{"gateway/store"}},
	{"github.com/mochi-mqtt/", []string{"gateway/broker/..."}},
	{"github.com/gorilla/websocket", []string{"gateway/uplink/dial", "gateway/broker/...", "test/..."}},
	{"github.com/Azure/go-amqp", []string{"gateway/uplink/amqp", "test/..."}},
	{"github.com/godbus/dbus", []string{"drivers/ble/...", "board/slots", "test/..."}},
	{"github.com/coreos/go-systemd/", []string{"cmd/fieldgate"}},
	{"periph.io/", []string{"board"}},
	{"github.com/google/go-tpm", []string{"gateway/seal"}},
	{"go.bug.st/serial", []string{"drivers/serial/port"}},
	{"github.com/pelletier/go-toml", []string{"cmd/fieldgate/...", "test/..."}},
	{"github.com/mdp/qrterminal", []string{"cmd/fieldgate"}},
	{"github.com/spf13/", []string{"cmd/fieldgate", "test/cmd/..."}},
	{"charm.land/", []string{"cmd/fieldgate"}},
	{"github.com/charmbracelet/", []string{"cmd/fieldgate"}},
	{"github.com/prometheus/", []string{"cmd/fieldgate"}},
	{"github.com/eclipse/paho", []string{"gateway/uplink/mqtt", "test/..."}},
	{"github.com/creack/pty", []string{"test/..."}},
	{"github.com/hanwen/go-fuse", []string{"test/cutfs"}},
	{"github.com/rogpeppe/go-internal", nil},
	{"github.com/google/jsonschema-go", nil}, // judges our schema in a test
	{"pgregory.net/rapid", nil},
	{"testing", []string{"test/..."}},
	{"os/exec", []string{"test/...", "cmd/fieldgate/editor"}}, // the gateway starts no programs
	{"unsafe", []string{"cmd/fieldgate/rights"}},              // a call of the kernel that no package has
	{"C", nil}, // cross-compiled without cgo
}

// pkg is what go list tells of a package.
type pkg struct {
	Dir, ImportPath, Doc               string
	Imports, TestImports, XTestImports []string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

// name is the import path within our module, "." for its root.
func (p pkg) name() string { return ours(p.ImportPath) }

func ours(importPath string) string {
	name, ok := strings.CutPrefix(importPath, module)
	if !ok {
		return ""
	}
	return name
}

// tree lists all packages of ours.
func tree(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json", module+"...").Output()
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages: this test is looking at the wrong tree", len(all))
	}
	return all
}

// covers says whether a pattern of the tables means the package.
func covers(pattern, name string) bool {
	if pattern == "*" {
		return true
	}
	if tail, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == tail || strings.HasPrefix(name, tail+"/")
	}
	return pattern == name
}

func anyCovers(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return covers(p, name) })
}

func TestWhoImportsWhom(t *testing.T) {
	for _, p := range tree(t) {
		row := slices.IndexFunc(mayImport, func(a arrow) bool { return covers(a.from, p.name()) })
		if row < 0 {
			t.Errorf("%s is not in the table: say in test/arch what it may import", p.name())
			continue
		}
		allowed := mayImport[row].to
		for _, to := range p.Imports {
			if name := ours(to); name != "" && !anyCovers(allowed, name) {
				t.Errorf("%s imports %s, which the table does not allow", p.name(), name)
			}
		}
		for _, r := range mayImportInTests {
			if covers(r.from, p.name()) {
				allowed = slices.Concat(allowed, r.to)
			}
		}
		for _, to := range slices.Concat(p.TestImports, p.XTestImports) {
			if name := ours(to); name != "" && name != p.name() && !anyCovers(allowed, name) {
				t.Errorf("the tests of %s import %s, which the table does not allow", p.name(), name)
			}
		}
	}
}

func TestWhoseLibrary(t *testing.T) {
	for _, p := range tree(t) {
		for _, to := range p.Imports {
			for _, o := range owners {
				if to != o.library && !strings.HasPrefix(to, strings.TrimSuffix(o.library, "/")+"/") {
					continue
				}
				if !anyCovers(o.by, p.name()) {
					t.Errorf("%s imports %s, which belongs to %v", p.name(), to, o.by)
				}
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range tree(t) {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment: say what it is for and what it leaves to others", p.name())
		}
	}
}

// forbidden names must not be used anywhere in the code.
var forbidden = map[string]string{
	"InsecureSkipVerify": "an unverified peer is no peer: trust its CA instead",
}

func TestNothingForbidden(t *testing.T) {
	for _, p := range tree(t) {
		for _, file := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			files := token.NewFileSet()
			syntax, err := parser.ParseFile(files, filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Error(err)
				continue
			}
			ast.Inspect(syntax, func(n ast.Node) bool {
				if name, ok := n.(*ast.Ident); ok && forbidden[name.Name] != "" {
					t.Errorf("%v uses %s: %s", files.Position(name.Pos()), name.Name, forbidden[name.Name])
				}
				return true
			})
		}
	}
}
