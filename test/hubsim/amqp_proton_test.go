package hubsim_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim"
	"github.com/fieldgate/fieldgate/test/hubsim/registry"
)

// python is the interpreter that Debian's Python packages are for.
const python = "/usr/bin/python3"

// proton runs the script on Apache Qpid Proton and returns what it prints, a
// JSON object a line.
func proton(t *testing.T, args ...string) (list []map[string]any) {
	t.Helper()
	if err := exec.Command(python, "-c", "import proton").Run(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("python3-qpid-proton is missing: %v", err)
		}
		t.Skip("python3-qpid-proton is not installed: run make setup")
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	script := filepath.Join("..", "node", "hub-proton.py")
	cmd := exec.CommandContext(ctx, python, append([]string{"-B", script}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", script, err, out, stderr.Bytes())
	}
	for in := bufio.NewScanner(bytes.NewReader(out)); in.Scan(); {
		var object map[string]any
		if err := json.Unmarshal(in.Bytes(), &object); err != nil {
			t.Fatalf("%s printed %q: %v", script, in.Text(), err)
		}
		list = append(list, object)
	}
	return list
}

// An AMQP library that is not the vendor's finds nothing wrong with the hub:
// tokens, telemetry, and commands with settlement in two steps.
func TestProton(t *testing.T) {
	hub := start(t, hubsim.Config{Devices: map[string]string{"pump-1": ""}, Host: "localhost"})
	info := hub.Info()
	const n = 3
	address := net.JoinHostPort(info.Bind, strconv.Itoa(info.AMQPPort))
	got := proton(t, address, info.CAFile,
		info.Devices["pump-1"].ConnectionString, info.OwnerConnectionString, strconv.Itoa(n))
	want := []string{
		`{"correlated":true,"status":200}`,
		`{"correlated":true,"status":200}`,
		`{"accepted":true,"telemetry":1}`,
		`{"accepted":true,"telemetry":2}`,
		`{"accepted":true,"telemetry":3}`,
		`{"body":"command 1","command":"1","count":0,"outcome":"released"}`,
	}
	// Where a released command comes again among the others is the hub's choice.
	again := map[string]bool{
		`{"body":"command 1","command":"1","count":1,"outcome":"accepted"}`: true,
		`{"body":"command 2","command":"2","count":0,"outcome":"rejected"}`: true,
		`{"body":"command 3","command":"3","count":0,"outcome":"accepted"}`: true,
	}
	if len(got) != len(want)+len(again) {
		t.Fatalf("got %d lines, want %d:\n%v", len(got), len(want)+len(again), got)
	}
	for i, object := range got {
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if i < len(want) && string(text) != want[i] {
			t.Errorf("line %d: got %s, want %s", i, text, want[i])
		}
		if i >= len(want) && !again[string(text)] {
			t.Errorf("line %d: got %s", i, text)
		}
		delete(again, string(text))
	}
	var bodies []string
	for a := range hub.Arrivals() {
		bodies = append(bodies, string(a.Body)+a.Properties["by"])
	}
	if got := fmt.Sprint(bodies); got != `[{"n":1}proton {"n":2}proton {"n":3}proton]` {
		t.Errorf("arrivals: got %s", got)
	}
	if left := hub.Domain().Commands.Len(registry.ID{Device: "pump-1"}); left != 0 {
		t.Errorf("commands left: %d", left)
	}
}
