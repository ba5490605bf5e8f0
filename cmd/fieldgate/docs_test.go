package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/fieldgate/fieldgate/board"
	"github.com/fieldgate/fieldgate/gateway/broker"
)

// The page about the board shows every key with its default.
func TestBoardPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/board.md")
	if err != nil {
		t.Fatal(err)
	}
	piece := regexp.MustCompile("(?s)```toml\n(.*?)```").FindStringSubmatch(string(page))
	if piece == nil {
		t.Fatal("the page has no configuration")
	}
	example, _, _ := strings.Cut(exampleText(t), "[board]")
	cfg, err := loadConfig(folder(t, example+piece[1]))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Board != defaultBoard() {
		t.Errorf("the page shows %+v, defaults are %+v", cfg.Board, defaultBoard())
	}
	if n := strings.Count(piece[1], " = "); n != reflect.TypeFor[boardConfig]().NumField() {
		t.Errorf("the page shows %d keys", n)
	}
	for _, s := range board.Signals {
		if !strings.Contains(string(page), "| `"+s.String()+"` |") {
			t.Errorf("the page does not show %v", s)
		}
	}
}

// Every piece of configuration on the page about serial lines is one: with the
// leaves and the key that it names, it is valid.
func TestSerialPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/serial.md")
	if err != nil {
		t.Fatal(err)
	}
	pieces := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(pieces) < 4 {
		t.Fatalf("the page has %d pieces of configuration", len(pieces))
	}
	for _, piece := range pieces {
		example, _, _ := strings.Cut(exampleText(t), "[[serial]]")
		file := folder(t, example)
		drop := filepath.Join(filepath.Dir(file), "leaf.d")
		if err := os.Mkdir(drop, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"page.toml": piece[1], "meter-1.key": strings.Repeat("5a", 32)} {
			if err := os.WriteFile(filepath.Join(drop, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if cfg, err := loadConfig(file); err != nil || len(cfg.ports) == 0 {
			t.Errorf("%v in\n%s", err, piece[1])
		}
	}
}

// The page about the state shows the key with its default.
func TestStatePageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/state.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "report_every = \"" + defaults().Gateway.ReportEvery.String() + "\""; !strings.Contains(string(page), want) {
		t.Errorf("the page does not show %s", want)
	}
	for _, topic := range []string{saidHealth, saidBridge, saidState} {
		if !strings.Contains(string(page), "| `"+topic+"` |") {
			t.Errorf("the page does not show %s", topic)
		}
	}
}

// The page about security, and those that say which test shows what, name tests that
// there are.
func TestSecurityPageIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	err = filepath.WalkDir("../..", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "node_modules" || e.Name() == ".git"):
			return filepath.SkipDir
		case !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(name)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob("../../docs/*-tests.md")
	if err != nil || len(tables) < 4 {
		t.Fatalf("%d pages about tests, %v", len(tables), err)
	}
	var texts strings.Builder
	texts.WriteString(string(page))
	for _, name := range tables {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts.WriteString(string(text))
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z0-9][A-Za-z0-9]*)`").FindAllStringSubmatch(texts.String(), -1)
	if len(named) < 40 {
		t.Errorf("the page names only %d tests", len(named))
	}
	for _, n := range named {
		if !strings.Contains(all.String(), "func "+n[1]+"(") {
			t.Errorf("there is no %s", n[1])
		}
	}
	if want := strconv.Itoa(broker.DefaultConfig().MaxMessagesPerSecond); !strings.Contains(string(page), want) {
		t.Errorf("the page does not say %s messages a second", want)
	}
}
