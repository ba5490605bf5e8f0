package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/drivers/serial/modbus"
)

// The simulated bus as a user starts it: a master reads from it, writes, and the
// user sees what was written.
func TestModbusCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	port := filepath.Join(t.TempDir(), "bus")
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		c := command()
		c.SetArgs([]string{"modbus", "--port", port, "--slaves", "2"})
		c.SetOut(in)
		ended <- c.ExecuteContext(ctx)
		in.Close()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "slaves 1 to 2 on "+port {
		t.Fatalf("it says %q", lines.Text())
	}
	line, err := os.OpenFile(port, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	ask := func(q *modbus.Request) *modbus.Answer {
		t.Helper()
		if err := line.SetDeadline(time.Now().Add(20 * time.Second)); err != nil && !os.IsTimeout(err) {
			t.Log("no deadlines on this port:", err)
		}
		if _, err := line.Write(q.Frame()); err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, q.AnswerSize())
		if _, err := io.ReadFull(line, frame); err != nil {
			t.Fatal(err)
		}
		a, err := q.Parse(frame)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask(modbus.Read(2, modbus.ReadRegisters, 0, 3)); a.Registers[1] != 1 || a.Registers[2] != 215 {
		t.Errorf("registers %v", a.Registers)
	}
	ask(&modbus.Request{Unit: 2, Function: modbus.WriteRegister, Count: 1, Values: []uint16{77}})
	if !lines.Scan() || lines.Text() != "slave 2: holding 0 is 77" {
		t.Errorf("it says %q", lines.Text())
	}
	cancel()
	go func() { _, _ = io.Copy(io.Discard, out) }()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
