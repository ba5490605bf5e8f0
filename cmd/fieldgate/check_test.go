package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every command of ours that the program tells people to run is there.
func TestAdviceNamesCommandsThatExist(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	advice := regexp.MustCompile(`"[^"\n]*?fieldgate ((?:[a-z][a-z-]+ ?)+)`)
	seen := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range advice.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(m[0], "run: fieldgate") && !strings.Contains(m[0], ": fieldgate") && !strings.HasPrefix(m[0], `"fieldgate `) {
				continue
			}
			words := strings.Fields(m[1])
			found, rest, err := commands(streams{}).Find(words)
			if err != nil || found.Name() == "fieldgate" || found.HasSubCommands() && len(rest) > 0 {
				t.Errorf("%s: there is no command %q", name, m[1])
			}
			seen++
		}
	}
	if seen < 15 {
		t.Errorf("only %d pieces of advice found", seen)
	}
}

// Checks hang on others that come before them.
func TestChecksAreInOrder(t *testing.T) {
	var before []string
	for _, c := range checks {
		for _, n := range c.needs {
			if !slices.Contains(before, n) {
				t.Errorf("%s needs %s, which does not come before it", c.id, n)
			}
		}
		before = append(before, c.id)
	}
	page, err := os.ReadFile("../../docs/diagnosis.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range before {
		if !strings.Contains(string(page), "| `"+id+"` |") {
			t.Errorf("docs/diagnosis.md does not say what %s finds", id)
		}
	}
}
