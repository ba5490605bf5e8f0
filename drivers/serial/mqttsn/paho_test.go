package mqttsn_test

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/fieldgate/fieldgate/drivers/serial/mqttsn"
	"github.com/fieldgate/fieldgate/gateway"
)

// Packets of somebody else's: Eclipse Paho's MQTTSNPacket, in C, makes what the leaf says and
// reads what it hears, on a terminal. No package of Debian or npm has it: FIELDGATE_PAHO
// names a folder with https://github.com/eclipse/paho.mqtt-sn.embedded-c in it.
func TestPaho(t *testing.T) {
	paho := os.Getenv("FIELDGATE_PAHO")
	if paho == "" {
		t.Skip("needs the source of Paho's client: see docs/leaf-tests.md")
	}
	sources, err := filepath.Glob(filepath.Join(paho, "MQTTSNPacket/src/*.c"))
	if err != nil || len(sources) == 0 {
		t.Fatalf("there is no MQTTSNPacket/src in %s", paho)
	}
	dir := t.TempDir()
	leaf := filepath.Join(dir, "leaf")
	words := append([]string{"-o", leaf, "-I", filepath.Dir(sources[0]), "testdata/paho.c"}, sources...)
	if out, err := exec.CommandContext(t.Context(), "gcc", words...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	line, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	defer slave.Close()
	port := filepath.Join(dir, "port")
	if err := os.Symlink(slave.Name(), port); err != nil {
		t.Fatal(err)
	}
	cfg := validPort()
	cfg.Port = port
	d, err := mqttsn.NewDriver(cfg, clock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var above custody
	n := &notes{m: make(map[string][]byte)}
	down, err := gateway.NewDown(nil, n, clock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		_ = d.Run(ctx, gateway.Ways{Up: &above, Attendance: down, Twins: &above, Notes: n, Leaves: &everybody{}})
	})

	// What comes before the port is open is lost, and the leaf says nothing twice.
	for limit := time.Now().Add(time.Minute); !d.State().Up; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("the port is not opened")
		}
	}
	bell, wake, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer bell.Close()
	defer wake.Close()
	program := exec.CommandContext(ctx, leaf)
	program.Stdin, program.ExtraFiles = line, []*os.File{bell}
	says, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	verdicts := make(chan gateway.Verdict, 2)
	send := func(number uint64, text string) {
		down.Command(&gateway.Command{
			Leaf: "n1", Number: number, Enqueued: time.Unix(1, 0), LockedTo: time.Now().Add(time.Minute), Body: []byte(text),
		}, func(v gateway.Verdict) { verdicts <- v })
	}
	var said []string
	for lines := bufio.NewScanner(says); lines.Scan(); {
		said = append(said, lines.Text())
		switch lines.Text() {
		case "subscribed":
			send(1, "open")
		case "asleep":
			send(2, "shut")
			if _, err := wake.Write([]byte{1}); err != nil {
				t.Error(err)
			}
		}
	}
	if err := program.Wait(); err != nil {
		t.Errorf("the leaf: %v", err)
	}
	want := []string{"connected", "published", "subscribed", "registered leaf/n1/command/message", "told open", "asleep", "told shut", "awake", "gone"}
	if !slices.Equal(said, want) {
		t.Errorf("the leaf said %q, want %q", said, want)
	}
	if got, want := above.texts(), []string{"once~}", "perhaps", "exactly"}; !slices.Equal(got, want) {
		t.Errorf("in custody %q, want %q", got, want)
	}
	for range 2 {
		select {
		case v := <-verdicts:
			if v != gateway.Completed {
				t.Errorf("a command is %v", v)
			}
		case <-time.After(time.Minute):
			t.Fatal("a command is neither completed nor given back")
		}
	}
}
