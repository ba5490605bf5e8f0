package leafsim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// gateway opens the leaf's port when it appears and treats each line as told,
// until the port or the context ends.
func gateway(ctx context.Context, t *testing.T, link string, treat func(seq uint64, line string) (answer string)) {
	for ctx.Err() == nil {
		port, err := os.OpenFile(link, os.O_RDWR, 0)
		if errors.Is(err, os.ErrNotExist) {
			sleep(ctx, time.Millisecond)
			continue
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer context.AfterFunc(ctx, func() { port.Close() })()
		for lines := bufio.NewReader(port); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			var m struct{ Seq uint64 }
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Errorf("line %q: %v", line, err)
				return
			}
			_, _ = port.WriteString(treat(m.Seq, line))
		}
	}
}

// runSerial runs a leaf against a gateway and returns what the gateway got.
func runSerial(t *testing.T, count uint64, treat func(seq uint64, line string) string) (*Leaf, []uint64) {
	link := filepath.Join(t.TempDir(), "tty-meter")
	ctx, cancel := context.WithCancel(testContext(t))
	var got []uint64
	var serving sync.WaitGroup
	serving.Go(func() {
		gateway(ctx, t, link, func(seq uint64, line string) string {
			if b, err := ParseBody([]byte(line)); err != nil || b.N != seq || b.Leaf != "meter" {
				t.Errorf("line %q has body %+v, %v", line, b, err)
			}
			got = append(got, seq)
			return treat(seq, line)
		})
	})
	leaf := New(Options{ID: "meter", Line: &Serial{Link: link}, Count: count})
	if err := leaf.Run(ctx); err != nil {
		t.Error(err)
	}
	cancel()
	serving.Wait()
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("link is still there: %v", err)
	}
	for i, a := range leaf.Acked() {
		if a.N != uint64(i+1) {
			t.Errorf("acknowledgement %d is for message %d", i+1, a.N)
		}
	}
	return leaf, got
}

func TestSerial(t *testing.T) {
	leaf, got := runSerial(t, 50, func(seq uint64, _ string) string { return fmt.Sprintf("{\"ack\":%d}\n", seq) })
	if s := leaf.Stats(); s.Acked != 50 || s.Resent != 0 || len(got) != 50 {
		t.Errorf("%d lines, stats %+v, want 50 and none sent again", len(got), s)
	}
}

// A line without an answer is sent again; answers to other lines, late answers
// and noise are no answers.
func TestSerialSendsAgain(t *testing.T) {
	times := make(map[uint64]int)
	leaf, got := runSerial(t, 3, func(seq uint64, _ string) string {
		times[seq]++
		switch {
		case seq == 2 && times[2] == 1:
			return "{\"ack\":1}\n{\"ack\":3}\n{\"nak\":2}\nACK 2\n\xff\x00{]\n"
		case seq == 3:
			return "{\"ack\":2}\n{\"ack\":3}\n"
		}
		return fmt.Sprintf("{\"ack\":%d}\n", seq)
	})
	if s := leaf.Stats(); s.Acked != 3 || s.Resent != 1 || fmt.Sprint(got) != "[1 2 2 3]" {
		t.Errorf("gateway got %v, stats %+v; want 2 twice", got, s)
	}
}

// A gateway that was killed leaves the port marked as in exclusive use, and the
// next one could not open it, except as root.
func TestSerialPortIsFreeAfterAKill(t *testing.T) {
	line := &Serial{Link: filepath.Join(t.TempDir(), "tty-meter")}
	defer line.close()
	exclusive := func() (mark int) {
		err := control(line.port, func(fd int) (err error) {
			mark, err = unix.IoctlGetInt(fd, unix.TIOCGEXCL)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return mark
	}
	for range 2 {
		c, err := line.dial(t.Context(), "meter", 1)
		if err != nil {
			t.Fatal(err)
		}
		if exclusive() != 0 {
			t.Error("a leaf that dials leaves the port in exclusive use")
		}
		port, err := os.OpenFile(line.Link, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := control(port, func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCEXCL, 0) }); err != nil {
			t.Fatal(err)
		}
		port.Close()
		if exclusive() == 0 {
			t.Error("closing the port has ended its exclusive use: there is nothing to test")
		}
		c.close()
	}
}
